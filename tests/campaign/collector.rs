//! Garbage collections beside the load, each a process of its own, and what they may have taken.

use std::{
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::{failure::Failure, noise::Noise, phase::Phase, server::Server, tally::Tally};

/// When collections without grace ran. Only those take what was pushed a moment ago and has no name yet.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Times>);

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    started: u64,
    running: u64,
}

/// A moment at which none ran, or at which one did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(Option<u64>);

impl Clock {
    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        let times = self.times();
        Mark((times.running == 0).then_some(times.started))
    }

    /// Whether none has run since.
    pub(crate) fn nothing_since(&self, mark: Mark) -> bool {
        mark.0 == Some(self.times().started)
    }

    /// One that goes on alone from here.
    pub(crate) fn copy(&self) -> Self {
        Self(Mutex::new(*self.times()))
    }

    /// Before one starts.
    pub(crate) fn start(&self) {
        let mut times = self.times();
        times.started += 1;
        times.running += 1;
    }

    /// When it has ended, or will never do anything any more.
    pub(crate) fn end(&self) {
        self.times().running -= 1;
    }
}

/// How much a collection leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// Whatever has no name is garbage.
    None,
    /// What was pushed within an hour is kept.
    Hour,
}

impl Grace {
    fn argument(self) -> &'static str {
        match self {
            Self::None => "0s",
            Self::Hour => "1h",
        }
    }
}

/// A command that collects garbage. Uploads that have rested for a second are garbage to it.
pub(crate) fn command(server: &Server, grace: Grace) -> Command {
    let mut command = server.torno(&["gc", "--grace", grace.argument()]);
    command.env("TORNO_REGISTRY_UPLOAD_LIFETIME", "1s");
    command
}

/// Collects garbage again and again until the phase is over; then the collection under way is killed or let be, as
/// chance has it.
pub(crate) fn keep_collecting(
    server: &Server,
    phase: &Phase,
    clock: &Clock,
    tally: &Tally,
    mut noise: Noise,
) -> Result<(), Failure> {
    /// Between two looks at a process.
    const LOOK: Duration = Duration::from_millis(5);
    // In every other phase nothing that was pushed may go, whatever its name.
    let without = noise.once_in(2);
    let leave = noise.once_in(2);
    while !phase.is_over() {
        thread::park_timeout(Duration::from_millis(noise.below(150)));
        let grace = if without && noise.once_in(2) { Grace::None } else { Grace::Hour };
        if grace == Grace::None {
            clock.start();
        }
        let mut command = command(server, grace);
        // Uploads under way are not to be taken from under the clients' feet.
        command.env_remove("TORNO_REGISTRY_UPLOAD_LIFETIME").stdin(Stdio::null());
        let started = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let ended = started.map_err(Failure::io("torno gc")).and_then(|mut child| {
            while child.try_wait().map_err(Failure::io("torno gc"))?.is_none() {
                if phase.is_over() && !leave {
                    return kill(&mut child);
                }
                thread::park_timeout(LOOK);
            }
            let output = child.wait_with_output().map_err(Failure::io("torno gc"))?;
            if !output.status.success() {
                tally.odd(Failure::program("torno gc", &output));
            }
            Ok(())
        });
        if grace == Grace::None {
            clock.end();
        }
        ended?;
    }
    Ok(())
}

fn kill(child: &mut Child) -> Result<(), Failure> {
    child.kill().and_then(|()| child.wait()).map_err(Failure::io("torno gc could not be killed"))?;
    Ok(())
}
