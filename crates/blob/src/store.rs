//! The files of whole blobs.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::Stream;
use torno_oci::{Algorithm, Digest, UploadId};

use crate::{
    Alive, Blob, BlobError, Reading, Sealed, Synced, Uploads, alive,
    durable::{LARGE, Syncer},
    folder::{folder_of, into_folder, make_folder, make_shards, place_of, remove_file},
    map::Map,
    maps::{FileId, Maps},
    read::{COPIED, Source},
    session::{Sessions, blocking},
};

/// Above this many, one sync of the whole file system costs less than one each.
const FEW: usize = 2;

/// Held by the next one to have the right to the files.
const NEXT: &str = "files-next.lock";

/// The blobs and upload sessions under one folder.
#[derive(Debug)]
pub struct BlobStore {
    pub(crate) root: PathBuf,
    sessions: Sessions,
    syncer: Syncer,
    pub(crate) maps: Arc<Maps>,
}

/// The right to remove blobs' files, and to put such in place that are not synced yet. One task of one process at a
/// time has it, for milliseconds: so what is removed and what is known of it never part. It ends with the value or the
/// process.
#[derive(Debug)]
pub struct FilesLock {
    _file: File,
}

impl BlobStore {
    /// Opens the store under `root`, whose folders are made as needed. Upload sessions may rest for
    /// `upload_lifetime`. Blocks.
    pub fn open(root: &Path, upload_lifetime: Duration) -> Result<Self, BlobError> {
        for algorithm in Algorithm::ALL {
            make_folder(&root.join("blobs").join(algorithm.name()))?;
        }
        make_shards(&root.join("blobs").join(Algorithm::Sha256.name()))?;
        make_folder(&root.join("uploads"))?;
        let sessions = Sessions::new(root.join("uploads"), upload_lifetime);
        let syncer = Syncer::new(&root.join("uploads"))?;
        Ok(Self { root: root.to_owned(), sessions, syncer, maps: Arc::default() })
    }

    /// Starts an upload session; whether there was none of that name.
    pub fn begin(&self, id: &UploadId) -> bool {
        self.sessions.begin(id)
    }

    /// How many bytes an upload session has.
    pub async fn offset(&self, id: &UploadId) -> Result<u64, BlobError> {
        self.sessions.offset(id).await
    }

    /// Adds the bytes of `body` to a session, which must have exactly `at` bytes when that is given; answers how
    /// many it has then.
    ///
    /// What came before an error or a cancellation stays in the session, but for up to 1 MiB of the last bytes.
    pub async fn append<S, E>(&self, id: &UploadId, at: Option<u64>, body: S) -> Result<u64, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.sessions.append(id, at, body).await
    }

    /// Adds the bytes of `body` to a session and compares all with their digest. A blob of up to
    /// [`SMALL`](crate::SMALL) bytes that comes in this one piece stays in memory.
    pub async fn finish<S, E>(&self, id: &UploadId, body: S, expected: &Digest) -> Result<Sealed, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.sessions.finish(id, body, expected).await
    }

    /// Compares a session's bytes with their digest.
    pub async fn seal(&self, id: &UploadId, expected: &Digest) -> Result<Sealed, BlobError> {
        self.sessions.seal(id, expected).await
    }

    /// Resolves once the bytes of a blob of more than [`SMALL`](crate::SMALL) would survive a loss of power. Dropped, it
    /// leaves the session as it was.
    pub async fn sync(&self, sealed: Sealed) -> Result<Synced, BlobError> {
        if sealed.size <= LARGE {
            self.syncer.sync(sealed.path.clone()).await?;
            return Ok(Synced(sealed));
        }
        blocking(move || {
            let synced = File::open(&sealed.path).and_then(|file| file.sync_all());
            synced.map_err(BlobError::io(&sealed.path))?;
            Ok(Synced(sealed))
        })
        .await
    }

    /// Moves synced bytes to where blobs are read from; durable when it resolves. A blob that is there already is
    /// replaced, which heals it if it was damaged. `hold` is given back; if the future is dropped it lives until the
    /// bytes are where they belong.
    pub async fn place<H: Send + 'static>(&self, Synced(sealed): Synced, hold: H) -> Result<H, BlobError> {
        let (path, folder) = (self.path(&sealed.digest), self.folder(&sealed.digest));
        let id = sealed.id.clone();
        let moved = blocking(move || {
            into_folder(&path, || fs::rename(&sealed.path, &path))?;
            sealed.end();
            Ok(hold)
        });
        let moved = moved.await;
        self.sessions.forget(&id);
        let hold = moved?;
        self.syncer.sync(folder).await?;
        Ok(hold)
    }

    /// Ends the session of a small blob whose bytes are safe elsewhere.
    pub async fn end(&self, sealed: Sealed) -> Result<(), BlobError> {
        let (id, path, has_file) = (sealed.id.clone(), sealed.path.clone(), sealed.has_file);
        sealed.end();
        self.sessions.forget(&id);
        if has_file { blocking(move || remove_file(&path)).await } else { Ok(()) }
    }

    /// Writes a small blob's file; not durable until [`BlobStore::settle`]. One that is there and looks right is
    /// replaced too: of a write that failed the kernel keeps the bytes in memory as if they were on the disk. One that
    /// has other bytes and cannot be replaced is removed. Blocks.
    pub fn put(&self, digest: &Digest, bytes: &[u8], _right: &FilesLock) -> Result<(), BlobError> {
        let path = self.path(digest);
        // One at a time has the right, so one name does; whatever a crash left there is overwritten.
        let beside = self.root.join("uploads/placing");
        let put = fs::write(&beside, bytes)
            .map_err(BlobError::io(&beside))
            .and_then(|()| into_folder(&path, || fs::rename(&beside, &path)));
        if put.is_err() {
            let _ = fs::remove_file(&beside);
            if !fs::read(&path).is_ok_and(|found| found == bytes) {
                let _ = fs::remove_file(&path);
            }
        }
        put
    }

    /// Resolves once these blobs' files, where they are, would survive a loss of power.
    pub async fn settle(&self, digests: &[&Digest]) -> Result<(), BlobError> {
        if digests.len() > FEW {
            return self.syncer.everything().await;
        }
        for digest in digests {
            self.syncer.sync(self.path(digest)).await?;
            self.syncer.sync(self.folder(digest)).await?;
        }
        Ok(())
    }

    /// Ends a session and removes its bytes.
    pub async fn cancel(&self, id: &UploadId) -> Result<(), BlobError> {
        self.sessions.cancel(id).await
    }

    /// Ends the sessions that have rested for longer than they may, and removes their bytes; answers how many there
    /// were.
    pub async fn expire(&self) -> Result<u64, BlobError> {
        self.sessions.expire().await
    }

    /// The uploads under way that have bytes.
    pub async fn uploads(&self) -> Result<Uploads, BlobError> {
        self.sessions.usage().await
    }

    /// Opens a blob, which must have `size` bytes.
    pub async fn read(&self, digest: &Digest, size: u64, reading: Reading) -> Result<Blob, BlobError> {
        let mapped = reading == Reading::Mapped && size > COPIED;
        let path = self.path(digest);
        if mapped && let Some((map, file)) = self.maps.current(digest, &path) {
            return Ok(Blob::new(Source::Map(map), size, Some(file)));
        }
        let (digest, maps) = (digest.clone(), Arc::clone(&self.maps));
        blocking(move || {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(BlobError::Missing(digest));
                }
                other => other.map_err(BlobError::io(&path))?,
            };
            let found = file.metadata().map_err(BlobError::io(&path))?;
            if found.len() != size {
                return Err(BlobError::Length { announced: size, got: found.len() });
            }
            let map = if mapped { Map::of(&file, size) } else { None };
            let id = FileId::of(&found);
            let source = match map {
                None => Source::File(file),
                Some(map) => {
                    maps.keep(digest, map.clone(), id);
                    Source::Map(map)
                }
            };
            Ok(Blob::new(source, size, Some(id)))
        })
        .await
    }

    /// Lets go of what is kept for reads that come soon.
    pub fn release_unused(&self) {
        self.maps.release_unused();
    }

    /// Removes blobs' files; one that is not there is no error. Durable when it resolves.
    pub async fn remove(&self, digests: &[&Digest], _right: &FilesLock) -> Result<(), BlobError> {
        let mut folders = BTreeSet::new();
        let mut files = Vec::with_capacity(digests.len());
        for digest in digests {
            self.maps.forget(digest);
            folders.insert(self.folder(digest));
            files.push(self.path(digest));
        }
        blocking(move || files.iter().try_for_each(|file| remove_file(file))).await?;
        if folders.len() > FEW {
            return self.syncer.everything().await;
        }
        for folder in folders {
            // The first blob of a folder may never have come.
            match self.syncer.sync(folder).await {
                Err(BlobError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
        Ok(())
    }

    /// Signs this process in as one that may hold blobs, under a name that nobody else uses.
    pub async fn sign_in(&self, name: String) -> Result<Alive, BlobError> {
        let folder = self.root.join("alive");
        blocking(move || Alive::sign(&folder, name)).await
    }

    /// Those of some processes that are no longer alive. What they have left of their signs is removed.
    pub async fn dead_among(&self, names: Vec<String>) -> Result<Vec<String>, BlobError> {
        let folder = self.root.join("alive");
        blocking(move || {
            alive::bury(&folder)?;
            let mut dead = Vec::new();
            for name in names {
                if !alive::is_alive(&folder, &name)? {
                    dead.push(name);
                }
            }
            Ok(dead)
        })
        .await
    }

    /// Takes the right to remove files, and to put them in place unsynced, as soon as it is free.
    pub async fn lock_files(&self) -> Result<FilesLock, BlobError> {
        let (path, next) = (self.root.join("files.lock"), self.root.join(NEXT));
        blocking(move || {
            // Held while waiting: a collection that takes step after step would else have it again before those who
            // wait have woken up.
            let turn = open_lock(&next)?;
            turn.lock().map_err(BlobError::io(&next))?;
            let file = open_lock(&path)?;
            file.lock().map_err(BlobError::io(&path))?;
            Ok(FilesLock { _file: file })
        })
        .await
    }

    /// The same without waiting; `None` while another process or task has it.
    pub fn try_lock_files(&self) -> Result<Option<FilesLock>, BlobError> {
        let path = self.root.join("files.lock");
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FilesLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(BlobError::io(&path)(error)),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        place_of(&self.root, digest)
    }

    pub(crate) fn folder(&self, digest: &Digest) -> PathBuf {
        folder_of(&self.root, digest)
    }
}

fn open_lock(path: &Path) -> Result<File, BlobError> {
    File::options().create(true).truncate(false).write(true).open(path).map_err(BlobError::io(path))
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "patterns of bytes are cut on purpose")]
mod tests {
    use std::ops::Range;

    use futures_util::{StreamExt as _, TryStreamExt as _, stream};

    use super::*;

    fn chunks(chunks: &[&'static [u8]]) -> impl Stream<Item = Result<Bytes, io::Error>> + Unpin {
        stream::iter(chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk))).collect::<Vec<_>>())
    }

    fn id(byte: u8) -> UploadId {
        UploadId::from_bytes([byte; 16])
    }

    fn open(folder: &tempfile::TempDir) -> Result<BlobStore, BlobError> {
        BlobStore::open(folder.path(), Duration::from_hours(1))
    }

    async fn content(store: &BlobStore, digest: &Digest, size: u64, range: Range<u64>) -> Vec<u8> {
        let blob = store.read(digest, size, Reading::Copied).await.expect("blob");
        let parts: Vec<Bytes> = blob.stream(range).try_collect().await.expect("bytes");
        parts.concat()
    }

    #[tokio::test]
    async fn bytes_arrive_are_checked_and_come_back() {
        let folder = tempfile::tempdir().expect("folder");
        let store = open(&folder).expect("store");
        assert!(store.begin(&id(1)));
        assert_eq!(store.append(&id(1), None, chunks(&[b"hello ", b"world"])).await.expect("append"), 11);
        let wrong = Digest::sha256(b"other");
        assert!(matches!(store.seal(&id(1), &wrong).await, Err(BlobError::DigestMismatch { .. })));
        let right = Digest::sha256(b"hello world");
        let sealed = store.seal(&id(1), &right).await.expect("seal");
        store.place(store.sync(sealed).await.expect("sync"), ()).await.expect("place");
        assert_eq!(content(&store, &right, 11, 0..11).await, b"hello world");
        assert_eq!(content(&store, &right, 11, 6..9).await, b"wor");
        assert!(
            matches!(store.read(&right, 12, Reading::Copied).await, Err(BlobError::Length { .. })),
            "a truncated file is no blob"
        );
        let lock = store.lock_files().await.expect("lock");
        assert!(store.try_lock_files().expect("lock").is_none(), "one at a time");
        store.remove(&[&right], &lock).await.expect("remove");
        assert!(matches!(store.read(&right, 11, Reading::Copied).await, Err(BlobError::Missing(_))));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_for_the_files_is_next() {
        let folder = tempfile::tempdir().expect("folder");
        let store = std::sync::Arc::new(open(&folder).expect("store"));
        let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let right = store.lock_files().await.expect("lock");
        let waiting = tokio::spawn({
            let (store, order) = (store.clone(), order.clone());
            async move {
                let _right = store.lock_files().await.expect("lock");
                order.lock().expect("lock").push("who waited");
            }
        });
        let next = open_lock(&folder.path().join(NEXT)).expect("lock");
        while next.try_lock().is_ok() {
            next.unlock().expect("unlocked");
            tokio::task::yield_now().await;
        }
        drop(right);
        let _right = store.lock_files().await.expect("lock");
        order.lock().expect("lock").push("who had it");
        waiting.await.expect("done");
        assert_eq!(*order.lock().expect("lock"), ["who waited", "who had it"]);
    }

    #[tokio::test]
    async fn a_blob_that_is_deleted_or_moved_or_pushed_again_can_be_read_to_its_end() {
        let folder = tempfile::tempdir().expect("folder");
        let store = open(&folder).expect("store");
        let content: Vec<u8> = (0..5_000_000_u32).map(|at| (at >> 5) as u8).collect();
        let digest = Digest::sha256(&content);
        let push = async |id: &UploadId| {
            assert!(store.begin(id));
            let body = stream::iter([Ok::<_, io::Error>(Bytes::copy_from_slice(&content))]);
            store.append(id, None, body).await.expect("append");
            let sealed = store.seal(id, &digest).await.expect("seal");
            store.place(store.sync(sealed).await.expect("sync"), ()).await.expect("place");
        };
        let size = content.len() as u64;
        for reading in [Reading::Mapped, Reading::Copied] {
            push(&id(1)).await;
            let mut pulls = Vec::new();
            for _ in 0..3 {
                let blob = store.read(&digest, size, reading).await.expect("blob");
                let mut pull = Box::pin(blob.stream(0..size));
                let first = pull.next().await.expect("more").expect("bytes");
                pulls.push((first.to_vec(), pull));
            }
            push(&id(2)).await;
            fs::rename(store.path(&digest), folder.path().join("quarantined")).expect("moved");
            push(&id(3)).await;
            let lock = store.lock_files().await.expect("lock");
            store.remove(&[&digest], &lock).await.expect("remove");
            for (mut read, pull) in pulls {
                let rest: Vec<Bytes> = pull.try_collect().await.expect("bytes");
                read.extend(rest.concat());
                assert!(read == content, "{reading:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_session_goes_on_after_a_restart_and_keeps_its_order() {
        let folder = tempfile::tempdir().expect("folder");
        let store = open(&folder).expect("store");
        assert!(store.begin(&id(1)));
        store.append(&id(1), Some(0), chunks(&[b"hello "])).await.expect("append");
        drop(store);
        let store = open(&folder).expect("store");
        assert_eq!(store.offset(&id(1)).await.expect("offset"), 6);
        let early = store.append(&id(1), Some(3), chunks(&[b"x"])).await;
        assert!(matches!(early, Err(BlobError::OutOfOrder { has: 6, got: 3 })));
        store.append(&id(1), Some(6), chunks(&[b"world"])).await.expect("append");
        store.seal(&id(1), &Digest::of(Algorithm::Sha512, b"hello world")).await.expect("sha512");
        store.seal(&id(1), &Digest::sha256(b"hello world")).await.expect("sha256");
        store.cancel(&id(1)).await.expect("cancel");
        assert!(matches!(store.offset(&id(1)).await, Err(BlobError::UnknownUpload(_))));
    }

    #[tokio::test]
    async fn a_session_that_rests_too_long_is_no_more() {
        let folder = tempfile::tempdir().expect("folder");
        let store = open(&folder).expect("store");
        for number in [1, 2] {
            assert!(store.begin(&id(number)));
            store.append(&id(number), None, chunks(&[b"hello"])).await.expect("append");
        }
        let rest = |number: u8, rested: Duration| {
            let file =
                File::options().write(true).open(folder.path().join("uploads").join(id(number).as_str()));
            file.and_then(|file| file.set_modified(std::time::SystemTime::now() - rested)).expect("time");
        };
        rest(1, Duration::from_mins(61));
        rest(2, Duration::from_mins(59));
        // A store that remembers neither, as after a restart.
        let store = open(&folder).expect("store");
        assert!(matches!(store.offset(&id(1)).await, Err(BlobError::UnknownUpload(_))));
        assert_eq!(store.offset(&id(2)).await.expect("alive"), 5);
        assert_eq!(store.expire().await.expect("expire"), 1);
        assert_eq!(store.expire().await.expect("expire"), 0, "asking for the status was a use of the other");
        assert_eq!(store.offset(&id(2)).await.expect("alive"), 5);
    }

    #[tokio::test]
    async fn a_session_that_another_process_left_ends_for_good() {
        let folder = tempfile::tempdir().expect("folder");
        let began = std::time::SystemTime::now() - Duration::from_mins(1);
        let began = began.duration_since(std::time::UNIX_EPOCH).expect("clock").as_millis();
        let store = open(&folder).expect("store");
        let id = UploadId::from_bytes((began << 80).to_be_bytes());
        assert_eq!(store.offset(&id).await.expect("left empty"), 0);
        store.append(&id, None, chunks(&[b"hello"])).await.expect("append");
        store.cancel(&id).await.expect("cancel");
        assert!(matches!(store.offset(&id).await, Err(BlobError::UnknownUpload(_))));
    }

    #[tokio::test]
    async fn a_body_cut_off_leaves_what_came() {
        let folder = tempfile::tempdir().expect("folder");
        let store = open(&folder).expect("store");
        assert!(store.begin(&id(1)));
        let body = stream::iter([Ok(Bytes::from_static(b"abc")), Err(io::Error::other("gone"))]);
        assert!(matches!(store.append(&id(1), None, body).await, Err(BlobError::Interrupted(_))));
        assert_eq!(store.offset(&id(1)).await.expect("offset"), 3);
    }

    #[tokio::test]
    async fn nothing_is_added_to_what_has_been_compared() {
        let folder = tempfile::tempdir().expect("folder");
        let store = open(&folder).expect("store");
        assert!(store.begin(&id(1)));
        store.append(&id(1), None, chunks(&[b"hello"])).await.expect("append");
        let digest = Digest::sha256(b"hello");
        let sealed = store.seal(&id(1), &digest).await.expect("seal");
        let late = store.append(&id(1), None, chunks(&[b"x"])).await;
        assert!(matches!(late, Err(BlobError::Busy(_))));
        let first = id(1);
        let waiting = store.append(&first, None, chunks(&[b"x"]));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        store.place(store.sync(sealed).await.expect("sync"), ()).await.expect("place");
        assert!(matches!(waiting.await, Err(BlobError::UnknownUpload(_))));
        assert_eq!(content(&store, &digest, 5, 0..5).await, b"hello");
    }

    #[tokio::test]
    async fn one_request_writes_at_a_time() {
        let folder = tempfile::tempdir().expect("folder");
        let store = open(&folder).expect("store");
        assert!(store.begin(&id(1)));
        let first = id(1);
        let stuck = store.append(&first, None, stream::pending::<Result<Bytes, io::Error>>());
        tokio::pin!(stuck);
        assert!(futures_util::poll!(&mut stuck).is_pending());
        // The first poll may still be opening the file.
        tokio::select! {
            biased;
            _ = &mut stuck => unreachable!("its body never ends"),
            () = async { while store.offset(&id(1)).await.is_ok() { tokio::task::yield_now().await; } } => {}
        }
        assert!(matches!(store.offset(&id(1)).await, Err(BlobError::Busy(_))));
    }
}
