//! The services a run may reach, and the secrets it is given.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};
use torno_oci::RunId;

use crate::{
    ExecutorError,
    engine::{Container, EngineError},
    plan::{RelayPlan, relay_name},
    relay::Exchange,
    volatile::Volatile,
};

use super::{Life, Site, prepare::Unready};

/// How long the engine is left alone when it did not answer.
const PAUSE: Duration = Duration::from_secs(1);

impl Life {
    /// The name of the container through which it reaches services.
    pub(super) fn relay(&self) -> String {
        relay_name(&self.name())
    }

    /// Whether its project lets it reach anything.
    pub(super) fn reaches(&self) -> bool {
        self.policy.as_ref().is_ok_and(|policy| !policy.services.is_empty())
    }

    /// Makes what it is given and no disk may hold. A secret that is not as it must be does not become so by itself.
    pub(super) async fn give(&self) -> Result<(), Unready> {
        let policy = self.policy();
        if policy.secrets.is_empty() && policy.services.is_empty() {
            return Ok(());
        }
        let run = self.run.id;
        let given = on(&self.site, move |volatile| {
            volatile.make(run)?;
            for (secret, path) in policy.secrets {
                let given = volatile.give(run, &secret, &path);
                given.map_err(|source| ExecutorError::Secret { secret, path, source })?;
            }
            Ok(())
        });
        match given.await {
            Err(error @ ExecutorError::Secret { .. }) => {
                tracing::error!(%run, %error, "a run cannot be given a secret");
                Err(Unready::Ends(self.unfit()))
            }
            given => given.map_err(Unready::Failed),
        }
    }

    /// Makes and starts the relay of a plan that has one, and meets it.
    pub(super) async fn connect(&self, relay: Option<&RelayPlan>) -> Result<Option<Exchange>, ExecutorError> {
        let Some(plan) = relay else { return Ok(None) };
        let Some(exchange) = self.exchange().await? else { return Ok(None) };
        let engine = &self.site.engine;
        let start = async {
            engine.create_relay(plan).await?;
            engine.start(&plan.name).await
        };
        exchange.meet(start).await?;
        Ok(Some(exchange))
    }

    /// Listens for its relay, be it that of a run that an earlier process has started.
    pub(super) async fn exchange(&self) -> Result<Option<Exchange>, ExecutorError> {
        let (run, policy) = (self.run.id, self.policy());
        if policy.services.is_empty() {
            return Ok(None);
        }
        let earlier = self.site.registry.traffic(run).await?;
        let folder = self.site.volatile.sockets(run);
        let opened = Exchange::open(run, &folder, &policy.services, &earlier);
        opened.map(Some).map_err(ExecutorError::io(&folder))
    }

    /// Whether its relay works.
    pub(super) async fn is_connected(&self) -> Result<bool, EngineError> {
        let relay = self.relay();
        let found = self.insist(|| self.site.engine.inspect(&relay)).await?;
        Ok(found.is_some_and(|relay| relay.running))
    }

    /// Resolves when its relay does not work any more.
    pub(super) async fn disconnected(&self) {
        let relay = self.relay();
        loop {
            match self.site.engine.wait(&relay).await {
                Err(error) if error.is_not_found() => return,
                Err(_) => sleep(PAUSE).await,
                Ok(()) => match self.site.engine.inspect(&relay).await {
                    Ok(Some(relay)) if relay.running => {}
                    Ok(_) => return,
                    Err(_) => sleep(PAUSE).await,
                },
            }
        }
    }

    /// Whether its relay worked for as long as its container did: without it, the run may have had half of the data.
    pub(super) async fn was_connected(&self, container: &Container) -> Result<bool, EngineError> {
        if !self.reaches() {
            return Ok(true);
        }
        let relay = self.relay();
        let Some(relay) = self.insist(|| self.site.engine.inspect(&relay)).await? else { return Ok(false) };
        // An engine that was restarted since has ended the relay, but after the run.
        Ok(relay.running || (relay.finished.is_some() && relay.finished >= container.finished))
    }

    /// Removes what it was given.
    pub(super) async fn take_back(&self) -> Result<(), ExecutorError> {
        take_back(&self.site, self.run.id).await
    }
}

/// Removes what a run was given.
pub(crate) async fn take_back(site: &Arc<Site>, run: RunId) -> Result<(), ExecutorError> {
    on(site, move |volatile| volatile.remove(run)).await
}

/// The runs that were given something which has not been taken back.
pub(crate) async fn given(site: &Arc<Site>) -> Result<Vec<RunId>, ExecutorError> {
    on(site, |volatile| Ok(volatile.runs())).await
}

/// Works on the folder in memory where it may block. It is done whole, whatever happens to the future.
async fn on<T: Send + 'static>(
    site: &Arc<Site>,
    work: impl FnOnce(&Volatile) -> Result<T, ExecutorError> + Send + 'static,
) -> Result<T, ExecutorError> {
    let volatile = site.volatile.clone();
    spawn_blocking(move || work(&volatile)).await.map_err(ExecutorError::pack)?
}
