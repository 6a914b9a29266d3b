-- Times are milliseconds since 1970 (UTC). Digests are text, `algorithm:hex`.

CREATE TABLE repositories (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE,
    owner      TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Bytes known by digest. `incoming`: a push is moving the file into place and holds it. `present`: the file is
-- there. `deleting`: gc has decided and removes the file; nobody may link it until the row is gone.
CREATE TABLE blobs (
    digest TEXT    NOT NULL PRIMARY KEY,
    size   INTEGER NOT NULL,
    state  TEXT    NOT NULL CHECK (state IN ('incoming', 'present', 'deleting'))
) STRICT, WITHOUT ROWID;

-- Which repositories may serve a blob. `touched_at`: when a push last brought it; 0 once a manifest has named it,
-- since from then on the manifest keeps it.
CREATE TABLE blob_links (
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    blob       TEXT    NOT NULL REFERENCES blobs (digest),
    touched_at INTEGER NOT NULL,
    PRIMARY KEY (repository, blob)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_links_by_blob ON blob_links (blob);

-- What keeps gc away from a blob between the arrival of its bytes and its link.
CREATE TABLE holds (
    id         INTEGER PRIMARY KEY,
    blob       TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX holds_by_blob ON holds (blob);

CREATE TABLE uploads (
    id         TEXT    NOT NULL PRIMARY KEY,
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    owner      TEXT    NOT NULL,
    touched_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The exact bytes of manifests, once whoever pushed them.
CREATE TABLE manifests (
    digest        TEXT NOT NULL PRIMARY KEY,
    bytes         BLOB NOT NULL,
    subject       TEXT,
    artifact_type TEXT
) STRICT;
CREATE INDEX manifests_by_subject ON manifests (subject) WHERE subject IS NOT NULL;

CREATE TABLE manifest_blobs (
    manifest TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    blob     TEXT NOT NULL,
    PRIMARY KEY (manifest, blob)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_blobs_by_blob ON manifest_blobs (blob);

CREATE TABLE manifest_children (
    manifest TEXT NOT NULL REFERENCES manifests (digest) ON DELETE CASCADE,
    child    TEXT NOT NULL,
    PRIMARY KEY (manifest, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_children_by_child ON manifest_children (child);

-- Which repositories may serve a manifest, and as what. `orphaned`: 1 once a deletion took away the last tag or
-- index that named it; gc removes such a link unless something names it again.
CREATE TABLE manifest_links (
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    manifest   TEXT    NOT NULL REFERENCES manifests (digest),
    media_type TEXT    NOT NULL,
    orphaned   INTEGER NOT NULL DEFAULT 0,
    pushed_at  INTEGER NOT NULL,
    PRIMARY KEY (repository, manifest)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_links_by_manifest ON manifest_links (manifest);
CREATE INDEX manifest_links_orphaned ON manifest_links (orphaned) WHERE orphaned = 1;

CREATE TABLE tags (
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    tag        TEXT    NOT NULL,
    manifest   TEXT    NOT NULL,
    moved_at   INTEGER NOT NULL,
    PRIMARY KEY (repository, tag),
    FOREIGN KEY (repository, manifest) REFERENCES manifest_links (repository, manifest)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_manifest ON tags (repository, manifest);

-- Numbers are never used twice: results are named after them.
CREATE TABLE runs (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    repository  TEXT    NOT NULL,
    tag         TEXT    NOT NULL,
    owner       TEXT    NOT NULL,
    image       TEXT    NOT NULL,             -- the manifest that runs
    image_type  TEXT    NOT NULL,             -- its media type
    state       TEXT    NOT NULL,
    attempt     INTEGER NOT NULL DEFAULT 0,
    token_hash  BLOB,                         -- SHA-256 of what the engine pulls with
    time_limit  INTEGER,                      -- milliseconds
    queued_at   INTEGER NOT NULL,
    started_at  INTEGER,                      -- the container's start
    finished_at INTEGER,
    outcome     TEXT,                         -- JSON, see Outcome
    result      TEXT,                         -- the manifest that was published
    tidy        INTEGER NOT NULL DEFAULT 0,   -- 1 once the engine holds nothing of it
    stdout      BLOB,
    stderr      BLOB
) STRICT;
CREATE INDEX runs_by_tag ON runs (repository, tag, id);
CREATE INDEX runs_unfinished ON runs (state, id) WHERE finished_at IS NULL;
CREATE INDEX runs_untidy ON runs (tidy) WHERE tidy = 0;
