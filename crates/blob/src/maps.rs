//! Mappings of blobs that are asked for again and again: opening, mapping and unmapping a blob of 1 MiB costs a third of
//! what sending it does.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use torno_oci::Digest;

use crate::map::Map;

/// How long a mapping is kept that nobody asks for: it keeps the space of a blob that another process has removed.
const UNUSED: Duration = Duration::from_secs(10);

/// Mappings kept at most.
const MAX: usize = 1024;

/// Mappings by digest. Whether one is still of the file that is the blob is asked each time it is used.
#[derive(Debug, Default)]
pub(crate) struct Maps(Mutex<HashMap<Digest, Kept>>);

#[derive(Debug)]
struct Kept {
    map: Map,
    file: FileId,
    used: Instant,
}

/// A file, whatever it is called, as long as nobody writes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileId {
    pub(crate) fn of(found: &fs::Metadata) -> Self {
        let modified = (found.mtime(), found.mtime_nsec());
        Self { device: found.dev(), inode: found.ino(), size: found.len(), modified }
    }
}

impl Maps {
    /// The mapping of the file that is at `path` now.
    pub(crate) fn current(&self, digest: &Digest, path: &Path) -> Option<(Map, FileId)> {
        let (map, file) = {
            let mut kept = self.lock();
            let kept = kept.get_mut(digest)?;
            kept.used = Instant::now();
            (kept.map.clone(), kept.file)
        };
        if fs::metadata(path).is_ok_and(|found| FileId::of(&found) == file) {
            return Some((map, file));
        }
        self.forget(digest);
        None
    }

    pub(crate) fn keep(&self, digest: Digest, map: Map, file: FileId) {
        let mut kept = self.lock();
        if kept.len() >= MAX && !kept.contains_key(&digest) {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(digest, _)| digest.clone());
            kept.retain(|digest, _| Some(digest) != oldest.as_ref());
        }
        kept.insert(digest, Kept { map, file, used: Instant::now() });
    }

    pub(crate) fn forget(&self, digest: &Digest) {
        self.lock().remove(digest);
    }

    /// Lets go of what nobody has asked for lately.
    pub(crate) fn release_unused(&self) {
        self.lock().retain(|_, kept| kept.used.elapsed() < UNUSED);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt as _};

    use super::*;

    fn map(path: &Path) -> (Map, FileId) {
        let file = File::open(path).expect("open");
        let found = file.metadata().expect("metadata");
        (Map::of(&file, found.len()).expect("map"), FileId::of(&found))
    }

    #[test]
    fn a_file_that_was_replaced_removed_or_cut_is_not_the_blob() {
        let folder = tempfile::tempdir().expect("folder");
        let (path, other) = (folder.path().join("blob"), folder.path().join("other"));
        let digest = Digest::sha256(b"whatever");
        let spoil: [&dyn Fn(); 3] = [
            &|| fs::rename(&other, &path).expect("rename"),
            &|| fs::remove_file(&path).expect("remove"),
            &|| File::options().write(true).open(&path).and_then(|file| file.set_len(1)).expect("cut"),
        ];
        for spoil in spoil {
            fs::write(&path, [1; 5000]).expect("write");
            fs::write(&other, [2; 5000]).expect("write");
            let maps = Maps::default();
            let (mapped, file) = map(&path);
            maps.keep(digest.clone(), mapped, file);
            assert!(maps.current(&digest, &path).is_some());
            spoil();
            assert!(maps.current(&digest, &path).is_none());
            assert!(maps.lock().is_empty());
        }
    }

    #[test]
    fn it_stays_within_its_bounds_and_lets_go() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("blob");
        File::create(&path).and_then(|file| file.write_all_at(&[1; 5000], 0)).expect("write");
        let maps = Maps::default();
        let (mapped, file) = map(&path);
        let digest = |number: usize| Digest::sha256(&number.to_le_bytes());
        for number in 0..=MAX {
            maps.keep(digest(number), mapped.clone(), file);
        }
        assert_eq!(maps.lock().len(), MAX);
        assert!(maps.current(&digest(0), &path).is_none(), "the one unused for longest made room");
        assert!(maps.current(&digest(1), &path).is_some());
        for kept in maps.lock().values_mut() {
            kept.used = Instant::now().checked_sub(UNUSED).expect("the machine runs for longer");
        }
        assert!(maps.current(&digest(1), &path).is_some());
        maps.release_unused();
        assert_eq!(maps.lock().len(), 1);
    }
}
