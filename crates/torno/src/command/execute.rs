//! `torno execute`: the executor alone, for a server that has neither the engine nor the data.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::sync::CancellationToken;
use torno_audit::{Actor, Event};
use torno_executor::{Executor, ExecutorError};
use torno_registry::Registry;
use torno_server::{Images, Limits};

use super::{
    ConfigFile, Failure, listen, on,
    upkeep::{keep_hearing, keep_settling, settle},
};
use crate::{
    config::{Config, Within},
    descriptors, telemetry,
};

const EXAMPLES: &str = "\
Examples:
  torno execute
  torno execute --config /etc/torno/torno.toml

It reads the configuration that `torno serve` reads, shares its data directory, and may be started before or after it \
and stopped without it: what is pushed meanwhile is queued. SIGTERM and SIGINT leave containers running, which are found \
again at the next start. SIGHUP reads projects and datasets again.";

/// Run what is pushed, for a `torno serve` that does not
///
/// For `[executor] within = \"execute\"`: whoever parses the network then holds neither the engine's socket nor the data.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Execute {
    #[command(flatten)]
    file: ConfigFile,
}

/// An executor, and the listener where its engine finds the images.
pub(crate) struct Executing {
    executor: Executor,
    images: Images,
    listener: TcpListener,
}

impl Executing {
    /// The executor of a data directory. `terms` are how many connections the engine may have, and how long requests
    /// of its may take to end.
    pub(crate) async fn new(
        registry: &Arc<Registry>,
        settings: torno_executor::Settings,
        projects: &Arc<ArcSwap<super::Projects>>,
        data: &Path,
        (limits, drain): (Limits, Duration),
    ) -> Result<Self, Failure> {
        // The engine is on this machine; nobody else has a reason to come by here.
        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let pull_from = listener.local_addr().map_err(Failure::Runtime)?;
        let executor = Executor::new(Arc::clone(registry), settings, Arc::clone(projects), data, pull_from)?;
        Ok(Self { executor, images: Images::new(Arc::clone(registry), limits, drain), listener })
    }

    /// Carries out runs until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ExecutorError> {
        let (executed, ()) =
            tokio::join!(self.executor.run(stop.clone()), self.images.serve(self.listener, stop));
        executed
    }
}

impl Execute {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load_within(Within::Execute)?;
        if config.within != Within::Execute {
            return Err(Failure::NotApart);
        }
        telemetry::start();
        descriptors::raise();
        let runtime = tokio::runtime::Runtime::new().map_err(Failure::Runtime)?;
        runtime.block_on(self.execute(config))
    }

    async fn execute(&self, config: Config) -> Result<(), Failure> {
        let stop = CancellationToken::new();
        let mut terminate = on(SignalKind::terminate())?;
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut reload = on(SignalKind::hangup())?;

        super::own_data(&config.data)?;
        let registry = Arc::new(super::open(&config, Actor::torno())?);
        let version = env!("CARGO_PKG_VERSION");
        registry.audit().note(registry.itself(), Event::ExecutorStarted { version }).await;
        settle(&registry).await;
        let projects = Arc::new(ArcSwap::from_pointee(config.projects));
        // Before the executor looks at what is queued.
        let ear = registry.ear()?;
        let terms = (descriptors::within(config.limits), config.drain);
        let executing = Executing::new(&registry, config.executor, &projects, &config.data, terms).await?;
        tracing::info!("carrying out what is pushed");
        let signals = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = reload.recv() => self.reload(&registry, &projects),
                    () = stop.cancelled() => return,
                }
            }
            tracing::info!("stopping: runs go on and are found again");
            stop.cancel();
        };
        let executing = async {
            let done = executing.run(stop.clone()).await;
            stop.cancel();
            done
        };
        let hearing = stop.run_until_cancelled(keep_hearing(&registry, &ear));
        let settling = stop.run_until_cancelled(keep_settling(&registry));
        let (executed, ..) = tokio::join!(executing, signals, hearing, settling);
        settle(&registry).await;
        registry.audit().note(registry.itself(), Event::ExecutorStopped).await;
        executed?;
        tracing::info!("stopped");
        Ok(())
    }

    /// A bad file changes nothing and says why. The server records that the configuration was read again.
    fn reload(&self, registry: &Registry, projects: &ArcSwap<super::Projects>) {
        match self.file.load_within(Within::Execute) {
            Ok(config) => {
                registry.set_policy(config.policy);
                projects.store(Arc::new(config.projects));
                tracing::info!("the configuration was read again");
            }
            Err(failure) => tracing::error!(%failure, "the configuration was not changed"),
        }
    }
}
