-- What was found in each file of the data. `path` has a NUL between names.
CREATE TABLE data_files (
    source TEXT NOT NULL,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (source, path)
) WITHOUT ROWID;

-- The fingerprint of each folder of data, for each way it has looked.
CREATE TABLE fingerprints (
    source TEXT NOT NULL,
    stamp TEXT NOT NULL,
    digest TEXT NOT NULL,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (source, stamp)
) WITHOUT ROWID;

-- What each run was given, and how that looked; `changed` when it looked otherwise at the end.
CREATE TABLE run_data (
    run INTEGER NOT NULL,
    dataset TEXT NOT NULL,
    source TEXT NOT NULL,
    stamp TEXT,
    changed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, dataset)
) WITHOUT ROWID;
