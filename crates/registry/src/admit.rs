//! What is refused at the push of an image that would run: everything that can be known before any data is near.

use std::time::Duration;

use bytesize::ByteSize;
use torno_metadata::{NewRun, Run, StoredManifest};
use torno_oci::{
    ConfigError, Descriptor, Digest, MAX_CONFIG_SIZE, Manifest, ManifestKind, Namespace, Platform, Reference,
    RepositoryName, RunConfig, Tag, Wishes, media_types,
};

use crate::{Registry, RegistryError};

/// The most layers an image that runs may have: the engine's storage driver stops at 128.
const MAX_LAYERS: usize = 127;

/// Why an image cannot run here, and the way out. `docker push` prints this.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The manifest's config is not an image's.
    #[error(
        "this is not a container image (its config is `{0}`), so it cannot run; push it outside run/ and try/ to store it"
    )]
    NotAnImage(String),
    /// A layer is not a file system layer the engine can unpack.
    #[error(
        "the image has a layer of type `{0}`, which the site's engine cannot unpack; build it with gzip layers"
    )]
    Layer(String),
    /// A config or layer that an engine would fetch from elsewhere.
    #[error("the image names `urls` to fetch its content from; push the content itself and leave them out")]
    Elsewhere,
    /// No layers at all.
    #[error("the image has no layers, so there is nothing to run")]
    NoLayers,
    /// More layers than an engine can stack.
    #[error(
        "the image has {0} layers; at most {MAX_LAYERS} can run: use a multi-stage build, or join RUN lines"
    )]
    Layers(usize),
    /// The configuration says it cannot run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A label that asks for more than the project gives.
    #[error(
        "the image asks for {asked} (label `{label}`) and this project gives a run at most {most}; ask for less, or ask the site for more"
    )]
    Wish {
        /// Which.
        label: &'static str,
        /// What it asks for.
        asked: String,
        /// The bound.
        most: String,
    },
    /// An index without a manifest for this site.
    #[error("this site runs {site} and the index offers {}; build it with `docker build --platform {site}`", offers(.offered))]
    Platforms {
        /// What the site runs.
        site: Platform,
        /// What the index has.
        offered: Vec<String>,
    },
}

fn offers(platforms: &[String]) -> String {
    if platforms.is_empty() { "no platform".into() } else { platforms.join(", ") }
}

impl Registry {
    /// Checks that what is being pushed can run, and says which image manifest will. A run keeps that digest: a
    /// tag that moves later does not move under it.
    pub(crate) async fn admit(
        &self,
        repository: &RepositoryName,
        tags: &[Tag],
        digest: &Digest,
        manifest: &Manifest,
    ) -> Result<NewRun, RegistryError> {
        if let Some(tag) = tags.iter().find(|tag| is_reserved(tag)) {
            return Err(RegistryError::ReservedTag(tag.clone()));
        }
        match &manifest.kind {
            ManifestKind::Image { config, layers } => {
                self.admit_image(repository, config, layers).await?;
                Ok(NewRun { image: digest.clone(), media_type: manifest.media_type.clone() })
            }
            ManifestKind::Index { children } => {
                let fits = |platform: &Option<Platform>| platform.as_ref() == Some(&self.platform);
                let Some(child) = children.iter().find(|child| fits(&child.platform)) else {
                    let offered = children.iter().filter_map(|child| child.platform.as_ref());
                    let known = offered.map(ToString::to_string).filter(|text| text != "unknown/unknown");
                    return Err(AdmissionError::Platforms {
                        site: self.platform.clone(),
                        offered: known.take(16).collect(),
                    }
                    .into());
                };
                let image = child.descriptor.digest.clone();
                let stored = self.metadata.manifest(repository, &Reference::Digest(image.clone())).await;
                let stored = self.quarantine.manifest(stored).await?;
                let stored = stored.ok_or_else(|| RegistryError::Missing(vec![image.clone()]))?;
                self.admit_child(repository, &stored).await?;
                Ok(NewRun { image, media_type: stored.media_type })
            }
        }
    }

    async fn admit_child(
        &self,
        repository: &RepositoryName,
        stored: &StoredManifest,
    ) -> Result<(), RegistryError> {
        let manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes)?;
        match &manifest.kind {
            ManifestKind::Image { config, layers } => self.admit_image(repository, config, layers).await,
            ManifestKind::Index { .. } => {
                Err(AdmissionError::NotAnImage(manifest.media_type.to_string()).into())
            }
        }
    }

    async fn admit_image(
        &self,
        repository: &RepositoryName,
        config: &Descriptor,
        layers: &[Descriptor],
    ) -> Result<(), RegistryError> {
        let kind = config.media_type.as_str();
        if kind != media_types::OCI_CONFIG && kind != media_types::DOCKER_CONFIG {
            return Err(AdmissionError::NotAnImage(kind.to_owned()).into());
        }
        if let Some(layer) = layers.iter().find(|layer| !is_layer(layer)) {
            return Err(AdmissionError::Layer(layer.media_type.to_string()).into());
        }
        // Some engines ask those addresses first, from inside the site.
        if layers.iter().chain([config]).any(|descriptor| descriptor.has_urls) {
            return Err(AdmissionError::Elsewhere.into());
        }
        if layers.is_empty() {
            return Err(AdmissionError::NoLayers.into());
        }
        if layers.len() > MAX_LAYERS {
            return Err(AdmissionError::Layers(layers.len()).into());
        }
        if config.size > MAX_CONFIG_SIZE as u64 {
            return Err(AdmissionError::Config(ConfigError::TooLarge).into());
        }
        let bytes = self.small_blob(repository, &config.digest, MAX_CONFIG_SIZE).await?;
        let bytes = bytes.ok_or_else(|| RegistryError::Missing(vec![config.digest.clone()]))?;
        let config = RunConfig::parse(&bytes, &self.platform).map_err(AdmissionError::from)?;
        let (Namespace::Run { project, .. } | Namespace::Try { project, .. }) = repository.namespace() else {
            return Ok(());
        };
        let ceiling = self.ceiling(project);
        Ok(ceiling.map_or(Ok(()), |ceiling| ceiling.admit(&config.wishes))?)
    }

    /// What the executor must know of a run's image to plan it.
    pub async fn run_config(&self, run: &Run, image: &StoredManifest) -> Result<RunConfig, RegistryError> {
        let manifest = Manifest::parse(Some(&image.media_type), &image.bytes)?;
        let ManifestKind::Image { config, .. } = &manifest.kind else {
            return Err(AdmissionError::NotAnImage(manifest.media_type.to_string()).into());
        };
        // The size that was stored, not the one the manifest claims.
        let size = self.metadata.run_blob(run.id, &config.digest).await?;
        let size = size.ok_or_else(|| RegistryError::BlobUnknown(config.digest.clone()))?;
        if size > MAX_CONFIG_SIZE as u64 {
            return Err(AdmissionError::Config(ConfigError::TooLarge).into());
        }
        let bytes = self.all_bytes(&config.digest, size).await?;
        Ok(RunConfig::parse(&bytes, &self.platform).map_err(AdmissionError::from)?)
    }
}

/// The most that a project gives a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Wall-clock time.
    pub time: Duration,
    /// Billionths of a processor.
    pub nano_cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Ceiling {
    fn admit(&self, wishes: &Wishes) -> Result<(), AdmissionError> {
        let shown = |time: Duration| humantime::format_duration(time).to_string();
        if let Some(time) = wishes.time.filter(|time| *time > self.time) {
            let (asked, most) = (shown(time), shown(self.time));
            return Err(AdmissionError::Wish { label: "org.torno.timeout", asked, most });
        }
        let shown = |nanos: u64| match nanos {
            1_000_000_000 => "1 processor".to_owned(),
            #[expect(clippy::cast_precision_loss, reason = "at most 1024 processors are shown")]
            nanos => format!("{} processors", nanos as f64 / 1e9),
        };
        if let Some(nanos) = wishes.nano_cpus.filter(|nanos| *nanos > self.nano_cpus) {
            let (asked, most) = (shown(nanos), shown(self.nano_cpus));
            return Err(AdmissionError::Wish { label: "org.torno.cpus", asked, most });
        }
        if let Some(bytes) = wishes.memory.filter(|bytes| *bytes > self.memory) {
            let shown = |bytes| format!("{} of memory", ByteSize::b(bytes).display().iec());
            let (asked, most) = (shown(bytes), shown(self.memory));
            return Err(AdmissionError::Wish { label: "org.torno.memory", asked, most });
        }
        Ok(())
    }
}

/// Tags that results get by themselves.
fn is_reserved(tag: &Tag) -> bool {
    let text = tag.as_str();
    let numbered =
        text.strip_prefix("run-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
    numbered || text.strip_suffix(".log").is_some()
}

fn is_layer(layer: &Descriptor) -> bool {
    matches!(
        layer.media_type.as_str(),
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
    )
}
