//! `torno serve`: the registry and the executor, until told to stop.

mod tls;

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    num::NonZeroU64,
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;
use torno_audit::{Actor, Event};
use torno_auth::{Authenticator, Directory, ProjectName, Tokens};
use torno_registry::Registry;
use torno_server::{DryRun, DryRuns, Listeners, Provider, Server, Settings};

use super::{
    ConfigFile, Failure,
    execute::Executing,
    listen, on,
    upkeep::{
        anchor, collect_garbage, expire_uploads, keep_anchoring, keep_hearing, keep_noting, keep_releasing,
        keep_rotating, keep_scrubbing, keep_settling, note_pulls, settle,
    },
};
use crate::{
    config::{Config, Within},
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

        super::own_data(&config.data)?;
        let registry = Arc::new(super::open(&config, Actor::torno())?);
        registry.audit().note(registry.itself(), Event::Started { version: env!("CARGO_PKG_VERSION") }).await;
        // Before anything is served: the power may have failed before files that were promised had reached the disk.
        settle(&registry).await;
        let directory = config.auth.directory.map(Directory::new).transpose().map_err(Failure::Directory)?;
        let provider = config.auth.provider.map(Provider::new).transpose().map_err(Failure::Provider)?;
        let authenticator = Authenticator::new(&config.auth.htpasswd, directory).map_err(Failure::Users)?;
        let host = config.hostname.as_ref().map(ToString::to_string);
        let projects = Arc::new(ArcSwap::from_pointee(config.projects));
        let public = listen(config.address).await?;
        let clear = match config.clear {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let address = public.local_addr().map_err(Failure::Runtime)?;
        // Before the executor looks at what is queued.
        let ear = registry.ear()?;
        let limits = descriptors::within(config.limits);
        let executing = match config.within {
            Within::Serve => {
                let terms = (limits, config.drain);
                Some(Executing::new(&registry, config.executor, &projects, &config.data, terms).await?)
            }
            Within::Execute => None,
        };
        let settings = Settings {
            hostname: host.unwrap_or_else(|| address.to_string()),
            result_wait: config.result_wait,
            drain: config.drain,
            outside: config.outside,
            token_lifetime: config.auth.token_lifetime,
            login_lifetime: config.auth.login_lifetime,
            chunk_min_length: config.chunk_min_length.and_then(|length| NonZeroU64::new(length.as_u64())),
            limits,
            proxies: config.proxies,
        };
        let hostname = settings.hostname.clone();
        let dry_runs: DryRuns = Arc::new(ArcSwap::from_pointee(dry_runs(&projects.load(), &hostname)));
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
            Arc::clone(&dry_runs),
            secured.tls(),
        );

        // One line, in one piece, for whoever or whatever waits for the start.
        let line = format!("listening on {address}\n");
        io::stderr().write_all(line.as_bytes()).map_err(Failure::Output)?;
        let serving = server.serve(Listeners { public, clear }, stop.clone());
        let signals = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = reload.recv() => {
                        self.reload(&registry, &projects, &mut secured).await;
                        dry_runs.store(Arc::new(self::dry_runs(&projects.load(), &hostname)));
                    }
                    () = secured.due() => secured.look().await,
                    () = stop.cancelled() => return,
                }
            }
            tracing::info!("stopping: requests under way may end");
            stop.cancel();
        };
        let executing = async {
            let Some(executing) = executing else { return Ok(()) };
            let done = executing.run(stop.clone()).await;
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
                registry.set_ceilings(super::ceilings(&config.projects));
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

/// How to run an image of each project at home, with a registry of this name.
fn dry_runs(projects: &super::Projects, host: &str) -> BTreeMap<ProjectName, DryRun> {
    let made = projects.iter().map(|(name, policy)| {
        let run = torno_executor::DryRun::new(name, policy, host);
        let script = run.script();
        (name.clone(), DryRun { prepare: run.prepare, command: run.command, script })
    });
    made.collect()
}
