//! Repositories, whose they are, and the catalog.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::{DatasetName, ProjectName, RepositoryName, Tag, UserName};

use crate::{
    Metadata, MetadataError,
    cache::{Answer, Question},
    row::{all, execute, first, parsed, repository_id},
};

/// A repository and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The repository.
    pub name: RepositoryName,
    /// Who pushed it first.
    pub owner: UserName,
}

/// Which repositories to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Among {
    /// Every one.
    All,
    /// Those of one owner, those under `run/`, `try/` and their results of some projects, and perhaps those that are in no namespace of Torno's own, whoever owns them.
    Some {
        /// The owner, if there is one.
        owner: Option<UserName>,
        /// The projects.
        projects: Vec<ProjectName>,
        /// The datasets whose samples are among them.
        samples: Vec<DatasetName>,
        /// Whether those outside Torno's own namespaces are among them.
        plain: bool,
    },
}

impl Among {
    /// The condition on `r`, a row of `repositories`, and what stands in it, from `?3`.
    pub(crate) fn condition(&self) -> (String, Vec<String>) {
        let Self::Some { owner, projects, samples, plain } = self else { return ("1".into(), Vec::new()) };
        let (mut any, mut values) = (vec!["0".to_owned()], Vec::new());
        let mut value = |text: String| {
            values.push(text);
            format!("?{}", values.len() + 2)
        };
        any.extend(owner.iter().map(|owner| format!("r.owner = {}", value(owner.to_string()))));
        for (start, end) in projects.iter().flat_map(ranges) {
            any.push(format!("r.name > {} AND r.name < {}", value(start), value(end)));
        }
        any.extend(samples.iter().map(|dataset| format!("r.name = {}", value(format!("samples/{dataset}")))));
        if *plain {
            let own = ["results", "run", "samples", "try-results", "try"].map(|kind| {
                format!(
                    "NOT (r.name > {} AND r.name < {})",
                    value(format!("{kind}/")),
                    value(format!("{kind}0"))
                )
            });
            any.push(own.join(" AND "));
        }
        (format!("({})", any.join(" OR ")), values)
    }
}

/// The ranges of names that are a project's. `0` is what comes after `/`.
pub(crate) fn ranges(project: &ProjectName) -> [(String, String); 4] {
    ["results", "run", "try-results", "try"]
        .map(|kind| (format!("{kind}/{project}/"), format!("{kind}/{project}0")))
}

/// Behind every name: they start with a letter or a digit.
const LAST: &str = "~";

impl Metadata {
    /// Who owns a repository, if that is remembered; `None` says nothing.
    pub fn remembered_owner(&self, name: &RepositoryName) -> Option<UserName> {
        match self.remembered(&Question::Owner(name.clone()))? {
            Answer::Owner(owner) => Some(owner),
            Answer::Manifest(_) | Answer::BlobSize(_) => None,
        }
    }

    /// Who owns a repository; `None` if there is none of that name. The database is asked in any case, so that it takes
    /// as long for one as for the other.
    pub async fn owner(&self, name: &RepositoryName) -> Result<Option<UserName>, MetadataError> {
        let question = Question::Owner(name.clone());
        let name = name.clone();
        let read = move |connection: &Connection| {
            let sql = "SELECT owner FROM repositories WHERE name = ?1";
            first(connection, sql, [name.as_str()], |row| Ok(Answer::Owner(parsed(row, "owner")?)))
        };
        match self.answer_anew(question, read).await? {
            Some(Answer::Owner(owner)) => Ok(Some(owner)),
            _ => Ok(None),
        }
    }

    /// Repositories among those that hold a manifest, other than those that only wait for gc, in the order of their
    /// names, behind `after`, at most `limit`.
    pub async fn repositories(
        &self,
        among: Among,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Owned>, MetadataError> {
        let after = after.unwrap_or_default().to_owned();
        self.read(move |connection| match among {
            Among::All => between(connection, &after, LAST, limit),
            Among::Some { owner, projects, samples, plain } => {
                // The first of the whole are among the first of each part.
                let mut found = match owner {
                    Some(owner) => owned_by(connection, &owner, &after, limit)?,
                    None => Vec::new(),
                };
                found.extend(of_projects(connection, &projects, &after, limit)?);
                for dataset in samples {
                    found.extend(named(connection, &format!("samples/{dataset}"), &after)?);
                }
                if plain {
                    found.extend(plain_ones(connection, &after, limit)?);
                }
                found.sort_unstable_by(|one, other| one.name.as_str().cmp(other.name.as_str()));
                found.dedup();
                found.truncate(limit);
                Ok(found)
            }
        })
        .await
    }

    /// The tags of a repository in their order, behind `after`, at most `limit`.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, MetadataError> {
        let (name, after) = (name.clone(), after.unwrap_or_default().to_owned());
        self.read(move |connection| {
            let Some(repository) = repository_id(connection, &name)? else { return Ok(Vec::new()) };
            let sql = "SELECT tag FROM tags WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3";
            all(connection, sql, params![repository, after, rows(limit)], |row| parsed(row, "tag"))
        })
        .await
    }
}

fn between(
    connection: &Connection,
    after: &str,
    before: &str,
    limit: usize,
) -> Result<Vec<Owned>, MetadataError> {
    let sql = "SELECT name, owner FROM repositories AS r WHERE name > ?1 AND name < ?2
        AND EXISTS (SELECT 1 FROM manifest_links WHERE repository = r.id AND orphaned = 0) ORDER BY name LIMIT ?3";
    all(connection, sql, params![after, before, rows(limit)], owned)
}

/// A repository by its name, if it comes behind `after`.
fn named(connection: &Connection, name: &str, after: &str) -> Result<Option<Owned>, MetadataError> {
    let sql = "SELECT name, owner FROM repositories AS r WHERE name = ?1 AND name > ?2
        AND EXISTS (SELECT 1 FROM manifest_links WHERE repository = r.id AND orphaned = 0)";
    first(connection, sql, params![name, after], owned)
}

fn owned_by(
    connection: &Connection,
    owner: &UserName,
    after: &str,
    limit: usize,
) -> Result<Vec<Owned>, MetadataError> {
    let sql = "SELECT name, owner FROM repositories AS r INDEXED BY repositories_by_owner WHERE owner = ?1 AND name > ?2
        AND EXISTS (SELECT 1 FROM manifest_links WHERE repository = r.id AND orphaned = 0) ORDER BY name LIMIT ?3";
    all(connection, sql, params![owner.as_str(), after, rows(limit)], owned)
}

/// The first repositories of some projects. Their namespaces are ranges of names that do not overlap.
fn of_projects(
    connection: &Connection,
    projects: &[ProjectName],
    after: &str,
    limit: usize,
) -> Result<Vec<Owned>, MetadataError> {
    let mut ranges: Vec<(String, String)> =
        projects.iter().flat_map(ranges).filter(|(_, end)| end.as_str() > after).collect();
    ranges.sort_unstable();
    let mut found = Vec::new();
    for (start, end) in &ranges {
        if found.len() >= limit {
            break;
        }
        found.extend(between(connection, after.max(start), end, limit - found.len())?);
    }
    Ok(found)
}

/// The first repositories outside Torno's own namespaces, which leave ranges of names between them.
fn plain_ones(connection: &Connection, after: &str, limit: usize) -> Result<Vec<Owned>, MetadataError> {
    /// In their order; `0` is what comes after `/`.
    const BETWEEN: [(&str, &str); 6] = [
        ("", "results/"),
        ("results0", "run/"),
        ("run0", "samples/"),
        ("samples0", "try-results/"),
        ("try-results0", "try/"),
        ("try0", LAST),
    ];
    let mut found = Vec::new();
    for (start, end) in BETWEEN.into_iter().filter(|(_, end)| *end > after) {
        if found.len() >= limit {
            break;
        }
        found.extend(between(connection, after.max(start), end, limit - found.len())?);
    }
    Ok(found)
}

fn owned(row: &Row<'_>) -> Result<Owned, MetadataError> {
    Ok(Owned { name: parsed(row, "name")?, owner: parsed(row, "owner")? })
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The row of `owner`'s repository, made if there is none of that name; [`MetadataError::Taken`] if it is somebody
/// else's. In the transaction that writes to it, so that of two first pushes of a name only one goes on.
pub(crate) fn ensure(
    connection: &Connection,
    name: &RepositoryName,
    owner: &UserName,
    now: Timestamp,
) -> Result<i64, MetadataError> {
    let sql = "SELECT id, owner FROM repositories WHERE name = ?1";
    let found: Option<(i64, UserName)> =
        first(connection, sql, [name.as_str()], |row| Ok((row.get("id")?, parsed(row, "owner")?)))?;
    match found {
        Some((id, known)) if known == *owner => Ok(id),
        Some(_) => Err(MetadataError::Taken),
        None => {
            let sql = "INSERT INTO repositories (name, owner, created_at) VALUES (?1, ?2, ?3)";
            execute(connection, sql, params![name.as_str(), owner.as_str(), now.as_millisecond()])?;
            Ok(connection.last_insert_rowid())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NewManifest;

    #[tokio::test]
    async fn some_repositories_are_found_in_their_order() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
        let bytes = b"{}".to_vec();
        for (name, owner) in [
            ("run/heart/x", "bob"),
            ("run/heart-2/x", "bob"),
            ("run/heart/a", "ada"),
            ("run/heart0/x", "bob"),
            ("results/heart/x", "bob"),
            ("try/heart/x", "bob"),
            ("try-results/heart/x", "bob"),
            ("try-results2/heart/x", "bob"),
            ("samples/heart", "bob"),
            ("samples/liver", "bob"),
            ("a/b", "ada"),
            ("z/b", "ada"),
            ("a/c", "bob"),
        ] {
            let manifest = NewManifest {
                digest: torno_oci::Digest::sha256(&bytes),
                bytes: bytes.clone(),
                media_type: torno_oci::media_types::OCI_INDEX.parse().expect("media type"),
                names: Vec::new(),
                refers: None,
                only_if: None,
            };
            let (name, owner) = (name.parse().expect("name"), owner.parse().expect("user"));
            let put = metadata.put_manifest(&name, &owner, manifest, Vec::new(), None, Timestamp::UNIX_EPOCH);
            put.await.expect("stored");
        }
        let all = [
            "a/b",
            "results/heart/x",
            "run/heart-2/x",
            "run/heart/a",
            "run/heart/x",
            "samples/heart",
            "try-results/heart/x",
            "try/heart/x",
            "z/b",
        ];
        let projects = ["heart", "heart-2", "unknown"].map(|name| name.parse().expect("project")).to_vec();
        let owner: Option<UserName> = Some("ada".parse().expect("user"));
        let samples = ["heart", "unknown"].map(|name| name.parse().expect("dataset")).to_vec();
        let hers = Among::Some { owner, projects, samples, plain: false };
        let plain = Among::Some { owner: None, projects: Vec::new(), samples: Vec::new(), plain: true };
        for (among, all) in [(hers, &all[..]), (plain, &["a/b", "a/c", "try-results2/heart/x", "z/b"][..])] {
            for limit in 0..=all.len() + 1 {
                for (skipped, after) in std::iter::once(None).chain(all.iter().map(Some)).enumerate() {
                    let page = metadata.repositories(among.clone(), after.copied(), limit).await;
                    let page = page.expect("a page");
                    let found: Vec<&str> = page.iter().map(|owned| owned.name.as_str()).collect();
                    let expected: Vec<&str> = all.iter().skip(skipped).take(limit).copied().collect();
                    assert_eq!(found, expected, "{limit} after {after:?}");
                }
            }
            // The same ones hold what they share.
            let blob = torno_oci::Digest::sha256(b"shared");
            for one in metadata.repositories(Among::All, None, 100).await.expect("a page") {
                let bytes = b"shared".as_slice().into();
                let link =
                    metadata.link_journaled(&one.name, &one.owner, &blob, bytes, Timestamp::UNIX_EPOCH);
                link.await.expect("linked");
            }
            let holders = metadata.repositories_of(&blob, &among, 100).await.expect("holders");
            let mut holders: Vec<&str> = holders.iter().map(|owned| owned.name.as_str()).collect();
            holders.sort_unstable();
            assert_eq!(holders, all);
        }
        assert_eq!(metadata.repositories(Among::All, None, 100).await.expect("a page").len(), 13);
    }
}
