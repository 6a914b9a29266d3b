//! What a run uses, looked at while it runs: the engine and the kernel forget it when the container ends.

use std::{convert::Infallible, sync::PoisonError, time::Duration};

use tokio::time::sleep;
use torno_registry::Measured;

use super::Life;

/// How long after the start it is looked at for the first time. Each wait is twice as long as the one before, so that
/// short runs are seen at all.
const FIRST: Duration = Duration::from_millis(50);

/// How often it is looked at then. A look takes the engine some milliseconds.
const OFTEN: Duration = Duration::from_secs(1);

impl Life {
    /// Looks at what the container uses until it is dropped.
    pub(super) async fn measure(&self) -> Infallible {
        let name = self.name();
        let mut wait = FIRST;
        loop {
            sleep(wait).await;
            wait = (wait * 2).min(OFTEN);
            match self.site.engine.used(&name).await {
                Ok(seen) => self.note(seen),
                // Whoever waits for the container's end deals with that.
                Err(error) => tracing::debug!(run = %self.run.id, %error, "what a run uses is not known"),
            }
        }
    }

    fn note(&self, seen: Measured) {
        let mut known = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        known.peak_memory = known.peak_memory.max(seen.peak_memory);
        known.cpu = known.cpu.max(seen.cpu);
    }

    /// What it was seen to use, by this process.
    pub(super) fn measured(&self) -> Measured {
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
