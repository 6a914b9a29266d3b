//! Blobs on their way in (distribution-spec: Pushing blobs).

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::Stream;
use jiff::Timestamp;
use torno_auth::{Identity, PullPermit, PushPermit};
use torno_blob::{BlobError, SMALL, Sealed};
use torno_metadata::{Hold, HoldId, Metadata, MetadataError};
use torno_oci::{Digest, UploadId};

use crate::{OverQuota, Registry, RegistryError, quota::Granted, registry::among};

/// How long a push still waits for gc to finish deleting the very blob it brings. Deleting one takes milliseconds.
pub(crate) struct Patience(Instant);

impl Patience {
    const ALL: Duration = Duration::from_secs(30);

    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }
}

/// A hold on a blob, which ends with the value, or with the link that the blob gets.
pub(crate) struct Held {
    metadata: Metadata,
    id: Option<HoldId>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        if let Err(error) = self.metadata.release(id) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a hold stays until it expires");
        }
    }
}

/// An upload session that has all its bytes, which are what they should be. Dropped, it leaves nothing but what gc and
/// time take away.
#[derive(Debug)]
pub struct CompleteUpload {
    id: UploadId,
    sealed: Sealed,
}

impl Registry {
    /// Starts an upload session.
    pub fn begin_upload(&self, permit: &PushPermit) -> Result<UploadId, RegistryError> {
        loop {
            let id = self.upload_key.issue(permit.repository(), permit.by())?;
            // Two of one millisecond may be alike.
            if self.blobs.begin(&id) {
                return Ok(id);
            }
        }
    }

    /// How many bytes an upload session has.
    pub async fn upload_offset(&self, permit: &PushPermit, id: &UploadId) -> Result<u64, RegistryError> {
        self.known_upload(permit, id)?;
        self.blobs.offset(id).await.map_err(of_upload)
    }

    /// Adds bytes to an upload session, which must have exactly `at` bytes when that is given; answers how many it
    /// has then. Cancelled or cut off, it keeps what came. As long as bytes arrive the session does not expire. One that
    /// fills the disk is given up.
    pub async fn append<S, E>(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        at: Option<u64>,
        mut body: S,
    ) -> Result<u64, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.known_upload(permit, id)?;
        self.expect_room_for(&mut body).await?;
        let appended = match self.metered(permit, id, None, body).await {
            Ok(body) => self.blobs.append(id, at, body).await.map_err(of_upload),
            Err(error) => Err(error),
        };
        self.making_room(id, appended).await
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
        let complete = self.complete_upload(permit, id, digest).await?;
        self.keep_upload(permit, complete).await
    }

    /// The first half of [`Registry::finish_upload`]: nothing is a blob yet.
    pub async fn complete_upload(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        digest: &Digest,
    ) -> Result<CompleteUpload, RegistryError> {
        self.known_upload(permit, id)?;
        let sealed = self.blobs.seal(id, digest).await.map_err(of_upload)?;
        self.uploads.end(id);
        Ok(CompleteUpload { id: id.clone(), sealed })
    }

    /// The same, with its last bytes.
    pub async fn finish_upload_with<S, E>(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        body: S,
        digest: &Digest,
    ) -> Result<(), RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let complete = self.complete_upload_with(permit, id, body, digest).await?;
        self.keep_upload(permit, complete).await
    }

    /// The first half of [`Registry::finish_upload_with`]: nothing is a blob yet.
    pub async fn complete_upload_with<S, E>(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        mut body: S,
        digest: &Digest,
    ) -> Result<CompleteUpload, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.known_upload(permit, id)?;
        self.expect_room_for(&mut body).await?;
        let finished = match self.metered(permit, id, Some(digest), body).await {
            Ok(body) => self.blobs.finish(id, body, digest).await.map_err(of_upload),
            Err(error) => Err(error),
        };
        let sealed = self.making_room(id, finished).await?;
        self.uploads.end(id);
        Ok(CompleteUpload { id: id.clone(), sealed })
    }

    /// Makes a complete upload a blob of the repository, durably. Cancelled, it may be one all the same.
    pub async fn keep_upload(
        &self,
        permit: &PushPermit,
        complete: CompleteUpload,
    ) -> Result<(), RegistryError> {
        let CompleteUpload { id, sealed } = complete;
        let kept = self.keep(permit, sealed).await;
        self.making_room(&id, kept).await
    }

    /// Gives an upload session up that has filled the disk, or somebody's quota: what it brought would keep everybody, or
    /// them, from pushing until it expires, and cannot be gone on with meanwhile.
    async fn making_room<T>(
        &self,
        id: &UploadId,
        done: Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        if let Err(
            RegistryError::Blob(BlobError::Full)
            | RegistryError::Metadata(MetadataError::Full)
            | RegistryError::Quota(_),
        ) = &done
        {
            self.uploads.end(id);
            match self.blobs.cancel(id).await {
                Ok(()) | Err(BlobError::UnknownUpload(_)) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        "an upload that has filled the disk or a quota stays until it expires"
                    );
                }
            }
        }
        done
    }

    /// Makes a complete upload a blob of the repository, durably.
    async fn keep(&self, permit: &PushPermit, sealed: Sealed) -> Result<(), RegistryError> {
        let (digest, size) = (sealed.digest().clone(), sealed.size());
        let granted = match self.charge(permit, &digest, size).await {
            Ok(granted) => granted,
            Err(error) => {
                self.blobs.end(sealed).await?;
                return Err(error);
            }
        };
        if size <= SMALL {
            self.finish_small(permit, sealed).await?;
            granted.keep();
            return Ok(());
        }
        // Two waits for the disk that need not follow one another.
        let (synced, hold) = tokio::join!(self.blobs.sync(sealed), self.hold(&digest, size));
        let hold = self.blobs.place(synced?, hold?).await?;
        self.link_held(permit, hold, &digest).await?;
        granted.keep();
        Ok(())
    }

    /// Makes a file a blob of the repository, durably; `place` puts it where blobs are read from, and gives the hold back.
    pub(crate) async fn place_and_link(
        &self,
        permit: &PushPermit,
        digest: &Digest,
        size: u64,
        place: impl AsyncFnOnce(Held) -> Result<Held, BlobError>,
    ) -> Result<(), RegistryError> {
        self.expect_room().await?;
        let granted = self.charge(permit, digest, size).await?;
        let hold = place(self.hold(digest, size).await?).await?;
        self.link_held(permit, hold, digest).await?;
        granted.keep();
        Ok(())
    }

    /// Links a blob whose bytes are in place.
    async fn link_held(
        &self,
        permit: &PushPermit,
        mut hold: Held,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        let now = Timestamp::now();
        if let Some(id) = hold.id {
            self.metadata.link(id, permit.repository(), permit.owner(), digest, now).await?;
        }
        hold.id = None;
        Ok(())
    }

    /// Gives an upload session up (distribution-spec, end-14).
    pub async fn cancel_upload(&self, permit: &PushPermit, id: &UploadId) -> Result<(), RegistryError> {
        self.known_upload(permit, id)?;
        self.uploads.end(id);
        self.blobs.cancel(id).await.map_err(of_upload)
    }

    /// Links a blob of one repository to another (distribution-spec: Mounting a blob from another repository);
    /// whether the first one has it.
    pub async fn mount(
        &self,
        from: &PullPermit,
        to: &PushPermit,
        blob: &Digest,
    ) -> Result<bool, RegistryError> {
        self.expect_room().await?;
        let mut granted = Granted::default();
        if self.is_charged(to) {
            let Some(size) = self.metadata.linked(from.repository(), blob).await? else { return Ok(false) };
            granted = self.charge(to, blob, size).await?;
        }
        let now = Timestamp::now();
        let mounted = self.metadata.mount(from.repository(), to.repository(), to.owner(), blob, now).await?;
        if mounted {
            granted.keep();
        }
        Ok(mounted)
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
        let policy = self.policy();
        let among = among(policy.reach(who));
        for holder in self.metadata.repositories_of(blob, &among, LOOKED_AT).await? {
            match policy.pull(who, &holder.name, Some(&holder.owner)) {
                Ok(from) if self.mount(&from, to, blob).await? => return Ok(true),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Gives up the upload sessions that have rested for longer than their lifetime; how many (distribution-spec:
    /// Cancel a blob upload).
    ///
    /// Stopped anywhere, the next call goes on.
    pub async fn expire_uploads(&self) -> Result<u64, RegistryError> {
        self.uploads.end_resting(self.settings.upload_lifetime);
        Ok(self.blobs.expire().await?)
    }

    /// Whether this session was begun in this repository by this person; whether it still is, its file tells.
    fn known_upload(&self, permit: &PushPermit, id: &UploadId) -> Result<(), RegistryError> {
        if self.upload_key.fits(id, permit.repository(), permit.by()) {
            Ok(())
        } else {
            Err(RegistryError::UploadUnknown)
        }
    }

    /// Keeps gc away from a blob. If gc is deleting it just now, waits.
    async fn hold(&self, blob: &Digest, size: u64) -> Result<Held, RegistryError> {
        let patience = Patience::begin();
        let alive = self.alive.get_or_try_init(async || {
            let mut name = [0; 16];
            getrandom::fill(&mut name).map_err(RegistryError::Random)?;
            Ok::<_, RegistryError>(self.blobs.sign_in(hex::encode(name)).await?)
        });
        let holder = alive.await?.name();
        loop {
            match self.metadata.hold(blob, size, holder, Timestamp::now()).await? {
                Hold::Held(id) => return Ok(Held { metadata: self.metadata.clone(), id: Some(id) }),
                Hold::Deleting => self.await_deletion(blob, &patience).await?,
            }
        }
    }

    /// Waits a moment for gc to end deleting a blob; if gc died while deleting it, ends that.
    pub(crate) async fn await_deletion(
        &self,
        blob: &Digest,
        patience: &Patience,
    ) -> Result<(), RegistryError> {
        if patience.0.elapsed() > Patience::ALL {
            return Err(RegistryError::Collecting);
        }
        if !self.finish_deleting(blob).await? {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends a deletion or quarantine that its process did not; whether the right to was free.
    async fn finish_deleting(&self, blob: &Digest) -> Result<bool, RegistryError> {
        let Some(right) = self.blobs.try_lock_files()? else { return Ok(false) };
        // Asked again under the lock: the blob may be gone, pushed anew and in use since.
        if let Some(garbage) = self.metadata.deleting_blob(blob).await? {
            self.record_removal(&[garbage]).await?;
            self.blobs.remove(&[blob], &right).await?;
            self.metadata.forget(vec![blob.clone()]).await?;
        }
        self.quarantine.finish(blob, &right).await?;
        Ok(true)
    }
}

fn of_upload(error: BlobError) -> RegistryError {
    match error {
        // The body's own error says what went wrong.
        BlobError::Interrupted(cause) => match cause.downcast::<OverQuota>() {
            Ok(over) => RegistryError::Quota(over),
            Err(cause) => BlobError::Interrupted(cause).into(),
        },
        BlobError::UnknownUpload(_) => RegistryError::UploadUnknown,
        // Its file went while a request had it: it was cancelled, or it expired beside a connection that stood still.
        BlobError::Io { source, .. } if source.kind() == ErrorKind::NotFound => RegistryError::UploadUnknown,
        other => other.into(),
    }
}
