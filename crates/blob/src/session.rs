//! Upload sessions: bytes that arrive, are hashed while they are written, and end as a sealed file.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
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
    /// All bytes of a small blob that came in one piece; they are not in the file yet.
    unwritten: Option<Vec<u8>>,
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

    /// All of them, for uploads known to be small, and the upload again.
    pub async fn bytes(self) -> Result<(Vec<u8>, Self), BlobError> {
        if let Some(bytes) = &self.unwritten {
            return Ok((bytes.clone(), self));
        }
        blocking(move || {
            let bytes = fs::read(&self.path).map_err(BlobError::io(&self.path))?;
            if bytes.len() as u64 != self.size {
                return Err(BlobError::Length { announced: self.size, got: bytes.len() as u64 });
            }
            Ok((bytes, self))
        })
        .await
    }

    /// Writes to the session's file what is in memory only. Blocks.
    pub(crate) fn write(&mut self) -> Result<(), BlobError> {
        let Some(bytes) = self.unwritten.take() else { return Ok(()) };
        let written = || {
            // Not truncated, since it is empty: ext4 writes a file that was to the disk when it is closed.
            let mut file = File::options().write(true).create(true).truncate(false).open(&self.path)?;
            file.write_all(&bytes)?;
            if file.metadata()?.len() > self.size { file.set_len(self.size) } else { Ok(()) }
        };
        written().map_err(BlobError::io(&self.path))
    }

    /// Ends the session, whose file has been moved: whoever waited for it finds nothing there.
    pub(crate) fn end(mut self) {
        *self.turn = None;
    }
}

/// The sessions that have been used since the process started. Others are taken up again from their files.
///
/// A session is its file and nothing else: the time of its last use is the file's time.
#[derive(Debug)]
pub(crate) struct Sessions {
    folder: PathBuf,
    /// How long one may rest.
    lifetime: Duration,
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
        Self { folder, lifetime, open: Mutex::default(), writer: Arc::default(), batches: Arc::default() }
    }

    fn path(&self, id: &UploadId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    pub(crate) async fn begin(&self, id: &UploadId) -> Result<(), BlobError> {
        let path = self.path(id);
        let session = blocking(move || {
            File::options().write(true).create_new(true).open(&path).map_err(BlobError::io(&path))?;
            Ok(Session { path, hasher: Hasher::new(Algorithm::Sha256), offset: 0, used: SystemTime::now() })
        })
        .await?;
        let slot = Arc::new(AsyncMutex::new(Some(session)));
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), slot);
        Ok(())
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
                let bytes = batch.bytes().to_vec();
                let found = Digest::of(expected.algorithm(), &bytes);
                if found != *expected {
                    return Err(BlobError::DigestMismatch { expected: expected.clone(), found });
                }
                let (path, size) = (self.path(id), bytes.len() as u64);
                Ok(Sealed { id: id.clone(), turn, path, digest: found, size, unwritten: Some(bytes) })
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
        Ok(Sealed { id: id.clone(), turn, path, digest: found, size, unwritten: None })
    }

    /// Removes what there is of a session.
    pub(crate) async fn cancel(&self, id: &UploadId) -> Result<(), BlobError> {
        self.forget(id);
        let path = self.path(id);
        blocking(move || remove(&path)).await
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
        let expired = rested.len() as u64;
        for path in rested {
            if let Some(id) =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
            {
                self.forget(&id);
            }
            blocking(move || remove(&path)).await?;
        }
        Ok(expired)
    }

    pub(crate) fn forget(&self, id: &UploadId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Takes the session into the hands of one request, which is a use of it.
    async fn turn(&self, id: &UploadId) -> Result<Turn, BlobError> {
        let slot = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
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
        let resumed = blocking(move || {
            let file = File::options().write(true).open(&path).map_err(BlobError::io(&path))?;
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

fn remove(path: &Path) -> Result<(), BlobError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlobError::io(path)(error)),
        _ => Ok(()),
    }
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
