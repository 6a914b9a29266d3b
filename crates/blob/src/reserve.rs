//! Room on the disk that is kept for those who make room.
//!
//! A database needs some room even to delete, so on a disk that is full to the last byte nothing could ever be removed
//! again. A file that holds nothing takes that room while there is enough; whoever deletes gives it back piece by piece.
//! Until the file has its whole size again nothing new is let in, so that pushes do not eat what was given back. Its
//! length is all there is to know, and every process sees it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};

use crate::BlobError;

/// Its size: some hundreds of deletions, each of which changes a few pages of the database.
const SIZE: u64 = 16 << 20;

/// Given back at a time, since whoever starts needs less than whoever deletes.
const PIECE: u64 = 4 << 20;

/// Left for everybody else when it is made, so that it never is what fills the disk.
const SPARE: u64 = 16 << 20;

/// The file that keeps room.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// Whether a folder is on the same disk.
    pub fn is_beside(&self, folder: &Path) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
        let root = self.path.parent().map(device);
        matches!((root, device(folder)), (Some(Ok(one)), Ok(other)) if one == other)
    }

    /// The reserve of a store. There is none before [`Reserve::restore`].
    pub fn of(root: &Path) -> Self {
        Self { path: root.join("reserve") }
    }

    /// Gives some room back; whether there was some left. Durable when it returns, since file systems give room away
    /// only when they have noted that it is free. Blocks.
    pub fn give_back(&self) -> Result<bool, BlobError> {
        let Some(left) = self.length()?.filter(|length| *length > 0) else { return Ok(false) };
        let file = File::options().write(true).open(&self.path);
        let given = file.and_then(|file| {
            file.set_len(left.saturating_sub(PIECE).min(SIZE))?;
            file.sync_all()
        });
        given.map_err(BlobError::io(&self.path))?;
        Ok(true)
    }

    /// Makes it whole again, or for the first time, if there is room for it and some more; whether it is. A file system
    /// that cannot keep room has no reserve. Blocks.
    pub fn restore(&self) -> Result<bool, BlobError> {
        let length = self.length()?;
        if length.is_some_and(|length| length >= SIZE) {
            return Ok(true);
        }
        let restored = self.allocate(length);
        if length.is_none() && !matches!(restored, Ok(true)) {
            // A short one would say that room was given back.
            let _ = fs::remove_file(&self.path);
        }
        match restored.map_err(BlobError::io(&self.path)) {
            Err(BlobError::Full) => Ok(false),
            restored => restored,
        }
    }

    /// Whether nothing of it is given back: it is whole, or there is none. Blocks for as long as a look at a file takes.
    pub fn is_closed(&self) -> Result<bool, BlobError> {
        Ok(self.length()?.is_none_or(|length| length >= SIZE))
    }

    fn allocate(&self, length: Option<u64>) -> io::Result<bool> {
        let file = File::options().create(true).write(true).truncate(false).open(&self.path)?;
        let disk = fstatvfs(&file)?;
        let missing = SIZE.saturating_sub(length.unwrap_or(0));
        if disk.f_bavail.saturating_mul(disk.f_frsize) < missing.saturating_add(SPARE) {
            return Ok(false);
        }
        fallocate(&file, FallocateFlags::empty(), 0, SIZE)?;
        Ok(true)
    }

    fn length(&self) -> Result<Option<u64>, BlobError> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BlobError::io(&self.path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn room_is_given_back_in_pieces_and_nothing_comes_in_until_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let reserve = Reserve::of(folder.path());
        assert!(reserve.is_closed().expect("asked"), "there is none yet");
        assert!(!reserve.give_back().expect("asked"), "there is none yet");
        assert!(reserve.restore().expect("made"));
        let taken = || fs::metadata(folder.path().join("reserve")).expect("the file").blocks() * 512;
        assert_eq!(taken(), SIZE, "it really takes the room");
        for left in [12, 8, 4, 0] {
            assert!(reserve.give_back().expect("given"));
            assert_eq!(taken(), left << 20);
            assert!(!reserve.is_closed().expect("asked"));
        }
        assert!(!reserve.give_back().expect("asked"), "nothing is left");
        assert!(reserve.restore().expect("made"));
        assert!(reserve.is_closed().expect("asked"));
        assert_eq!(taken(), SIZE);
    }
}
