//! A folder of blobs that is filled from another one: a backup, and what is restored from it.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use torno_oci::{Algorithm, Digest, Hasher};

use crate::{
    BlobError, Damage, WhichFile,
    check::is_of_the_disk,
    folder::{make_folder, place_of, remove_file},
    listing::{blobs_in, folder},
};

/// Copied at a time.
const PIECE: usize = 1024 * 1024;

/// What is on its way to its place. What was left there by a call that was stopped may be a second name of a blob, so it
/// is removed and never written to.
const BESIDE: &str = "coming";

/// Blobs in the places where a store under this folder has them. One task at a time may fill it. Blocks.
#[derive(Clone, Debug)]
pub struct Shelf {
    root: PathBuf,
}

/// How a blob came to a shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was there.
    Had,
    /// By a second name for the same file, which is never changed under either.
    Linked,
    /// By a copy, whose bytes have been compared with their digest.
    Copied,
}

impl Shelf {
    /// The blobs under `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        place_of(&self.root, digest)
    }

    /// Takes over a blob of `size` bytes from another shelf; durable after [`Shelf::sync`]. What stands in its place
    /// and is neither the same file nor a copy of it is replaced.
    pub fn take(&self, digest: &Digest, size: u64, from: &Self) -> Result<Taken, BlobError> {
        let (source, target) = (from.path(digest), self.path(digest));
        let found = match fs::symlink_metadata(&source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing(digest.clone()));
            }
            other => other.map_err(BlobError::io(&source))?,
        };
        if !found.is_file() {
            return Err(BlobError::io(&source)(io::ErrorKind::InvalidData.into()));
        }
        if found.len() != size {
            return Err(BlobError::Length { announced: size, got: found.len() });
        }
        match fs::symlink_metadata(&target) {
            Ok(there) if is_same(&found, &there) => return Ok(Taken::Had),
            Ok(_) => {}
            Err(_) => make_folder(target.parent().unwrap_or(&target))?,
        }
        // Beside it first: what stands in its place, of an earlier backup, is replaced at once or not at all.
        let beside = self.root.join(BESIDE);
        remove_file(&beside)?;
        match fs::hard_link(&source, &beside) {
            Ok(()) => {
                fs::rename(&beside, &target).map_err(BlobError::io(&target))?;
                Ok(Taken::Linked)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BlobError::Missing(digest.clone())),
            // Another file system, or one without links, or too many of them.
            Err(_) => self.copy(digest, &source, &target, &found),
        }
    }

    /// Reads a blob of `size` bytes and compares it with its digest.
    pub fn check(&self, digest: &Digest, size: u64) -> Result<Option<Damage>, BlobError> {
        let path = self.path(digest);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Damage::Missing)),
            opened => opened.map_err(BlobError::io(&path))?,
        };
        let found = file.metadata().map_err(BlobError::io(&path))?.len();
        if found != size {
            return Ok(Some(Damage::Length { expected: size, found }));
        }
        let mut hasher = Hasher::new(digest.algorithm());
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => hasher.update(piece.get(..read).unwrap_or(&piece)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_of_the_disk(&error) => {
                    return Ok(Some(Damage::Unreadable { error: error.to_string(), file: WhichFile(None) }));
                }
                Err(error) => return Err(BlobError::io(&path)(error)),
            }
        }
        let found = hasher.finish();
        Ok((found != *digest).then_some(Damage::Digest { found, file: WhichFile(None) }))
    }

    /// The blobs here that are not among these, with their sizes.
    pub fn others(&self, needed: &HashSet<Digest>) -> Result<Vec<(Digest, u64)>, BlobError> {
        let mut others = Vec::new();
        for algorithm in Algorithm::ALL {
            for shard in 0..=u8::MAX {
                let folder = folder(algorithm, shard);
                for digest in blobs_in(&self.root, algorithm, shard)?.blobs {
                    if needed.contains(&digest) {
                        continue;
                    }
                    let path = self.root.join(&folder).join(digest.hex());
                    let found = fs::symlink_metadata(&path).map_err(BlobError::io(&path))?;
                    others.push((digest, found.len()));
                }
            }
        }
        Ok(others)
    }

    /// Removes a blob; one that is not there is no error.
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        remove_file(&self.path(digest))
    }

    /// Resolves once whatever was taken would survive a loss of power.
    pub fn sync(&self) -> Result<(), BlobError> {
        let root = File::open(&self.root).map_err(BlobError::io(&self.root))?;
        rustix::fs::syncfs(&root).map_err(|error| BlobError::io(&self.root)(error.into()))
    }

    fn copy(
        &self,
        digest: &Digest,
        source: &Path,
        target: &Path,
        found: &fs::Metadata,
    ) -> Result<Taken, BlobError> {
        let beside = self.root.join(BESIDE);
        let mut input = File::open(source).map_err(BlobError::io(source))?;
        let mut output = File::create_new(&beside).map_err(BlobError::io(&beside))?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut piece = vec![0; PIECE];
        loop {
            let read = input.read(&mut piece).map_err(BlobError::io(source))?;
            let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            output.write_all(bytes).map_err(BlobError::io(&beside))?;
        }
        let computed = hasher.finish();
        if computed != *digest {
            fs::remove_file(&beside).map_err(BlobError::io(&beside))?;
            return Err(BlobError::DigestMismatch { expected: digest.clone(), found: computed });
        }
        // The copy is known again by it.
        let modified = found.modified().map_err(BlobError::io(source))?;
        output.set_modified(modified).map_err(BlobError::io(&beside))?;
        fs::rename(&beside, target).map_err(BlobError::io(target))?;
        Ok(Taken::Copied)
    }
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    let time = |file: &fs::Metadata| (file.mtime(), file.mtime_nsec());
    let same_file = (one.dev(), one.ino()) == (other.dev(), other.ino());
    let copied = one.len() == other.len() && time(one) == time(other);
    other.is_file() && (same_file || copied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(folder: &tempfile::TempDir, name: &str) -> Shelf {
        let root = folder.path().join(name);
        fs::create_dir(&root).expect("folder");
        Shelf::new(&root)
    }

    fn put(shelf: &Shelf, digest: &Digest, bytes: &[u8]) {
        let path = shelf.path(digest);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        fs::write(path, bytes).expect("write");
    }

    #[test]
    fn what_is_there_is_taken_once_and_what_is_wrong_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let (from, to) = (shelf(&folder, "from"), shelf(&folder, "to"));
        let digest = Digest::sha256(b"hello");
        assert!(matches!(to.take(&digest, 5, &from), Err(BlobError::Missing(_))));
        put(&from, &digest, b"hell");
        assert!(matches!(to.take(&digest, 5, &from), Err(BlobError::Length { announced: 5, got: 4 })));
        put(&from, &digest, b"hello");
        assert_eq!(to.take(&digest, 5, &from).expect("taken"), Taken::Linked);
        assert_eq!(to.take(&digest, 5, &from).expect("taken"), Taken::Had);
        // Pushed anew, so that it is another file: that one may have been healed.
        let first = File::open(to.path(&digest)).expect("open");
        first.set_modified(std::time::UNIX_EPOCH).expect("time");
        fs::remove_file(from.path(&digest)).expect("removed");
        put(&from, &digest, b"hello");
        assert_eq!(to.take(&digest, 5, &from).expect("taken"), Taken::Linked);
        assert_eq!(fs::read(to.path(&digest)).expect("read"), b"hello");
        fs::remove_file(from.path(&digest)).expect("removed");
        std::os::unix::fs::symlink(to.path(&digest), from.path(&digest)).expect("link");
        assert!(matches!(to.take(&digest, 5, &from), Err(BlobError::Io { .. })), "no file");
        to.sync().expect("synced");
        assert_eq!(to.others(&HashSet::from([digest.clone()])).expect("listed"), []);
        assert_eq!(to.others(&HashSet::new()).expect("listed"), [(digest.clone(), 5)]);
        to.remove(&digest).expect("removed");
        to.remove(&digest).expect("gone already");
        assert_eq!(to.others(&HashSet::new()).expect("listed"), []);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let shelf = shelf(&folder, "shelf");
        let digest = Digest::sha256(b"hello");
        assert_eq!(shelf.check(&digest, 5).expect("checked"), Some(Damage::Missing));
        put(&shelf, &digest, b"hello");
        assert_eq!(shelf.check(&digest, 5).expect("checked"), None);
        put(&shelf, &digest, b"hallo");
        let found = Digest::sha256(b"hallo");
        let file = WhichFile(None);
        assert_eq!(shelf.check(&digest, 5).expect("checked"), Some(Damage::Digest { found, file }));
        put(&shelf, &digest, b"hell");
        assert_eq!(shelf.check(&digest, 5).expect("checked"), Some(Damage::Length { expected: 5, found: 4 }));
    }

    #[test]
    fn a_copy_is_compared_with_its_digest_and_known_again() {
        let folder = tempfile::tempdir().expect("folder");
        let (from, to) = (shelf(&folder, "from"), shelf(&folder, "to"));
        let digest = Digest::sha256(b"hello");
        put(&from, &digest, b"hallo");
        fs::create_dir_all(to.path(&digest).parent().expect("folder")).expect("folder");
        let copy = || {
            let source = from.path(&digest);
            to.copy(&digest, &source, &to.path(&digest), &fs::metadata(&source).expect("file"))
        };
        assert!(matches!(copy(), Err(BlobError::DigestMismatch { .. })));
        assert!(!to.path(&digest).exists() && !folder.path().join("to/coming").exists());
        put(&from, &digest, b"hello");
        assert_eq!(copy().expect("copied"), Taken::Copied);
        let [one, other] = [&from, &to].map(|shelf| fs::metadata(shelf.path(&digest)).expect("file"));
        assert_eq!(one.modified().expect("time"), other.modified().expect("time"));
        assert_ne!(one.ino(), other.ino());
    }
}
