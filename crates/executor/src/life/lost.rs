//! When the site fails a run: it begins anew, a few times, or ends and says so. What the person's own program did never
//! leads here.

use std::time::Duration;

use jiff::Timestamp;
use torno_registry::{Outcome, RunLog};

use crate::ExecutorError;

use super::Life;

/// How long after the first attempt that was lost the next one may begin: an engine that restarts is back by then.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// How much longer each wait is than the one before: what is not mended within seconds takes somebody minutes.
const LONGER: u32 = 6;
/// How long is waited at most.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// How often the preparation of one run may be cut off: a preparation takes seconds, and nobody restarts Torno in the same
/// few seconds so often.
const CUT_OFF: u64 = 10;

/// What failed a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The engine went away, or did not answer for too long.
    Engine,
    /// The container or its volume was removed before it was done with.
    Container,
    /// What passes its connections on ended before it did.
    Relay,
    /// The engine did not give it its GPUs.
    Gpus,
    /// Something else of the site.
    Site,
}

impl Loss {
    /// What it is when this came of asking the engine or the registry.
    pub(super) fn of(error: &ExecutorError) -> Self {
        if error.is_away() {
            Self::Engine
        } else if error.is_gone() {
            Self::Container
        } else {
            Self::Site
        }
    }

    /// What it is when this came of preparing a run: there is no container yet that could be gone.
    pub(super) fn of_preparation(error: &ExecutorError) -> Self {
        match error {
            error if error.is_away() => Self::Engine,
            ExecutorError::Engine(error) if error.denies_gpus() => Self::Gpus,
            _ => Self::Site,
        }
    }

    /// How a run ends that has been tried so often.
    fn outcome(self, attempts: u64) -> Outcome {
        match self {
            Self::Engine => Outcome::EngineGone { attempts },
            Self::Container => Outcome::ContainerGone { attempts },
            Self::Relay => Outcome::RelayGone { attempts },
            Self::Gpus => Outcome::NoGpus { attempts },
            Self::Site => Outcome::SiteFailure { attempts },
        }
    }
}

impl Life {
    /// A run that the site has failed begins anew, from nothing, or ends if that has been tried often enough.
    pub(super) async fn lost(&self, loss: Loss) {
        let (run, attempt) = (self.run.id, self.run.attempt);
        // Nobody waits for what is cancelled.
        if let Ok(Some(cancelled)) = self.site.registry.cancellation(run).await {
            return self.end(cancelled, self.printed_before(loss).await, None).await;
        }
        if attempt >= self.site.attempts {
            tracing::error!(%run, attempt, ?loss, "the site failed a run, and it is not tried again");
            return self.end(loss.outcome(attempt), self.printed_before(loss).await, None).await;
        }
        let wait = wait_after(attempt);
        tracing::warn!(%run, attempt, ?loss, ?wait, "the site failed a run; it begins anew after a wait");
        // What cannot be removed now is in nobody's way: it is removed before the run begins anew, if not earlier.
        let cleared = loss != Loss::Engine && self.cleared().await;
        let not_before = Timestamp::now().checked_add(wait).unwrap_or(Timestamp::MAX);
        let reason = loss.outcome(attempt).to_string();
        // One that could not be noted is in nobody's hands then, and is taken up as such.
        if let Err(error) = self.registered(|| self.site.registry.lost(run, not_before, &reason)).await {
            tracing::error!(%run, %error, "a run could not be queued again; trying later");
        } else if cleared {
            self.free_gpus().await;
        }
    }

    /// What it printed before the site failed it, which is the admin's all the same, where it can still be had.
    async fn printed_before(&self, loss: Loss) -> RunLog {
        match loss {
            Loss::Engine | Loss::Container | Loss::Gpus => RunLog::default(),
            Loss::Relay | Loss::Site => self.printed().await.unwrap_or_default(),
        }
    }

    /// A run of which nothing has run takes its old place in the queue: nothing has failed it, unless it is what ends the
    /// process each time.
    pub(super) async fn begin_again(&self) {
        let run = self.run.id;
        if let Ok(Some(cancelled)) = self.site.registry.cancellation(run).await {
            return self.end(cancelled, RunLog::default(), None).await;
        }
        if self.run.attempt >= CUT_OFF {
            tracing::error!(%run, "the preparation of a run was cut off too often");
            return self.lost(Loss::Site).await;
        }
        tracing::info!(%run, "the preparation of a run was cut off; it is queued again");
        let cleared = self.cleared().await;
        if let Err(error) = self.registered(|| self.site.registry.requeue(run)).await {
            tracing::error!(%run, %error, "a run could not be queued again; trying later");
        } else if cleared {
            self.free_gpus().await;
        }
    }

    /// Removes what an attempt left; whether nothing of it is in the engine any more.
    async fn cleared(&self) -> bool {
        match self.clear().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(run = %self.run.id, %error, "what an attempt left could not be removed yet");
                false
            }
        }
    }

    /// Gives the GPUs of an attempt of which nothing is left to others, if the run waits in the queue.
    async fn free_gpus(&self) {
        let run = self.run.id;
        if let Err(error) = self.site.registry.free_gpus(run).await {
            tracing::warn!(%run, %error, "the GPUs of an attempt that was lost are not free yet; trying later");
        }
    }

    /// The same as is done when an attempt is lost, later: what it left is removed, and its GPUs are free.
    pub(crate) async fn leave(&self) {
        if self.cleared().await {
            self.free_gpus().await;
        }
    }

    /// How a run ends for which something of the site is not as it should be, so that trying again brings nothing.
    pub(super) fn unfit(&self) -> Outcome {
        Loss::Site.outcome(self.run.attempt)
    }

    /// A run whose work was ended by a defect.
    pub(crate) async fn broken(self) {
        self.lost(Loss::Site).await;
    }
}

/// How long is waited after so many attempts were lost.
fn wait_after(attempts: u64) -> Duration {
    let steps = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_WAIT.saturating_mul(LONGER.saturating_pow(steps)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_an_end() {
        let waits = [1, 2, 3, 4, 100, u64::MAX].map(|attempts| wait_after(attempts).as_secs());
        assert_eq!(waits, [5, 30, 180, 600, 600, 600]);
    }
}
