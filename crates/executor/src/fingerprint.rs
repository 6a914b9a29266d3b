//! Fingerprints of data: one digest that says exactly what a folder held.
//!
//! A folder's digest is that of its entries in the order of their names, each with its kind and its name: of a file
//! also its size and the digest of its content, of a folder its digest, of a link where it leads. Times, owners, modes and
//! attributes are not in it, nor what pipes, sockets and devices hold.

mod keep;
mod tree;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytesize::ByteSize;
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use torno_oci::{Algorithm, Digest, Hasher};
use torno_registry::{Fingerprint, Registry};

use crate::{
    ExecutorError, ProjectPolicy,
    walk::{Entry, Seen, WalkError, walk},
};

pub(crate) use keep::keep;
use tree::{Ledger, Tree};

/// A folder of data, and what it is called where its fingerprint is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataFolder {
    /// The dataset's name, with the part of it that is meant behind it, if not all; behind `samples/` for its sample.
    pub source: String,
    /// Where it is.
    pub path: PathBuf,
}

/// How far reading a folder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Bytes of files that are read, or known from before.
    pub bytes: u64,
    /// Bytes of all files.
    pub all: u64,
}

/// Ends work on another thread when nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Going(Arc<AtomicBool>);

impl Going {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Fails once the other side has gone.
    pub(crate) fn check(&self) -> impl Fn() -> Result<(), WalkError> + Send + use<> {
        let going = Arc::clone(&self.0);
        move || if going.load(Ordering::Relaxed) { Ok(()) } else { Err(WalkError::Stopped) }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The folders that the runs of a project see; with a policy for tries, those of the samples. Volumes are the engine's, and
/// nobody but the engine need be able to read them: they have no fingerprint.
pub(crate) fn folders(policy: &ProjectPolicy) -> Vec<(String, DataFolder)> {
    let folder = |dataset: &crate::Dataset| {
        let seen = dataset.seen().as_folder()?.to_owned();
        let sampled = dataset.sample.as_deref() == dataset.place.as_folder();
        let mut source = if sampled { format!("samples/{}", dataset.name) } else { dataset.name.clone() };
        if let Some(part) = &dataset.part {
            source = format!("{source}/{part}");
        }
        Some((dataset.name.clone(), DataFolder { source, path: seen }))
    };
    policy.datasets.iter().filter_map(folder).collect()
}

/// How a folder looks without reading any file: whether it changes tells whether anything has. And how many bytes its
/// files have.
pub(crate) async fn look(path: &Path) -> Result<(Digest, u64), ExecutorError> {
    let going = Going::new();
    let (path, go_on) = (path.to_owned(), going.check());
    let walked = spawn_blocking(move || {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut bytes = 0_u64;
        walk(&path, |path, entry| {
            go_on()?;
            let mut put = |kind: u8, numbers: &[u64], text: &[u8]| {
                hasher.update(&[kind]);
                for number in [path.len() as u64, text.len() as u64].iter().chain(numbers) {
                    hasher.update(&number.to_be_bytes());
                }
                hasher.update(path);
                hasher.update(text);
            };
            match entry {
                Entry::Folder => put(b'd', &[], b""),
                Entry::Left => put(b'.', &[], b""),
                Entry::File(Seen { size, modified, changed, inode, executable }, _) => {
                    bytes = bytes.saturating_add(size);
                    let times = [modified, changed].map(i64::cast_unsigned);
                    put(b'f', &[size, times[0], times[1], inode, u64::from(executable)], b"");
                }
                Entry::Link(target) => put(b'l', &[], &target),
                Entry::Other => put(b'o', &[], b""),
            }
            Ok(())
        })?;
        Ok::<_, WalkError>((hasher.finish(), bytes))
    });
    let looked = walked.await.map_err(ExecutorError::pack)??;
    drop(going);
    Ok(looked)
}

/// The fingerprint of a folder as it is now, from what is known of its files and by reading the others at `rate` bytes a
/// second at most. Noted as it goes: cancelled, it goes on where it was.
pub async fn fingerprint(
    registry: &Arc<Registry>,
    folder: &DataFolder,
    rate: ByteSize,
    tell: impl Fn(Advance) + Send + 'static,
) -> Result<Fingerprint, ExecutorError> {
    let (stamp, all) = look(&folder.path).await?;
    if let Some(known) = registry.fingerprint(&folder.source, &stamp).await? {
        return Ok(known);
    }
    let going = Going::new();
    let go_on = going.check();
    let ledger = Ledger::new(registry, &folder.source);
    let path = folder.path.clone();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own: it goes behind everything else, and its rank stays with it.
    let started = std::thread::Builder::new().name("fingerprint".into()).spawn(move || {
        // Where that is refused it has the rank of the others.
        let _ = rustix::process::setpriority_process(None, 19);
        let tree = Tree::new(ledger, rate, go_on, |bytes| tell(Advance { bytes, all }));
        let _ = sender.send(tree.read(&path));
    });
    started.map_err(ExecutorError::pack)?;
    let read = receiver.await.map_err(ExecutorError::pack)??;
    drop(going);
    if look(&folder.path).await?.0 != stamp {
        return Err(WalkError::Changed(".".into()).into());
    }
    let found = Fingerprint {
        stamp,
        digest: read.digest,
        files: read.files,
        bytes: read.bytes,
        at: Timestamp::now(),
    };
    registry.note_fingerprint(&folder.source, found.clone()).await?;
    Ok(found)
}
