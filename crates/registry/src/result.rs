//! Results that may not be there yet, and what to say meanwhile.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use torno_metadata::{Outcome, Run, RunState, StoredManifest};
use torno_oci::{Capacity, Reference, RepositoryName, RunId, Tag};

use crate::{Registry, RegistryError};

/// Why there is no result under a tag.
#[derive(Clone, Debug)]
pub struct NoResult {
    /// The run it would come from.
    pub run: RunId,
    /// How far that is.
    pub progress: Progress,
    /// Since when the site's engine has not answered, if it does not.
    pub outage: Option<Timestamp>,
}

/// How far a run is, as far as the person who waits for it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// In the queue, behind so many.
    Queued {
        /// Runs of its project before it that are not over.
        before: u64,
        /// Whether it begins anew, after a failure of the site.
        again: bool,
    },
    /// In the queue, where it stays until somebody lets it go on.
    Paused {
        /// Whether everything is paused, and not its project alone.
        site: bool,
        /// As what somebody has paused it.
        by: Capacity,
    },
    /// In the queue, where it stays until the host is found to keep what runs are promised.
    Unfit {
        /// Since when it is known not to be.
        since: Timestamp,
    },
    /// Being prepared or running or being collected.
    Running {
        /// For how long, in whole seconds; `None` while it is prepared.
        since: Option<Duration>,
        /// How long it may run.
        limit: Option<Duration>,
    },
    /// Over, since somebody wanted it to end.
    Cancelled {
        /// Who: the owner's name, or what others are.
        by: String,
        /// Where its log can be pulled, if the project lets logs out.
        log: Option<(RepositoryName, String)>,
    },
    /// Over, without a result.
    Failed {
        /// How.
        outcome: Outcome,
        /// Where its log can be pulled, if the project lets logs out.
        log: Option<(RepositoryName, String)>,
    },
}

impl NoResult {
    /// The sentence that the Docker client prints; `host` is the name people know this registry by.
    pub fn message(&self, host: &str) -> String {
        let run = self.run;
        let message = match &self.progress {
            Progress::Queued { before, again } => {
                let again = if *again { " again after a failure of the site" } else { "" };
                let place = match before {
                    0 => "next of its project".to_owned(),
                    1 => "1 run before it in its project".to_owned(),
                    _ => format!("{before} runs before it in its project"),
                };
                format!("run {run} is queued{again}, {place}")
            }
            Progress::Paused { site: true, by } => {
                format!("run {run} is queued, and no runs are started here for now (paused by {by})")
            }
            Progress::Paused { site: false, by } => {
                format!("run {run} is queued, and its project is paused by {by}")
            }
            Progress::Unfit { since } => format!(
                "run {run} is queued, and no run of its project is started: since {} this host is not known to keep what \
                 runs are promised; tell its admin, whom `torno doctor` shows why",
                shown(*since)
            ),
            Progress::Running { since: None, .. } => format!("run {run} is being prepared"),
            Progress::Running { since: Some(since), limit: None } => {
                format!("run {run} has been running for {}", span(*since))
            }
            Progress::Running { since: Some(since), limit: Some(limit) } => {
                format!("run {run} has been running for {} of at most {}", span(*since), span(*limit))
            }
            Progress::Cancelled { by, log: None } => format!("run {run} was cancelled by {by}"),
            Progress::Cancelled { by, log: Some((repository, tag)) } => {
                format!("run {run} was cancelled by {by}; its log: {host}/{repository}:{tag}")
            }
            Progress::Failed { outcome, log: None } => format!("run {run} failed: {outcome}"),
            Progress::Failed { outcome, log: Some((repository, tag)) } => {
                format!("run {run} failed: {outcome}; its log: {host}/{repository}:{tag}")
            }
        };
        match self.outage {
            Some(since) if self.is_pending() => format!(
                "{message}; the site's container engine has not answered since {}: runs go on when it does, tell its admin",
                shown(since)
            ),
            _ => message,
        }
    }

    /// Whether it is worth asking again.
    pub fn is_pending(&self) -> bool {
        !matches!(self.progress, Progress::Failed { .. } | Progress::Cancelled { .. })
    }
}

fn shown(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn span(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string().replace(' ', "")
}

impl Registry {
    /// The result under a tag of `repository`, which the runs of `source` fill, waited for up to `wait`.
    pub(crate) async fn result(
        &self,
        repository: &RepositoryName,
        source: &RepositoryName,
        tag: &Tag,
        wait: Duration,
    ) -> Result<StoredManifest, RegistryError> {
        let deadline = Instant::now() + wait;
        let mut changes = self.news.changed.subscribe();
        loop {
            // Marked as seen before looking, so that no change falls between the look and the wait.
            changes.mark_unchanged();
            let reference = Reference::Tag(tag.clone());
            let found = self.metadata.manifest(repository, &reference).await;
            if let Some(found) = self.quarantine.manifest(found).await? {
                return Ok(found);
            }
            let Some(run) = self.run_behind(source, tag).await? else {
                return Err(RegistryError::ManifestUnknown(reference));
            };
            let Some(reason) = self.no_result(repository, &run).await? else {
                // It succeeded, so its result was there and has been deleted, or is there by now.
                let found = self.metadata.manifest(repository, &reference).await;
                let found = self.quarantine.manifest(found).await?;
                return found.ok_or(RegistryError::ManifestUnknown(reference));
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let moved = reason.is_pending() && tokio::time::timeout(left, changes.changed()).await.is_ok();
            if !moved {
                return Err(RegistryError::NoResult(Box::new(reason)));
            }
        }
    }

    /// The run a result tag speaks of: the latest of that tag, or the one that `run-<n>` names.
    async fn run_behind(&self, source: &RepositoryName, tag: &Tag) -> Result<Option<Run>, RegistryError> {
        let number = tag.as_str().strip_prefix("run-").and_then(|number| number.parse::<RunId>().ok());
        match number {
            Some(id) => Ok(self.metadata.run(id).await?.filter(|run| run.repository == *source)),
            None => Ok(self.metadata.latest_run(source, tag).await?),
        }
    }

    async fn no_result(
        &self,
        repository: &RepositoryName,
        run: &Run,
    ) -> Result<Option<NoResult>, RegistryError> {
        let progress = match &run.state {
            RunState::Finished(Outcome::Succeeded) => return Ok(None),
            RunState::Finished(outcome) => {
                let log = run.result.as_ref().map(|_| (repository.clone(), log_tag(run)));
                match outcome {
                    // Whoever may ask knows whose the run is; who answers for the data or the site is not told.
                    Outcome::Cancelled { by: Capacity::Owner } => {
                        Progress::Cancelled { by: run.owner.to_string(), log }
                    }
                    Outcome::Cancelled { by } => Progress::Cancelled { by: by.to_string(), log },
                    outcome => Progress::Failed { outcome: outcome.clone(), log },
                }
            }
            RunState::Queued => {
                if let Some(pause) = self.metadata.pause_of(run.id).await? {
                    Progress::Paused { site: pause.project.is_none(), by: pause.wanted.capacity }
                } else if let Some(since) = self.metadata.unfit_of(run.id).await? {
                    Progress::Unfit { since }
                } else {
                    let before = self.metadata.runs_before(run.id).await?;
                    Progress::Queued { before, again: run.not_before.is_some() }
                }
            }
            RunState::Pulling | RunState::Starting | RunState::Running | RunState::Collecting => {
                let since = run.started_at.map(|at| Timestamp::now().duration_since(at));
                Progress::Running {
                    since: since.and_then(|since| since.try_into().ok()),
                    limit: run.time_limit,
                }
            }
        };
        Ok(Some(NoResult { run: run.id, progress, outage: self.metadata.outage().await? }))
    }
}

/// Where the log of a failed run is: under its own tag, or when that has no room for `.log` under its number.
fn log_tag(run: &Run) -> String {
    let own = format!("{}.log", run.tag);
    if own.parse::<Tag>().is_ok() { own } else { format!("run-{}.log", run.id) }
}
