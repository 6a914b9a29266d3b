//! While the container runs, and why it ended.

use std::{pin::pin, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep, sleep_until};
use torno_registry::Outcome;

use crate::{
    ExecutorError,
    engine::{Container, EngineError},
};

use super::{Ended, Life, Watched, lost::Loss};

/// The statuses of containers that an engine ends when it ends itself: killed, asked to end, and lost.
const ENDED_WITH_ENGINE: [i64; 3] = [137, 143, 255];

/// How long an engine that ends in good order may still answer after it has ended a container: the other containers
/// have ten seconds to end.
const LAST_ANSWERS: Duration = Duration::from_secs(12);

/// How long a run that is cancelled has to end by itself before it is killed, as with `docker stop`.
const GRACE: Duration = Duration::from_secs(10);

/// The status of a process that was killed.
const KILLED: i64 = 137;

/// What this process has done to end a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing.
    Unforced,
    /// Its program was asked to end.
    Asked,
    /// It was killed.
    Killed,
}

impl Life {
    /// Waits until the container has ended, and ends it at its limits. While the engine is away it is waited for, to the
    /// end of the run's time and some time more.
    pub(super) async fn watch(
        &self,
        container: Container,
        mut watched: Watched,
    ) -> Result<Result<Ended, Loss>, ExecutorError> {
        let engine = &self.site.engine;
        let name = self.name();
        let limit = self.time_limit();
        let mut deadline = Instant::now() + self.left(container.started.unwrap_or_else(Timestamp::now));
        let mut forced: Option<Result<Outcome, Loss>> = None;
        let mut end = End::Unforced;
        let mut outgrown = pin!(self.outgrown());
        let mut disconnected = pin!(self.disconnected());
        let mut cancelled = pin!(self.site.registry.cancelled(self.run.id));
        loop {
            let ended = tokio::select! {
                ended = engine.wait(&name) => ended,
                () = sleep_until(deadline) => {
                    if end == End::Killed
                        && let Some(forced) = forced
                    {
                        tracing::error!(run = %self.run.id, "the container of a run cannot be killed");
                        return Ok(forced.map(|outcome| Ended { container, outcome }));
                    }
                    if end == End::Unforced {
                        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                        forced = Some(Ok(Outcome::TimeLimit { millis }));
                    }
                    end = End::Killed;
                    self.insist(|| engine.kill(&name)).await.or_else(gone_already)?;
                    deadline = Instant::now() + self.site.patience;
                    continue;
                }
                outcome = &mut cancelled, if forced.is_none() => {
                    tracing::info!(run = %self.run.id, "a run is cancelled and stopped");
                    forced = Some(Ok(outcome));
                    end = End::Asked;
                    self.insist(|| engine.terminate(&name)).await.or_else(gone_already)?;
                    deadline = Instant::now() + GRACE;
                    continue;
                }
                outcome = &mut outgrown, if forced.is_none() => {
                    forced = Some(Ok(outcome));
                    end = End::Killed;
                    self.insist(|| engine.kill(&name)).await.or_else(gone_already)?;
                    deadline = Instant::now() + self.site.patience;
                    continue;
                }
                () = &mut disconnected, if forced.is_none() && self.reaches() => {
                    tracing::error!(run = %self.run.id, "the relay of a run ended before the run did");
                    forced = Some(Err(Loss::Relay));
                    end = End::Killed;
                    self.insist(|| engine.kill(&name)).await.or_else(gone_already)?;
                    deadline = Instant::now() + self.site.patience;
                    continue;
                }
            };
            match ended {
                Ok(()) => {}
                Err(error) if error.is_not_found() => return Ok(Err(Loss::Container)),
                Err(error) => {
                    tracing::warn!(run = %self.run.id, %error, "the engine went away while a run was under way");
                    watched = Watched::WithGaps;
                    sleep(Duration::from_secs(1)).await;
                }
            }
            let mut seen = engine.inspect(&name).await;
            if let Err(error) = &seen
                && error.is_away()
            {
                // An engine that ends in good order tells those who wait that it has ended their container.
                tracing::warn!(run = %self.run.id, %error, "the engine went away while a run was under way");
                watched = Watched::WithGaps;
                let late = deadline.max(Instant::now()) + self.site.patience;
                seen = self.insist_until(late, || engine.inspect(&name)).await;
            }
            let Some(container) = seen? else { return Ok(Err(Loss::Container)) };
            if !container.running {
                let judged = self.judge(&container, forced, watched).await;
                return Ok(judged.map(|outcome| Ended { container, outcome }));
            }
        }
    }

    /// What is left of the time a container has, by the clock of the host, which is the engine's as well.
    pub(super) fn left(&self, started: Timestamp) -> Duration {
        let ran = Duration::try_from(Timestamp::now().duration_since(started)).unwrap_or_default();
        self.time_limit().saturating_sub(ran)
    }

    /// Why a container ended, or what of the site ended it. `forced` is what this process ended it for.
    pub(super) async fn judge(
        &self,
        container: &Container,
        forced: Option<Result<Outcome, Loss>>,
        watched: Watched,
    ) -> Result<Outcome, Loss> {
        let status = container.status;
        // However a cancelled one ends: nothing of what it leaves is wanted.
        let cancelled = matches!(forced, Some(Ok(Outcome::Cancelled { .. })));
        if let (Some(forced), true) = (forced, status != 0 || cancelled) {
            return forced;
        }
        // Whatever its program made of that.
        if self.output_is_gone().await {
            return Err(Loss::Container);
        }
        // It may have ended by itself in the moment before it was to be killed.
        if status == 0 {
            // What cannot be known is not said to have been well.
            let connected = self.was_connected(container).await.unwrap_or_default();
            return if connected { Ok(Outcome::Succeeded) } else { Err(Loss::Relay) };
        }
        if container.out_of_memory {
            return Ok(Outcome::OutOfMemory { bytes: container.memory });
        }
        if status == KILLED {
            // Another process may have killed it at a limit and ended before it could say so.
            let limit = self.time_limit();
            if ran(container).is_some_and(|ran| ran >= limit) {
                return Ok(Outcome::TimeLimit {
                    millis: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
                });
            }
            if let Some(outcome) = self.excess().await {
                return Ok(outcome);
            }
        }
        let with_engine = ENDED_WITH_ENGINE.contains(&status);
        if with_engine {
            if watched == Watched::WithGaps {
                return Err(Loss::Engine);
            }
            if let Some(loss) = self.goes_away().await {
                return Err(loss);
            }
            if self.was_killed(container).await {
                return Ok(Outcome::Killed);
            }
        }
        Ok(Outcome::ExitStatus { status })
    }

    /// Whether the engine, which has told of the end of a container, is about to end itself, or whoever ended the container
    /// is about to remove it.
    async fn goes_away(&self) -> Option<Loss> {
        let until = Instant::now() + LAST_ANSWERS;
        while Instant::now() < until {
            match self.site.engine.inspect(&self.name()).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    tracing::warn!(run = %self.run.id, "the container of a run was removed");
                    return Some(Loss::Container);
                }
                Err(error) if error.is_away() => {
                    tracing::warn!(run = %self.run.id, %error, "the engine went away and ended a run");
                    return Some(Loss::Engine);
                }
                Err(error) => tracing::debug!(run = %self.run.id, %error, "a container cannot be looked at"),
            }
            sleep(Duration::from_secs(1)).await;
        }
        None
    }

    /// Whether somebody has ended it through an engine that is still there.
    async fn was_killed(&self, container: &Container) -> bool {
        let since = container.started.unwrap_or(self.run.queued_at);
        match self.site.engine.was_signalled(&self.name(), since).await {
            Ok(killed) => killed,
            Err(error) => {
                tracing::debug!(run = %self.run.id, %error, "it is not known whether somebody has ended a run");
                false
            }
        }
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
