//! While the container runs, and why it ended.

use std::{pin::pin, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use torno_registry::Outcome;

use crate::{
    ExecutorError,
    engine::{Container, EngineError},
};

use super::{Ended, Life, PATIENCE, Watched};

/// The statuses of containers that an engine ends when it ends itself: killed, asked to end, and lost.
const ENDED_WITH_ENGINE: [i64; 3] = [137, 143, 255];

/// How long an engine that ends in good order may still answer after it has ended a container: the other containers
/// have ten seconds to end.
const LAST_ANSWERS: Duration = Duration::from_secs(12);

/// The status of a process that was killed.
const KILLED: i64 = 137;

impl Life {
    /// Waits until the container has ended, and ends it at its limits. `None` when it is gone.
    pub(super) async fn watch(
        &self,
        container: Container,
        mut watched: Watched,
    ) -> Result<Option<Ended>, ExecutorError> {
        let engine = &self.site.engine;
        let name = self.name();
        let limit = self.time_limit();
        let mut deadline = Instant::now() + self.left(&container);
        let mut forced = None;
        let mut outgrown = pin!(self.outgrown());
        let mut disconnected = pin!(self.disconnected());
        loop {
            let ended = tokio::select! {
                ended = engine.wait(&name) => ended,
                () = sleep_until(deadline) => {
                    if forced.is_some() {
                        return Err(ExecutorError::Run("its container cannot be killed"));
                    }
                    let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                    forced = Some(Outcome::TimeLimit { millis });
                    self.insist(|| engine.kill(&name)).await.or_else(gone_already)?;
                    deadline = Instant::now() + PATIENCE;
                    continue;
                }
                outcome = &mut outgrown, if forced.is_none() => {
                    forced = Some(outcome);
                    self.insist(|| engine.kill(&name)).await.or_else(gone_already)?;
                    deadline = Instant::now() + PATIENCE;
                    continue;
                }
                () = &mut disconnected, if forced.is_none() && self.reaches() => {
                    tracing::error!(run = %self.run.id, "the relay of a run ended before the run did");
                    forced = Some(Outcome::RelayGone);
                    self.insist(|| engine.kill(&name)).await.or_else(gone_already)?;
                    deadline = Instant::now() + PATIENCE;
                    continue;
                }
            };
            match ended {
                Ok(()) => {}
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => {
                    tracing::warn!(run = %self.run.id, %error, "the engine went away while a run was under way");
                    watched = Watched::WithGaps;
                    sleep(Duration::from_secs(1)).await;
                }
            }
            let mut seen = engine.inspect(&name).await;
            if let Err(error @ (EngineError::Unreachable(_) | EngineError::Timeout(_))) = seen {
                // An engine that ends in good order tells those who wait that it has ended their container.
                tracing::warn!(run = %self.run.id, %error, "the engine went away as a run ended");
                watched = Watched::WithGaps;
                seen = self.insist(|| engine.inspect(&name)).await;
            }
            let Some(container) = seen? else { return Ok(None) };
            if !container.running {
                let outcome = self.judge(&container, forced, watched).await;
                return Ok(Some(Ended { container, outcome }));
            }
        }
    }

    /// What is left of the time a container has, by the clock of the host, which is the engine's as well.
    fn left(&self, container: &Container) -> Duration {
        let started = container.started.unwrap_or_else(Timestamp::now);
        let ran = Duration::try_from(Timestamp::now().duration_since(started)).unwrap_or_default();
        self.time_limit().saturating_sub(ran)
    }

    /// Why a container ended. `forced` is what this process ended it for.
    pub(super) async fn judge(
        &self,
        container: &Container,
        forced: Option<Outcome>,
        watched: Watched,
    ) -> Outcome {
        let status = container.status;
        // It may have ended by itself in the moment before it was to be killed.
        if status == 0 {
            // What cannot be known is not said to have been well.
            let connected = self.was_connected(container).await.unwrap_or_default();
            return if connected { Outcome::Succeeded } else { Outcome::RelayGone };
        }
        if let Some(forced) = forced {
            return forced;
        }
        if container.out_of_memory {
            return Outcome::OutOfMemory { bytes: container.memory };
        }
        if status == KILLED {
            // Another process may have killed it at a limit and ended before it could say so.
            let limit = self.time_limit();
            if ran(container).is_some_and(|ran| ran >= limit) {
                return Outcome::TimeLimit { millis: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) };
            }
            if let Some(outcome) = self.excess().await {
                return outcome;
            }
        }
        let with_engine = ENDED_WITH_ENGINE.contains(&status);
        if with_engine && (watched == Watched::WithGaps || self.engine_goes_away().await) {
            return Outcome::EngineGone;
        }
        Outcome::ExitStatus { status }
    }

    /// Whether the engine, which has told of the end of a container, is about to end itself.
    async fn engine_goes_away(&self) -> bool {
        let until = Instant::now() + LAST_ANSWERS;
        while Instant::now() < until {
            if let Err(error) = self.site.engine.reach().await {
                tracing::warn!(run = %self.run.id, %error, "the engine went away and ended a run");
                return true;
            }
            sleep(Duration::from_secs(1)).await;
        }
        false
    }
}

fn ran(container: &Container) -> Option<Duration> {
    let (started, finished) = (container.started?, container.finished?);
    Duration::try_from(finished.duration_since(started)).ok()
}

/// What is to be killed and is not there has ended.
fn gone_already(error: EngineError) -> Result<(), EngineError> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}
