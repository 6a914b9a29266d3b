//! What is started, and how all of it ends: with the [`Process`] that stands for it, or with a signal.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::failure::Failure;

/// How long a process may take to end by itself: Torno's own patience with requests under way, and a little more.
const PATIENCE: Duration = Duration::from_secs(35);
/// The same after a signal, when somebody waits for the prompt.
const HASTE: Duration = Duration::from_secs(3);

/// How often a folder is emptied that is still written to.
const REMOVALS: usize = 10;

/// Every process that was started and has not been waited for. By a handle, which unlike a number never comes to
/// mean another process.
static STARTED: Mutex<BTreeMap<u32, OwnedFd>> = Mutex::new(BTreeMap::new());
/// What a signal removes.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// A process of ours. Dropped, it is told to end, and is waited for.
#[derive(Debug)]
pub(crate) struct Process {
    program: String,
    child: Child,
}

impl Process {
    /// Starts a command, in a process group of its own: a Ctrl-C on the terminal is for this program, which ends the
    /// others itself.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Failure> {
        use std::os::unix::process::CommandExt as _;
        let program = command.get_program().to_string_lossy().into_owned();
        let failure = || Failure::io(format!("`{program}` could not be started"));
        // Held over both, so that a signal finds every process that there is.
        let mut started = started();
        let child = command.process_group(0).spawn().map_err(failure())?;
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|error| failure()(error.into()))?;
        started.insert(child.id(), handle);
        drop(started);
        Ok(Self { program, child })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has ended with, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Writes to its standard input, which was piped, and closes that. One that ends without reading it says why in
    /// its [`output`](Self::output).
    pub(crate) fn give(&mut self, input: &str) -> Result<(), Failure> {
        let Some(mut pipe) = self.child.stdin.take() else { return Ok(()) };
        let failure = Failure::io(format!("`{}` did not read its input", self.program));
        match pipe.write_all(input.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failure(error)),
            _ => Ok(()),
        }
    }

    /// Waits until it has ended by itself, which must be with success; what it has written to a standard output that
    /// was piped. Of a piped standard error, less than a pipe holds is read, for the failure.
    pub(crate) fn output(mut self) -> Result<String, Failure> {
        let failure = || Failure::io(format!("`{}` could not be waited for", self.program));
        let mut output = String::new();
        if let Some(mut pipe) = self.child.stdout.take() {
            pipe.read_to_string(&mut output).map_err(failure())?;
        }
        let mut said = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut said).map_err(failure())?;
        }
        let status = self.child.wait().map_err(failure())?;
        if status.success() {
            return Ok(output);
        }
        let said = format!(": {}", format!("{output}{said}").trim());
        Err(Failure::Program { program: self.program.clone(), status, said })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(handle) = started().remove(&self.child.id()) else { return };
        // Both fail only for a process that has ended.
        let _ = pidfd_send_signal(&handle, Signal::TERM);
        if !ends_within(&handle, PATIENCE) {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP end every process, remove the folder, and end this program.
pub(crate) fn end_with_signals(folder: PathBuf) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failure = || Failure::io("signals could not be waited for");
    FOLDER.set(folder).map_err(|_| Failure::Wrong("signals are waited for already".into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failure())?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _entered = runtime.enter();
        let on = |kind| signal(kind).map_err(failure());
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
                _ = hangup.recv() => 1,
            }
        });
        eprintln!("bench: stopped by a signal; ending what was started");
        end_everything();
        std::process::exit(128 + number);
    });
    Ok(())
}

fn end_everything() {
    // Never given back: from here on nothing is started and no folder made any more.
    let started = started();
    for handle in started.values() {
        let _ = pidfd_send_signal(handle, Signal::TERM);
    }
    for handle in started.values() {
        if !ends_within(handle, HASTE) {
            let _ = pidfd_send_signal(handle, Signal::KILL);
            ends_within(handle, HASTE);
        }
    }
    std::mem::forget(started);
    // A figure under way may write one more file meanwhile, but no folder to write it to.
    for _ in 0..REMOVALS {
        if FOLDER.get().is_none_or(|folder| fs::remove_dir_all(folder).is_ok()) {
            return;
        }
    }
}

fn ends_within(handle: &OwnedFd, patience: Duration) -> bool {
    let Ok(patience) = Timespec::try_from(patience) else { return false };
    let mut ready = [PollFd::new(handle, PollFlags::IN)];
    matches!(poll(&mut ready, Some(&patience)), Ok(1))
}

/// What was started. Whoever holds it is not overtaken by a signal, and after one nobody gets it.
pub(crate) fn started() -> MutexGuard<'static, BTreeMap<u32, OwnedFd>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}
