//! Rows that speak of others, and what is in quarantine.

use jiff::Timestamp;
use torno_metadata::{Dangling, Quarantined, RepositoryId};
use torno_oci::{Digest, Manifest};

use super::{Problem, Remedy, VerifyEvent, Walk};
use crate::RegistryError;

impl<F: FnMut(VerifyEvent<'_>)> Walk<'_, F> {
    pub(super) async fn rows(&self) -> Result<(), RegistryError> {
        for Dangling { what, target, relinkable } in self.registry.metadata.dangling().await? {
            let mut remedy = Remedy::None;
            if let (Some(manifest), Some(repository), true) = (&target, relinkable, self.is_repair()) {
                remedy = self.relink(repository, manifest).await?;
            }
            self.found(Problem::Row { what, about: target }, remedy).await?;
        }
        for quarantined in self.registry.metadata.quarantined().await? {
            self.quarantined(quarantined).await?;
        }
        Ok(())
    }

    async fn relink(&self, repository: RepositoryId, manifest: &Digest) -> Result<Remedy, RegistryError> {
        let metadata = &self.registry.metadata;
        let Some((bytes, elsewhere)) = metadata.manifest_bytes(manifest).await? else {
            return Ok(Remedy::None);
        };
        let Ok(parsed) = Manifest::parse(elsewhere.as_ref(), &bytes) else { return Ok(Remedy::None) };
        metadata.relink_manifest(repository, manifest, &parsed.media_type, Timestamp::now()).await?;
        Ok(Remedy::Corrected)
    }

    async fn quarantined(&self, quarantined: Quarantined) -> Result<(), RegistryError> {
        let registry = self.registry;
        let Quarantined { digest, blob_size, since, reason } = quarantined;
        if self.state.borrow().put_aside.contains(&digest) {
            return Ok(());
        }
        if let Some(size) = blob_size
            && registry.damage_of(&digest, size, async |_| ()).await?.is_none()
        {
            let mut remedy = Remedy::None;
            if self.is_repair() {
                let _right = registry.blobs.lock_files().await?;
                registry.metadata.undo_quarantine(&digest).await?;
                remedy = Remedy::Restored;
            }
            return self.found(Problem::Back { blob: digest }, remedy).await;
        }
        // What nobody misses any more is no finding.
        if registry.metadata.uses(&digest, 1).await?.is_empty() {
            return Ok(());
        }
        self.found(Problem::Quarantined { digest, since, reason }, Remedy::None).await
    }
}
