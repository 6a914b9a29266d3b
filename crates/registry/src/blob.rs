//! Reading and deleting blobs.

use torno_audit::{Actor, Event};
use torno_auth::{DeletePermit, PullPermit};
use torno_blob::{BlobError, Reading};
use torno_metadata::Deleted;
use torno_oci::{Digest, RepositoryName};

use crate::{Content, Registry, RegistryError};

impl Registry {
    /// The size of a blob (distribution-spec: Checking if content exists in the registry).
    pub async fn blob_size(&self, permit: &PullPermit, blob: &Digest) -> Result<u64, RegistryError> {
        let size = self.metadata.linked(permit.repository(), blob).await?;
        size.ok_or_else(|| RegistryError::BlobUnknown(blob.clone()))
    }

    /// A blob's bytes (distribution-spec: Pulling blobs).
    pub async fn blob(
        &self,
        permit: &PullPermit,
        blob: &Digest,
        reading: Reading,
    ) -> Result<Content, RegistryError> {
        let size = self.blob_size(permit, blob).await?;
        match self.open_blob(blob, size, self.reading(reading)).await {
            Err(RegistryError::Blob(BlobError::Missing(_))) => {}
            opened => return self.content_of(blob, size, opened).await,
        }
        // What was remembered of it may be older than the gc of another process.
        self.metadata.distrust(permit.repository());
        let size = self.blob_size(permit, blob).await?;
        self.content(blob, size, reading).await
    }

    /// Lets go of what is kept for pulls that come soon: of a blob that another process has removed, the space.
    pub fn release_unused(&self) {
        self.blobs.release_unused();
    }

    /// Takes a blob out of a repository (distribution-spec: Deleting Blobs); how many manifests of the repository
    /// still name it. gc removes the bytes once no repository has it.
    pub async fn delete_blob(
        &self,
        permit: &DeletePermit,
        by: &Actor,
        blob: &Digest,
    ) -> Result<u64, RegistryError> {
        let repository = permit.repository();
        let event = Event::BlobDelete { repository: repository.clone(), digest: blob.clone() };
        let delete = async {
            match self.even_when_full(|| self.metadata.unlink(repository, blob)).await? {
                Deleted::Gone { named_by } => Ok(named_by),
                Deleted::Changed(_) | Deleted::Unknown => Err(RegistryError::BlobUnknown(blob.clone())),
            }
        };
        self.recorded(by, event, delete).await
    }

    /// All bytes of a small blob of a repository; `None` if it is not in it or larger than `limit`.
    pub(crate) async fn small_blob(
        &self,
        repository: &RepositoryName,
        blob: &Digest,
        limit: usize,
    ) -> Result<Option<Vec<u8>>, RegistryError> {
        let Some(size) = self.metadata.linked(repository, blob).await? else { return Ok(None) };
        if size > limit as u64 {
            return Ok(None);
        }
        self.all_bytes(blob, size).await.map(Some)
    }
}
