//! Making files and folders durable, several at a time.
//!
//! Every `fsync` of a small file costs the disk a flush of its own, of which it does a thousand a second. Whoever
//! asks while others wait is served with them: [`TOGETHER`] or more by one `syncfs` of the whole file system, which
//! writes all there is and flushes once; fewer, one after the other.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::oneshot;

use crate::{BlobError, gather::Gatherer, session::blocking};

/// From so many on one flush of everything costs less than one each. With fewer, what other programs have written to
/// the same file system is left alone.
const TOGETHER: usize = 4;

/// Larger files are synced on their own, so that nobody waits for them.
pub(crate) const LARGE: u64 = 1024 * 1024;

/// Syncs what is below one folder.
#[derive(Debug)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    /// The same folder, opened for [`Syncer::everything`] alone: of a write that failed the kernel tells each opened
    /// file once, and nobody else may be told in its stead.
    everything: Arc<File>,
}

#[derive(Debug)]
struct Shared {
    /// Any folder of the file system.
    root: File,
    queue: Gatherer<Waiting>,
}

/// Somebody who waits for a file or folder.
#[derive(Debug)]
struct Waiting {
    path: PathBuf,
    done: oneshot::Sender<io::Result<()>>,
}

impl Syncer {
    /// For what is below `root`, which must be one file system.
    pub(crate) fn new(root: &Path) -> Result<Self, BlobError> {
        let open = || File::open(root).map_err(BlobError::io(root));
        let shared = Shared { root: open()?, queue: Gatherer::default() };
        Ok(Self { shared: Arc::new(shared), everything: Arc::new(open()?) })
    }

    /// Resolves once whatever was written to the file system before would survive a loss of power; an error tells of
    /// any write that failed since the last call.
    pub(crate) async fn everything(&self) -> Result<(), BlobError> {
        let root = Arc::clone(&self.everything);
        blocking(move || {
            let synced = rustix::fs::syncfs(&root);
            synced.map_err(|error| BlobError::io(Path::new("syncfs"))(error.into()))
        })
        .await
    }

    /// Resolves once a file's bytes, or a folder's entries, would survive a loss of power. Cancelled, the work still
    /// ends.
    pub(crate) async fn sync(&self, path: PathBuf) -> Result<(), BlobError> {
        let (done, synced) = oneshot::channel();
        if self.shared.queue.push(Waiting { path: path.clone(), done }) {
            let shared = Arc::clone(&self.shared);
            // Whoever waits is told by the channel; a thread that never runs drops it.
            drop(tokio::task::spawn_blocking(move || shared.serve()));
        }
        synced.await.map_err(|_| BlobError::Unfinished)?.map_err(BlobError::io(&path))
    }
}

impl Shared {
    /// Serves group after group until nobody waits.
    fn serve(&self) {
        while let Some(group) = self.queue.next_group() {
            if group.len() < TOGETHER {
                for waiting in group {
                    let synced = File::open(&waiting.path).and_then(|file| file.sync_all());
                    // Whoever asked may have gone away.
                    let _ = waiting.done.send(synced);
                }
                continue;
            }
            let synced = rustix::fs::syncfs(&self.root);
            for waiting in group {
                let _ = waiting.done.send(synced.map_err(io::Error::from));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_is_served_alone_and_together() {
        let folder = tempfile::tempdir().expect("folder");
        let syncer = Syncer::new(folder.path()).expect("syncer");
        syncer.sync(folder.path().to_owned()).await.expect("alone");
        let many = (0..50).map(|_| syncer.sync(folder.path().to_owned()));
        for synced in futures_util::future::join_all(many).await {
            synced.expect("together");
        }
        let missing = syncer.sync(folder.path().join("missing")).await;
        assert!(matches!(missing, Err(BlobError::Io { .. })), "{missing:?}");
    }
}
