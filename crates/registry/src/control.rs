//! What people say about runs after the push: that one ends, runs again or goes first, and that a project waits.
//!
//! A wish stands in the database. Whoever takes care of a run hears of it there ([`Registry::cancelled`]), also one that
//! was killed in between and begins anew.

use std::fmt;

use jiff::Timestamp;
use torno_audit::{Actor, Event, Text};
use torno_auth::{Identity, ProjectPermit, Refusal, RunControl, RunPermit};
use torno_metadata::{Cancelled, Left, Outcome, Pause, Retried, Run, Wanted};
use torno_oci::{Capacity, Priority, ProjectName, RepositoryName, RunId, Tag};

use crate::{Crowded, Registry, RegistryError, queue::run_quotas};

/// What became of what somebody wanted of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controlled {
    /// It had not begun, and is over.
    Cancelled,
    /// Whoever takes care of it stops it.
    Stopping,
    /// Its image runs again.
    Retried {
        /// As this run.
        run: RunId,
        /// The repository of the image.
        repository: RepositoryName,
        /// Its tag.
        tag: Tag,
    },
    /// It has another place in the queue.
    Prioritized(Priority),
}

/// Why a run is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftAsIs {
    run: RunId,
    why: Left,
}

impl LeftAsIs {
    /// Why, for whoever decides what to tell.
    pub fn why(&self) -> &Left {
        &self.why
    }
}

impl std::error::Error for LeftAsIs {}

impl fmt::Display for LeftAsIs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let run = self.run;
        match &self.why {
            Left::Unknown => Refusal::UnknownRun(run).fmt(f),
            Left::Over(outcome) => write!(f, "run {run} is over: {outcome}"),
            Left::NotOver(state) => {
                write!(f, "run {run} is not over, but {state}; cancel it first, or wait for its end")
            }
            Left::Begun(state) => {
                write!(f, "run {run} has begun ({state}); only what is queued can be given another place")
            }
            Left::ImageGone => {
                write!(f, "the image of run {run} is not here any more, or not all of it; push it again")
            }
            Left::Superseded(later) => write!(
                f,
                "another image has been pushed under the tag of run {run} since, as run {later}; push the image of run \
                 {run} again, under a tag of its own"
            ),
            Left::TooMany(too_many) => Crowded(too_many.clone()).fmt(f),
        }
    }
}

impl Registry {
    /// The right to do this to a run.
    pub async fn run_permit(
        &self,
        who: &Identity,
        control: RunControl,
        run: RunId,
    ) -> Result<RunPermit, RegistryError> {
        let found = self.metadata.run(run).await?;
        let of = found.as_ref().map(|run| (&run.repository, &run.owner));
        Ok(self.policy().control(who, control, run, of)?)
    }

    /// Does to a run what the permit is for.
    pub async fn control(&self, permit: &RunPermit, by: &Actor) -> Result<Controlled, RegistryError> {
        let run = permit.run();
        let Some(found) = self.metadata.run(run).await? else { return Err(left(run, Left::Unknown)) };
        match permit.control() {
            RunControl::Cancel => Box::pin(self.cancel(&found, permit, by)).await,
            RunControl::Retry => self.retry(&found, permit, by).await,
            RunControl::Prioritize(priority) => self.prioritize(&found, priority, permit, by).await,
        }
    }

    async fn cancel(&self, run: &Run, permit: &RunPermit, by: &Actor) -> Result<Controlled, RegistryError> {
        let id = run.id;
        let wanted = wanted(permit.capacity(), permit.by());
        let (repository, tag) = (run.repository.clone(), run.tag.clone());
        let capacity = permit.capacity().as_str();
        let event = Event::RunCancelled { run: id, repository, tag, owner: run.owner.clone(), capacity };
        let cancelled = self
            .recorded(by, event, async {
                let cancel = || self.metadata.cancel_run(id, wanted.clone());
                self.even_when_full(cancel).await?.map_err(|why| left(id, why))
            })
            .await?;
        self.news.changed();
        match cancelled {
            Cancelled::AtOnce => {
                for ended in self.ending(id, &wanted.outcome(), None).await? {
                    self.audit.note(&self.itself, ended).await;
                }
                Ok(Controlled::Cancelled)
            }
            Cancelled::Asked => Ok(Controlled::Stopping),
        }
    }

    async fn retry(&self, of: &Run, permit: &RunPermit, by: &Actor) -> Result<Controlled, RegistryError> {
        let id = of.id;
        self.audit.ready().await?;
        self.expect_room().await?;
        let policy = self.policy();
        let project = of.repository.namespace().project();
        if project.is_none_or(|project| !policy.projects.contains_key(project)) {
            return Err(left(id, Left::Over(Outcome::ProjectGone)));
        }
        let quotas = run_quotas(&policy, &of.repository, &of.owner);
        let retried = self.metadata.retry_run(id, quotas, Timestamp::now()).await?;
        let Retried { run, repository, tag } = match retried {
            Ok(retried) => retried,
            Err(Left::TooMany(too_many)) => {
                return Err(RegistryError::Crowded(Box::new(Crowded(too_many))));
            }
            Err(why) => return Err(left(id, why)),
        };
        self.news.queued();
        let digest = of.image.clone();
        let (of, named, capacity) = (repository.clone(), tag.clone(), permit.capacity().as_str());
        let again = Event::RunRetried { run: id, again: run.number(), repository: of.clone(), capacity };
        self.audit.note(by, again).await;
        self.audit.note(by, Event::RunQueued { run, repository: of, tag: named, digest }).await;
        Ok(Controlled::Retried { run, repository, tag })
    }

    async fn prioritize(
        &self,
        run: &Run,
        priority: Priority,
        permit: &RunPermit,
        by: &Actor,
    ) -> Result<Controlled, RegistryError> {
        let id = run.id;
        let (repository, capacity) = (run.repository.clone(), permit.capacity().as_str());
        let event = Event::RunPrioritized { run: id, repository, priority: priority.as_str(), capacity };
        self.recorded(by, event, async {
            self.metadata.prioritize_run(id, priority).await?.map_err(|why| left(id, why))
        })
        .await?;
        self.news.changed();
        Ok(Controlled::Prioritized(priority))
    }

    /// Starts nothing new of a project, or of the whole site, until [`Registry::resume`]; what was wanted before stands
    /// and is told.
    pub async fn pause(&self, permit: &ProjectPermit, by: &Actor) -> Result<Option<Pause>, RegistryError> {
        let project = permit.project().cloned();
        let pause = Pause { project: project.clone(), wanted: wanted(permit.capacity(), permit.by()) };
        let event = Event::Paused { project: shown(project.as_ref()), capacity: permit.capacity().as_str() };
        let paused = async { self.even_when_full(|| self.metadata.pause(pause.clone())).await };
        let before = self.recorded(by, event, paused).await?;
        self.news.changed();
        Ok(before)
    }

    /// Lets a project, or the whole site, go on; what had been wanted, if anything.
    pub async fn resume(&self, permit: &ProjectPermit, by: &Actor) -> Result<Option<Pause>, RegistryError> {
        let project = permit.project().cloned();
        let event = Event::Resumed { project: shown(project.as_ref()), capacity: permit.capacity().as_str() };
        let resumed = async { Ok(self.metadata.resume(project).await?) };
        let before = self.recorded(by, event, resumed).await?;
        self.news.queued();
        Ok(before)
    }

    /// What is paused: the whole site first, then projects by their names.
    pub async fn pauses(&self) -> Result<Vec<Pause>, RegistryError> {
        Ok(self.metadata.pauses().await?)
    }

    /// How a run is to end that somebody wants to end.
    pub async fn cancellation(&self, run: RunId) -> Result<Option<Outcome>, RegistryError> {
        Ok(self.metadata.cancellation(run).await?.as_ref().map(Wanted::outcome))
    }

    /// Resolves when somebody wants a run to end, with how it is to end. Cancelling it is harmless.
    pub async fn cancelled(&self, run: RunId) -> Outcome {
        let mut changes = self.news.changed.subscribe();
        loop {
            // Marked as seen before looking, so that no change falls between the look and the wait.
            changes.mark_unchanged();
            match self.cancellation(run).await {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {}
                // It is asked again when the run is to move on, which it then does not.
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%run, error, "it cannot be told whether anybody wants a run to end");
                }
            }
            if changes.changed().await.is_err() {
                // Nobody has news any more.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn wanted(capacity: Capacity, by: Option<&torno_auth::UserName>) -> Wanted {
    Wanted { capacity, by: by.cloned(), at: Timestamp::now() }
}

fn left(run: RunId, why: Left) -> RegistryError {
    RegistryError::Left(Box::new(LeftAsIs { run, why }))
}

fn shown(project: Option<&ProjectName>) -> Option<Text> {
    project.map(|project| Text::new(project.as_str()))
}
