-- A page of a list is a range of one index, however long the list is.

-- What somebody owns, in the order of the catalog.
CREATE INDEX repositories_by_owner ON repositories (owner, name);

-- Which manifests of a repository speak of which. `descriptor`: JSON, as a listing shows it.
CREATE TABLE referrers (
    repository    INTEGER NOT NULL,
    subject       TEXT    NOT NULL,
    manifest      TEXT    NOT NULL,
    artifact_type TEXT,
    descriptor    TEXT    NOT NULL,
    PRIMARY KEY (repository, subject, manifest),
    FOREIGN KEY (repository, manifest) REFERENCES manifest_links (repository, manifest) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX referrers_by_type ON referrers (repository, subject, artifact_type, manifest);
CREATE INDEX referrers_by_manifest ON referrers (repository, manifest);

-- Those that were pushed before. What SQLite cannot read is listed without annotations.
INSERT INTO referrers (repository, subject, manifest, artifact_type, descriptor)
    SELECT repository, subject, digest, artifact_type, CASE
        WHEN artifact_type IS NOT NULL AND annotations IS NOT NULL THEN json_object('mediaType', media_type,
            'digest', digest, 'size', size, 'artifactType', artifact_type, 'annotations', json(annotations))
        WHEN annotations IS NOT NULL THEN json_object('mediaType', media_type,
            'digest', digest, 'size', size, 'annotations', json(annotations))
        WHEN artifact_type IS NOT NULL THEN json_object('mediaType', media_type,
            'digest', digest, 'size', size, 'artifactType', artifact_type)
        ELSE json_object('mediaType', media_type, 'digest', digest, 'size', size) END
    FROM (SELECT l.repository, m.subject, m.digest, m.artifact_type, l.media_type, length(m.bytes) AS size,
            CASE WHEN json_valid(CAST(m.bytes AS TEXT))
                THEN json_extract(CAST(m.bytes AS TEXT), '$.annotations') END AS annotations
        FROM manifests AS m JOIN manifest_links AS l ON l.manifest = m.digest WHERE m.subject IS NOT NULL);

-- What a manifest speaks of stands there, and in its bytes.
DROP INDEX manifests_by_subject;
ALTER TABLE manifests DROP COLUMN subject;
ALTER TABLE manifests DROP COLUMN artifact_type;
