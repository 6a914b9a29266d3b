//! Quarantine: blobs and manifests whose bytes are not theirs any more. Nobody is served one until it is pushed again.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::{Digest, RepositoryName, Tag};

use crate::{
    Metadata, MetadataError,
    cache::Stale,
    row::{all, execute, exists, integer, parsed, parsed_option},
};

/// Whether a blob's file may be put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantining {
    /// It may: pushes of the blob wait until [`Metadata::end_quarantine`] or [`Metadata::undo_quarantine`].
    Begun,
    /// It has been.
    Already,
    /// A push is bringing the blob anew, or gc is taking it away.
    Busy,
}

/// Where something is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    /// The repository.
    pub repository: RepositoryName,
    /// The tag that leads to it; `None` for a manifest without one, or a blob that waits for its manifest.
    pub tag: Option<Tag>,
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.tag {
            Some(tag) => write!(f, "{}:{tag}", self.repository),
            None => write!(f, "{} (no tag)", self.repository),
        }
    }
}

impl Metadata {
    /// Announces that a blob's file is about to be put aside. From now on no repository serves it.
    pub async fn begin_quarantine(
        &self,
        blob: &Digest,
        reason: &str,
        now: Timestamp,
    ) -> Result<Quarantining, MetadataError> {
        let (blob, reason) = (blob.clone(), reason.to_owned());
        self.write(move |connection| {
            let sql = "SELECT 1 FROM quarantined_blobs WHERE blob = ?1 AND moving = 0";
            if exists(connection, sql, [blob.as_str()])? {
                return Ok(Quarantining::Already);
            }
            let sql = "SELECT 1 FROM blobs WHERE digest = ?1 AND state = 'present'
                AND NOT EXISTS (SELECT 1 FROM holds WHERE blob = ?1 AND expires_at >= ?2)";
            if !exists(connection, sql, params![blob.as_str(), now.as_millisecond()])? {
                return Ok(Quarantining::Busy);
            }
            let sql = "INSERT INTO quarantined_blobs (blob, since, reason, moving) VALUES (?1, ?2, ?3, 1)
                ON CONFLICT DO UPDATE SET reason = excluded.reason, moving = 1";
            execute(connection, sql, params![blob.as_str(), now.as_millisecond(), reason])?;
            Ok(Quarantining::Begun)
        })
        .await
    }

    /// Notes that a blob's file has been put aside, or is gone.
    pub async fn end_quarantine(&self, blob: &Digest) -> Result<(), MetadataError> {
        self.now_quarantined(blob, "UPDATE quarantined_blobs SET moving = 0 WHERE blob = ?1").await
    }

    /// Serves a blob again whose file turned out to be good.
    pub async fn undo_quarantine(&self, blob: &Digest) -> Result<(), MetadataError> {
        self.now_quarantined(blob, "DELETE FROM quarantined_blobs WHERE blob = ?1").await
    }

    async fn now_quarantined(&self, blob: &Digest, sql: &'static str) -> Result<(), MetadataError> {
        let blob = blob.clone();
        self.write_making(Stale::None, move |connection| {
            execute(connection, sql, [blob.as_str()])?;
            Ok(())
        })
        .await
    }

    /// Whether a blob's file is being put aside, or whoever did that has died.
    pub async fn is_moving(&self, blob: &Digest) -> Result<bool, MetadataError> {
        let blob = blob.clone();
        self.read(move |connection| is_moving(connection, &blob)).await
    }

    /// Serves a manifest no longer whose bytes are not its own.
    pub async fn quarantine_manifest(
        &self,
        manifest: &Digest,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let (manifest, reason) = (manifest.clone(), reason.to_owned());
        self.write(move |connection| {
            let sql = "INSERT INTO quarantined_manifests (manifest, since, reason)
                SELECT digest, ?2, ?3 FROM manifests WHERE digest = ?1 ON CONFLICT DO NOTHING";
            execute(connection, sql, params![manifest.as_str(), now.as_millisecond(), reason])?;
            Ok(())
        })
        .await
    }

    /// What uses a blob or a manifest, in order: tags that lead to it, also by an index, and repositories that have it
    /// otherwise. About `limit` of them.
    pub async fn uses(&self, digest: &Digest, limit: usize) -> Result<Vec<Use>, MetadataError> {
        let digest = digest.clone();
        self.read(move |connection| uses(connection, &digest, limit)).await
    }
}

/// Whether a blob's file is being put aside.
pub(crate) fn is_moving(connection: &Connection, blob: &Digest) -> Result<bool, MetadataError> {
    exists(connection, "SELECT 1 FROM quarantined_blobs WHERE blob = ?1 AND moving = 1", [blob.as_str()])
}

/// Serves a blob again that has been pushed.
pub(crate) fn heal_blob(connection: &Connection, blob: &Digest) -> Result<(), MetadataError> {
    execute(connection, "DELETE FROM quarantined_blobs WHERE blob = ?1", [blob.as_str()])?;
    Ok(())
}

/// Serves a manifest again that has been pushed.
pub(crate) fn heal_manifest(connection: &Connection, manifest: &Digest) -> Result<(), MetadataError> {
    execute(connection, "DELETE FROM quarantined_manifests WHERE manifest = ?1", [manifest.as_str()])?;
    Ok(())
}

fn uses(connection: &Connection, digest: &Digest, limit: usize) -> Result<Vec<Use>, MetadataError> {
    // The manifests that need it, the indexes that name these, and where all of them are.
    let sql = "WITH users (manifest) AS (
            SELECT manifest FROM manifest_blobs WHERE blob = ?1
            UNION SELECT manifest FROM manifest_children WHERE child = ?1
            UNION SELECT digest FROM manifests WHERE digest = ?1
            UNION SELECT c.manifest FROM users AS u JOIN manifest_children AS c ON c.child = u.manifest
        )
        SELECT r.name, t.tag FROM users AS u JOIN manifest_links AS l ON l.manifest = u.manifest
            JOIN repositories AS r ON r.id = l.repository
            LEFT JOIN tags AS t ON t.repository = l.repository AND t.manifest = l.manifest
        UNION SELECT r.name, NULL FROM blob_links AS l JOIN repositories AS r ON r.id = l.repository
            WHERE l.blob = ?1
        LIMIT ?2";
    let found = all(connection, sql, params![digest.as_str(), integer(limit as u64)], |row| {
        Ok(Use { repository: parsed(row, "name")?, tag: parsed_option(row, "tag")? })
    })?;
    let tagged: BTreeSet<RepositoryName> =
        found.iter().filter(|one| one.tag.is_some()).map(|one| one.repository.clone()).collect();
    let mut uses: Vec<Use> =
        found.into_iter().filter(|one| one.tag.is_some() || !tagged.contains(&one.repository)).collect();
    uses.sort();
    uses.dedup();
    Ok(uses)
}
