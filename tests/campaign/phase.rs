//! When the load of one round ends, and when everything does.

use std::{
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::failure::Failure;

/// Set by a signal.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// A failure once a signal has come.
pub(crate) fn go_on() -> Result<(), Failure> {
    if STOPPED.load(Ordering::Relaxed) { Err(Failure::Stopped) } else { Ok(()) }
}

/// From now on SIGINT, SIGTERM and SIGHUP make [`go_on`] fail, so that everything is taken down in good order.
pub(crate) fn stop_with_signals() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failure = || Failure::io("signals could not be waited for");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failure())?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _entered = runtime.enter();
        let on = |kind| signal(kind).map_err(failure());
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        STOPPED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// A stretch of load. While it lasts every request must be answered.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Phase {
    fn over(&self) -> MutexGuard<'_, bool> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the load shall end, or the server has been killed.
    pub(crate) fn is_over(&self) -> bool {
        *self.over()
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        *self.over() = true;
        self.changed.notify_all();
    }

    /// Lets it last for so long, unless it ends before.
    pub(crate) fn last(&self, time: Duration) {
        // Whether it ended early is seen by whoever asks.
        drop(self.changed.wait_timeout_while(self.over(), time, |over| !*over));
    }
}
