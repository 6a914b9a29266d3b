//! Upload sessions: bytes that arrive, are hashed while they are written, and end as a sealed file.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use torno_oci::{Algorithm, Digest, Hasher, UploadId};

use crate::{
    BlobError,
    batch::{Batch, Batches, End, Gathering},
    flow::Flow,
    folder::remove_file,
    write::Writer,
};

/// How long what has arrived waits for a batch to be full: what a slow line brings is then kept if it breaks, and
/// keeps the session alive.
const LINGER: Duration = Duration::from_secs(2);

/// The largest blob, in bytes. Larger than any image layer seen, smaller than the disks it would fill.
pub(crate) const MAX_BLOB_SIZE: u64 = 256 * 1024 * 1024 * 1024;

/// How long a request waits for another one of the same session: asking for the status takes no time, and a
/// connection that broke is noticed soon.
const PATIENCE: Duration = Duration::from_secs(1);

/// Blobs up to this size, in bytes, may stay in memory from their arrival to their place.
pub const SMALL: u64 = 64 * 1024;

/// A complete upload whose bytes have the digest, on its way to be [`Synced`].
///
/// It keeps the session, so that no other request adds to bytes that have been compared with their digest.
#[derive(Debug)]
pub struct Sealed {
    pub(crate) id: UploadId,
    turn: Turn,
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// All bytes of a small blob; if they came in one piece there is no file.
    in_memory: Option<Bytes>,
    pub(crate) has_file: bool,
}

/// A [`Sealed`] upload whose bytes are on the disk. The only way to [`crate::BlobStore::place`].
#[derive(Debug)]
pub struct Synced(pub(crate) Sealed);

impl Sealed {
    /// The digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All of them, for uploads known to be small.
    pub async fn bytes(&mut self) -> Result<Bytes, BlobError> {
        if let Some(bytes) = &self.in_memory {
            return Ok(bytes.clone());
        }
        let (path, size) = (self.path.clone(), self.size);
        let bytes = blocking(move || {
            let bytes = fs::read(&path).map_err(BlobError::io(&path))?;
            if bytes.len() as u64 != size {
                return Err(BlobError::Length { announced: size, got: bytes.len() as u64 });
            }
            Ok(Bytes::from(bytes))
        });
        Ok(self.in_memory.insert(bytes.await?).clone())
    }

    /// Ends the session, whose bytes have been moved or are safe elsewhere: whoever waited for it finds nothing there.
    pub(crate) fn end(mut self) {
        *self.turn = None;
    }
}

/// Uploads under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploads {
    /// How many have bytes.
    pub sessions: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// The sessions that have been used since the process started. Others are taken up again from their files.
///
/// A session that has bytes is its file and nothing else: the time of its last use is the file's time. One without any
/// has no file. It is known from its beginning in this process; of those that others began before, the name, whose
/// owner has proved it, is enough: at worst one that had ended is an empty one again.
#[derive(Debug)]
pub(crate) struct Sessions {
    folder: PathBuf,
    /// How long one may rest.
    lifetime: Duration,
    /// Sessions that began before this and have no file may have been left by another process.
    since: SystemTime,
    /// Of these, the ones that have ended since.
    ended: Mutex<HashSet<UploadId>>,
    open: Mutex<HashMap<UploadId, Arc<AsyncMutex<Option<Session>>>>>,
    writer: Arc<Writer>,
    batches: Arc<Batches>,
}

/// The hash of what is in a file that grows. The file is open only while something is written to it: sessions that
/// rest, of which anybody may have thousands, hold no descriptor of the process.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) path: PathBuf,
    pub(crate) hasher: Hasher,
    pub(crate) offset: u64,
    pub(crate) used: SystemTime,
}

/// A session in the hands of one request. It goes along with what is hashed and written, so a request that is dropped
/// leaves the session consistent: the lock opens when that is done.
pub(crate) type Turn = OwnedMutexGuard<Option<Session>>;

impl Sessions {
    pub(crate) fn new(folder: PathBuf, lifetime: Duration) -> Self {
        let since = SystemTime::now();
        Self {
            folder,
            lifetime,
            since,
            ended: Mutex::default(),
            open: Mutex::default(),
            writer: Arc::default(),
            batches: Arc::default(),
        }
    }

    fn path(&self, id: &UploadId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    /// Begins a session; whether there was none of that name.
    pub(crate) fn begin(&self, id: &UploadId) -> bool {
        match self.lock().entry(id.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                let session = Session::empty(self.path(id));
                free.insert(Arc::new(AsyncMutex::new(Some(session))));
                true
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<AsyncMutex<Option<Session>>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes the session has.
    pub(crate) async fn offset(&self, id: &UploadId) -> Result<u64, BlobError> {
        let turn = self.turn(id).await?;
        turn.as_ref().map(|session| session.offset).ok_or(BlobError::Unfinished)
    }

    pub(crate) async fn append<S, E>(&self, id: &UploadId, at: Option<u64>, body: S) -> Result<u64, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.receive(id, at, body, Small::Written).await? {
            Received::Written(size) => Ok(size),
            Received::Whole(..) => Err(BlobError::Unfinished),
        }
    }

    /// Adds the last bytes to a session and compares all with their digest.
    pub(crate) async fn finish<S, E>(
        &self,
        id: &UploadId,
        body: S,
        expected: &Digest,
    ) -> Result<Sealed, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.receive(id, None, body, Small::InMemory).await? {
            Received::Written(_) => self.seal(id, expected).await,
            Received::Whole(turn, batch) => {
                let bytes = Bytes::copy_from_slice(batch.bytes());
                let found = Digest::of(expected.algorithm(), &bytes);
                if found != *expected {
                    return Err(BlobError::DigestMismatch { expected: expected.clone(), found });
                }
                let (path, size) = (self.path(id), bytes.len() as u64);
                let in_memory = Some(bytes);
                Ok(Sealed { id: id.clone(), turn, path, digest: found, size, in_memory, has_file: false })
            }
        }
    }

    async fn receive<S, E>(
        &self,
        id: &UploadId,
        at: Option<u64>,
        body: S,
        small: Small,
    ) -> Result<Received, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let turn = self.turn(id).await?;
        let session = turn.as_ref().ok_or(BlobError::Unfinished)?;
        if let Some(got) = at.filter(|at| *at != session.offset) {
            return Err(BlobError::OutOfOrder { has: session.offset, got });
        }
        let mut received = session.offset;
        let patience = LINGER.min(self.lifetime / 4);
        let mut gathering = Gathering::new(body, patience, &self.batches);
        let (mut batch, mut end) = gathering.batch(received).await;
        let whole = received == 0 && matches!(end, End::Complete);
        if whole && small == Small::InMemory && batch.bytes().len() as u64 <= SMALL {
            return Ok(Received::Whole(turn, batch));
        }
        let flow = Flow::new(turn, Arc::clone(&self.writer))?;
        loop {
            received += batch.bytes().len() as u64;
            if received > MAX_BLOB_SIZE {
                return Err(BlobError::TooLarge(MAX_BLOB_SIZE));
            }
            if !batch.bytes().is_empty() {
                flow.push(batch).await;
            }
            match end {
                End::NotYet => {}
                End::Complete => {
                    flow.finish().await?;
                    return Ok(Received::Written(received));
                }
                End::Cut(error) => {
                    flow.finish().await?;
                    return Err(BlobError::Interrupted(error));
                }
            }
            // Cancelled here: the batch in hand is lost, those before it are kept.
            (batch, end) = gathering.batch(received).await;
        }
    }

    /// Compares what a session has with its digest.
    pub(crate) async fn seal(&self, id: &UploadId, expected: &Digest) -> Result<Sealed, BlobError> {
        let turn = self.turn(id).await?;
        let session = turn.as_ref().ok_or(BlobError::Unfinished)?;
        let (path, size) = (session.path.clone(), session.offset);
        let (turn, found) = match expected.algorithm() {
            _ if size == 0 => (turn, Digest::of(expected.algorithm(), &[])),
            Algorithm::Sha256 => {
                let found = session.hasher.clone().finish();
                (turn, found)
            }
            Algorithm::Sha512 => {
                let path = path.clone();
                blocking(move || Ok((turn, hash_file(&path, Algorithm::Sha512)?.0.finish()))).await?
            }
        };
        if found != *expected {
            return Err(BlobError::DigestMismatch { expected: expected.clone(), found });
        }
        let in_memory = (size == 0).then(Bytes::new);
        Ok(Sealed { id: id.clone(), turn, path, digest: found, size, in_memory, has_file: size > 0 })
    }

    /// Ends a session and removes what there is of it. Whoever waits for it finds nothing there.
    pub(crate) async fn cancel(&self, id: &UploadId) -> Result<(), BlobError> {
        let mut turn = self.turn(id).await?;
        *turn = None;
        self.forget(id);
        let path = self.path(id);
        blocking(move || {
            let _turn = turn;
            remove_file(&path)
        })
        .await
    }

    /// Removes the sessions that have rested for longer than they may; answers how many there were.
    pub(crate) async fn expire(&self) -> Result<u64, BlobError> {
        let (folder, lifetime) = (self.folder.clone(), self.lifetime);
        let rested = blocking(move || {
            let mut rested = Vec::new();
            for entry in fs::read_dir(&folder).map_err(BlobError::io(&folder))? {
                let path = entry.map_err(BlobError::io(&folder))?.path();
                // One that ends meanwhile is no longer there, and that is well.
                let Ok(found) = fs::metadata(&path) else { continue };
                if found.modified().is_ok_and(|used| has_expired(used, lifetime)) {
                    rested.push(path);
                }
            }
            Ok(rested)
        })
        .await?;
        let mut expired = rested.len() as u64;
        self.lock().retain(|_, slot| {
            // One that a request has is in use.
            let Ok(turn) = slot.try_lock() else { return true };
            let gone = turn.as_ref().is_some_and(|one| one.offset == 0 && has_expired(one.used, lifetime));
            expired += u64::from(gone);
            !gone
        });
        for path in rested {
            if let Some(id) =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
            {
                self.forget(&id);
            }
            blocking(move || remove_file(&path)).await?;
        }
        self.ended().retain(|id| !has_expired(id.began(), lifetime));
        Ok(expired)
    }

    /// The sessions that have bytes.
    pub(crate) async fn usage(&self) -> Result<Uploads, BlobError> {
        let folder = self.folder.clone();
        blocking(move || {
            let mut uploads = Uploads::default();
            for entry in fs::read_dir(&folder).map_err(BlobError::io(&folder))? {
                let entry = entry.map_err(BlobError::io(&folder))?;
                let named = entry.file_name().to_str().is_some_and(|name| name.parse::<UploadId>().is_ok());
                // One that ends meanwhile is no longer there, and that is well.
                if named && let Ok(found) = entry.metadata() {
                    uploads.sessions += 1;
                    uploads.bytes += found.len();
                }
            }
            Ok(uploads)
        })
        .await
    }

    pub(crate) fn forget(&self, id: &UploadId) {
        // Noted first: whoever finds it gone must not take it for one that another process left.
        if self.may_be_left(id) {
            self.ended().insert(id.clone());
        }
        self.lock().remove(id);
    }

    /// Whether another process may have left a session, which has no file.
    fn may_be_left(&self, id: &UploadId) -> bool {
        id.began() < self.since && !has_expired(id.began(), self.lifetime)
    }

    fn ended(&self) -> MutexGuard<'_, HashSet<UploadId>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the session into the hands of one request, which is a use of it.
    async fn turn(&self, id: &UploadId) -> Result<Turn, BlobError> {
        let slot = {
            let mut open = self.lock();
            Arc::clone(open.entry(id.clone()).or_default())
        };
        let waited = tokio::time::timeout(PATIENCE, slot.lock_owned()).await;
        let mut turn = waited.map_err(|_| BlobError::Busy(id.clone()))?;
        if let Some(session) = turn.as_ref()
            && !is_stale(session.used, self.lifetime)
        {
            return Ok(turn);
        }
        let (path, lifetime) = (self.path(id), self.lifetime);
        if let Some(session) = turn.as_mut().filter(|session| session.offset == 0) {
            if has_expired(session.used, lifetime) {
                *turn = None;
                self.forget(id);
                return Err(BlobError::UnknownUpload(id.clone()));
            }
            session.used = SystemTime::now();
            return Ok(turn);
        }
        let left_empty = self.may_be_left(id) && !self.ended().contains(id);
        let resumed = blocking(move || {
            let file = match File::options().write(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && left_empty && turn.is_none() => {
                    *turn = Some(Session::empty(path));
                    return Ok(Some(turn));
                }
                other => other.map_err(BlobError::io(&path))?,
            };
            let used = file.metadata().and_then(|found| found.modified()).map_err(BlobError::io(&path))?;
            if has_expired(used, lifetime) {
                return Ok(None);
            }
            let now = SystemTime::now();
            file.set_modified(now).map_err(BlobError::io(&path))?;
            match turn.as_mut() {
                Some(session) => session.used = now,
                None => *turn = Some(Session::resume(path)?),
            }
            Ok(Some(turn))
        })
        .await;
        match resumed {
            Ok(Some(turn)) => Ok(turn),
            Ok(None) => {
                self.forget(id);
                Err(BlobError::UnknownUpload(id.clone()))
            }
            Err(BlobError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.forget(id);
                Err(BlobError::UnknownUpload(id.clone()))
            }
            Err(error) => Err(error),
        }
    }
}

impl Session {
    /// One without bytes, and so without a file.
    fn empty(path: PathBuf) -> Self {
        Self { path, hasher: Hasher::new(Algorithm::Sha256), offset: 0, used: SystemTime::now() }
    }

    /// Takes a session up where its file ends.
    fn resume(path: PathBuf) -> Result<Self, BlobError> {
        let (hasher, offset) = hash_file(&path, Algorithm::Sha256)?;
        Ok(Self { path, hasher, offset, used: SystemTime::now() })
    }
}

/// Whether a session that was last used then is no more. A clock set back makes none expire.
fn has_expired(used: SystemTime, lifetime: Duration) -> bool {
    used.elapsed().is_ok_and(|rested| rested > lifetime)
}

/// Whether the use of a session must be noted with its file: doing it on every request would cost more than most.
fn is_stale(used: SystemTime, lifetime: Duration) -> bool {
    used.elapsed().map_or(true, |rested| rested > lifetime / 4)
}

/// What is done with a small body that comes in one piece and is all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Small {
    /// It is written to the session's file, where more may follow.
    Written,
    /// It is handed on: nothing follows.
    InMemory,
}

/// What came of a body.
enum Received {
    /// It is in the session's file, which has so many bytes.
    Written(u64),
    /// It is all there is, and nowhere else.
    Whole(Turn, Batch),
}

/// Bytes read at a time from a file that is hashed again.
const READ: usize = 1024 * 1024;

fn hash_file(path: &Path, algorithm: Algorithm) -> Result<(Hasher, u64), BlobError> {
    let mut file = File::open(path).map_err(BlobError::io(path))?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; READ];
    let mut offset = 0;
    loop {
        let read = file.read(&mut buffer).map_err(BlobError::io(path))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok((hasher, offset));
        };
        hasher.update(bytes);
        offset += read as u64;
    }
}

/// Runs file work off the reactor. When the future is dropped the work still ends.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BlobError::Unfinished)?
}
