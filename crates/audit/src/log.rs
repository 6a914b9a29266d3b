//! The record as those see it who have something to add.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::{
    Actor, AuditError, Event, Text,
    batch::{Batch, Note, Wake},
    writer::Writer,
};

/// When the record goes on in another file, and how long the old ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file of so many bytes gets no more lines.
    pub size: u64,
    /// How long a file stays after its last line; `None`: for ever.
    pub keep: Option<Duration>,
}

impl Default for Rotation {
    /// Some 150,000 lines in a file, which an editor still opens; and no line is ever lost.
    fn default() -> Self {
        Self { size: 64 * 1024 * 1024, keep: None }
    }
}

/// A handle to the record; clones share it. What waits when the last one goes is written first.
#[derive(Clone, Debug)]
pub struct Audit {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    /// Why nothing could be written the last time it was tried.
    failed: Option<AuditError>,
    closing: bool,
}

impl Audit {
    /// The record in a folder, which is made when something is first recorded.
    pub fn new(folder: PathBuf, rotation: Rotation) -> Result<Self, AuditError> {
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::new(folder.clone(), rotation);
        let thread = thread::Builder::new().name("audit-writer".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.write_all(&mut writer)
        });
        let thread = Some(thread.map_err(AuditError::of(&folder))?);
        Ok(Self { inner: Arc::new(Inner { folder, shared, thread }) })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Records something durably; the number of its line. Those who do at the same time share the wait for the disk.
    ///
    /// Cancelled, it may or may not be recorded.
    pub async fn record(&self, actor: &Actor, event: Event) -> Result<u64, AuditError> {
        self.ask(actor, event).await.map_err(|_| AuditError::Closed)?
    }

    /// The same for several at once; the number of each line. If it fails some may be recorded.
    pub async fn record_all(
        &self,
        actor: &Actor,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Vec<u64>, AuditError> {
        let asked: Vec<_> = events.into_iter().map(|event| self.ask(actor, event)).collect();
        let mut numbers = Vec::with_capacity(asked.len());
        for written in asked {
            numbers.push(written.await.map_err(|_| AuditError::Closed)??);
        }
        Ok(numbers)
    }

    fn ask(&self, actor: &Actor, event: Event) -> oneshot::Receiver<Result<u64, AuditError>> {
        let (answer, written) = oneshot::channel();
        let note = Note { at: Timestamp::now(), event, actor: actor.clone(), answer: Some(answer) };
        let wake = self.lock().waiting.note(note);
        self.wake(wake);
        written
    }

    /// Records durably what is about to be done, and only then does it. If that fails, a line says so too.
    ///
    /// Cancelled or killed in between, the record has said what may not have been done; never the other way round.
    pub async fn before<T, E: From<AuditError> + fmt::Display>(
        &self,
        actor: &Actor,
        event: Event,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let of = self.record(actor, event).await?;
        let done = work.await;
        if let Err(error) = &done {
            self.note(actor, Event::NotDone { of, reason: Text::new(&error.to_string()) }).await;
        }
        done
    }

    /// Records something within a second. When much waits already this waits too; if nothing can be written, a line will
    /// say how much is not recorded.
    pub async fn note(&self, actor: &Actor, event: Event) {
        if self.lock().waiting.is_crowded() {
            // What happens to those that wait is told by what happens to this.
            let _ = self.flush().await;
        }
        let note = Note { at: Timestamp::now(), event, actor: actor.clone(), answer: None };
        let wake = self.lock().waiting.note(note);
        self.wake(wake);
    }

    /// Records within a second how often somebody did something: the same again takes no room. When much else waits
    /// already this waits too. If it fails this is not recorded: refuse it, or tell [`Audit::lost`].
    pub async fn tally(&self, actor: &Actor, event: Event) -> Result<(), AuditError> {
        let Err(event) = self.try_tally(actor, event) else { return Ok(()) };
        self.flush().await?;
        self.try_tally(actor, event).map_err(|_| AuditError::Behind)
    }

    fn try_tally(&self, actor: &Actor, event: Event) -> Result<(), Event> {
        // Asked before the lock, which many want.
        let now = Timestamp::now();
        let wake = self.lock().waiting.tally(actor, event, now)?;
        self.wake(wake);
        Ok(())
    }

    /// Something is done though it could not be recorded; a line will say how much that was.
    pub fn lost(&self) {
        let wake = self.lock().waiting.lose(Timestamp::now());
        self.wake(wake);
    }

    /// Whether what is recorded reaches the disk: that is tried again if it did not.
    pub async fn ready(&self) -> Result<(), AuditError> {
        let failed = self.lock().failed.is_some();
        if failed { self.flush().await } else { Ok(()) }
    }

    /// Writes what waits now.
    pub async fn flush(&self) -> Result<(), AuditError> {
        let (answer, written) = oneshot::channel();
        self.lock().waiting.flush(answer);
        self.inner.shared.bell.notify_one();
        written.await.map_err(|_| AuditError::Closed)?
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.shared.lock()
    }

    fn wake(&self, wake: Wake) {
        if wake == Wake::Up {
            self.inner.shared.bell.notify_one();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            // It does not panic, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writing thread.
    fn write_all(&self, writer: &mut Writer) {
        while let Some(batch) = self.next() {
            let written = batch.write(|contents| writer.write(contents));
            let mut state = self.lock();
            match written {
                Ok(first) => {
                    batch.written(first);
                    if state.failed.take().is_some() {
                        tracing::info!("the record of what is done can be written again");
                    }
                }
                Err(error) => {
                    if state.failed.is_none() {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(
                            error,
                            "what is done cannot be recorded; pushes and deletions are refused"
                        );
                    }
                    batch.failed(&error, &mut state.waiting);
                    state.failed = Some(error);
                    if state.closing {
                        let lines = state.waiting.len();
                        tracing::error!(lines, "the end of the record could not be written");
                        return;
                    }
                }
            }
        }
    }

    /// What is to be written next, once there is something; `None` when nothing more comes.
    fn next(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            if state.closing {
                let last = state.waiting.rest().is_some();
                return last.then(|| state.waiting.take_all());
            }
            state = match state.waiting.rest() {
                Some(Duration::ZERO) => return Some(state.waiting.take()),
                Some(rest) => {
                    let waited = self.bell.wait_timeout(state, rest);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
