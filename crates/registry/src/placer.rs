//! Puts the files of small blobs in place, those of several pushes at a time.
//!
//! What stands where is known to this process only: the next one trusts none of it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::{sync::oneshot, task::spawn_blocking};
use torno_blob::{BlobStore, Gatherer};
use torno_metadata::{JournalId, JournalReader};
use torno_oci::Digest;

use crate::RegistryError;

/// Puts files in place that the journal has, and remembers which.
#[derive(Debug)]
pub(crate) struct Placer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    blobs: Arc<BlobStore>,
    /// Only the one thread at work uses it.
    journal: Mutex<JournalReader>,
    queue: Gatherer<Waiting>,
    placed: Mutex<HashSet<JournalId>>,
}

#[derive(Debug)]
struct Waiting {
    entry: JournalId,
    digest: Digest,
    bytes: Bytes,
    /// Dropped when the file is in place, or cannot be put there now.
    _done: oneshot::Sender<()>,
}

impl Placer {
    pub(crate) fn new(blobs: Arc<BlobStore>, journal: JournalReader) -> Self {
        let (journal, queue, placed) = (Mutex::new(journal), Gatherer::default(), Mutex::default());
        Self { shared: Arc::new(Shared { blobs, journal, queue, placed }) }
    }

    /// Resolves once a blob's file is in place, or when that cannot be at once: then whoever settles the journal does
    /// it. Cancelled, the work still ends.
    pub(crate) async fn place(&self, entry: JournalId, digest: Digest, bytes: Bytes) {
        let (done, placed) = oneshot::channel();
        if self.shared.queue.push(Waiting { entry, digest, bytes, _done: done }) {
            let shared = Arc::clone(&self.shared);
            // Whoever waits is told by the channel, which a thread that never runs drops.
            drop(spawn_blocking(move || shared.serve()));
        }
        // An error is all that ever comes.
        let _ = placed.await;
    }

    /// Whether an entry's file was put in place by this process, and nothing happened to it since.
    pub(crate) fn has_placed(&self, entry: JournalId) -> bool {
        self.shared.placed().contains(&entry)
    }

    /// Notes that files are in place.
    pub(crate) fn note(&self, entries: impl IntoIterator<Item = JournalId>) {
        self.shared.placed().extend(entries);
    }

    /// Forgets entries that have left the journal.
    pub(crate) fn forget(&self, entries: &[JournalId]) {
        let mut placed = self.shared.placed();
        for entry in entries {
            placed.remove(entry);
        }
    }

    /// Trusts no file that was put in place before.
    pub(crate) fn distrust(&self) {
        self.shared.placed().clear();
    }
}

impl Shared {
    fn placed(&self) -> MutexGuard<'_, HashSet<JournalId>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        while let Some(group) = self.queue.next_group() {
            if let Err(error) = self.place(&group) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "small blobs stay in the journal: their files could not be made");
            }
        }
    }

    fn place(&self, group: &[Waiting]) -> Result<(), RegistryError> {
        // Somebody deletes just now, and no push waits for that.
        let Some(right) = self.blobs.try_lock_files()? else { return Ok(()) };
        let entries: Vec<JournalId> = group.iter().map(|waiting| waiting.entry).collect();
        // gc, which needs the same right, may have come by since.
        let needed = self.journal.lock().unwrap_or_else(PoisonError::into_inner).needed(&entries)?;
        for waiting in group.iter().filter(|waiting| needed.contains(&waiting.entry)) {
            self.blobs.put(&waiting.digest, &waiting.bytes, &right)?;
            self.placed().insert(waiting.entry);
        }
        Ok(())
    }
}
