//! Finding garbage, and forgetting it.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::Digest;

use crate::{
    Metadata, MetadataError, manifest,
    row::{all, execute, millis, number, parsed},
};

/// A blob that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Which.
    pub blob: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Manifests forgotten, over all repositories.
    pub manifests: u64,
    /// Blobs whose files are to be removed; each is `deleting` until [`Metadata::forget`].
    pub blobs: Vec<Garbage>,
}

/// Runs that still need their image.
const ACTIVE_IMAGES: &str = "SELECT image FROM runs WHERE finished_at IS NULL";

impl Metadata {
    /// Forgets manifests that deletions left without a name, and marks as `deleting` every blob that no manifest
    /// and no unfinished run needs, no hold protects, and no push has touched for `grace`.
    pub async fn sweep(&self, grace: Duration, now: Timestamp) -> Result<Swept, MetadataError> {
        self.write(move |connection| sweep(connection, grace, now)).await
    }

    /// What [`Metadata::sweep`] would find; nothing changes.
    pub async fn sweepable(&self, grace: Duration, now: Timestamp) -> Result<Swept, MetadataError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let undone = self
            .write(move |connection| {
                // The failure is what rolls the sweep back.
                let _ = sender.send(sweep(connection, grace, now));
                Err::<(), _>(MetadataError::Closed)
            })
            .await;
        receiver.try_recv().unwrap_or_else(|_| Err(undone.err().unwrap_or(MetadataError::Closed)))
    }

    /// Forgets a `deleting` blob whose file is gone.
    pub async fn forget(&self, blob: &Digest) -> Result<(), MetadataError> {
        let blob = blob.clone();
        self.write(move |connection| {
            execute(
                connection,
                "DELETE FROM blobs WHERE digest = ?1 AND state = 'deleting'",
                [blob.as_str()],
            )?;
            Ok(())
        })
        .await
    }

    /// Blobs that are `deleting`.
    pub async fn deleting(&self) -> Result<Vec<Garbage>, MetadataError> {
        self.read(deleting).await
    }
}

fn deleting(connection: &Connection) -> Result<Vec<Garbage>, MetadataError> {
    let sql = "SELECT digest, size FROM blobs WHERE state = 'deleting'";
    all(connection, sql, [], |row| Ok(Garbage { blob: parsed(row, "digest")?, size: number(row, "size")? }))
}

fn sweep(connection: &Connection, grace: Duration, now: Timestamp) -> Result<Swept, MetadataError> {
    let before = now.as_millisecond().saturating_sub(millis(grace));
    execute(connection, "DELETE FROM holds WHERE expires_at < ?1", [now.as_millisecond()])?;

    // Forgetting an index leaves its manifests without a name, so again until none is left.
    loop {
        let sql = "SELECT repository, manifest FROM manifest_links AS l WHERE orphaned = 1
            AND NOT EXISTS (SELECT 1 FROM tags AS t WHERE t.repository = l.repository AND t.manifest = l.manifest)";
        let orphans: Vec<(i64, Digest)> =
            all(connection, sql, [], |row| Ok((row.get("repository")?, parsed(row, "manifest")?)))?;
        if orphans.is_empty() {
            break;
        }
        for (repository, digest) in &orphans {
            manifest::unlink(connection, *repository, digest)?;
        }
    }
    let sql = format!(
        "DELETE FROM manifests WHERE NOT EXISTS (SELECT 1 FROM manifest_links WHERE manifest = digest)
            AND digest NOT IN ({ACTIVE_IMAGES})"
    );
    let manifests = u64::try_from(execute(connection, &sql, [])?).unwrap_or(0);

    let sql = "DELETE FROM blob_links WHERE touched_at < ?1 AND NOT EXISTS (
            SELECT 1 FROM manifest_blobs AS m JOIN manifest_links AS l ON l.manifest = m.manifest
            WHERE m.blob = blob_links.blob AND l.repository = blob_links.repository)";
    execute(connection, sql, params![before])?;
    let sql = format!(
        "UPDATE blobs SET state = 'deleting' WHERE state <> 'deleting'
            AND NOT EXISTS (SELECT 1 FROM blob_links WHERE blob = digest)
            AND NOT EXISTS (SELECT 1 FROM holds WHERE blob = digest)
            AND digest NOT IN (SELECT blob FROM manifest_blobs WHERE manifest IN ({ACTIVE_IMAGES}))"
    );
    execute(connection, &sql, [])?;
    let sql = "DELETE FROM journal WHERE id IN (SELECT journal FROM blobs WHERE state = 'deleting')";
    execute(connection, sql, [])?;
    Ok(Swept { manifests, blobs: deleting(connection)? })
}
