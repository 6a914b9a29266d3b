//! `torno serve`: the registry and the executor, until told to stop.

mod tls;

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, signal::unix::SignalKind, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use torno_audit::{Actor, Audit, AuditError, Event, Segments};
use torno_auth::{Authenticator, Directory, Tokens};
use torno_executor::Executor;
use torno_registry::{Collected, Ear, Registry, Retention, Scrubbed};
use torno_server::{Listeners, Provider, Server, Settings};

use super::{ConfigFile, Failure, on};
use crate::{
    config::{Config, Gc, Scrub},
    descriptors, telemetry,
};
use tls::Secured;

const EXAMPLES: &str = "\
Examples:
  torno serve
  torno serve --config /etc/torno/torno.toml
  TORNO_LOG=debug torno serve

SIGTERM and SIGINT let requests under way end, for up to `listen.drain`, and stop; containers of runs go on and are \
found again at the next start. SIGHUP reads the configuration again: users, groups, projects, datasets and the TLS \
certificate change at once, the rest at the next start. Files that [tls] names are also read when they change.";

/// Serve the registry and run what is pushed
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    #[command(flatten)]
    file: ConfigFile,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        telemetry::start();
        descriptors::raise();
        let runtime = tokio::runtime::Runtime::new().map_err(Failure::Runtime)?;
        runtime.block_on(self.serve(config))
    }

    async fn serve(&self, config: Config) -> Result<(), Failure> {
        let stop = CancellationToken::new();
        let mut terminate = on(SignalKind::terminate())?;
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut reload = on(SignalKind::hangup())?;

        super::make_private_folder(&config.data)?;
        super::keep_from_others(&config.data);
        let registry = Arc::new(super::open(&config, Actor::torno())?);
        registry.audit().note(registry.itself(), Event::Started { version: env!("CARGO_PKG_VERSION") }).await;
        // Before anything is served: the power may have failed before files that were promised had reached the disk.
        settle(&registry).await;
        let directory = config.auth.directory.map(Directory::new).transpose().map_err(Failure::Directory)?;
        let provider = config.auth.provider.map(Provider::new).transpose().map_err(Failure::Provider)?;
        let authenticator = Authenticator::new(&config.auth.htpasswd, directory).map_err(Failure::Users)?;
        let projects = Arc::new(ArcSwap::from_pointee(config.projects));
        let public = listen(config.address).await?;
        // The engine is on this machine; nobody else has a reason to come by here.
        let engine = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let clear = match config.clear {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let address = public.local_addr().map_err(Failure::Runtime)?;
        let pull_from = engine.local_addr().map_err(Failure::Runtime)?;
        // Before the executor looks at what is queued.
        let ear = registry.ear()?;
        let executor = Executor::new(
            Arc::clone(&registry),
            config.executor,
            Arc::clone(&projects),
            &config.data,
            pull_from,
        )?;
        let settings = Settings {
            hostname: config.hostname.map_or_else(|| address.to_string(), |name| name.to_string()),
            result_wait: config.result_wait,
            drain: config.drain,
            outside: config.outside,
            token_lifetime: config.auth.token_lifetime,
            login_lifetime: config.auth.login_lifetime,
            chunk_min_length: config.chunk_min_length.and_then(|length| NonZeroU64::new(length.as_u64())),
            limits: descriptors::within(config.limits),
            proxies: config.proxies,
        };
        let mut secured = Secured::new(config.tls);
        let ordering = secured.ordering();
        let tokens = Tokens::open(&config.data.join("keys/token"), &settings.hostname);
        let tokens = Arc::new(tokens.map_err(Failure::Keys)?);
        let server = Server::new(
            Arc::clone(&registry),
            Arc::new(authenticator),
            Arc::clone(&tokens),
            provider,
            settings,
            secured.tls(),
        );

        // One line, in one piece, for whoever or whatever waits for the start.
        let line = format!("listening on {address}\n");
        io::stderr().write_all(line.as_bytes()).map_err(Failure::Output)?;
        let serving = server.serve(Listeners { public, engine, clear }, stop.clone());
        let executing = executor.run(stop.clone());
        let signals = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = reload.recv() => self.reload(&registry, &projects, &mut secured).await,
                    () = secured.due() => secured.look().await,
                    () = stop.cancelled() => return,
                }
            }
            tracing::info!("stopping: requests under way may end");
            stop.cancel();
        };
        let executing = async {
            let done = executing.await;
            // Without its executor a server would take pushes that never run.
            stop.cancel();
            done
        };
        let ordering = stop.run_until_cancelled(ordering);
        let hearing = stop.run_until_cancelled(keep_hearing(&registry, &ear));
        let collecting = stop.run_until_cancelled(collect_garbage(&registry, config.gc, config.retention));
        let tidying = stop.run_until_cancelled(expire_uploads(&registry, config.registry.upload_lifetime));
        let scrubbing = stop.run_until_cancelled(keep_scrubbing(&registry, config.scrub));
        let settling = stop.run_until_cancelled(keep_settling(&registry));
        let noting = stop.run_until_cancelled(keep_noting(&registry));
        let releasing = stop.run_until_cancelled(keep_releasing(&registry));
        let anchoring = stop.run_until_cancelled(keep_anchoring(registry.audit()));
        let rotating = stop.run_until_cancelled(keep_rotating(&tokens));
        let ((), executed, (), ..) = tokio::join!(
            serving, executing, signals, hearing, ordering, tidying, collecting, scrubbing, settling,
            releasing, noting, rotating, anchoring
        );
        note_pulls(&registry).await;
        settle(&registry).await;
        registry.audit().note(registry.itself(), Event::Stopped).await;
        anchor(registry.audit()).await;
        executed?;
        tracing::info!("stopped");
        Ok(())
    }

    /// A bad file changes nothing and says why.
    async fn reload(&self, registry: &Registry, projects: &ArcSwap<super::Projects>, secured: &mut Secured) {
        let event = match self.file.load() {
            Ok(config) => {
                registry.set_policy(config.policy);
                projects.store(Arc::new(config.projects));
                secured.reload(config.tls);
                tracing::info!("the configuration was read again");
                Event::ConfigurationReloaded
            }
            Err(failure) => {
                tracing::error!(%failure, "the configuration was not changed");
                Event::ConfigurationRefused
            }
        };
        registry.audit().note(registry.itself(), event).await;
    }
}

/// Gives up upload sessions that have rested for too long, so that nobody need run `torno gc` for it. Cancelling it is
/// harmless.
async fn expire_uploads(registry: &Registry, lifetime: Duration) {
    /// Often enough that what is given up does not fill the disk, seldom enough to cost nothing.
    const OFTEN: Duration = Duration::from_hours(1);
    let mut due = tokio::time::interval((lifetime / 4).min(OFTEN));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match registry.expire_uploads().await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "upload sessions expired"),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "upload sessions could not be removed"
                );
            }
        }
    }
}

/// Removes what nothing needs, so that nobody need run `torno gc`. Cancelling it is harmless.
async fn collect_garbage(registry: &Registry, gc: Gc, retention: Retention) {
    if gc.interval.is_zero() {
        return;
    }
    let mut due = tokio::time::interval(gc.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match registry.collect(&retention, gc.grace, |_| ()).await {
            Ok(Collected { expired: 0, manifests: 0, blobs: 0, .. }) => {}
            Ok(Collected { expired, manifests, blobs, bytes, .. }) => {
                tracing::info!(expired, manifests, blobs, bytes, "garbage was removed");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "garbage could not be removed; the next try is in {:?}", gc.interval);
            }
        }
    }
}

/// Looks at everything that is stored, again and again. Cancelled, it goes on at the next start where it was.
async fn keep_scrubbing(registry: &Registry, scrub: Scrub) {
    /// A disk or database that fails is not asked again at once.
    const AFTER_FAILURE: Duration = Duration::from_mins(10);
    if scrub.interval.is_zero() {
        return;
    }
    loop {
        let done = async {
            tokio::time::sleep(registry.scrub_due(scrub.interval).await?).await;
            registry.scrub(scrub.rate.as_u64()).await
        };
        match done.await {
            Ok(Scrubbed { blobs, bytes, manifests, damaged }) => {
                tracing::info!(blobs, bytes, manifests, damaged, "everything that is stored was looked at");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "what is stored could not be looked at; the next try is in {AFTER_FAILURE:?}"
                );
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Hears what other processes do to runs. Cancelling it is harmless.
async fn keep_hearing(registry: &Registry, ear: &Ear) {
    const AFTER_FAILURE: Duration = Duration::from_secs(5);
    loop {
        let Err(error) = registry.hear(ear).await else { continue };
        tracing::error!(%error, "the next try is in {AFTER_FAILURE:?}");
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Lets go of what is kept for pulls that do not come.
async fn keep_releasing(registry: &Registry) {
    const OFTEN: Duration = Duration::from_secs(5);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        registry.release_unused();
    }
}

/// Signs with a new key when it is time.
async fn keep_rotating(tokens: &Arc<Tokens>) {
    const OFTEN: Duration = Duration::from_hours(1);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let tokens = Arc::clone(tokens);
        let rotated = tokio::task::spawn_blocking(move || tokens.rotate(SystemTime::now())).await;
        match rotated {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the keys of tokens stay as they are; the next try is in {OFTEN:?}");
            }
            Err(error) => tracing::error!(%error, "the keys of tokens were not looked at"),
        }
    }
}

/// Notes which tags were pulled, for retention.
async fn keep_noting(registry: &Registry) {
    const OFTEN: Duration = Duration::from_mins(1);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        note_pulls(registry).await;
    }
}

async fn note_pulls(registry: &Registry) {
    if let Err(error) = registry.flush_pulls().await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "it could not be noted which tags were pulled");
    }
}

/// Says now and then how far the record of what is done is: a log that is kept elsewhere then has what
/// `torno audit verify --head` asks for.
async fn keep_anchoring(audit: &Audit) {
    const OFTEN: Duration = Duration::from_hours(1);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        anchor(audit).await;
    }
}

async fn anchor(audit: &Audit) {
    let head = async {
        audit.flush().await?;
        let folder = audit.folder().to_owned();
        let head = tokio::task::spawn_blocking(move || torno_audit::head(&Segments::of(&folder)?));
        head.await.map_err(|_| AuditError::Closed)?
    };
    match head.await {
        Ok(Some((lines, head))) => tracing::info!(lines, %head, "the record of what is done is so far"),
        Ok(None) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "it could not be told how far the record of what is done is");
        }
    }
}

/// Settles the journal soon after something has come into it. Cancelling it is harmless.
async fn keep_settling(registry: &Registry) {
    /// Long enough for pushes to share a sync, short enough that the journal stays small.
    const GATHER: Duration = Duration::from_secs(1);
    /// A disk that fails is not asked every second.
    const AFTER_FAILURE: Duration = Duration::from_secs(30);
    loop {
        registry.unsettled().await;
        tokio::time::sleep(GATHER).await;
        while !settle(registry).await {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

/// Whether everything in the journal has reached the disk. What has not is safe there, and is read from it.
async fn settle(registry: &Registry) -> bool {
    match registry.settle().await {
        Ok(_) => true,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                "small blobs stay in the journal: they could not be written to their files"
            );
            false
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|source| Failure::Listen { address, source })
}
