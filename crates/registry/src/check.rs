//! Comparing a stored blob with its digest, whoever looks.

use futures_util::TryStreamExt as _;
use torno_blob::{BlobError, CheckError, Damage, Reading};
use torno_oci::Digest;

use crate::{Registry, RegistryError};

impl Registry {
    /// What is wrong with a blob's file, if something is. `read` is told of each piece, and may take its time.
    pub(crate) async fn damage_of(
        &self,
        digest: &Digest,
        size: u64,
        mut read: impl AsyncFnMut(u64),
    ) -> Result<Option<Damage>, RegistryError> {
        let blob = match self.blobs.read(digest, size, Reading::Copied).await {
            Ok(blob) => blob,
            Err(BlobError::Missing(_)) => return Ok(Some(Damage::Missing)),
            Err(BlobError::Length { announced, got }) => {
                return Ok(Some(Damage::Length { expected: announced, found: got }));
            }
            Err(error) => return Err(error.into()),
        };
        let mut pieces = std::pin::pin!(blob.checked(digest));
        loop {
            match pieces.try_next().await {
                Ok(Some(piece)) => read(piece.len() as u64).await,
                Ok(None) => return Ok(None),
                Err(CheckError::Damaged(damage)) => return Ok(Some(damage)),
                Err(CheckError::Io(source)) => {
                    return Err(BlobError::Io { path: digest.as_str().into(), source }.into());
                }
            }
        }
    }
}
