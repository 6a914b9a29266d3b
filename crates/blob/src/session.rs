//! Upload sessions: bytes that arrive, are hashed while they are written, and end as a sealed file.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::JoinHandle,
};
use torno_oci::{Algorithm, Digest, Hasher, UploadId};

use crate::BlobError;

/// Bytes gathered before they are handed to a thread that hashes and writes them. While one batch is written the
/// next is received, so an upload holds at most two.
const BATCH: usize = 1024 * 1024;

/// The largest blob, in bytes. Larger than any image layer seen, smaller than the disks it would fill.
pub(crate) const MAX_BLOB_SIZE: u64 = 256 * 1024 * 1024 * 1024;

/// How long a request waits for another one of the same session: asking for the status takes no time, and a
/// connection that broke is noticed soon.
const PATIENCE: Duration = Duration::from_secs(1);

/// A complete upload: its bytes are on the disk and have the digest. The only way to [`crate::BlobStore::place`].
///
/// It keeps the session, so that no other request adds to bytes that have been compared with their digest.
#[derive(Debug)]
pub struct Sealed {
    pub(crate) id: UploadId,
    turn: Turn,
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Sealed {
    /// The digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends the session, whose file has been moved: whoever waited for it finds nothing there.
    pub(crate) fn end(mut self) {
        *self.turn = None;
    }
}

/// The sessions that have been used since the process started. Others are taken up again from their files.
#[derive(Debug)]
pub(crate) struct Sessions {
    folder: PathBuf,
    open: Mutex<HashMap<UploadId, Arc<AsyncMutex<Option<Session>>>>>,
}

/// The hash of what is in a file that grows. The file is open only while something is written to it: sessions that
/// rest, of which anybody may have thousands, hold no descriptor of the process.
#[derive(Debug)]
struct Session {
    path: PathBuf,
    hasher: Hasher,
    offset: u64,
}

/// A session in the hands of one request. It goes along into the thread that writes, so a request that is dropped
/// leaves the session consistent: the lock opens when the write is done.
type Turn = OwnedMutexGuard<Option<Session>>;

impl Sessions {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, open: Mutex::default() }
    }

    fn path(&self, id: &UploadId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    pub(crate) async fn begin(&self, id: &UploadId) -> Result<(), BlobError> {
        let path = self.path(id);
        blocking(move || {
            File::options().write(true).create_new(true).open(&path).map_err(BlobError::io(&path))?;
            Ok(())
        })
        .await
    }

    /// How many bytes the session has.
    pub(crate) async fn offset(&self, id: &UploadId) -> Result<u64, BlobError> {
        let turn = self.turn(id).await?;
        turn.as_ref().map(|session| session.offset).ok_or(BlobError::Unfinished)
    }

    pub(crate) async fn append<S, E>(
        &self,
        id: &UploadId,
        at: Option<u64>,
        mut body: S,
    ) -> Result<u64, BlobError>
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
        // Nothing is being written yet: a task that is done, so that every turn of the loop has one to wait for.
        let mut writing: JoinHandle<Result<Turn, BlobError>> = tokio::spawn(async { Ok(turn) });
        loop {
            // Cancelled here: the batch in hand is lost, the one being written is kept.
            let (batch, end) = gather(&mut body).await;
            let turn = writing.await.map_err(|_| BlobError::Unfinished)??;
            received += batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
            if received > MAX_BLOB_SIZE {
                return Err(BlobError::TooLarge(MAX_BLOB_SIZE));
            }
            writing = tokio::task::spawn_blocking(move || write(turn, &batch));
            match end {
                End::NotYet => {}
                End::Complete => {
                    writing.await.map_err(|_| BlobError::Unfinished)??;
                    return Ok(received);
                }
                End::Cut(error) => {
                    writing.await.map_err(|_| BlobError::Unfinished)??;
                    return Err(BlobError::Interrupted(error));
                }
            }
        }
    }

    pub(crate) async fn seal(&self, id: &UploadId, expected: &Digest) -> Result<Sealed, BlobError> {
        let mut turn = self.turn(id).await?;
        let (id, expected) = (id.clone(), expected.clone());
        blocking(move || {
            let session = turn.as_mut().ok_or(BlobError::Unfinished)?;
            let found = match expected.algorithm() {
                Algorithm::Sha256 => session.hasher.clone().finish(),
                Algorithm::Sha512 => hash_file(&session.path, Algorithm::Sha512)?.0.finish(),
            };
            if found != expected {
                return Err(BlobError::DigestMismatch { expected, found });
            }
            let synced = File::open(&session.path).and_then(|file| file.sync_all());
            synced.map_err(BlobError::io(&session.path))?;
            let (path, size) = (session.path.clone(), session.offset);
            Ok(Sealed { id, turn, path, digest: found, size })
        })
        .await
    }

    /// Removes what there is of a session.
    pub(crate) async fn cancel(&self, id: &UploadId) -> Result<(), BlobError> {
        self.forget(id);
        let path = self.path(id);
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlobError::io(&path)(error)),
            _ => Ok(()),
        })
        .await
    }

    pub(crate) fn forget(&self, id: &UploadId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    async fn turn(&self, id: &UploadId) -> Result<Turn, BlobError> {
        let slot = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(open.entry(id.clone()).or_default())
        };
        let waited = tokio::time::timeout(PATIENCE, slot.lock_owned()).await;
        let mut turn = waited.map_err(|_| BlobError::Busy(id.clone()))?;
        if turn.is_some() {
            return Ok(turn);
        }
        let path = self.path(id);
        let resumed = blocking(move || {
            *turn = Some(Session::resume(path)?);
            Ok(turn)
        })
        .await;
        if let Err(BlobError::Io { source, .. }) = &resumed
            && source.kind() == io::ErrorKind::NotFound
        {
            self.forget(id);
            return Err(BlobError::UnknownUpload(id.clone()));
        }
        resumed
    }
}

impl Session {
    /// Takes a session up where its file ends.
    fn resume(path: PathBuf) -> Result<Self, BlobError> {
        let (hasher, offset) = hash_file(&path, Algorithm::Sha256)?;
        Ok(Self { path, hasher, offset })
    }
}

/// Why a batch has no successor, or that it has.
enum End {
    NotYet,
    Complete,
    Cut(Box<dyn std::error::Error + Send + Sync>),
}

async fn gather<S, E>(body: &mut S) -> (Vec<Bytes>, End)
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut batch = Vec::new();
    let mut size = 0;
    while size < BATCH {
        match body.next().await {
            Some(Ok(chunk)) => {
                size += chunk.len();
                batch.push(chunk);
            }
            Some(Err(error)) => return (batch, End::Cut(error.into())),
            None => return (batch, End::Complete),
        }
    }
    (batch, End::NotYet)
}

fn write(mut turn: Turn, batch: &[Bytes]) -> Result<Turn, BlobError> {
    let session = turn.as_mut().ok_or(BlobError::Unfinished)?;
    let mut file = File::options().append(true).open(&session.path).map_err(BlobError::io(&session.path))?;
    for chunk in batch {
        if let Err(error) = file.write_all(chunk) {
            // Part of the chunk may be in the file; the next request starts from what was hashed.
            let path = session.path.clone();
            let _ = file.set_len(session.offset);
            *turn = None;
            return Err(BlobError::io(&path)(error));
        }
        session.hasher.update(chunk);
        session.offset += chunk.len() as u64;
    }
    Ok(turn)
}

fn hash_file(path: &Path, algorithm: Algorithm) -> Result<(Hasher, u64), BlobError> {
    let mut file = File::open(path).map_err(BlobError::io(path))?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; BATCH];
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
