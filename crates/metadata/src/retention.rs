//! What retention is judged by, and taking away what it has judged.
//!
//! The rules are not known here. What is taken away is looked at again in the transaction that does it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::{Digest, RepositoryName, Tag};

use crate::{
    Metadata, MetadataError,
    cache::Stale,
    manifest,
    row::{all, execute, exists, first, parsed, repository_id, time, time_option},
};

/// A tag, and when it was last used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagUse {
    /// Which.
    pub tag: Tag,
    /// What it names.
    pub manifest: Digest,
    /// When it was last pushed.
    pub pushed: Timestamp,
    /// When it was last pulled, if it was.
    pub pulled: Option<Timestamp>,
}

/// The latest run of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatestRun {
    /// It is not over.
    Unfinished,
    /// It ended then.
    Finished(Timestamp),
}

/// What is to be taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expiring {
    /// A tag, if it is as it was when it was judged.
    Tag(RepositoryName, TagUse),
    /// A manifest without a tag, if nothing needs it.
    Untagged(RepositoryName, Digest),
}

/// That nothing in the repository needs a manifest of it (`?1`, `?2`) although no tag names it: no index, no subject
/// that it speaks of, nothing with a tag that speaks of it, and no run.
const UNNEEDED: &str = "NOT EXISTS (SELECT 1 FROM tags WHERE repository = ?1 AND manifest = ?2)
    AND NOT EXISTS (SELECT 1 FROM manifest_children AS c JOIN manifest_links AS l
        ON l.repository = ?1 AND l.manifest = c.manifest WHERE c.child = ?2)
    AND NOT EXISTS (SELECT 1 FROM referrers AS r JOIN manifest_links AS l
        ON l.repository = ?1 AND l.manifest = r.subject WHERE r.repository = ?1 AND r.manifest = ?2)
    AND NOT EXISTS (SELECT 1 FROM referrers AS r JOIN tags AS t
        ON t.repository = ?1 AND t.manifest = r.manifest WHERE r.repository = ?1 AND r.subject = ?2)
    AND NOT EXISTS (SELECT 1 FROM runs WHERE finished_at IS NULL AND image = ?2)";

impl Metadata {
    /// The tags of a repository, the one pushed last first.
    pub async fn tag_uses(&self, name: &RepositoryName) -> Result<Vec<TagUse>, MetadataError> {
        let name = name.clone();
        self.read(move |connection| {
            let sql = "SELECT t.tag, t.manifest, t.moved_at, t.pulled_at FROM tags AS t
                JOIN repositories AS r ON r.id = t.repository WHERE r.name = ?1
                ORDER BY t.moved_at DESC, t.tag DESC";
            all(connection, sql, [name.as_str()], |row| {
                Ok(TagUse {
                    tag: parsed(row, "tag")?,
                    manifest: parsed(row, "manifest")?,
                    pushed: time(row, "moved_at")?,
                    pulled: time_option(row, "pulled_at")?,
                })
            })
        })
        .await
    }

    /// Manifests of a repository that have had no tag since `before` or earlier, and that nothing needs.
    pub async fn untagged(
        &self,
        name: &RepositoryName,
        before: Timestamp,
    ) -> Result<Vec<Digest>, MetadataError> {
        let name = name.clone();
        self.read(move |connection| {
            let Some(repository) = repository_id(connection, &name)? else { return Ok(Vec::new()) };
            let sql = "SELECT manifest FROM manifest_links AS l WHERE repository = ?1
                AND max(pushed_at, coalesce(untagged_at, 0)) < ?2
                AND NOT EXISTS (SELECT 1 FROM tags WHERE repository = ?1 AND manifest = l.manifest)";
            let parameters = params![repository, before.as_millisecond()];
            let found: Vec<Digest> = all(connection, sql, parameters, |row| parsed(row, "manifest"))?;
            let mut unneeded = Vec::new();
            for manifest in found {
                if is_unneeded(connection, repository, &manifest)? {
                    unneeded.push(manifest);
                }
            }
            Ok(unneeded)
        })
        .await
    }

    /// The latest run of each tag that was ever pushed to a repository.
    pub async fn latest_runs(
        &self,
        name: &RepositoryName,
    ) -> Result<BTreeMap<Tag, LatestRun>, MetadataError> {
        let name = name.clone();
        self.read(move |connection| {
            let sql = "SELECT tag, finished_at, max(id) FROM runs WHERE repository = ?1 GROUP BY tag";
            let runs = all(connection, sql, [name.as_str()], |row| {
                let finished = time_option(row, "finished_at")?;
                Ok((parsed(row, "tag")?, finished.map_or(LatestRun::Unfinished, LatestRun::Finished)))
            })?;
            Ok(runs.into_iter().collect())
        })
        .await
    }

    /// Takes things away, those that are still to be; which.
    pub async fn expire(&self, expiring: Vec<Expiring>) -> Result<Vec<Expiring>, MetadataError> {
        self.write_telling(move |connection| {
            let expired = expire(connection, expiring)?;
            let names = expired.iter().map(|one| one.repository().clone());
            let stale = Stale::Of(names.collect());
            Ok((expired, stale))
        })
        .await
    }

    /// Notes when tags were pulled.
    pub async fn note_pulls(
        &self,
        pulls: Vec<(RepositoryName, Tag, Timestamp)>,
    ) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection| {
            for (name, tag, at) in pulls {
                let sql = "UPDATE tags SET pulled_at = max(coalesce(pulled_at, 0), ?3)
                    WHERE repository = (SELECT id FROM repositories WHERE name = ?1) AND tag = ?2";
                execute(connection, sql, params![name.as_str(), tag.as_str(), at.as_millisecond()])?;
            }
            Ok(())
        })
        .await
    }
}

impl Expiring {
    /// Where it is.
    pub fn repository(&self) -> &RepositoryName {
        match self {
            Self::Tag(repository, _) | Self::Untagged(repository, _) => repository,
        }
    }
}

/// Takes things away in a transaction; which were still to be.
pub(crate) fn expire(
    connection: &Connection,
    expiring: Vec<Expiring>,
) -> Result<Vec<Expiring>, MetadataError> {
    let mut expired = Vec::with_capacity(expiring.len());
    for one in expiring {
        let Some(repository) = repository_id(connection, one.repository())? else { continue };
        let gone = match &one {
            Expiring::Tag(_, used) => {
                let sql = "DELETE FROM tags WHERE repository = ?1 AND tag = ?2 AND manifest = ?3
                    AND moved_at = ?4 AND pulled_at IS ?5 RETURNING manifest";
                let parameters = params![
                    repository,
                    used.tag.as_str(),
                    used.manifest.as_str(),
                    used.pushed.as_millisecond(),
                    used.pulled.map(Timestamp::as_millisecond)
                ];
                let manifest: Option<Digest> =
                    first(connection, sql, parameters, |row| parsed(row, "manifest"))?;
                if let Some(manifest) = &manifest {
                    manifest::orphan(connection, repository, manifest)?;
                }
                manifest.is_some()
            }
            Expiring::Untagged(_, manifest) => {
                is_unneeded(connection, repository, manifest)?
                    && manifest::unlink(connection, repository, manifest)?
            }
        };
        if gone {
            expired.push(one);
        }
    }
    Ok(expired)
}

fn is_unneeded(connection: &Connection, repository: i64, manifest: &Digest) -> Result<bool, MetadataError> {
    exists(connection, &format!("SELECT 1 WHERE {UNNEEDED}"), params![repository, manifest.as_str()])
}
