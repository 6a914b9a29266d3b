//! The loop: takes up what an earlier process left, then claims runs as they are queued.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use torno_auth::ProjectName;
use torno_inside::Attack;
use torno_oci::RunId;
use torno_registry::{Outcome, Registry, RunLog, Selection};

use crate::{
    ExecutorError, Line, ProjectPolicy, Runtime, Settings,
    doctor::Fit,
    engine::Engine,
    fingerprint,
    instance::{ExecutorLock, Instance},
    life::{Life, Site},
    provenance::{KEYS, SigningKey},
    recover, sample,
    volatile::Volatile,
};

/// How long is waited before something that failed is tried again: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long after the start the host is looked at if nothing is to be run before.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How long after a look at a host that breaks a promise the next one is.
const AGAIN: Duration = Duration::from_mins(1);

/// Carries out the runs of one data directory.
#[derive(Debug)]
pub struct Executor {
    site: Arc<Site>,
    concurrent_runs: usize,
    _lock: ExecutorLock,
}

/// The runs under way.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    tasks: JoinSet<()>,
    runs: HashMap<Id, RunId>,
}

impl Executor {
    /// An executor for a data directory, which nobody else may have. `pull_from` is the loopback address where the
    /// engine finds the images. Blocks.
    pub fn new(
        registry: Arc<Registry>,
        settings: Settings,
        projects: Arc<ArcSwap<BTreeMap<ProjectName, ProjectPolicy>>>,
        data: &Path,
        pull_from: SocketAddr,
    ) -> Result<Self, ExecutorError> {
        if settings.engine.to_str().is_none() {
            return Err(ExecutorError::Socket(settings.engine));
        }
        let lock = ExecutorLock::take(data)?;
        let instance = Instance::of(data)?;
        let site = Site {
            registry,
            engine: Engine::new(&settings.engine),
            projects,
            volatile: Volatile::new(&settings.volatile, &instance),
            instance,
            key: SigningKey::open(&data.join(KEYS))?,
            total: settings.total,
            pull_from,
            fit: Fit::new(settings.accept, data),
            keep_free: settings.keep_free,
            spool: data.join("uploads"),
        };
        Ok(Self { site: Arc::new(site), concurrent_runs: settings.concurrent_runs.max(1), _lock: lock })
    }

    /// Carries out runs until cancelled.
    ///
    /// Then every run is left where it is, as if the process had been killed: what is under way goes on in the
    /// engine, and the next start takes it up from its state.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ExecutorError> {
        let mut under_way = UnderWay::default();
        let samples = stop.run_until_cancelled(Box::pin(sample::keep(&self.site)));
        let fingerprints = stop.run_until_cancelled(Box::pin(fingerprint::keep(&self.site)));
        let work = async {
            if stop.run_until_cancelled(self.take_up(&mut under_way)).await.is_some()
                && self.until_fit(&mut under_way, &stop).await
            {
                stop.run_until_cancelled(self.carry_out(&mut under_way)).await;
            }
        };
        tokio::join!(work, samples, fingerprints);
        // The lock goes only when nothing is at work any more.
        under_way.tasks.shutdown().await;
        Ok(())
    }

    /// What an earlier process left.
    async fn take_up(&self, under_way: &mut UnderWay) {
        let site = &self.site;
        let mut wait = Wait::default();
        site.reach().await;
        while let Err(error) = recover::recover(site, under_way).await {
            tracing::error!(%error, "the runs of an earlier process could not be taken up; trying again");
            wait.next().await;
            site.reach().await;
        }
    }

    async fn carry_out(&self, under_way: &mut UnderWay) {
        let site = &self.site;
        let mut wait = Wait::default();
        loop {
            while under_way.tasks.len() < self.concurrent_runs {
                // A run is claimed only when there is an engine for it: until then it is queued and says so.
                site.reach().await;
                match site.registry.claim(site.needs(), site.total).await {
                    Ok(Some(claimed)) => {
                        wait = Wait::default();
                        under_way.begin(claimed.run.id, Life::new(site, claimed.run).whole(claimed.token));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, "no run could be claimed; trying again");
                        wait.next().await;
                    }
                }
            }
            let full = under_way.tasks.len() >= self.concurrent_runs;
            tokio::select! {
                ended = under_way.ended(), if !under_way.tasks.is_empty() => self.look_after(ended).await,
                () = site.registry.queued(), if !full => {}
            }
        }
    }

    /// Starts nothing until the host keeps what runs are promised; what has been started before goes on. Whether it
    /// does, or was told to stop before.
    async fn until_fit(&self, under_way: &mut UnderWay, stop: &CancellationToken) -> bool {
        let mut fit = Box::pin(self.fit(stop));
        loop {
            tokio::select! {
                fit = &mut fit => return fit,
                ended = under_way.ended(), if !under_way.tasks.is_empty() => self.look_after(ended).await,
            }
        }
    }

    /// Looks at the host until it keeps every mandatory promise that the configuration does not give up, or until told
    /// to stop; whether it does.
    async fn fit(&self, stop: &CancellationToken) -> bool {
        let site = &self.site;
        let mut wait = Wait::default();
        if stop.run_until_cancelled(self.called_for()).await.is_none() {
            return false;
        }
        loop {
            let since = Instant::now();
            let pause = match site.fit.examine(site, stop).await {
                Ok(None) => return false,
                Ok(Some(examination)) => {
                    let forbidding = site.fit.forbidding(&examination);
                    if forbidding.is_empty() {
                        let took = since.elapsed();
                        tracing::info!(?took, "this host keeps what runs are promised");
                        return true;
                    }
                    for Line { attack, verdict } in forbidding {
                        let Attack { name, promise, remedy, .. } = attack;
                        let runtime = examination.runtime.map(Runtime::name);
                        tracing::error!(
                            line = name,
                            runtime,
                            "not kept here: {promise} ({verdict}). {remedy}"
                        );
                    }
                    tracing::error!(
                        "no run is started on this host, and what is pushed stays queued: `torno doctor` shows every line, \
                         and docs/SECURITY.md says what `executor.accept` is for. The next look is in {AGAIN:?}"
                    );
                    stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await
                }
                Err(error) => {
                    tracing::error!(
                        %error,
                        "it could not be found out what this host keeps of what runs are promised, and none is started; \
                         trying again"
                    );
                    let again = async {
                        wait.next().await;
                        site.reach().await;
                    };
                    stop.run_until_cancelled(again).await
                }
            };
            if pause.is_none() {
                return false;
            }
        }
    }

    /// Resolves when there is something to run, or else a little after the start, which has better to do.
    async fn called_for(&self) {
        let registry = &self.site.registry;
        let waiting = registry.runs(Selection::Unfinished, 1).await;
        if waiting.is_ok_and(|waiting| waiting.is_empty()) {
            tokio::select! {
                () = registry.queued() => {}
                () = tokio::time::sleep(FIRST_LOOK) => {}
            }
        }
    }

    /// A run whose task panicked is ended, so that it does not stand there for ever.
    async fn look_after(&self, ended: Option<(RunId, JoinError)>) {
        let Some((run, error)) = ended else { return };
        tracing::error!(%run, %error, "a defect of Torno ended the work on a run");
        let ended = self.site.registry.finish(run, Outcome::SiteFailure, RunLog::default(), None).await;
        if let Err(error) = ended {
            tracing::error!(%run, %error, "the run could not be ended");
        }
    }
}

impl UnderWay {
    /// Works on a run beside the others.
    pub(crate) fn begin(&mut self, run: RunId, work: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(work);
        self.runs.insert(task.id(), run);
    }

    /// Whether a run is being worked on.
    pub(crate) fn works_on(&self, run: RunId) -> bool {
        self.runs.values().any(|other| *other == run)
    }

    /// Waits until the work on a run ends; which one it was, when a panic ended it.
    async fn ended(&mut self) -> Option<(RunId, JoinError)> {
        match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => {
                self.runs.remove(&id);
                None
            }
            Err(error) => self.runs.remove(&error.id()).map(|run| (run, error)),
        }
    }
}

/// Waiting a little longer each time.
#[derive(Debug)]
pub(crate) struct Wait(Duration);

impl Default for Wait {
    fn default() -> Self {
        Self(FIRST_WAIT)
    }
}

impl Wait {
    pub(crate) async fn next(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = self.0.saturating_mul(2).min(LONGEST_WAIT);
    }
}
