//! What happens to blobs and manifests whose bytes turn out not to be theirs.

use std::sync::Arc;

use jiff::Timestamp;
use torno_blob::{BlobError, BlobStore, Damage};
use torno_metadata::{Metadata, MetadataError, Quarantining, Use};
use torno_oci::Digest;

use crate::RegistryError;

/// Uses of something damaged that are named, at most: a base layer may have thousands.
pub(crate) const USES: usize = 100;

/// Takes what is damaged out of service, without deleting it.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    blobs: Arc<BlobStore>,
    metadata: Metadata,
}

/// What became of a blob that was found to be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its file is in quarantine. It is unknown to everybody until somebody pushes it.
    PutAside,
    /// Its bytes were still in the journal, and its file was written anew.
    Healed,
    /// Nothing: a push or gc has changed it since, or is about to.
    Changed,
}

impl Quarantine {
    pub(crate) fn new(blobs: Arc<BlobStore>, metadata: Metadata) -> Self {
        Self { blobs, metadata }
    }

    /// Puts a damaged blob aside, unless its file is not the one any more that was found to be damaged.
    ///
    /// Cancelled in the middle, it leaves the blob out of service; the next push of it goes on.
    pub(crate) async fn take(&self, blob: &Digest, damage: &Damage) -> Result<Fate, RegistryError> {
        let right = self.blobs.lock_files().await?;
        if let Some(bytes) = self.metadata.journaled(blob).await?
            && Digest::of(blob.algorithm(), &bytes) == *blob
        {
            let (blobs, digest) = (Arc::clone(&self.blobs), blob.clone());
            let put = tokio::task::spawn_blocking(move || blobs.put(&digest, &bytes, &right));
            put.await.map_err(|_| BlobError::Unfinished)??;
            tracing::warn!(%blob, %damage, "a blob was damaged and was written anew from the journal");
            return Ok(Fate::Healed);
        }
        // From here on a push of the blob waits, so that no new file is taken for the damaged one.
        match self.metadata.begin_quarantine(blob, &damage.to_string(), Timestamp::now()).await? {
            Quarantining::Begun => {}
            Quarantining::Already => return Ok(Fate::PutAside),
            Quarantining::Busy => return Ok(Fate::Changed),
        }
        if !self.blobs.is_still(blob, damage).await? {
            self.metadata.undo_quarantine(blob).await?;
            return Ok(Fate::Changed);
        }
        let kept = self.blobs.put_aside(blob, &right).await?;
        self.metadata.end_quarantine(blob).await?;
        drop(right);
        let kept = kept.map_or_else(|| "-".into(), |path| path.display().to_string());
        let used_by = self.used_by(blob).await?;
        tracing::error!(
            %blob, %damage, kept, used_by,
            "a blob is damaged and in quarantine; whoever pushes it again mends it everywhere"
        );
        Ok(Fate::PutAside)
    }

    /// Ends what a process began that has died; whoever calls has the right to.
    pub(crate) async fn finish(
        &self,
        blob: &Digest,
        right: &torno_blob::FilesLock,
    ) -> Result<(), RegistryError> {
        if self.metadata.is_moving(blob).await? {
            self.blobs.put_aside(blob, right).await?;
            self.metadata.end_quarantine(blob).await?;
        }
        Ok(())
    }

    /// What was read of a manifest. One whose bytes are not its own is out of service from now on.
    pub(crate) async fn manifest<T>(&self, read: Result<T, MetadataError>) -> Result<T, RegistryError> {
        if let Err(MetadataError::Damaged(manifest)) = &read {
            self.take_manifest(manifest).await?;
        }
        Ok(read?)
    }

    /// Takes a damaged manifest out of service. Its bytes stay in the database until it is pushed again.
    pub(crate) async fn take_manifest(&self, manifest: &Digest) -> Result<(), RegistryError> {
        let reason = "its bytes have another digest";
        self.metadata.quarantine_manifest(manifest, reason, Timestamp::now()).await?;
        let used_by = self.used_by(manifest).await?;
        tracing::error!(
            %manifest, used_by,
            "a manifest is damaged and in quarantine; whoever pushes it again mends it everywhere"
        );
        Ok(())
    }

    async fn used_by(&self, digest: &Digest) -> Result<String, RegistryError> {
        let uses = self.metadata.uses(digest, USES).await?;
        Ok(uses.iter().map(Use::to_string).collect::<Vec<_>>().join(", "))
    }
}
