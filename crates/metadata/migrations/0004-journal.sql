-- Small blobs whose files may not have reached the disk yet: their bytes are safe here, as in the log of a database,
-- until they have. `placing`: until when somebody may still be putting the file in its place, and gc keeps away from
-- the blob; 0 once it is there, though not yet synced.
CREATE TABLE journal (
    id      INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: several processes may clear the journal
    blob    TEXT    NOT NULL,
    bytes   BLOB    NOT NULL,
    placing INTEGER NOT NULL
) STRICT;

-- Where the journal has a blob, or had it: that row may be gone.
ALTER TABLE blobs ADD COLUMN journal INTEGER;
