//! Before anything of the image runs.

use std::time::Duration;

use torno_oci::{Manifest, ManifestKind};
use torno_registry::{Gpu, Outcome, RegistryError, StoredManifest};

use crate::{
    ExecutorError,
    engine::EngineError,
    plan::{Plan, Subject},
    relay::Exchange,
};

use super::{Life, lost::Loss};

/// How often an image is pulled within one attempt: another run of the same image may have ended, and removed it,
/// between the pull and the making of the container.
const PULLS: u32 = 3;

/// A run whose container can be started.
#[derive(Debug)]
pub(super) struct Ready {
    /// Its way to the services it may reach, if there are any.
    pub(super) exchange: Option<Exchange>,
    /// How long it may run.
    pub(super) time: Duration,
}

/// Why a run is not ready.
#[derive(Debug)]
pub(super) enum Unready {
    /// What it would be started by has not been found to keep what runs are promised, or not since that may have changed.
    Waits,
    /// It is over, before anything has run.
    Ends(Outcome),
    /// Something of the site ended it.
    Lost(Loss),
    /// Something failed that may go well the next time.
    Failed(ExecutorError),
}

impl From<EngineError> for Unready {
    fn from(error: EngineError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ExecutorError> for Unready {
    fn from(error: ExecutorError) -> Self {
        Self::Failed(error)
    }
}

impl From<RegistryError> for Unready {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Cancelled(by) => Self::Ends(Outcome::Cancelled { by }),
            error => Self::Failed(error.into()),
        }
    }
}

impl Life {
    /// Plans, pulls, makes the container, and notes that it is about to start.
    pub(super) async fn prepare(&self, secret: &str, gpus: &[Gpu]) -> Result<Ready, Unready> {
        let policy = self.policy.as_ref().map_err(|outcome| Unready::Ends(outcome.clone()))?;
        let project = self.project.as_ref().ok_or(Unready::Ends(Outcome::ProjectGone))?;
        // The project was given more since the executor was told how much there is.
        if !policy.limits.resources().within(self.site.total) {
            return Err(Unready::Ends(Outcome::TooLarge));
        }
        // It was, when the run was claimed.
        if !self.site.fit.has(policy.runtime) {
            return Err(Unready::Waits);
        }
        if self.site.fit.is_gvisor(policy.runtime) && policy.limits.gpus > 0 {
            let why = "what it starts runs with is gVisor, whose `runsc` may pass none on";
            return Err(EngineError::NoGpus(why).into());
        }
        if usize::try_from(policy.limits.gpus).ok() != Some(gpus.len()) {
            tracing::warn!(run = %self.run.id, "its project has another number of GPUs since the run was claimed");
            return Err(Unready::Lost(Loss::Gpus));
        }
        let (registry, engine) = (&self.site.registry, &self.site.engine);
        let image = registry.claimed_image(&self.run).await?;
        let image = image.ok_or(Unready::Failed(ExecutorError::Run("its image is not in the registry")))?;
        let config = registry.run_config(&self.run, &image).await?;
        let subject = Subject {
            instance: &self.site.instance,
            run: self.run.id,
            attempt: self.run.attempt,
            project,
            image: &self.image(),
            sockets: &self.site.volatile.sockets(self.run.id),
            secrets: &self.site.volatile.secrets(self.run.id),
            gpus,
        };
        let plan = Plan::new(&subject, &config, policy);
        let plan = plan.map_err(|why| Unready::Ends(Outcome::CannotStart { reason: why.to_string() }))?;
        self.check_data().await?;
        let volumes = self.volumes().await?;
        let mut pulls = 1;
        let exchange = loop {
            self.clear().await?;
            self.give().await?;
            let pulled = async {
                tokio::select! {
                    pulled = engine.pull(&plan.image, self.run.id, secret) => pulled.map_err(|error| not_pulled(error, &image)),
                    // An image that comes all the same is an image of no run, and removed as such.
                    cancelled = registry.cancelled(self.run.id) => Err(Unready::Ends(cancelled)),
                }
            };
            // Both to their ends: what is made after it was removed would be in the way.
            let (pulled, made) = tokio::join!(pulled, engine.create_output(&plan));
            pulled?;
            made?;
            // The run's container is made to share what the relay's has.
            let exchange = self.connect(plan.relay.as_ref()).await?;
            match engine.create(&plan).await {
                Err(EngineError::NotFound(_)) if pulls < PULLS => pulls += 1,
                Err(error) => return Err(self.not_created(&plan, error)),
                Ok(()) => break exchange,
            }
        };
        self.check_volumes(&volumes).await?;
        self.note_data().await?;
        registry.starting(self.run.id, plan.given(policy)).await?;
        Ok(Ready { exchange, time: plan.time })
    }

    /// Data that is not there does not come by trying again; the engine looks for it, since it may see another
    /// part of the host than this process.
    fn not_created(&self, plan: &Plan, error: EngineError) -> Unready {
        let EngineError::Refused { reason, .. } = &error else { return error.into() };
        let named = |folder: &std::path::Path| reason.contains(&*folder.to_string_lossy());
        let missing = plan.data.iter().find(|data| data.source.as_folder().is_some_and(named));
        let Some(data) = missing.filter(|_| reason.contains("does not exist")) else { return error.into() };
        let reason = "there is no such folder on the engine's host";
        self.without_data(&data.dataset, data.source.clone(), reason.into())
    }
}

/// A layer that is no archive stays none. That it is one which the engine cannot unpack, engines do not say.
fn not_pulled(error: EngineError, image: &StoredManifest) -> Unready {
    if !error.is_broken_layer() {
        return error.into();
    }
    let manifest = Manifest::parse(Some(&image.media_type), &image.bytes);
    let zstandard = manifest.is_ok_and(|manifest| match &manifest.kind {
        ManifestKind::Image { layers, .. } => {
            layers.iter().any(|layer| layer.media_type.as_str().ends_with("+zstd"))
        }
        ManifestKind::Index { .. } => false,
    });
    let reason = if zstandard {
        "a layer of the image is broken, or packed with Zstandard, which not every engine can unpack; build it with gzip \
         layers"
    } else {
        "a layer of the image is broken"
    };
    Unready::Ends(Outcome::CannotStart { reason: reason.into() })
}
