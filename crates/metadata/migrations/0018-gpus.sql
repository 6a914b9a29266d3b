-- Which run has which GPU of the host, by the number that NVIDIA's runtime gives it: from the run's claim until nothing of
-- it is left in the engine. No two runs have the same one.
CREATE TABLE gpus (
    number INTEGER NOT NULL PRIMARY KEY,
    run    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX gpus_by_run ON gpus (run);
