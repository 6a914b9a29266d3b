//! Small blobs: acknowledged when they are in the journal, settled when their files are on the disk.
//!
//! A push of a small blob would wait for the disk three times: for the file, for its folder, for the database. So its
//! bytes are committed together with its link, its file is put in place at once and synced with many others later. Until
//! then the journal is the truth: what it has is read from it when the file is not there, and after a start, when the
//! power may have failed, every file it speaks of is written again.

use std::sync::Arc;

use jiff::Timestamp;
use torno_auth::PushPermit;
use torno_blob::{Blob, BlobError, Reading, SMALL, Sealed};
use torno_metadata::{JournalId, Journaled, Unsettled};
use torno_oci::Digest;

use crate::{Registry, RegistryError, upload::Patience};

/// Settled at a time: a second's worth of pushes, and soon forgotten in one transaction.
const BATCH: usize = 4096;

/// Read from the journal at a time, 4 MiB at most.
pub(crate) const READ: usize = 64;

impl Registry {
    /// Makes a small upload a blob of the repository, durably.
    ///
    /// Cancelled once the blob is linked, it leaves the file to [`Registry::settle`].
    pub(crate) async fn finish_small(
        &self,
        permit: &PushPermit,
        mut sealed: Sealed,
    ) -> Result<(), RegistryError> {
        let bytes = sealed.bytes().await?;
        let digest = sealed.digest().clone();
        let patience = Patience::begin();
        let entry = loop {
            let (name, owner) = (permit.repository(), permit.owner());
            let now = Timestamp::now();
            match self.metadata.link_journaled(name, owner, &digest, bytes.clone(), now).await? {
                Journaled::Linked(entry) => break entry,
                Journaled::Deleting => self.await_deletion(&digest, &patience).await?,
            }
        };
        self.unsettled.notify_one();
        self.placer.place(entry, digest, bytes).await;
        if let Err(error) = self.blobs.end(sealed).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "what came of an upload that has ended stays until it expires");
        }
        Ok(())
    }

    /// Resolves when there may be something to [`Registry::settle`].
    pub async fn unsettled(&self) {
        self.unsettled.notified().await;
    }

    /// Brings what is in the journal to the disk; how many blobs. Stopped anywhere, the next call goes on.
    ///
    /// A process trusts no file that it has not put in place itself: its first call, which belongs before anything is
    /// served, writes everything that the journal has. What cannot be written stays there, and the error tells of the
    /// last such blob.
    pub async fn settle(&self) -> Result<u64, RegistryError> {
        let _turn = self.settling.lock().await;
        let (mut settled, mut failed_once) = (0, false);
        loop {
            let found = self.metadata.unsettled(BATCH).await?;
            let last = found.len() < BATCH;
            let (placed_rows, unplaced): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|row| self.placer.has_placed(row.id));
            let (mut there, gone, failed) = self.write_journaled(unplaced).await?;
            let placed = placed_rows.len();
            there.extend(placed_rows);
            let digests: Vec<&Digest> = there.iter().map(|row| &row.blob).collect();
            if let Err(error) = self.blobs.settle(&digests).await {
                // A file that should be there is not, or the kernel tells of a failed write: that it does only once.
                self.placer.distrust();
                if std::mem::replace(&mut failed_once, true) || placed == 0 {
                    return Err(error.into());
                }
                continue;
            }
            settled += there.len() as u64;
            let done: Vec<JournalId> = there.iter().map(|row| row.id).chain(gone).collect();
            if !done.is_empty() {
                self.metadata.settled(done.clone()).await?;
                self.placer.forget(&done);
            }
            if let Some(error) = failed {
                return Err(error.into());
            }
            if last {
                return Ok(settled);
            }
        }
    }

    /// Writes files anew: which are there then, which are not needed any more, and the last failure.
    async fn write_journaled(
        &self,
        rows: Vec<Unsettled>,
    ) -> Result<(Vec<Unsettled>, Vec<JournalId>, Option<BlobError>), RegistryError> {
        let mut there = Vec::with_capacity(rows.len());
        let mut gone = Vec::new();
        let mut failed = None;
        for some in rows.chunks(READ) {
            // gc, which needs the same right, has not come by when the file is put in place, or takes it away later.
            let right = self.blobs.lock_files().await?;
            let needed = self.metadata.bytes_of(some).await?;
            let is_needed = |row: &&Unsettled| needed.iter().any(|(one, _)| one.id == row.id);
            gone.extend(some.iter().filter(|row| !is_needed(row)).map(|row| row.id));
            let blobs = Arc::clone(&self.blobs);
            let put = tokio::task::spawn_blocking(move || {
                let put = |(row, bytes): (Unsettled, Vec<u8>)| {
                    // A file that may be right is not replaced by bytes that are wrong.
                    let is_right = Digest::of(row.blob.algorithm(), &bytes) == row.blob;
                    let put = is_right.then(|| blobs.put(&row.blob, &bytes, &right));
                    (row, put)
                };
                needed.into_iter().map(put).collect::<Vec<_>>()
            });
            for (row, put) in put.await.map_err(|_| BlobError::Unfinished)? {
                match put {
                    Some(Ok(())) => there.push(row),
                    Some(Err(error)) => failed = Some(error),
                    None => {
                        tracing::error!(blob = %row.blob, "the journal has other bytes than the blob's and was passed over");
                        gone.push(row.id);
                    }
                }
            }
        }
        self.placer.note(there.iter().map(|row| row.id));
        Ok((there, gone, failed))
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
