//! How much there is, and whose it is.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, Row};
use torno_oci::{ProjectName, RepositoryName, UserName};

use crate::{
    Metadata, MetadataError,
    row::{all, first, number, parsed},
};

/// What some repositories hold. Bytes are those of blobs and manifests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many repositories.
    pub repositories: u64,
    /// What each repository holds, added up.
    pub logical: u64,
    /// The same with what several of these repositories hold counted once, as it is kept.
    pub stored: u64,
    /// Of `stored`, what no repository outside the group holds: what would be free without it.
    pub unshared: u64,
}

/// Blobs that wait for gc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What all repositories hold, and each group of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    /// All of them.
    pub all: Usage,
    /// What is kept: every blob and manifest once, whether a repository holds it or it waits for gc.
    pub kept: u64,
    /// By the first component of their names.
    pub namespaces: Vec<(RepositoryName, Usage)>,
    /// By project: its images and results.
    pub projects: Vec<(ProjectName, Usage)>,
    /// Each repository.
    pub repositories: Vec<(RepositoryName, Usage)>,
    /// By owner.
    pub users: Vec<(UserName, Usage)>,
    /// What gc would remove.
    pub garbage: Waiting,
}

/// The first component of a repository's name.
const NAMESPACE: &str = "substr(r.name, 1, instr(r.name || '/', '/') - 1)";

/// The project of a repository, empty outside the projects' namespaces.
const PROJECT: &str = "CASE
    WHEN r.name GLOB 'run/*/*' THEN substr(r.name, 5, instr(substr(r.name, 5), '/') - 1)
    WHEN r.name GLOB 'results/*/*' THEN substr(r.name, 9, instr(substr(r.name, 9), '/') - 1)
    WHEN r.name GLOB 'try/*/*' THEN substr(r.name, 5, instr(substr(r.name, 5), '/') - 1)
    WHEN r.name GLOB 'try-results/*/*' THEN substr(r.name, 13, instr(substr(r.name, 13), '/') - 1)
    ELSE '' END";

impl Metadata {
    /// What the repositories hold, all as of one moment, and what a sweep would find a moment later.
    ///
    /// A few passes over all links; nobody waits for them.
    pub async fn usage(&self, grace: Duration, now: Timestamp) -> Result<Usages, MetadataError> {
        let held = self.read_alone(move |connection| {
            let moment = connection.unchecked_transaction()?;
            moment.execute_batch(HELD)?;
            let usages = Usages {
                all: grouped(&moment, "''", |_| Ok(()))?.pop().map(|((), all)| all).unwrap_or_default(),
                kept: kept(&moment)?,
                namespaces: grouped(&moment, NAMESPACE, |row| parsed(row, "kind"))?,
                projects: grouped(&moment, PROJECT, project)?
                    .into_iter()
                    .filter_map(|(project, usage)| Some((project?, usage)))
                    .collect(),
                repositories: grouped(&moment, "r.name", |row| parsed(row, "kind"))?,
                users: grouped(&moment, "r.owner", |row| parsed(row, "kind"))?,
                garbage: Waiting::default(),
            };
            Ok(usages)
        });
        let mut usages = held.await?;
        let swept = self.sweepable(Vec::new(), grace, now).await?;
        usages.garbage.blobs = swept.blobs.len() as u64;
        usages.garbage.bytes = swept.blobs.iter().map(|garbage| garbage.size).sum();
        Ok(usages)
    }
}

/// Every link as three small numbers, which the passes over all of them are quick with. Gone with the transaction.
const HELD: &str = "CREATE TEMP TABLE held AS
    SELECT DENSE_RANK() OVER (ORDER BY l.blob) AS content, l.repository, b.size
        FROM blob_links AS l JOIN blobs AS b ON b.digest = l.blob
    UNION ALL
    SELECT -m.rowid, l.repository, length(m.bytes) FROM manifest_links AS l JOIN manifests AS m ON m.digest = l.manifest";

/// What each group of repositories holds, the largest first.
fn grouped<T>(
    connection: &Connection,
    kind: &str,
    value: impl Fn(&Row<'_>) -> Result<T, MetadataError>,
) -> Result<Vec<(T, Usage)>, MetadataError> {
    let sql = format!(
        "WITH repository AS MATERIALIZED (
            SELECT id, kind, DENSE_RANK() OVER (ORDER BY kind) AS number
                FROM (SELECT r.id, {kind} AS kind FROM repositories AS r)),
        part AS (
            SELECT r.number, COUNT(*) AS times, MAX(h.size) AS size,
                    COUNT(*) OVER (PARTITION BY h.content) AS holders
                FROM held AS h JOIN repository AS r ON r.id = h.repository GROUP BY h.content, r.number),
        total AS MATERIALIZED (
            SELECT number, SUM(times * size) AS logical, SUM(size) AS stored,
                    SUM(CASE holders WHEN 1 THEN size ELSE 0 END) AS unshared
                FROM part GROUP BY number)
        SELECT r.kind, COUNT(*) AS repositories, COALESCE(t.logical, 0) AS logical, COALESCE(t.stored, 0) AS stored,
                COALESCE(t.unshared, 0) AS unshared
            FROM repository AS r LEFT JOIN total AS t ON t.number = r.number
            GROUP BY r.number ORDER BY stored DESC, r.kind"
    );
    all(connection, &sql, [], |row| {
        let usage = Usage {
            repositories: number(row, "repositories")?,
            logical: number(row, "logical")?,
            stored: number(row, "stored")?,
            unshared: number(row, "unshared")?,
        };
        Ok((value(row)?, usage))
    })
}

fn project(row: &Row<'_>) -> Result<Option<ProjectName>, MetadataError> {
    if row.get_ref("kind")?.as_str().is_ok_and(str::is_empty) {
        Ok(None)
    } else {
        parsed(row, "kind").map(Some)
    }
}

fn kept(connection: &Connection) -> Result<u64, MetadataError> {
    let sql = "SELECT (SELECT COALESCE(SUM(size), 0) FROM blobs)
        + (SELECT COALESCE(SUM(length(bytes)), 0) FROM manifests) AS bytes";
    Ok(first(connection, sql, [], |row| number(row, "bytes"))?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use torno_oci::{Digest, Reference, Tag};

    use super::*;
    use crate::{Named, NamedKind, NewManifest, Presence, row::execute};

    const HOUR: Duration = Duration::from_hours(1);

    struct Site {
        metadata: Metadata,
        _folder: tempfile::TempDir,
    }

    impl Site {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
            Self { metadata, _folder: folder }
        }

        async fn blob(&self, repository: &str, owner: &str, size: usize, now: Timestamp) -> Digest {
            let bytes = vec![u8::try_from(size % 251).expect("a byte"); size];
            let digest = Digest::sha256(&bytes);
            let (name, owner) = (repository.parse().expect("name"), owner.parse().expect("user"));
            let linked = self.metadata.link_journaled(&name, &owner, &digest, Bytes::from(bytes), now).await;
            linked.expect("linked");
            digest
        }

        /// A manifest of `size` bytes that names a blob.
        async fn manifest(&self, repository: &str, owner: &str, size: usize, blob: (&Digest, usize)) {
            let bytes = vec![b' '; size];
            let named = Named {
                digest: blob.0.clone(),
                size: blob.1 as u64,
                kind: NamedKind::Blob,
                presence: Presence::Required,
            };
            let manifest = NewManifest {
                digest: Digest::sha256(&bytes),
                bytes,
                media_type: torno_oci::media_types::OCI_MANIFEST.parse().expect("media type"),
                names: vec![named],
                refers: None,
                only_if: None,
            };
            let (name, owner) = (repository.parse().expect("name"), owner.parse().expect("user"));
            let tags = vec!["v".parse().expect("tag")];
            let put = self.metadata.put_manifest(&name, &owner, manifest, tags, None, Timestamp::UNIX_EPOCH);
            assert!(matches!(put.await.expect("stored"), crate::PutManifest::Stored { .. }));
        }

        async fn usage(&self, now: Timestamp) -> Usages {
            self.metadata.usage(HOUR, now).await.expect("usage")
        }
    }

    fn usage(repositories: u64, logical: u64, stored: u64, unshared: u64) -> Usage {
        Usage { repositories, logical, stored, unshared }
    }

    fn shown<T: ToString>(groups: &[(T, Usage)]) -> Vec<(String, Usage)> {
        groups.iter().map(|(name, usage)| (name.to_string(), *usage)).collect()
    }

    #[tokio::test]
    async fn what_is_shared_counts_once_in_each_group() {
        let site = Site::new();
        assert_eq!(site.usage(Timestamp::now()).await, Usages::default(), "nothing");
        let now = Timestamp::now();
        for (repository, owner, sizes) in [
            ("run/heart/a", "ada", &[1000, 200][..]),
            ("results/heart/a", "ada", &[1000, 30]),
            ("run/liver/a", "bob", &[1000]),
            ("tools/x", "bob", &[200, 4]),
            ("tools/y", "ada", &[4]),
            ("busybox", "eve", &[]),
            ("run/heart", "eve", &[5000]),
        ] {
            for size in sizes {
                site.blob(repository, owner, *size, now).await;
            }
        }
        let shared = Digest::sha256(&[4; 4]);
        site.manifest("tools/x", "bob", 700, (&shared, 4)).await;
        site.manifest("tools/y", "ada", 700, (&shared, 4)).await;
        let found = site.usage(now).await;
        // The name without a blob was never made.
        let stored = 1000 + 200 + 30 + 4 + 5000 + 700;
        let logical = 1200 + 1030 + 1000 + 204 + 4 + 5000 + 2 * 700;
        assert_eq!(found.all, usage(6, logical, stored, stored));
        assert_eq!(found.kept, stored);
        let expected = [
            ("run", usage(3, 7200, 6200, 5000)),
            ("results", usage(1, 1030, 1030, 30)),
            ("tools", usage(2, 1608, 904, 704)),
        ];
        assert_eq!(shown(&found.namespaces), expected.map(|(name, usage)| (name.to_owned(), usage)));
        let expected = [("heart", usage(2, 2230, 1230, 30)), ("liver", usage(1, 1000, 1000, 0))];
        assert_eq!(shown(&found.projects), expected.map(|(name, usage)| (name.to_owned(), usage)));
        let expected = [
            ("eve", usage(1, 5000, 5000, 5000)),
            ("ada", usage(3, 2934, 1934, 30)),
            ("bob", usage(2, 1904, 1904, 0)),
        ];
        assert_eq!(shown(&found.users), expected.map(|(name, usage)| (name.to_owned(), usage)));
        let of = |name: &str| found.repositories.iter().find(|(one, _)| one.as_str() == name).expect("one").1;
        assert_eq!(of("tools/x"), usage(1, 904, 904, 0));
        assert_eq!(of("results/heart/a"), usage(1, 1030, 1030, 30));
        assert_eq!(found.repositories.len(), 6);
        assert_eq!(found.garbage, Waiting::default());
    }

    #[tokio::test]
    async fn garbage_is_what_a_sweep_finds() {
        let site = Site::new();
        let now = Timestamp::now();
        let long_ago = now - jiff::SignedDuration::from_hours(2);
        let named = site.blob("tools/x", "ada", 1000, long_ago).await;
        site.manifest("tools/x", "ada", 700, (&named, 1000)).await;
        site.blob("tools/x", "ada", 20, now).await;
        assert_eq!(site.usage(now).await.garbage, Waiting::default(), "a manifest or a push needs them");
        site.blob("tools/x", "ada", 300, long_ago).await;
        // In another repository, which no manifest keeps it in; the first one does.
        site.blob("tools/y", "ada", 1000, long_ago).await;
        assert_eq!(site.usage(now).await.garbage, Waiting { blobs: 1, bytes: 300 });
        let (name, tag): (RepositoryName, Tag) =
            ("tools/x".parse().expect("name"), "v".parse().expect("tag"));
        site.metadata.delete_tag(&name, &tag, None).await.expect("deleted");
        let gone = site.metadata.manifest(&name, &Reference::Tag(tag)).await.expect("asked");
        assert_eq!(gone, None);
        let waiting = site.usage(now).await.garbage;
        assert_eq!(waiting, Waiting { blobs: 2, bytes: 1300 });
        site.metadata.hold(&named, 1000, "", now).await.expect("held");
        assert_eq!(site.usage(now).await.garbage, Waiting { blobs: 1, bytes: 300 }, "a push is at it");
        let mark = |connection: &Connection| {
            execute(connection, "UPDATE blobs SET state = 'deleting' WHERE size = 20", [])
        };
        assert_eq!(site.metadata.write(mark).await.expect("marked"), 1);
        assert_eq!(site.usage(now).await.garbage, Waiting { blobs: 2, bytes: 320 }, "gc has begun");
    }
}
