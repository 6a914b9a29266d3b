//! One blob of an import.

use std::{
    fs::File,
    io::{self, Read as _},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::Mutex;
use torno_auth::PushPermit;
use torno_blob::{Adopter, BlobError, SMALL, Verified};
use torno_oci::Digest;

use super::{Fault, ImportSettings, blocking, source::Source};
use crate::{Registry, RegistryError};

/// A blob on its way.
pub(super) struct One<'a> {
    pub(super) registry: &'a Registry,
    pub(super) settings: &'a ImportSettings,
    pub(super) adopter: &'a Adopter,
    pub(super) turns: &'a [Mutex<()>],
    pub(super) permit: &'a PushPermit,
    pub(super) digest: &'a Digest,
}

impl One<'_> {
    /// Brings a blob to the repository; its size, if its bytes were read for that.
    pub(super) async fn bring(&self, source: &Arc<Source>, path: String) -> Result<Option<u64>, Fault> {
        let Self { registry, permit, digest, .. } = *self;
        let turn = digest.hex().get(..2).and_then(|start| usize::from_str_radix(start, 16).ok());
        let _turn = match turn.and_then(|turn| self.turns.get(turn)) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        // Here too it may be: then it is touched, so that gc leaves it to its manifest.
        let mounted = registry.mount_from_anywhere(&self.settings.owner, permit, digest).await;
        if mounted.map_err(Fault::Refused)? {
            return Ok(None);
        }
        let source = Arc::clone(source);
        let (file, size) = blocking(move || {
            let file = source.file(&path)?;
            let size = file.metadata().map_err(Fault::Io)?.len();
            Ok((file, size))
        })
        .await?;
        if size > SMALL {
            return self.adopt(file).await.map(Some);
        }
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            file.take(SMALL + 1).read_to_end(&mut bytes).map_err(Fault::Io)?;
            Ok(bytes)
        })
        .await?;
        let id = registry.begin_upload(permit).map_err(Fault::Refused)?;
        let body = stream::iter([Ok::<_, io::Error>(Bytes::from(bytes))]);
        registry.finish_upload_with(permit, &id, body, digest).await.map_err(fault)?;
        Ok(Some(size))
    }

    /// Makes a file a blob as an upload becomes one, but that its bytes need not be received.
    async fn adopt(&self, file: File) -> Result<u64, Fault> {
        let verified = Verified::new(file, self.digest).await.map_err(|error| fault(error.into()))?;
        let size = verified.size();
        let prepared = self.adopter.prepare(verified, self.settings.sharing).await;
        let prepared = prepared.map_err(|error| fault(error.into()))?;
        let place = async |hold| self.adopter.place(prepared, hold).await;
        let kept = self.registry.place_and_link(self.permit, self.digest, size, place).await;
        kept.map_err(fault)?;
        Ok(size)
    }
}

fn fault(error: RegistryError) -> Fault {
    match error {
        RegistryError::Blob(BlobError::DigestMismatch { found, .. }) => Fault::Digest(found),
        other => Fault::Refused(other),
    }
}
