//! What a collection would take away, told without taking anything away and without anybody who waits for it.
//!
//! The very steps of [`collect`](crate::collect) and [`retention`] are done, on a connection that cannot write the
//! database: temporary tables note what is gone, and views under the names of the tables show what is left. Short tables
//! are copied instead. All of it is one moment of the database, and goes with the connection.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use crate::{
    Expiring, Metadata, MetadataError, Sweep, Swept,
    collect::{Step, garbage, ripe},
    retention,
    row::all,
};

/// Stand-ins for the tables that a collection changes. What SQLite would take away in cascades is hidden by the views.
/// What is suspected and not looked at yet is not suspected twice: each look at a blob that many manifests share has to
/// pass over all that are gone.
const STAND_INS: &str = "
    CREATE TEMP TABLE gone_tags (repository INTEGER, tag TEXT, PRIMARY KEY (repository, tag)) WITHOUT ROWID;
    CREATE TEMP VIEW tags AS SELECT * FROM main.tags AS t WHERE NOT EXISTS (
        SELECT 1 FROM temp.gone_tags AS g WHERE g.repository = t.repository AND g.tag = t.tag);
    CREATE TEMP TRIGGER delete_tag INSTEAD OF DELETE ON tags
        BEGIN INSERT INTO gone_tags VALUES (old.repository, old.tag); END;

    CREATE TEMP TABLE gone_manifest_links (repository INTEGER, manifest TEXT, PRIMARY KEY (repository, manifest))
        WITHOUT ROWID;
    CREATE TEMP TABLE orphans (repository INTEGER, manifest TEXT, PRIMARY KEY (repository, manifest)) WITHOUT ROWID;
    CREATE TEMP VIEW manifest_links AS SELECT l.repository, l.manifest, l.media_type, l.pushed_at, l.untagged_at,
            l.orphaned OR EXISTS (SELECT 1 FROM temp.orphans AS o
                WHERE o.repository = l.repository AND o.manifest = l.manifest) AS orphaned
        FROM main.manifest_links AS l WHERE NOT EXISTS (
            SELECT 1 FROM temp.gone_manifest_links AS g WHERE g.repository = l.repository AND g.manifest = l.manifest);
    CREATE TEMP TRIGGER delete_manifest_link INSTEAD OF DELETE ON manifest_links
        BEGIN INSERT INTO gone_manifest_links VALUES (old.repository, old.manifest); END;
    CREATE TEMP TRIGGER orphan_manifest_link INSTEAD OF UPDATE OF orphaned ON manifest_links
        BEGIN INSERT OR IGNORE INTO orphans VALUES (old.repository, old.manifest); END;
    CREATE TEMP VIEW referrers AS SELECT * FROM main.referrers AS r WHERE NOT EXISTS (
        SELECT 1 FROM temp.gone_manifest_links AS g WHERE g.repository = r.repository AND g.manifest = r.manifest);

    CREATE TEMP TABLE gone_manifests (digest TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP VIEW manifests AS SELECT * FROM main.manifests AS m
        WHERE NOT EXISTS (SELECT 1 FROM temp.gone_manifests AS g WHERE g.digest = m.digest);
    CREATE TEMP TRIGGER delete_manifest INSTEAD OF DELETE ON manifests
        BEGIN INSERT INTO gone_manifests VALUES (old.digest); END;
    CREATE TEMP VIEW manifest_blobs AS SELECT * FROM main.manifest_blobs AS m
        WHERE NOT EXISTS (SELECT 1 FROM temp.gone_manifests AS g WHERE g.digest = m.manifest);
    CREATE TEMP VIEW manifest_children AS SELECT * FROM main.manifest_children AS m
        WHERE NOT EXISTS (SELECT 1 FROM temp.gone_manifests AS g WHERE g.digest = m.manifest);

    CREATE TEMP TABLE gone_blob_links (blob TEXT, repository INTEGER, PRIMARY KEY (blob, repository)) WITHOUT ROWID;
    CREATE TEMP VIEW blob_links AS SELECT * FROM main.blob_links AS l WHERE NOT EXISTS (
        SELECT 1 FROM temp.gone_blob_links AS g WHERE g.blob = l.blob AND g.repository = l.repository);
    CREATE TEMP TRIGGER delete_blob_link INSTEAD OF DELETE ON blob_links
        BEGIN INSERT INTO gone_blob_links VALUES (old.blob, old.repository); END;

    CREATE TEMP TABLE gone_blobs (digest TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TEMP VIEW blobs AS SELECT b.digest, b.size, b.journal,
            CASE WHEN EXISTS (SELECT 1 FROM temp.gone_blobs AS g WHERE g.digest = b.digest)
                THEN 'deleting' ELSE b.state END AS state
        FROM main.blobs AS b;
    CREATE TEMP TRIGGER delete_blob INSTEAD OF UPDATE OF state ON blobs
        BEGIN INSERT INTO gone_blobs VALUES (old.digest); END;

    CREATE TEMP VIEW journal AS SELECT id, blob FROM main.journal;
    CREATE TEMP TRIGGER delete_journaled INSTEAD OF DELETE ON journal BEGIN SELECT 1; END;

    CREATE TEMP TABLE arrivals (repository INTEGER, blob TEXT, at INTEGER, PRIMARY KEY (repository, blob))
        WITHOUT ROWID;
    INSERT INTO temp.arrivals (repository, blob, at) SELECT repository, blob, at FROM main.arrivals;
    CREATE TEMP TABLE suspects (id INTEGER PRIMARY KEY AUTOINCREMENT, repository INTEGER, blob TEXT, manifest TEXT);
    CREATE INDEX temp.suspects_by_blob ON suspects (blob, repository);
    CREATE INDEX temp.suspects_by_manifest ON suspects (manifest, repository);
    CREATE TEMP TRIGGER suspect_blob BEFORE INSERT ON suspects WHEN new.blob IS NOT NULL
            AND EXISTS (SELECT 1 FROM suspects WHERE blob = new.blob AND repository IS new.repository)
        BEGIN SELECT RAISE(IGNORE); END;
    CREATE TEMP TRIGGER suspect_manifest BEFORE INSERT ON suspects WHEN new.manifest IS NOT NULL
            AND EXISTS (SELECT 1 FROM suspects WHERE manifest = new.manifest AND repository IS new.repository)
        BEGIN SELECT RAISE(IGNORE); END;
    INSERT INTO temp.suspects (id, repository, blob, manifest)
        SELECT id, repository, blob, manifest FROM main.suspects;
";

impl Metadata {
    /// What a whole sweep would find, after some things had been taken away. Nothing changes, and nobody waits for it.
    pub async fn sweepable(
        &self,
        expiring: Vec<Expiring>,
        grace: Duration,
        now: Timestamp,
    ) -> Result<Swept, MetadataError> {
        self.read_alone(move |connection| {
            let moment = connection.unchecked_transaction()?;
            moment.execute_batch(STAND_INS)?;
            retention::expire(&moment, expiring)?;
            sweep_all(&moment, grace, now)
        })
        .await
    }
}

/// Every step of a sweep.
fn sweep_all(connection: &Connection, grace: Duration, now: Timestamp) -> Result<Swept, MetadataError> {
    // Those that a sweep has marked before: the table itself finds them by an index.
    let sql = "SELECT digest, size FROM main.blobs WHERE state = 'deleting'";
    let mut swept = Swept { blobs: all(connection, sql, [], garbage)?, ..Swept::default() };
    let mut next = Some(Sweep::default());
    while let Some(from) = next {
        let ripe = ripe(connection, grace, now)?;
        let step = Step::new(connection, grace, now).take(from, &ripe)?;
        swept.manifests += step.manifests;
        swept.looked_at += step.looked_at;
        swept.blobs.extend(step.blobs);
        next = step.next;
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use torno_oci::{Digest, RepositoryName};

    use super::*;
    use crate::row::execute;

    /// Manifests with a tag and a blob each, and one blob that all of them share.
    const MANY: usize = 2_000;

    struct Site {
        metadata: Metadata,
        _folder: tempfile::TempDir,
        name: RepositoryName,
        expiring: Vec<Expiring>,
    }

    impl Site {
        async fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
            let name: RepositoryName = "tools/x".parse().expect("name");
            let filled = metadata.write(|connection| {
                let shared = Digest::sha256(b"shared");
                connection.execute_batch(&format!(
                    "INSERT INTO repositories (id, name, owner, created_at) VALUES (7, 'tools/x', 'ada', 0);
                    INSERT INTO blobs (digest, size, state) VALUES ('{shared}', 5, 'present');
                    INSERT INTO blob_links (repository, blob) VALUES (7, '{shared}');"
                ))?;
                for number in 0..MANY {
                    let blob = Digest::sha256(format!("blob {number}").as_bytes());
                    let manifest = Digest::sha256(format!("manifest {number}").as_bytes());
                    let (blob, manifest, tag) = (blob.as_str(), manifest.as_str(), format!("t{number}"));
                    for (sql, one, other) in [
                        ("INSERT INTO blobs (digest, size, state) VALUES (?1, 4, ?2)", blob, "present"),
                        ("INSERT INTO blob_links (repository, blob) VALUES (?2, ?1)", blob, "7"),
                        (
                            "INSERT INTO manifests (digest, bytes) VALUES (?1, CAST(?2 AS BLOB))",
                            manifest,
                            "{}",
                        ),
                        ("INSERT INTO manifest_blobs (manifest, blob) VALUES (?1, ?2)", manifest, blob),
                        (
                            "INSERT INTO manifest_blobs (manifest, blob) VALUES (?1, ?2)",
                            manifest,
                            shared.as_str(),
                        ),
                        (
                            "INSERT INTO manifest_links (repository, manifest, media_type, pushed_at)
                                VALUES (?2, ?1, 'application/vnd.oci.image.manifest.v1+json', 0)",
                            manifest,
                            "7",
                        ),
                        (
                            "INSERT INTO tags (repository, tag, manifest, moved_at) VALUES (7, ?2, ?1, 0)",
                            manifest,
                            &tag,
                        ),
                    ] {
                        execute(connection, sql, [one, other])?;
                    }
                }
                Ok(())
            });
            filled.await.expect("filled");
            let uses = metadata.tag_uses(&name).await.expect("uses");
            let expiring = uses.into_iter().map(|used| Expiring::Tag(name.clone(), used)).collect();
            Self { metadata, _folder: folder, name, expiring }
        }

        async fn foresee(&self, expiring: Vec<Expiring>) -> Swept {
            self.metadata.sweepable(expiring, Duration::ZERO, Timestamp::now()).await.expect("foreseen")
        }

        /// Takes away, and sweeps to the end.
        async fn sweep(&self, expiring: Vec<Expiring>) -> Swept {
            self.metadata.expire(expiring).await.expect("expired");
            let (mut swept, mut next) = (Swept::default(), Some(Sweep::default()));
            while let Some(from) = next {
                let step = self.metadata.sweep(from, Duration::ZERO, Timestamp::now()).await.expect("swept");
                swept.manifests += step.manifests;
                swept.looked_at += step.looked_at;
                swept.blobs.extend(step.blobs);
                next = step.next;
            }
            swept
        }
    }

    #[tokio::test]
    async fn what_is_foreseen_is_what_is_done_and_changes_nothing() {
        let site = Site::new().await;
        let nothing = site.foresee(Vec::new()).await;
        assert_eq!(nothing, Swept::default());
        // First all but one, which keeps the blob that all share; then that.
        for (some, blobs) in [(&site.expiring[1..], MANY - 1), (&site.expiring[..1], 2)] {
            let foreseen = site.foresee(some.to_vec()).await;
            assert_eq!(foreseen, site.foresee(some.to_vec()).await, "nothing has changed");
            assert_eq!(foreseen.blobs.len(), blobs);
            let swept = site.sweep(some.to_vec()).await;
            assert_eq!((foreseen.manifests, &foreseen.blobs), (swept.manifests, &swept.blobs));
            for garbage in foreseen.blobs {
                site.metadata.forget(vec![garbage.blob]).await.expect("forgotten");
            }
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_foresight() {
        let site = Site::new().await;
        let foreseen = site.foresee(site.expiring.clone());
        tokio::pin!(foreseen);
        let (owner, blob) = ("ada".parse().expect("user"), Digest::sha256(b"new"));
        let bytes = bytes::Bytes::from_static(b"new");
        let pushed = site.metadata.link_journaled(&site.name, &owner, &blob, bytes, Timestamp::now());
        tokio::select! {
            biased;
            _ = &mut foreseen => panic!("pushes waited"),
            pushed = pushed => drop(pushed.expect("pushed")),
        }
        assert_eq!(foreseen.await.blobs.len(), MANY + 1);
        assert_eq!(
            site.metadata.tag_uses(&site.name).await.expect("uses").len(),
            MANY,
            "nothing has changed"
        );
    }

    #[tokio::test]
    async fn its_connection_changes_nothing_of_the_database() {
        let site = Site::new().await;
        let written = site.metadata.read_alone(|connection| {
            execute(connection, "DELETE FROM tags", []).expect_err("it only reads");
            connection.execute_batch(STAND_INS)?;
            execute(connection, "DELETE FROM main.tags", [])
        });
        written.await.expect_err("it only reads");
        assert_eq!(site.metadata.tag_uses(&site.name).await.expect("uses").len(), MANY);
    }
}
