-- Small blobs whose files may not have reached the disk yet: their bytes are safe here, as in the log of a database,
-- until they have. `placing`: until when somebody may still be putting the file in its place, and gc keeps away from
-- the blob; 0 once it is there, though not yet synced.
CREATE TABLE journal (
    id      INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: several processes may clear the journal
    blob    TEXT    NOT NULL,
    placing INTEGER NOT NULL,
    bytes   BLOB    NOT NULL                   -- the last, so that the others are read without it
) STRICT;

-- Where the journal has a blob, or had it: that row may be gone.
ALTER TABLE blobs ADD COLUMN journal INTEGER;

-- By blob first, which is all that is ever asked for: so gc and mounts need no second index.
CREATE TABLE links (
    blob       TEXT    NOT NULL REFERENCES blobs (digest),
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    touched_at INTEGER NOT NULL,               -- when a push last brought it; 0 once the manifest it came for is gone
    PRIMARY KEY (blob, repository)
) STRICT, WITHOUT ROWID;
INSERT INTO links (blob, repository, touched_at) SELECT blob, repository, touched_at FROM blob_links;
DROP TABLE blob_links;
ALTER TABLE links RENAME TO blob_links;
