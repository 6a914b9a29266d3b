//! Referrers: which manifests of a repository speak of which, and how a listing shows them.

use rusqlite::{Connection, Row, params};
use torno_oci::{Digest, MAX_MANIFEST_SIZE, RepositoryName};

use crate::{
    Metadata, MetadataError,
    row::{execute, parsed, repository_id},
};

/// What a manifest on its way in speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refers {
    /// The manifest it speaks of, which need not be there.
    pub subject: Digest,
    /// What a listing is filtered by.
    pub artifact_type: Option<String>,
    /// What a listing shows, in JSON.
    pub descriptor: String,
}

/// A manifest that speaks of another one (distribution-spec: Listing Referrers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// The digest of the manifest.
    pub digest: Digest,
    /// Its descriptor, in JSON.
    pub descriptor: String,
}

/// Some of the manifests that speak of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Referrers {
    /// In the order of their digests.
    pub page: Vec<Referrer>,
    /// Whether there are others behind them.
    pub more: bool,
}

/// How many referrers stand on a page at most: more than an image usually has, and few enough that the page of an image
/// with very many costs no more than that of another.
const REFERRERS: usize = 100;

/// How many bytes the descriptors on a page have, with a comma each, unless the first alone has more: the page is as
/// large as the largest manifest at most, since clients read no larger one (distribution-spec: Listing Referrers), and
/// what is around the descriptors needs some bytes too. All of them are in memory at once.
const REFERRERS_BYTES: usize = MAX_MANIFEST_SIZE - 256;

impl Metadata {
    /// A page of the manifests of a repository that speak of `subject`, all or those of an artifact type, in the order
    /// of their digests, behind `after`. At most 100, and about 4 MiB.
    pub async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&str>,
    ) -> Result<Referrers, MetadataError> {
        let (name, subject, after) = (name.clone(), subject.clone(), after.unwrap_or_default().to_owned());
        let artifact_type = artifact_type.map(str::to_owned);
        self.read(move |connection| {
            let Some(repository) = repository_id(connection, &name)? else { return Ok(Referrers::default()) };
            let subject = subject.as_str();
            // No LIMIT: a row that is not asked for is not read.
            match artifact_type {
                None => page(connection, ALL, params![repository, subject, after]),
                Some(kind) => page(connection, OF_TYPE, params![repository, subject, after, kind]),
            }
        })
        .await
    }
}

const ALL: &str = "SELECT manifest, descriptor FROM referrers
    WHERE repository = ?1 AND subject = ?2 AND manifest > ?3 ORDER BY manifest";
// Left to itself, SQLite walks through all of them in order to save itself the way from this index to the row.
const OF_TYPE: &str = "SELECT manifest, descriptor FROM referrers INDEXED BY referrers_by_type
    WHERE repository = ?1 AND subject = ?2 AND manifest > ?3 AND artifact_type = ?4 ORDER BY manifest";

fn page(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Referrers, MetadataError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut page = Referrers::default();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let referrer = referrer(row)?;
        bytes += referrer.descriptor.len() + 1;
        if !page.page.is_empty() && (bytes > REFERRERS_BYTES || page.page.len() == REFERRERS) {
            page.more = true;
            break;
        }
        page.page.push(referrer);
    }
    Ok(page)
}

fn referrer(row: &Row<'_>) -> Result<Referrer, MetadataError> {
    Ok(Referrer { digest: parsed(row, "manifest")?, descriptor: row.get("descriptor")? })
}

/// Lists a manifest of a repository with what it speaks of. Its link takes it along when it goes.
pub(crate) fn insert(
    connection: &Connection,
    repository: i64,
    manifest: &Digest,
    refers: &Refers,
) -> Result<(), MetadataError> {
    // The same bytes may be pushed again as another media type, and an index is of no config's type.
    let sql = "INSERT INTO referrers (repository, subject, manifest, artifact_type, descriptor)
        VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT DO UPDATE SET artifact_type = excluded.artifact_type, descriptor = excluded.descriptor";
    let Refers { subject, artifact_type, descriptor } = refers;
    execute(
        connection,
        sql,
        params![repository, subject.as_str(), manifest.as_str(), artifact_type, descriptor],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jiff::Timestamp;
    use serde_json::{Value, json};
    use torno_oci::media_types::{OCI_INDEX, OCI_MANIFEST};

    use super::*;
    use crate::NewManifest;

    fn name() -> RepositoryName {
        "tools/x".parse().expect("name")
    }

    fn subject() -> Digest {
        Digest::sha256(b"the subject")
    }

    /// Pushes a referrer that is called by `bytes`.
    async fn refer(metadata: &Metadata, bytes: &str, media_type: &str, kind: Option<&str>, descriptor: &str) {
        let manifest = NewManifest {
            digest: Digest::sha256(bytes.as_bytes()),
            bytes: bytes.as_bytes().to_vec(),
            media_type: media_type.parse().expect("media type"),
            names: Vec::new(),
            refers: Some(Refers {
                subject: subject(),
                artifact_type: kind.map(str::to_owned),
                descriptor: descriptor.to_owned(),
            }),
            only_if: None,
        };
        let (name, owner) = (name(), "ada".parse().expect("user"));
        let put = metadata.put_manifest(&name, &owner, manifest, Vec::new(), None, Timestamp::UNIX_EPOCH);
        put.await.expect("stored");
    }

    fn open(folder: &Path) -> Metadata {
        Metadata::open(&folder.join("torno.db")).expect("open")
    }

    /// The digests on every page.
    async fn pages(metadata: &Metadata, kind: Option<&str>) -> Vec<Vec<Digest>> {
        let mut pages: Vec<Vec<Digest>> = Vec::new();
        loop {
            let after = pages.last().and_then(|page| page.last()).map(ToString::to_string);
            let found =
                metadata.referrers(&name(), &subject(), kind, after.as_deref()).await.expect("a page");
            pages.push(found.page.into_iter().map(|referrer| referrer.digest).collect());
            if !found.more {
                return pages;
            }
        }
    }

    fn sizes(pages: &[Vec<Digest>]) -> Vec<usize> {
        pages.iter().map(Vec::len).collect()
    }

    #[tokio::test]
    async fn a_page_is_full_of_what_fits_the_filter() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = open(folder.path());
        let (mut all, mut rare) = (Vec::new(), Vec::new());
        // Of every three one is rare; of those there is one more than a page holds.
        for number in 0..=3 * REFERRERS {
            let text = number.to_string();
            let digest = Digest::sha256(text.as_bytes());
            let kind = if number % 3 == 0 {
                rare.push(digest.clone());
                "x/rare"
            } else {
                "x/usual"
            };
            all.push(digest);
            refer(&metadata, &text, OCI_INDEX, Some(kind), "{}").await;
        }
        refer(&metadata, "of no type", OCI_INDEX, None, "{}").await;
        all.push(Digest::sha256(b"of no type"));
        all.sort();
        rare.sort();
        let found = pages(&metadata, None).await;
        assert_eq!(sizes(&found), [REFERRERS, REFERRERS, REFERRERS, 2]);
        assert_eq!(found.concat(), all);
        let found = pages(&metadata, Some("x/rare")).await;
        assert_eq!(sizes(&found), [REFERRERS, 1]);
        assert_eq!(found.concat(), rare);
        assert_eq!(sizes(&pages(&metadata, Some("x/usual")).await), [REFERRERS, REFERRERS]);
        assert_eq!(sizes(&pages(&metadata, Some("")).await), [0]);

        metadata.delete_manifest(&name(), &rare[0], None).await.expect("deleted");
        assert_eq!(pages(&metadata, Some("x/rare")).await, [&rare[1..]]);
    }

    #[tokio::test]
    async fn a_page_is_no_larger_than_a_manifest() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = open(folder.path());
        let half = " ".repeat(REFERRERS_BYTES / 2 - 1);
        refer(&metadata, "1", OCI_INDEX, None, &half).await;
        refer(&metadata, "2", OCI_INDEX, None, &half).await;
        assert_eq!(sizes(&pages(&metadata, None).await), [2]);
        refer(&metadata, "2", OCI_INDEX, None, &format!("{half} ")).await;
        assert_eq!(sizes(&pages(&metadata, None).await), [1, 1]);
        refer(&metadata, "1", OCI_INDEX, None, &half.repeat(3)).await;
        assert_eq!(sizes(&pages(&metadata, None).await), [1, 1]);
    }

    #[tokio::test]
    async fn a_referrer_pushed_as_another_type_is_listed_so() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = open(folder.path());
        refer(&metadata, "x", OCI_MANIFEST, Some("a/config"), "first").await;
        refer(&metadata, "x", OCI_INDEX, None, "second").await;
        let found = metadata.referrers(&name(), &subject(), None, None).await.expect("a page");
        assert_eq!(found.page[0].descriptor, "second");
        assert_eq!(sizes(&pages(&metadata, Some("a/config")).await), [0]);
    }

    #[tokio::test]
    async fn a_page_is_a_range_of_an_index() {
        let folder = tempfile::tempdir().expect("folder");
        let plan = |sql: &'static str| {
            move |connection: &Connection| {
                let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let mut rows = statement.raw_query();
                let mut steps: Vec<String> = Vec::new();
                while let Some(row) = rows.next()? {
                    steps.push(row.get("detail")?);
                }
                Ok(steps)
            }
        };
        let metadata = open(folder.path());
        let all = metadata.read(plan(ALL)).await.expect("a plan");
        let range = "SEARCH referrers USING PRIMARY KEY (repository=? AND subject=? AND manifest>?)";
        assert_eq!(all, [range]);
        let of_type = metadata.read(plan(OF_TYPE)).await.expect("a plan");
        let range = "SEARCH referrers USING INDEX referrers_by_type (repository=? AND subject=? AND artifact_type=? \
                     AND manifest>?)";
        assert_eq!(of_type, [range]);
    }

    #[tokio::test]
    async fn what_was_pushed_before_there_was_a_list_is_listed() {
        let folder = tempfile::tempdir().expect("folder");
        let before = [
            include_str!("../migrations/0001-first.sql"),
            include_str!("../migrations/0002-uploads-are-files.sql"),
        ];
        let annotated = json!({"schemaVersion": 2, "annotations": {"org.example": "é \"\n\u{1}", "b": ""}});
        let kinds = [
            (
                "x/y",
                annotated.to_string(),
                json!({"annotations": annotated["annotations"], "artifactType": "x/y"}),
            ),
            ("", annotated.to_string() + " ", json!({"annotations": annotated["annotations"]})),
            ("x/y", json!({"annotations": null}).to_string(), json!({"artifactType": "x/y"})),
            ("", "{\"annotations\": {}}".to_owned(), json!({"annotations": {}})),
            ("", "not JSON".to_owned(), json!({})),
        ];
        let connection = Connection::open(folder.path().join("torno.db")).expect("open");
        for sql in before {
            connection.execute_batch(sql).expect("migrated");
        }
        connection.pragma_update(None, "user_version", 2).expect("version");
        let sql = "INSERT INTO repositories VALUES (1, 'tools/x', 'ada', 0), (2, 'tools/y', 'ada', 0)";
        connection.execute(sql, []).expect("repositories");
        for (kind, bytes, _) in &kinds {
            let digest = Digest::sha256(bytes.as_bytes());
            let sql = "INSERT INTO manifests VALUES (?1, ?2, ?3, nullif(?4, ''))";
            connection
                .execute(sql, params![digest.as_str(), bytes.as_bytes(), subject().as_str(), kind])
                .expect("manifest");
            let sql = "INSERT INTO manifest_links (repository, manifest, media_type, pushed_at) VALUES (1, ?1, ?2, 0)";
            connection.execute(sql, params![digest.as_str(), OCI_INDEX]).expect("link");
        }
        // A manifest that speaks of nothing, and one that is in another repository.
        for (text, subject, repository) in [("of nothing", None, 1), ("elsewhere", Some(subject()), 2)] {
            let digest = Digest::sha256(text.as_bytes());
            let sql = "INSERT INTO manifests VALUES (?1, ?2, ?3, NULL)";
            let subject = subject.as_ref().map(Digest::as_str);
            connection.execute(sql, params![digest.as_str(), b"{}", subject]).expect("manifest");
            let sql = "INSERT INTO manifest_links (repository, manifest, media_type, pushed_at) VALUES (?1, ?2, 'a/b', 0)";
            connection.execute(sql, params![repository, digest.as_str()]).expect("link");
        }
        drop(connection);

        let metadata = open(folder.path());
        let found = metadata.referrers(&name(), &subject(), None, None).await.expect("a page");
        let found: Vec<Value> = found
            .page
            .iter()
            .map(|referrer| serde_json::from_str(&referrer.descriptor).expect("JSON"))
            .collect();
        let mut expected: Vec<Value> = Vec::new();
        for (_, bytes, mut described) in kinds {
            described["mediaType"] = json!(OCI_INDEX);
            described["digest"] = json!(Digest::sha256(bytes.as_bytes()).as_str());
            described["size"] = json!(bytes.len());
            expected.push(described);
        }
        expected.sort_by_key(|entry| entry["digest"].to_string());
        assert_eq!(found, expected);
        assert_eq!(sizes(&pages(&metadata, Some("x/y")).await), [2]);
        let gone = Digest::sha256(b"not JSON");
        metadata.delete_manifest(&name(), &gone, None).await.expect("deleted");
        assert_eq!(sizes(&pages(&metadata, None).await), [4]);
    }
}
