-- Blobs whose bytes are not theirs any more. No repository serves one until it is pushed again. `moving`: 1 while its
-- file is being put aside, and a push of the blob waits.
CREATE TABLE quarantined_blobs (
    blob   TEXT    NOT NULL PRIMARY KEY REFERENCES blobs (digest) ON DELETE CASCADE,
    since  INTEGER NOT NULL,
    reason TEXT    NOT NULL,
    moving INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The same for manifests, whose bytes stay where they are.
CREATE TABLE quarantined_manifests (
    manifest TEXT    NOT NULL PRIMARY KEY REFERENCES manifests (digest) ON DELETE CASCADE,
    since    INTEGER NOT NULL,
    reason   TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- How far the server has come with looking at all blobs again: one row at most. `after`: the last blob that was looked
-- at, empty at the beginning of a pass. `done`: 1 when the pass is over.
CREATE TABLE scrub (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    after   TEXT    NOT NULL,
    started INTEGER NOT NULL,
    done    INTEGER NOT NULL
) STRICT;
