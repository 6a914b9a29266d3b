//! One run, from its claim to the last trace of it in the engine. Every step may be the last of this process: the
//! next one takes the run up from the state that was noted.

mod data;
mod finish;
mod lost;
mod measure;
mod output;
mod prepare;
mod reach;
mod watch;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytesize::ByteSize;
use tokio::time::{Instant, sleep_until};
use torno_auth::ProjectName;
use torno_oci::Namespace;
use torno_registry::{Gpu, Measured, Outcome, PullToken, Registry, Resources, Run, RunLog};

use crate::{
    LogPolicy, ProjectPolicy,
    engine::{Container, Engine, EngineError, start_reason},
    executor::Wait,
    fit::Fit,
    hands::Hands,
    instance::Instance,
    policy::NoSample,
    presence::Presence,
    provenance::SigningKey,
    relay::Exchange,
    volatile::Volatile,
};

pub(crate) use reach::{given, take_back};

use lost::Loss;
use prepare::{Ready, Unready};

/// How often what concerns the registry or the removal of leftovers is tried. What still fails then fails for a
/// reason that time does not heal; the next start tries again.
const TRIES: u32 = 5;

/// What all runs share.
#[derive(Debug)]
pub(crate) struct Site {
    pub registry: Arc<Registry>,
    pub engine: Engine,
    pub projects: Arc<ArcSwap<BTreeMap<ProjectName, ProjectPolicy>>>,
    pub instance: Instance,
    /// The runtimes that keep what runs are promised, as far as that was looked at.
    pub fit: Fit,
    /// What results are signed with.
    pub key: SigningKey,
    /// What the limits of the runs under way may add up to.
    pub total: Resources,
    /// Where the engine finds the images.
    pub pull_from: SocketAddr,
    /// What the disk of the outputs keeps free.
    pub keep_free: ByteSize,
    /// The bytes of images that the engine keeps after their runs.
    pub keep_cache: ByteSize,
    /// Where what runs leave is kept while it is read, in a file without a name.
    pub spool: PathBuf,
    /// Where what they are given is that no disk may hold.
    pub volatile: Volatile,
    /// Whether the engine answers.
    pub presence: Presence,
    /// The runs that somebody is at work on.
    pub hands: Arc<Hands>,
    /// How often database and engine are compared.
    pub reconcile: Duration,
    /// How long a run that has begun waits for what the site owes it.
    pub patience: Duration,
    /// How often a run is tried in all when the site fails it.
    pub attempts: u64,
}

impl Site {
    /// What a run of each project takes of the host.
    pub(crate) fn needs(&self) -> BTreeMap<ProjectName, Resources> {
        let projects = self.projects.load();
        projects.iter().map(|(name, policy)| (name.clone(), policy.limits.resources())).collect()
    }

    /// Waits until the engine answers. Cancelling it is harmless.
    pub(crate) async fn reach(&self) {
        while let Err(error) = self.engine.reach().await {
            self.presence.missed(&error);
            self.presence.back().await;
        }
    }
}

/// One run in the hands of one task.
#[derive(Debug)]
pub(crate) struct Life {
    site: Arc<Site>,
    run: Run,
    project: Option<ProjectName>,
    /// What its project says now, or how a run ends of which it says nothing any more.
    policy: Result<ProjectPolicy, Outcome>,
    /// What it was seen to use since this process takes care of it.
    measured: Mutex<Measured>,
}

/// Whether this process saw the whole of a run's time in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    /// From its start to its end.
    Whole,
    /// Another process watched before, or the engine was away for a while: it may have ended the container itself.
    WithGaps,
}

/// A container that has ended, and why as far as it is known without its log.
#[derive(Debug)]
struct Ended {
    container: Container,
    outcome: Outcome,
}

impl Life {
    pub(crate) fn new(site: &Arc<Site>, run: Run) -> Self {
        let namespace = run.repository.namespace();
        let project = namespace.project().and_then(|project| project.parse::<ProjectName>().ok());
        let projects = site.projects.load();
        let policy = project.as_ref().and_then(|project| projects.get(project));
        let policy = match (namespace, policy) {
            (Namespace::Run { .. }, Some(policy)) => Ok(policy.clone()),
            (Namespace::Try { .. }, Some(policy)) => policy.for_try().map_err(|NoSample(dataset)| {
                tracing::error!(run = %run.id, dataset, "a run has no sample to be tried on any more");
                Outcome::SampleGone
            }),
            _ => Err(Outcome::ProjectGone),
        };
        Self { site: Arc::clone(site), run, project, policy, measured: Mutex::default() }
    }

    /// A run that has been claimed, from the beginning.
    pub(crate) async fn whole(mut self, token: PullToken, gpus: Vec<Gpu>) {
        let numbers: Vec<u32> = gpus.iter().map(|gpu| gpu.number()).collect();
        tracing::info!(
            run = %self.run.id, repository = %self.run.repository, attempt = self.run.attempt, gpus = ?numbers,
            "a run is prepared"
        );
        match Box::pin(self.prepare(token.secret(), &gpus)).await {
            Ok(Ready { exchange, time }) => {
                self.run.time_limit = Some(time);
                self.live(Watched::Whole, exchange).await;
            }
            Err(Unready::Waits) => self.begin_again().await,
            Err(Unready::Ends(outcome)) => self.end(outcome, RunLog::default(), None).await,
            Err(Unready::Lost(loss)) => self.lost(loss).await,
            Err(Unready::Failed(error)) => {
                tracing::warn!(run = %self.run.id, %error, attempt = self.run.attempt, "a run could not be prepared");
                self.lost(Loss::of_preparation(&error)).await;
            }
        }
    }

    /// A run whose preparation was cut off, by the end of this process as a rule.
    pub(crate) async fn cut_off(self) {
        let name = self.name();
        match self.insist(|| self.site.engine.inspect(&name)).await {
            // The state is noted before the engine is told to start, so this is a database put back from a backup.
            Ok(Some(container)) if container.started.is_some() => self.resumed().await,
            Ok(_) => self.begin_again().await,
            Err(error) => self.lost(Loss::of_preparation(&error.into())).await,
        }
    }

    /// A run whose container another process has started or was about to start.
    pub(crate) async fn resumed(self) {
        match self.exchange().await {
            Ok(exchange) => self.live(Watched::WithGaps, exchange).await,
            // After the host was started anew there is nothing left to connect.
            Err(error) => {
                tracing::error!(run = %self.run.id, %error, "the services of a run cannot be connected again");
                self.live(Watched::WithGaps, None).await;
            }
        }
    }

    /// A run whose container has ended under the eyes of another process.
    pub(crate) async fn collected_again(self) {
        let name = self.name();
        let found = self.insist(|| self.site.engine.inspect(&name)).await;
        match found {
            Ok(Some(container)) if !container.running => {
                match self.judge(&container, None, Watched::Whole).await {
                    Ok(outcome) => self.conclude(Ended { container, outcome }).await,
                    Err(loss) => self.lost(loss).await,
                }
            }
            // It runs: what was noted is not so, and what it does is not over.
            Ok(Some(_)) => self.resumed().await,
            Ok(None) => self.lost(Loss::Container).await,
            Err(error) => self.lost(Loss::of(&error.into())).await,
        }
    }

    /// The name of its container and of its volume.
    pub(crate) fn name(&self) -> String {
        self.site.instance.container(self.run.id)
    }

    /// The image that runs, as the engine pulls it.
    fn image(&self) -> String {
        let repository = self.site.instance.repository(self.run.id);
        format!("{}/{repository}@{}", self.site.pull_from, self.run.image)
    }

    /// What it is held to. Of a project that is gone, nothing is let out.
    fn policy(&self) -> ProjectPolicy {
        let gone = || ProjectPolicy { logs: LogPolicy::Never, ..ProjectPolicy::default() };
        self.policy.clone().unwrap_or_else(|_| gone())
    }

    /// How long it may run: what was said when it started.
    fn time_limit(&self) -> Duration {
        self.run.time_limit.unwrap_or_else(|| self.policy().limits.time)
    }

    /// Starts the container if nobody has, waits for its end and concludes the run.
    async fn live(&self, watched: Watched, exchange: Option<Exchange>) {
        let from_start_to_end = Box::pin(async {
            match self.start().await? {
                Some(container) => tokio::select! {
                    ended = self.watch(container, watched) => Ok(ended?),
                    never = self.measure() => match never {},
                },
                None => Err(Unready::Lost(Loss::Container)),
            }
        });
        let ended = match exchange {
            Some(exchange) => exchange.beside(&self.site.registry, from_start_to_end).await,
            None => from_start_to_end.await,
        };
        let ended = match ended {
            Err(Unready::Lost(loss)) => Ok(Err(loss)),
            Err(Unready::Waits) => return self.begin_again().await,
            Err(Unready::Ends(outcome)) => return self.end(outcome, RunLog::default(), None).await,
            Err(Unready::Failed(error)) => Err(error),
            Ok(ended) => Ok(ended),
        };
        match ended {
            Ok(Ok(ended)) => self.conclude(ended).await,
            Ok(Err(loss)) => self.lost(loss).await,
            Err(error) => {
                tracing::error!(run = %self.run.id, %error, "a run cannot be followed any further");
                self.lost(Loss::of(&error)).await;
            }
        }
    }

    /// The started container; `None` when it is gone. One that was ever started is never started again.
    async fn start(&self) -> Result<Option<Container>, Unready> {
        let name = self.name();
        let engine = &self.site.engine;
        // Of one that is known to have begun, to the end of its time as well.
        let left = self.run.started_at.map_or(Duration::ZERO, |started| self.left(started));
        let patience = Instant::now() + left + self.site.patience;
        loop {
            let Some(container) = self.insist_until(patience, || engine.inspect(&name)).await? else {
                return Ok(None);
            };
            if let Some(started) = container.started {
                self.registered(|| self.site.registry.started(self.run.id, started)).await?;
                return Ok(Some(container));
            }
            // Another process was about to start it, and was stopped before.
            if let Some(cancelled) = self.site.registry.cancellation(self.run.id).await? {
                return Err(Unready::Ends(cancelled));
            }
            if self.reaches() && !self.is_connected().await? {
                tracing::warn!(run = %self.run.id, "the relay of a run ended before the run began");
                return Err(Unready::Lost(Loss::Relay));
            }
            match engine.start(&name).await {
                Ok(()) => {}
                // Whether it has started is seen in the next turn.
                Err(error) if error.is_away() && Instant::now() < patience => {}
                Err(error) if error.denies_gpus() => {
                    tracing::error!(
                        run = %self.run.id, %error,
                        "the engine did not give a run its GPUs; `torno doctor` shows whether it can"
                    );
                    return Err(Unready::Lost(Loss::Gpus));
                }
                Err(EngineError::NotFound(reason) | EngineError::Refused { reason, .. }) => {
                    let container = self.insist(|| engine.inspect(&name)).await?;
                    if container.is_some_and(|container| container.started.is_none()) {
                        tracing::warn!(run = %self.run.id, reason, "the engine did not start a run");
                        return Err(Unready::Ends(Outcome::CannotStart { reason: start_reason(&reason) }));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Calls the engine until it answers, for as long as a run that has begun waits for it.
    async fn insist<T, F>(&self, call: impl Fn() -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        self.insist_until(Instant::now() + self.site.patience, call).await
    }

    /// Calls the engine until it answers, or until it has been late enough.
    async fn insist_until<T, F>(&self, late: Instant, call: impl Fn() -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let mut wait = Wait::default();
        loop {
            match call().await {
                Err(error) if error.is_away() => {
                    if Instant::now() >= late {
                        return Err(error);
                    }
                    tracing::debug!(run = %self.run.id, %error, "the engine does not answer; trying again");
                    tokio::select! {
                        () = wait.next() => {}
                        () = sleep_until(late) => {}
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Asks the registry a few times: a database may be busy for a moment.
    async fn registered<F>(&self, step: impl Fn() -> F) -> Result<(), torno_registry::RegistryError>
    where
        F: Future<Output = Result<(), torno_registry::RegistryError>>,
    {
        let mut wait = Wait::default();
        for _ in 1..TRIES {
            match step().await {
                Ok(()) => return Ok(()),
                // It does not come by trying again.
                Err(cancelled @ torno_registry::RegistryError::Cancelled(_)) => return Err(cancelled),
                Err(error) => {
                    tracing::warn!(run = %self.run.id, %error, "a step of a run could not be noted; trying again");
                }
            }
            wait.next().await;
        }
        step().await
    }
}
