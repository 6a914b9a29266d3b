//! Blobs on their way in (distribution-spec: Pushing blobs).

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use jiff::Timestamp;
use torno_auth::{Identity, PullPermit, PushPermit};
use torno_blob::{BlobError, Sealed};
use torno_metadata::{Hold, HoldId, touch_interval};
use torno_oci::{Digest, UploadId};

use crate::{Registry, RegistryError};

/// How long a push waits for gc to finish deleting the very blob it brings. Deleting one takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

impl Registry {
    /// Starts an upload session.
    pub async fn begin_upload(&self, permit: &PushPermit) -> Result<UploadId, RegistryError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(RegistryError::Random)?;
        let id = UploadId::from_bytes(bytes);
        // The row first: gc finds a session that has a row and no file, but not a file without a row.
        self.metadata
            .begin_upload(&id, permit.repository(), permit.owner(), permit.by(), Timestamp::now())
            .await?;
        self.blobs.begin(&id).await?;
        Ok(id)
    }

    /// How many bytes an upload session has.
    pub async fn upload_offset(&self, permit: &PushPermit, id: &UploadId) -> Result<u64, RegistryError> {
        self.known_upload(permit, id).await?;
        self.blobs.offset(id).await.map_err(unknown_upload)
    }

    /// Adds bytes to an upload session, which must have exactly `at` bytes when that is given; answers how many it
    /// has then. Cancelled or cut off, it keeps what came. As long as bytes arrive the session does not expire.
    pub async fn append<S, E>(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        at: Option<u64>,
        body: S,
    ) -> Result<u64, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.known_upload(permit, id).await?;
        let arrived = AtomicBool::new(false);
        let body = body.inspect(|_| arrived.store(true, Ordering::Relaxed));
        let appended = self.blobs.append(id, at, body);
        self.touching(permit, id, || arrived.swap(false, Ordering::Relaxed), appended).await
    }

    /// Ends an upload session: its bytes are now the blob `digest` of the repository, durably.
    ///
    /// Cancelled between moving the bytes into place and linking them, it leaves garbage for gc, never a link to
    /// bytes that are not there.
    pub async fn finish_upload(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        self.known_upload(permit, id).await?;
        let sealed = self.touching(permit, id, || true, self.blobs.seal(id, digest)).await?;
        let hold = self.hold(&sealed).await?;
        if let Err(error) = self.blobs.place(sealed).await {
            self.metadata.release(hold).await?;
            return Err(error.into());
        }
        let now = Timestamp::now();
        Ok(self.metadata.link(hold, Some(id), permit.repository(), permit.owner(), digest, now).await?)
    }

    /// Gives an upload session up (distribution-spec, end-14).
    pub async fn cancel_upload(&self, permit: &PushPermit, id: &UploadId) -> Result<(), RegistryError> {
        self.known_upload(permit, id).await?;
        self.blobs.cancel(id).await?;
        self.metadata.end_upload(id).await?;
        Ok(())
    }

    /// Links a blob of one repository to another (distribution-spec: Mounting a blob from another repository);
    /// whether the first one has it.
    pub async fn mount(
        &self,
        from: &PullPermit,
        to: &PushPermit,
        blob: &Digest,
    ) -> Result<bool, RegistryError> {
        let now = Timestamp::now();
        Ok(self.metadata.mount(from.repository(), to.repository(), to.owner(), blob, now).await?)
    }

    /// Links a blob that someone may read anywhere (distribution-spec: Mounting a blob from another repository,
    /// without `from`); whether there is such a one.
    pub async fn mount_from_anywhere(
        &self,
        who: &Identity,
        to: &PushPermit,
        blob: &Digest,
    ) -> Result<bool, RegistryError> {
        /// A blob that stands in more repositories than this is a base layer; one of these is as good as the others.
        const LOOKED_AT: usize = 1000;
        for holder in self.metadata.holders(blob, LOOKED_AT).await? {
            match self.pull_permit(who, &holder.name).await {
                Ok(from) if self.mount(&from, to, blob).await? => return Ok(true),
                Ok(_) | Err(RegistryError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Gives up the upload sessions that have rested for longer than their lifetime; how many (distribution-spec:
    /// Cancel a blob upload).
    ///
    /// Stopped anywhere, the next call goes on.
    pub async fn expire_uploads(&self) -> Result<u64, RegistryError> {
        let before = Timestamp::now() - self.settings.upload_lifetime;
        let mut expired = 0;
        for id in self.metadata.expire_uploads(before).await? {
            self.blobs.cancel(&id).await?;
            self.metadata.end_upload(&id).await?;
            expired += 1;
        }
        Ok(expired)
    }

    /// Does `work` on a session and touches that meanwhile, whenever `used` says so, since a request may take longer
    /// than a session may rest.
    async fn touching<T>(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        used: impl Fn() -> bool,
        work: impl Future<Output = Result<T, BlobError>>,
    ) -> Result<T, RegistryError> {
        tokio::pin!(work);
        let mut due = tokio::time::interval(touch_interval(self.settings.upload_lifetime));
        loop {
            // Cancelled here, or failing to touch: what `work` did so far stays.
            tokio::select! {
                done = &mut work => return done.map_err(unknown_upload),
                _ = due.tick() => {
                    if used() {
                        self.known_upload(permit, id).await?;
                    }
                }
            }
        }
    }

    async fn known_upload(&self, permit: &PushPermit, id: &UploadId) -> Result<(), RegistryError> {
        let now = Timestamp::now();
        if self
            .metadata
            .touch_upload(id, permit.repository(), permit.by(), self.settings.upload_lifetime, now)
            .await?
        {
            Ok(())
        } else {
            Err(RegistryError::UploadUnknown)
        }
    }

    /// Keeps gc away from a blob. If gc is deleting it just now, waits; if gc died while deleting it, ends that.
    async fn hold(&self, sealed: &Sealed) -> Result<HoldId, RegistryError> {
        let since = Instant::now();
        loop {
            match self.metadata.hold(sealed.digest(), sealed.size(), Timestamp::now()).await? {
                Hold::Held(hold) => return Ok(hold),
                Hold::Deleting if since.elapsed() > PATIENCE => return Err(RegistryError::Collecting),
                Hold::Deleting => {
                    if !self.finish_deleting(sealed.digest()).await? {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
    }

    /// Ends a deletion that its process did not; whether the right to was free.
    async fn finish_deleting(&self, blob: &Digest) -> Result<bool, RegistryError> {
        let Some(right) = self.blobs.lock_collection().await? else { return Ok(false) };
        // Asked again under the lock: the blob may be gone, pushed anew and in use since.
        if self.metadata.deleting().await?.iter().any(|garbage| garbage.blob == *blob) {
            self.blobs.remove(blob, &right).await?;
            self.metadata.forget(blob).await?;
        }
        Ok(true)
    }
}

fn unknown_upload(error: BlobError) -> RegistryError {
    match error {
        BlobError::UnknownUpload(_) => RegistryError::UploadUnknown,
        // Its file went while a request had it: it was cancelled, or it expired beside a connection that stood still.
        BlobError::Io { source, .. } if source.kind() == ErrorKind::NotFound => RegistryError::UploadUnknown,
        other => other.into(),
    }
}
