-- What runs exchanged with the services of the site: `sent` by the run, `received` by it, in bytes.
CREATE TABLE run_traffic (
    run         INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    service     TEXT    NOT NULL,
    connections INTEGER NOT NULL,
    refused     INTEGER NOT NULL,
    sent        INTEGER NOT NULL,
    received    INTEGER NOT NULL,
    PRIMARY KEY (run, service)
) STRICT, WITHOUT ROWID;
