//! The batches of one request on their way through two threads, one that hashes and one that writes.
//!
//! Each takes the batches in their order, and goes on with the next one without waiting for the other: neither sleeps
//! while there is work, and none is kept while there is not.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use tokio::{sync::Notify, task::spawn_blocking};
use torno_oci::Hasher;

use crate::{BlobError, batch::Batch, session::Turn, write::Writer};

/// Batches that are hashed or written at one time, so that both threads have one while the next is received.
const DEPTH: usize = 2;

/// From this size on a batch is hashed and written by two threads; below it a second one costs more than it saves.
const SPLIT: usize = 256 * 1024;

/// What a request has brought and the session does not have yet.
///
/// It holds the session until both threads are done, also when the request is dropped: then the last of them leaves it
/// as if the request had brought no more.
pub(crate) struct Flow {
    path: PathBuf,
    writer: Arc<Writer>,
    state: Mutex<State>,
    /// Rung when a thread has done a batch.
    moved: Notify,
}

struct State {
    /// `None` once the session has what came.
    turn: Option<Turn>,
    /// `None` while a thread has it.
    hasher: Option<Hasher>,
    /// Where the next batch begins.
    offset: u64,
    hash: Line,
    write: Line,
    failed: Option<io::Error>,
}

/// What waits for one of the threads.
#[derive(Default)]
struct Line {
    waiting: VecDeque<(u64, Arc<Batch>)>,
    /// A thread is at work and will look again before it goes.
    served: bool,
}

impl Line {
    fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.served)
    }

    /// The next batch, or `None` and the thread goes.
    fn next(&mut self) -> Option<(u64, Arc<Batch>)> {
        let next = self.waiting.pop_front();
        self.served = next.is_some();
        next
    }
}

impl Flow {
    /// Into a session that is in the hands of a request.
    pub(crate) fn new(turn: Turn, writer: Arc<Writer>) -> Result<Arc<Self>, BlobError> {
        let session = turn.as_ref().ok_or(BlobError::Unfinished)?;
        let (path, offset, hasher) = (session.path.clone(), session.offset, session.hasher.clone());
        let (hash, write) = (Line::default(), Line::default());
        let state = State { turn: Some(turn), hasher: Some(hasher), offset, hash, write, failed: None };
        Ok(Arc::new(Self { path, writer, state: Mutex::new(state), moved: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch as soon as there is room for it. Cancelled before, it is lost; what was taken is not.
    pub(crate) async fn push(self: &Arc<Self>, batch: Batch) {
        let batch = Arc::new(batch);
        self.until(|state| state.hash.len().max(state.write.len()) < DEPTH).await;
        let mut state = self.lock();
        let at = state.offset;
        state.offset += batch.bytes().len() as u64;
        state.hash.waiting.push_back((at, Arc::clone(&batch)));
        state.write.waiting.push_back((at, Arc::clone(&batch)));
        let hashed = std::mem::replace(&mut state.hash.served, true);
        let written = std::mem::replace(&mut state.write.served, true);
        drop(state);
        // Whoever waits is told by `moved`.
        if !hashed && !written && batch.bytes().len() < SPLIT {
            let this = Arc::clone(self);
            drop(spawn_blocking(move || {
                this.hash_all();
                this.write_all();
            }));
            return;
        }
        if !written {
            let this = Arc::clone(self);
            drop(spawn_blocking(move || this.write_all()));
        }
        if !hashed {
            let this = Arc::clone(self);
            drop(spawn_blocking(move || this.hash_all()));
        }
    }

    /// Resolves when the session has what came, or with the reason why it has not.
    pub(crate) async fn finish(&self) -> Result<(), BlobError> {
        self.until(|state| state.hash.len() == 0 && state.write.len() == 0).await;
        self.lock().conclude().map_err(BlobError::io(&self.path))
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            // Before the look, so that no change falls between it and the wait.
            let moved = self.moved.notified();
            if holds(&self.lock()) {
                return;
            }
            moved.await;
        }
    }

    fn hash_all(&self) {
        loop {
            let (batch, mut hasher) = {
                let mut state = self.lock();
                let Some((_, batch)) = state.hash.next() else { break };
                let Some(hasher) = state.hasher.take() else { break };
                (batch, hasher)
            };
            hasher.update(batch.bytes());
            self.lock().hasher = Some(hasher);
            drop(batch);
            self.moved.notify_one();
        }
        self.moved.notify_one();
    }

    fn write_all(&self) {
        loop {
            let (at, batch) = {
                let mut state = self.lock();
                match state.write.next() {
                    // Behind what could not be written nothing is.
                    Some(_) if state.failed.is_some() => continue,
                    Some(next) => next,
                    None => break,
                }
            };
            if let Err(error) = self.writer.write(&self.path, at, batch.bytes()) {
                // Part of the batch may be in the file; the next request starts from what came before it.
                let _ = File::options().write(true).open(&self.path).and_then(|file| file.set_len(at));
                self.lock().failed = Some(error);
            }
            drop(batch);
            self.moved.notify_one();
        }
        self.moved.notify_one();
    }
}

impl State {
    /// Gives the session what came and lets go of it. One whose file could not be written, or whose threads never ran
    /// since the process ends, is taken up again from that file.
    fn conclude(&mut self) -> io::Result<()> {
        let Some(mut turn) = self.turn.take() else { return Ok(()) };
        let failed = self.failed.take();
        let done = self.hash.waiting.is_empty() && self.write.waiting.is_empty();
        match (turn.as_mut(), self.hasher.take(), &failed) {
            (Some(session), Some(hasher), None) if done => {
                session.hasher = hasher;
                session.offset = self.offset;
                session.used = SystemTime::now();
            }
            // It had no bytes, and nothing was put into a file.
            (Some(session), ..) if session.offset == 0 && !session.path.exists() => {}
            _ => *turn = None,
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // The threads are done: each holds the flow.
        let _ = self.lock().conclude();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::stream;
    use tokio::sync::Mutex as AsyncMutex;
    use torno_oci::{Algorithm, Digest};

    use super::*;
    use crate::{
        batch::{Batches, Gathering},
        session::Session,
    };

    async fn batches(sizes: &[usize]) -> (Vec<Batch>, Vec<u8>) {
        let shared = Arc::new(Batches::default());
        let (mut made, mut all) = (Vec::new(), Vec::new());
        for (number, size) in sizes.iter().enumerate() {
            let bytes = vec![u8::try_from(number).expect("few"); *size];
            all.extend_from_slice(&bytes);
            let body = stream::iter([Ok::<_, io::Error>(Bytes::from(bytes))]);
            let (batch, _) = Gathering::new(body, Duration::from_secs(1), &shared).batch(0).await;
            made.push(batch);
        }
        (made, all)
    }

    fn slot(path: PathBuf) -> Arc<AsyncMutex<Option<Session>>> {
        let hasher = Hasher::new(Algorithm::Sha256);
        Arc::new(AsyncMutex::new(Some(Session { path, hasher, offset: 0, used: SystemTime::now() })))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_pushed_is_hashed_and_written_in_its_order() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("upload");
        for sizes in [&[1][..], &[1 << 20; 9], &[5, 1 << 20, 3, 300_000, 1 << 19]] {
            File::create(&path).expect("file");
            let slot = slot(path.clone());
            let flow = Flow::new(Arc::clone(&slot).lock_owned().await, Arc::default()).expect("flow");
            let (batches, all) = batches(sizes).await;
            for batch in batches {
                flow.push(batch).await;
            }
            assert!(slot.try_lock().is_err(), "the session is held");
            flow.finish().await.expect("written");
            let session = slot.try_lock().expect("free").take().expect("session");
            assert_eq!(session.offset, all.len() as u64);
            assert_eq!(session.hasher.finish(), Digest::sha256(&all));
            assert!(std::fs::read(&path).expect("file") == all);
        }
    }

    #[tokio::test]
    async fn a_request_that_is_dropped_leaves_what_it_brought() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("upload");
        File::create(&path).expect("file");
        let slot = slot(path.clone());
        let flow = Flow::new(Arc::clone(&slot).lock_owned().await, Arc::default()).expect("flow");
        let (batches, all) = batches(&[1 << 20, 300_000]).await;
        for batch in batches {
            flow.push(batch).await;
        }
        drop(flow);
        let session = slot.lock().await.take().expect("session");
        assert_eq!((session.offset, session.hasher.finish()), (all.len() as u64, Digest::sha256(&all)));
        assert!(std::fs::read(&path).expect("file") == all);
    }

    #[tokio::test]
    async fn a_session_that_cannot_be_written_is_taken_up_from_its_file_or_empty() {
        let folder = tempfile::tempdir().expect("folder");
        let write = async |path: PathBuf, offset: u64| {
            let slot = slot(path);
            slot.lock().await.as_mut().expect("session").offset = offset;
            let flow = Flow::new(Arc::clone(&slot).lock_owned().await, Arc::default()).expect("flow");
            let (batches, _) = batches(&[1 << 20, 1 << 20, 1 << 20]).await;
            for batch in batches {
                flow.push(batch).await;
            }
            assert!(matches!(flow.finish().await, Err(BlobError::Io { .. })));
            slot.lock().await.take()
        };
        assert!(write(folder.path().join("missing"), 1 << 20).await.is_none(), "whose file went");
        let empty = write(folder.path().join("no folder/upload"), 0).await.expect("nothing came of it");
        assert_eq!((empty.offset, empty.hasher.finish()), (0, Digest::sha256(b"")));
    }
}
