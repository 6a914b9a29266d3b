//! Small blobs: acknowledged when they are in the journal, settled when their files are on the disk.
//!
//! A push of a small blob would wait for the disk three times: for the file, for its folder, for the database. So its
//! bytes are committed together with its link, its file is put in place at once and synced with many others later. Until
//! then the journal is the truth: what it has is read from it when the file is not there, and after a start, when the
//! power may have failed, every file it speaks of is written again.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use torno_auth::PushPermit;
use torno_blob::{Blob, BlobError, Reading, SMALL, Sealed};
use torno_metadata::{Journaled, Placed, Todo, Unsettled, Unsynced};
use torno_oci::Digest;

use crate::{Registry, RegistryError, upload::Patience};

/// Settled at a time: a second's worth of pushes, and soon forgotten in one transaction.
const BATCH: usize = 4096;

impl Registry {
    /// Makes a small upload a blob of the repository, durably; or gives it back, if somebody else is just putting a file
    /// of the same bytes in place.
    ///
    /// Cancelled once the blob is linked, it leaves the file to [`Registry::settle`].
    pub(crate) async fn finish_small(
        &self,
        permit: &PushPermit,
        sealed: Sealed,
    ) -> Result<Option<Sealed>, RegistryError> {
        let (bytes, sealed) = sealed.bytes().await?;
        let digest = sealed.digest().clone();
        let patience = Patience::begin();
        let entry = loop {
            let (name, owner) = (permit.repository(), permit.owner());
            let now = Timestamp::now();
            match self.metadata.link_journaled(name, owner, &digest, bytes.clone(), now).await? {
                Journaled::Linked(entry) => break entry,
                Journaled::Busy => return Ok(Some(sealed)),
                Journaled::Deleting => self.await_deletion(&digest, &patience).await?,
            }
        };
        let placed = match self.blobs.place_unsynced(sealed).await {
            Ok(()) => Placed::There,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, blob = %digest, "a blob stays in the journal: its file could not be made");
                Placed::Failed
            }
        };
        self.metadata.placed(entry, placed)?;
        self.unsettled.notify_one();
        Ok(None)
    }

    /// Resolves when there may be something to [`Registry::settle`].
    pub async fn unsettled(&self) {
        self.unsettled.notified().await;
    }

    /// Brings what is in the journal to the disk; how many blobs. Stopped anywhere, the next call goes on.
    ///
    /// The first call of a process, which belongs before anything is served, trusts no file that the journal speaks of.
    /// What cannot be written stays in the journal, and the error tells of the last such blob.
    pub async fn settle(&self) -> Result<u64, RegistryError> {
        let _turn = self.settling.lock().await;
        let mut settled = 0;
        loop {
            let distrusted = self.distrusted.load(Ordering::Acquire);
            let unsynced = if distrusted { Unsynced::Distrusted } else { Unsynced::Trusted };
            let found = self.metadata.unsettled(unsynced, BATCH, Timestamp::now()).await?;
            let last = found.len() < BATCH || found.iter().all(Unsettled::stays);
            let (there, failed) = self.write_journaled(found).await?;
            let files = there.iter().filter(|one| one.todo != Todo::Nothing);
            let digests: Vec<&Digest> = files.map(|one| &one.blob).collect();
            if let Err(error) = self.blobs.settle(&digests).await {
                // A file that should be there is not, or the kernel tells of a failed write: that it does only once.
                self.distrusted.store(true, Ordering::Release);
                self.metadata.not_settled(there).await?;
                if distrusted {
                    return Err(error.into());
                }
                continue;
            }
            settled += there.len() as u64;
            if !there.is_empty() {
                self.metadata.settled(there).await?;
            }
            if let Some(error) = failed {
                return Err(error.into());
            }
            if last {
                self.distrusted.store(false, Ordering::Release);
                return Ok(settled);
            }
        }
    }

    /// Writes the files that are not certainly there; those that then are, and the last failure.
    async fn write_journaled(
        &self,
        found: Vec<Unsettled>,
    ) -> Result<(Vec<Unsettled>, Option<BlobError>), RegistryError> {
        let mut there = Vec::with_capacity(found.len());
        let mut not = Vec::new();
        let mut failed = None;
        for one in found {
            if one.todo != Todo::Write {
                there.push(one);
                continue;
            }
            let Some(bytes) = self.metadata.bytes_of(&one).await? else {
                not.push(one);
                continue;
            };
            match self.blobs.restore(&one.blob, bytes).await {
                Ok(()) => there.push(one),
                Err(error) => {
                    failed = Some(error);
                    not.push(one);
                }
            }
        }
        if !not.is_empty() {
            self.metadata.not_settled(not).await?;
        }
        Ok((there, failed))
    }

    /// Opens a blob of a known size: its file, or while that cannot be read what the journal has.
    pub(crate) async fn open_blob(
        &self,
        blob: &Digest,
        size: u64,
        reading: Reading,
    ) -> Result<Blob, RegistryError> {
        match self.blobs.read(blob, size, reading).await {
            Err(error) if size <= SMALL => {
                let bytes = self.metadata.journaled(blob).await?;
                bytes.map(Blob::in_memory).ok_or_else(|| error.into())
            }
            read => Ok(read?),
        }
    }
}
