-- gc looks at what may have become garbage, and at nothing else: so it costs what the garbage costs.

-- Links that a push or a mount brought and that wait for a manifest which names the blob: it takes the row away. gc
-- looks at those whose time of grace is over.
CREATE TABLE arrivals (
    repository INTEGER NOT NULL,
    blob       TEXT    NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (repository, blob)
) STRICT, WITHOUT ROWID;

-- What lost something that needed it: of a repository its link to a blob or a manifest, or those themselves. gc looks
-- at each the next time. Numbers are never used twice, so that one that is added meanwhile comes behind.
CREATE TABLE suspects (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    repository INTEGER,
    blob       TEXT,
    manifest   TEXT,
    CHECK ((blob IS NULL) <> (manifest IS NULL))
) STRICT;

INSERT INTO arrivals (repository, blob, at) SELECT repository, blob, touched_at FROM blob_links AS a
    WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs AS m JOIN manifest_links AS l ON l.manifest = m.manifest
        WHERE m.blob = a.blob AND l.repository = a.repository);
ALTER TABLE blob_links DROP COLUMN touched_at;
INSERT INTO suspects (blob) SELECT digest FROM blobs AS b
    WHERE NOT EXISTS (SELECT 1 FROM blob_links WHERE blob = b.digest);
INSERT INTO suspects (repository, manifest) SELECT repository, manifest FROM manifest_links WHERE orphaned = 1;
INSERT INTO suspects (manifest) SELECT digest FROM manifests AS m
    WHERE NOT EXISTS (SELECT 1 FROM manifest_links WHERE manifest = m.digest);
DROP INDEX manifest_links_orphaned;

-- What a collection that was stopped has left.
CREATE INDEX blobs_deleting ON blobs (digest) WHERE state = 'deleting';

-- The process that holds, by the name of its lock; empty when that is not known. What a dead one held is let go of.
ALTER TABLE holds ADD COLUMN holder TEXT NOT NULL DEFAULT '';
