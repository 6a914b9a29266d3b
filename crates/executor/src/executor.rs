//! The loop: takes up what nobody works on, and claims runs as they are queued. It never waits for the engine: whoever does
//! is a task of its own, or is waited for beside everything else.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Interval, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use torno_auth::ProjectName;
use torno_oci::RunId;
use torno_registry::{ClaimedRun, Registry, RegistryError, RunState};

use crate::{
    ExecutorError, ProjectPolicy, Settings,
    engine::Engine,
    fingerprint, fit,
    fit::Fit,
    instance::{ExecutorLock, Instance},
    life::{Life, Site},
    presence,
    presence::Presence,
    provenance::{KEYS, SigningKey},
    recover, sample,
    volatile::Volatile,
};

/// How long is waited before something that failed is tried again: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Carries out the runs of one data directory.
#[derive(Debug)]
pub struct Executor {
    site: Arc<Site>,
    concurrent_runs: usize,
    _lock: ExecutorLock,
}

/// The runs under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    tasks: JoinSet<()>,
    runs: HashMap<Id, RunId>,
    often: Interval,
}

/// What the loop attends to besides what it waits for.
enum Event {
    /// The work on a run has ended; which one it was, when a panic ended it.
    Ended(Option<(RunId, JoinError)>),
    /// It is time to look for runs that nobody works on.
    Due,
}

/// Whether it is worth looking for a run to claim.
#[derive(Debug, Default)]
struct Turn {
    /// Nothing could be claimed when it was looked last.
    idle: bool,
    /// The database failed when it was asked last.
    failed: Option<Wait>,
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
            engine: Engine::new(&settings.engine, data),
            projects,
            volatile: Volatile::new(&settings.volatile, &instance),
            instance,
            key: SigningKey::open(&data.join(KEYS))?,
            total: settings.total,
            pull_from,
            fit: Fit::new(settings.accept, data),
            keep_free: settings.keep_free,
            keep_cache: settings.keep_cache,
            spool: data.join("uploads"),
            presence: Presence::default(),
            hands: Arc::default(),
            reconcile: settings.reconcile,
            patience: settings.patience,
            attempts: settings.attempts.max(1),
        };
        Ok(Self { site: Arc::new(site), concurrent_runs: settings.concurrent_runs.max(1), _lock: lock })
    }

    /// Carries out runs until cancelled.
    ///
    /// Then every run is left where it is, as if the process had been killed: what is under way goes on in the
    /// engine, and the next start takes it up from its state.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ExecutorError> {
        let mut under_way = UnderWay::new(self.site.reconcile);
        let samples = stop.run_until_cancelled(Box::pin(sample::keep(&self.site)));
        let fingerprints = stop.run_until_cancelled(Box::pin(fingerprint::keep(&self.site)));
        let presence = stop.run_until_cancelled(Box::pin(presence::keep(&self.site)));
        let sweeping = stop.run_until_cancelled(Box::pin(recover::keep(&self.site)));
        let fitness = Box::pin(fit::keep(&self.site, &stop));
        let work = stop.run_until_cancelled(async {
            // Before anything is claimed, so that no more are under way than may be.
            self.take_up_first(&mut under_way).await;
            self.carry_out(&mut under_way).await;
        });
        tokio::join!(work, presence, fitness, sweeping, samples, fingerprints);
        // The lock goes only when nothing is at work any more.
        under_way.tasks.shutdown().await;
        Ok(())
    }

    /// What an earlier process left.
    async fn take_up_first(&self, under_way: &mut UnderWay) {
        let mut wait = Wait::default();
        while let Err(error) = recover::take_up(&self.site, under_way).await {
            tracing::error!(%error, "the runs of an earlier process could not be taken up; trying again");
            wait.next().await;
        }
    }

    async fn carry_out(&self, under_way: &mut UnderWay) {
        let mut turn = Turn::default();
        loop {
            let room = under_way.tasks.len() < self.concurrent_runs;
            tokio::select! {
                event = under_way.event() => {
                    self.attend(under_way, event).await;
                    // There may be room that there was not.
                    turn.idle = false;
                }
                () = self.called(&mut turn), if room => self.claim(under_way, &mut turn).await,
            }
        }
    }

    /// Resolves when there may be a run to claim, and an engine for it: until then runs are queued and say so. Cancelling
    /// it is harmless.
    async fn called(&self, turn: &mut Turn) {
        if let Some(failed) = &mut turn.failed {
            failed.next().await;
        }
        if turn.idle {
            tokio::select! {
                () = self.site.registry.queued() => {}
                () = self.site.fit.more() => {}
                () = self.due() => {}
            }
            turn.idle = false;
        }
        self.site.reach().await;
    }

    /// Resolves when the first of the runs that wait for a time may be claimed.
    async fn due(&self) {
        match self.site.registry.next_due().await {
            Ok(Some(due)) => {
                let wait = Duration::try_from(due.duration_since(Timestamp::now())).unwrap_or_default();
                // It is claimed by the milliseconds of the clock.
                sleep(wait + Duration::from_millis(1)).await;
            }
            Ok(None) => std::future::pending().await,
            Err(error) => {
                tracing::error!(%error, "it is not known when the next run may be tried again; looking again");
                sleep(LONGEST_WAIT).await;
            }
        }
    }

    async fn claim(&self, under_way: &mut UnderWay, turn: &mut Turn) {
        let site = &self.site;
        let held = site.fit.held(&site.projects.load());
        match site.registry.claim(site.needs(), held, site.total).await {
            Ok(Some(claimed)) => {
                turn.failed = None;
                let ClaimedRun { run, token, gpus } = claimed;
                under_way.begin(site, run.id, Life::new(site, run).whole(token, gpus));
            }
            Ok(None) => {
                turn.failed = None;
                turn.idle = true;
            }
            Err(error) => {
                tracing::error!(%error, "no run could be claimed; trying again");
                turn.failed.get_or_insert_default();
            }
        }
    }

    async fn attend(&self, under_way: &mut UnderWay, event: Event) {
        let attended = match event {
            Event::Ended(None) => Ok(()),
            Event::Ended(Some((run, error))) => self.look_after(under_way, run, &error).await,
            Event::Due => recover::take_up(&self.site, under_way).await,
        };
        if let Err(error) = attended {
            tracing::error!(%error, "runs that nobody works on could not be taken up; trying again later");
        }
    }

    /// A run whose task panicked is tried again as after any failure of the site, so that it does not stand there for ever.
    async fn look_after(
        &self,
        under_way: &mut UnderWay,
        run: RunId,
        error: &JoinError,
    ) -> Result<(), RegistryError> {
        tracing::error!(%run, %error, "a defect of Torno ended the work on a run");
        let site = &self.site;
        if let Some(found) = site.registry.run(run).await?
            && !matches!(found.state, RunState::Queued | RunState::Finished(_))
        {
            under_way.begin(site, run, Life::new(site, found).broken());
        }
        Ok(())
    }
}

impl UnderWay {
    fn new(often: Duration) -> Self {
        let mut often = interval(often);
        often.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { tasks: JoinSet::new(), runs: HashMap::new(), often }
    }

    /// Works on a run beside the others, once nobody else has it in hand.
    pub(crate) fn begin(&mut self, site: &Site, run: RunId, work: impl Future<Output = ()> + Send + 'static) {
        let hands = Arc::clone(&site.hands);
        let task = self.tasks.spawn(async move {
            let _hand = hands.wait_for(run).await;
            work.await;
        });
        self.runs.insert(task.id(), run);
    }

    /// Whether a run is being worked on.
    pub(crate) fn works_on(&self, run: RunId) -> bool {
        self.runs.values().any(|other| *other == run)
    }

    /// The next thing to attend to. Cancelling it is harmless.
    async fn event(&mut self) -> Event {
        tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => match ended {
                Ok((id, ())) => {
                    self.runs.remove(&id);
                    Event::Ended(None)
                }
                Err(error) => Event::Ended(self.runs.remove(&error.id()).map(|run| (run, error))),
            },
            _ = self.often.tick() => Event::Due,
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
