//! Files of others that become blobs without being copied, where the file system can do that.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{AtFlags, CWD};
use torno_oci::{Digest, Hasher};

use crate::{
    BlobError, BlobStore,
    folder::{into_folder, make_folder, remove_file, sync_folder},
    session::{MAX_BLOB_SIZE, blocking},
};

/// Read at a time.
const PIECE: usize = 1024 * 1024;

/// Whether a file may be shared with whoever it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// It becomes the blob's by a second name, if the file system can do that. It must not be written to any more.
    Linked,
    /// It is copied.
    Copied,
}

/// The right to adopt files, which one process has at a time.
#[derive(Debug)]
pub struct Adopter {
    store: Arc<BlobStore>,
    /// For files that are not in their places yet.
    folder: PathBuf,
    _lock: File,
}

/// A file whose bytes have been compared with their digest.
#[derive(Debug)]
pub struct Verified {
    file: File,
    digest: Digest,
    size: u64,
}

/// A file of the store's own, though not in its place.
#[derive(Debug)]
pub struct Prepared {
    beside: PathBuf,
    digest: Digest,
}

impl Verified {
    /// Compares the bytes of a file, from its beginning, with their digest.
    pub async fn new(file: File, expected: &Digest) -> Result<Self, BlobError> {
        let expected = expected.clone();
        blocking(move || {
            let (found, size) = read_all(&file, &expected, |_| Ok(()))?;
            if found == expected {
                Ok(Self { file, digest: found, size })
            } else {
                Err(BlobError::DigestMismatch { expected, found })
            }
        })
        .await
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Adopter {
    /// The right to adopt files for a store; `None` while another process has it. What one that was killed has left
    /// goes. Blocks.
    pub fn new(store: &Arc<BlobStore>) -> Result<Option<Self>, BlobError> {
        let (folder, path) = (store.root().join("imports"), store.root().join("imports.lock"));
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(BlobError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(BlobError::io(&path)(error)),
        }
        make_folder(&folder)?;
        for entry in fs::read_dir(&folder).map_err(BlobError::io(&folder))? {
            remove_file(&entry.map_err(BlobError::io(&folder))?.path())?;
        }
        Ok(Some(Self { store: Arc::clone(store), folder, _lock: lock }))
    }

    /// Gives a file a name under the store's folder, or copies it there; what it holds would survive a loss of power
    /// then. One blob at a time has the same digest.
    pub async fn prepare(&self, verified: Verified, sharing: Sharing) -> Result<Prepared, BlobError> {
        let beside = self.folder.join(verified.digest.hex());
        blocking(move || {
            let linked = sharing == Sharing::Linked && link(&verified.file, &beside).is_ok();
            if !linked {
                copy(&verified, &beside)?;
            }
            File::open(&beside).and_then(|file| file.sync_all()).map_err(BlobError::io(&beside))?;
            Ok(Prepared { beside, digest: verified.digest })
        })
        .await
    }

    /// Puts a file where blobs are read from; durable when it resolves. `hold` is given back; if the future is dropped it
    /// lives until the file is where it belongs.
    pub async fn place<H: Send + 'static>(
        &self,
        Prepared { beside, digest }: Prepared,
        hold: H,
    ) -> Result<H, BlobError> {
        let path = self.store.path(&digest);
        blocking(move || {
            into_folder(&path, || fs::rename(&beside, &path))?;
            // Two names of one file stay both.
            remove_file(&beside)?;
            sync_folder(path.parent().unwrap_or(&path))?;
            Ok(hold)
        })
        .await
    }
}

impl Drop for Adopter {
    fn drop(&mut self) {
        // Whatever is in it goes when the next one begins.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Gives the very file that was compared a second name, whatever has become of its first one.
fn link(file: &File, to: &Path) -> io::Result<()> {
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, &opened, CWD, to, AtFlags::SYMLINK_FOLLOW)?)
}

/// Copies a file, which may have been changed since it was compared.
fn copy(verified: &Verified, to: &Path) -> Result<(), BlobError> {
    let mut output = File::create(to).map_err(BlobError::io(to))?;
    let (found, _) = read_all(&verified.file, &verified.digest, |bytes| {
        output.write_all(bytes).map_err(BlobError::io(to))
    })?;
    if found == verified.digest {
        return Ok(());
    }
    remove_file(to)?;
    Err(BlobError::DigestMismatch { expected: verified.digest.clone(), found })
}

fn read_all(
    mut file: &File,
    digest: &Digest,
    mut each: impl FnMut(&[u8]) -> Result<(), BlobError>,
) -> Result<(Digest, u64), BlobError> {
    let io = |error| BlobError::io(Path::new(digest.as_str()))(error);
    file.rewind().map_err(io)?;
    let mut hasher = Hasher::new(digest.algorithm());
    let (mut piece, mut size) = (vec![0; PIECE], 0);
    loop {
        let read = file.read(&mut piece).map_err(io)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok((hasher.finish(), size));
        };
        size += read as u64;
        if size > MAX_BLOB_SIZE {
            return Err(BlobError::TooLarge(MAX_BLOB_SIZE));
        }
        hasher.update(bytes);
        each(bytes)?;
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt as _, time::Duration};

    use super::*;
    use crate::Reading;

    #[tokio::test]
    async fn a_file_is_shared_or_copied_and_never_changed() {
        let folder = tempfile::tempdir().expect("folder");
        let data = folder.path().join("data");
        let store = Arc::new(BlobStore::open(&data, Duration::from_hours(1)).expect("store"));
        fs::create_dir(data.join("imports")).expect("folder");
        fs::write(data.join("imports/left"), "by one that was killed").expect("write");
        let adopter = Adopter::new(&store).expect("adopter").expect("free");
        assert!(Adopter::new(&store).expect("adopter").is_none(), "one at a time");
        assert!(!data.join("imports/left").exists());
        let source = folder.path().join("source");
        fs::write(&source, "hello").expect("write");
        let digest = Digest::sha256(b"hello");
        let open = || File::open(&source).expect("open");
        let wrong = Verified::new(open(), &Digest::sha256(b"other")).await;
        assert!(matches!(wrong, Err(BlobError::DigestMismatch { .. })));
        let inode = |path: &Path| fs::metadata(path).expect("file").ino();
        // Twice: what was adopted before its link was made is adopted again.
        for (sharing, same) in [
            (Sharing::Linked, true),
            (Sharing::Linked, true),
            (Sharing::Copied, false),
            (Sharing::Linked, true),
        ] {
            let verified = Verified::new(open(), &digest).await.expect("verified");
            assert_eq!(verified.size(), 5);
            let prepared = adopter.prepare(verified, sharing).await.expect("prepared");
            adopter.place(prepared, ()).await.expect("placed");
            assert_eq!(inode(&store.path(&digest)) == inode(&source), same, "{sharing:?}");
            let bytes = store.read(&digest, 5, Reading::Copied).await.expect("blob").bytes().await;
            assert_eq!(bytes.expect("bytes"), b"hello");
            assert_eq!(fs::read_dir(data.join("imports")).expect("folder").count(), 0);
        }
        // A blob that is replaced or removed leaves the source as it was.
        let right = store.lock_files().await.expect("lock");
        store.put(&digest, b"HELLO", &right).expect("put");
        assert_eq!(fs::read(&source).expect("read"), b"hello");
        store.remove(&[&digest], &right).await.expect("removed");
        assert_eq!(fs::read(&source).expect("read"), b"hello");
        let verified = Verified::new(open(), &digest).await.expect("verified");
        fs::write(&source, "jello").expect("changed");
        let copied = adopter.prepare(verified, Sharing::Copied).await;
        assert!(matches!(copied, Err(BlobError::DigestMismatch { .. })), "changed since");
        drop(adopter);
        assert!(!data.join("imports").exists());
    }
}
