//! The Docker-compatible engine. Nothing else in Torno speaks its protocol.
//!
//! Every call ends: with an answer, or with an error that says what is to be done about it.

mod container;
mod error;
mod facts;
mod limit;
mod podman;
mod printed;
mod program;
mod relay;
mod seccomp;
mod signal;
mod translate;
mod usage;
mod wire;

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    auth::DockerCredentials,
    container::LogOutput,
    models::{ContainerStatsResponse, Volume, VolumeCreateRequest},
    query_parameters as query,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::{sync::Mutex, time::timeout};
use torno_oci::RunId;
use torno_registry::{Measured, RunLog, Stream as Std};

use crate::{
    VolumeName,
    instance::{INSTANCE_LABEL, Instance, RUN_LABEL},
    plan::{OUTPUT, Plan, UID},
};

use podman::Dialect;
use printed::Tails;

pub(crate) use container::Container;
pub use error::EngineError;
pub(crate) use error::start_reason;
pub use facts::Fact;
pub(crate) use translate::preparation_name;

/// How old a measurement of the volumes may be. Measuring walks every volume of the engine, and some engines
/// refuse to do it twice at once, so the runs share one.
const MEASUREMENT_LIFE: Duration = Duration::from_secs(2);

/// An engine behind a socket. Connected when first needed, and again after the connection was lost.
#[derive(Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    data: PathBuf,
    connection: Mutex<Option<(Docker, Dialect)>>,
    measured: Mutex<Option<(Instant, HashMap<String, u64>)>>,
}

/// What an engine holds of this instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Held {
    /// The container's or volume's name.
    pub name: String,
    /// The run it is marked with; `None` when the mark cannot be read.
    pub run: Option<RunId>,
}

/// An image in the engine, under one of its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pulled {
    /// The name it was pulled by.
    pub name: String,
    /// The run it was pulled for.
    pub run: RunId,
    /// What the engine calls it, whatever its names.
    pub id: String,
    /// Its bytes in the engine.
    pub size: u64,
}

/// A volume of the engine's that Torno did not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundVolume {
    made: Option<String>,
    driver: String,
    mountpoint: String,
}

impl Engine {
    /// The one behind a socket. Into `data`, the data directory, goes what an engine reads from a file only.
    pub(crate) fn new(socket: &Path, data: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            data: data.to_owned(),
            connection: Mutex::default(),
            measured: Mutex::default(),
        }
    }

    /// Whether the engine answers.
    pub(crate) async fn reach(&self) -> Result<(), EngineError> {
        let docker = self.connected().await?;
        self.call(limit::PING, docker.ping()).await.map(drop)
    }

    /// The connection, with the protocol version both sides know.
    async fn connected(&self) -> Result<Docker, EngineError> {
        Ok(self.known().await?.0)
    }

    /// The connection, and how the engine understands what it is told.
    async fn known(&self) -> Result<(Docker, Dialect), EngineError> {
        if let Some(known) = &*self.connection.lock().await {
            return Ok(known.clone());
        }
        // Outside the lock: of an engine that hangs, nobody waits for others who wait.
        let connect = async {
            let socket = self.socket.to_string_lossy();
            let docker = Docker::connect_with_unix(&socket, limit::LONGEST.as_secs(), API_DEFAULT_VERSION)?;
            let docker = docker.negotiate_version().await?;
            let version = docker.version().await?;
            Ok::<_, bollard::errors::Error>((docker, version))
        };
        let connected = timeout(limit::PING, connect).await;
        let (docker, version) = connected.map_err(|_| EngineError::Timeout(limit::PING))??;
        let dialect = Dialect::of(&version, &self.data).map_err(EngineError::File)?;
        Ok(self.connection.lock().await.insert((docker, dialect)).clone())
    }

    /// Waits for an answer. An engine that went away may come back as another version, so the connection is made
    /// anew then.
    async fn call<T, E: Into<EngineError>>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, EngineError> {
        let answer = match timeout(limit, call).await {
            Ok(answer) => answer.map_err(E::into),
            Err(_) => Err(EngineError::Timeout(limit)),
        };
        if matches!(answer, Err(EngineError::Unreachable(_))) {
            self.connection.lock().await.take();
        }
        answer
    }

    /// Pulls an image by digest. The secret goes to the engine and nowhere else.
    pub(crate) async fn pull(&self, image: &str, run: RunId, secret: &str) -> Result<(), EngineError> {
        let (docker, dialect) = self.known().await?;
        if dialect != Dialect::Docker {
            return podman::pull(&self.socket, image, run, secret).await;
        }
        let options = query::CreateImageOptionsBuilder::default().from_image(image).build();
        let credentials = DockerCredentials {
            username: Some(format!("run-{run}")),
            password: Some(secret.to_owned()),
            ..DockerCredentials::default()
        };
        let progress = docker.create_image(Some(options), None, Some(credentials));
        let mut progress = std::pin::pin!(progress);
        while let Some(step) = heard(limit::PULL_SILENCE, progress.next()).await? {
            step?;
        }
        Ok(())
    }

    /// Makes a run's volume, and lets the run write to it; nothing of its image is needed for that. What an earlier
    /// attempt left is in the way and must have been removed.
    pub(crate) async fn create_output(&self, plan: &Plan) -> Result<(), EngineError> {
        let image = self.probe().await?;
        let (docker, dialect) = self.known().await?;
        let volume = VolumeCreateRequest {
            name: Some(plan.volume.clone()),
            driver: Some("local".into()),
            labels: Some(plan.labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        self.call(limit::CREATE, docker.create_volume(volume)).await?;
        let preparation = preparation_name(&plan.name);
        let name = query::CreateContainerOptionsBuilder::default().name(&preparation).build();
        let body = translate::preparation(plan, image, &dialect);
        self.call(limit::CREATE, docker.create_container(Some(name), body)).await?;
        let at = query::UploadToContainerOptionsBuilder::default().path("/").build();
        let owned = bollard::body_full(owned_folder());
        self.call(limit::CREATE, docker.upload_to_container(&preparation, Some(at), owned)).await?;
        self.remove_container(&preparation).await.map(drop)
    }

    /// Makes a run's container. Its volume is there.
    pub(crate) async fn create(&self, plan: &Plan) -> Result<(), EngineError> {
        let (docker, dialect) = self.known().await?;
        if !plan.gpus.is_empty() && dialect != Dialect::Docker {
            return Err(EngineError::NoGpus(podman::NO_GPUS));
        }
        let names = plan.relay.as_ref().map(|relay| relay.hosts.clone()).unwrap_or_default();
        let hosts = dialect.hosts(&names).map_err(EngineError::File)?;
        let body = translate::container(plan, hosts.as_deref(), &dialect);
        let name = query::CreateContainerOptionsBuilder::default().name(&plan.name).build();
        self.call(limit::CREATE, docker.create_container(Some(name), body)).await?;
        self.has_gpus(plan).await
    }

    /// Fails if the engine took no note of the GPUs of a run's container: some leave out without a word what they do not
    /// know.
    async fn has_gpus(&self, plan: &Plan) -> Result<(), EngineError> {
        if plan.gpus.is_empty() {
            return Ok(());
        }
        let made = self.inspect(&plan.name).await?;
        let noted = made.is_some_and(|made| made.devices == translate::gpu_numbers(&plan.gpus));
        noted.then_some(()).ok_or(EngineError::NoGpus("it took no note of the device request"))
    }

    /// Starts a container. Only for one that has never been started.
    pub(crate) async fn start(&self, name: &str) -> Result<(), EngineError> {
        let docker = self.connected().await?;
        self.call(limit::START, docker.start_container(name, None::<query::StartContainerOptions>)).await
    }

    /// Resolves when a container does not run (any more). It may take as long as the run does.
    pub(crate) async fn wait(&self, name: &str) -> Result<(), EngineError> {
        let docker = self.connected().await?;
        let options = query::WaitContainerOptionsBuilder::default().condition("not-running").build();
        let answer = docker.wait_container(name, Some(options));
        let mut answer = std::pin::pin!(answer);
        match answer.next().await {
            Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => Ok(()),
            Some(Err(error)) => Err(error.into()),
            None => Err(EngineError::Unreachable("the connection ended".into())),
        }
    }

    /// Asks a container's program to end. One that does not run is well.
    pub(crate) async fn terminate(&self, name: &str) -> Result<(), EngineError> {
        self.signal(name, "TERM").await
    }

    /// Ends a container's processes at once. One that does not run is well.
    pub(crate) async fn kill(&self, name: &str) -> Result<(), EngineError> {
        self.signal(name, "KILL").await
    }

    async fn signal(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        let docker = self.connected().await?;
        let options = query::KillContainerOptionsBuilder::default().signal(signal).build();
        match self.call(limit::KILL, docker.kill_container(name, Some(options))).await {
            Err(error) if error.is_conflict() => Ok(()),
            done => done,
        }
    }

    /// What the engine knows of a container; `None` when there is none of that name.
    pub(crate) async fn inspect(&self, name: &str) -> Result<Option<Container>, EngineError> {
        let version = self.connected().await?.client_version();
        match self.call(limit::INSPECT, container::inspect(&self.socket, &version, name)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The end of what a container printed, at most `keep` bytes of each stream.
    pub(crate) async fn logs(&self, name: &str, keep: u64) -> Result<RunLog, EngineError> {
        let docker = self.connected().await?;
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let options = query::LogsOptionsBuilder::default().stdout(true).stderr(true).timestamps(true).build();
        let mut tails = Tails::new(keep);
        let printed = docker.logs(name, Some(options));
        let mut printed = std::pin::pin!(printed);
        while let Some(frame) = heard(limit::SILENCE, printed.next()).await? {
            match frame? {
                LogOutput::StdErr { message } => tails.push(Std::Stderr, &message),
                LogOutput::StdOut { message } | LogOutput::Console { message } => {
                    tails.push(Std::Stdout, &message);
                }
                LogOutput::StdIn { .. } => {}
            }
        }
        Ok(tails.into_log())
    }

    /// What a container that runs uses now, as `docker stats` counts it: memory without the pages of files that can be
    /// dropped at any time. Nothing is known of one that has ended.
    pub(crate) async fn used(&self, name: &str) -> Result<Measured, EngineError> {
        let docker = self.connected().await?;
        let options = query::StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        let stats = docker.stats(name, Some(options));
        let mut stats = std::pin::pin!(stats);
        let next = async { stats.next().await.transpose() };
        Ok(self.call(limit::USED, next).await?.map(|stats| used(&stats)).unwrap_or_default())
    }

    /// The output folder of a container that has ended, as a tar archive. Its bytes are the run's: trust nothing.
    pub(crate) async fn archive(
        &self,
        name: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, EngineError>> + Send + use<>, EngineError> {
        let docker = self.connected().await?;
        let options = query::DownloadFromContainerOptionsBuilder::default().path(OUTPUT).build();
        let bytes = docker.download_from_container(name, Some(options)).boxed();
        Ok(futures_util::stream::unfold(Some(bytes), |bytes| async {
            let mut bytes = bytes?;
            match heard(limit::SILENCE, bytes.next()).await {
                Ok(Some(Ok(piece))) => Some((Ok(piece), Some(bytes))),
                Ok(Some(Err(error))) => Some((Err(error.into()), None)),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    /// Where on its host the engine keeps a volume; `None` when it has none of that name or does not say.
    pub(crate) async fn volume_folder(&self, name: &str) -> Result<Option<PathBuf>, EngineError> {
        let docker = self.connected().await?;
        match self.call(limit::INSPECT, docker.inspect_volume(name)).await {
            Ok(volume) => Ok(Some(PathBuf::from(volume.mountpoint)).filter(|folder| folder.is_absolute())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What tells a volume from another of its name; `None` when there is none.
    pub(crate) async fn volume(&self, name: &VolumeName) -> Result<Option<FoundVolume>, EngineError> {
        let docker = self.connected().await?;
        match self.call(limit::INSPECT, docker.inspect_volume(name.as_str())).await {
            Ok(Volume { created_at, driver, mountpoint, .. }) => {
                Ok(Some(FoundVolume { made: created_at, driver, mountpoint }))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size of a volume; `None` when the engine does not say.
    pub(crate) async fn volume_size(&self, name: &str) -> Result<Option<u64>, EngineError> {
        let mut measured = self.measured.lock().await;
        let fresh = measured.as_ref().filter(|(at, _)| at.elapsed() < MEASUREMENT_LIFE);
        if let Some((_, sizes)) = fresh {
            return Ok(sizes.get(name).copied());
        }
        let version = self.connected().await?.client_version();
        let sizes = timeout(limit::MEASURE, usage::volume_sizes(&self.socket, &version)).await;
        let sizes = sizes.map_err(|_| EngineError::Timeout(limit::MEASURE))??;
        let size = sizes.get(name).copied();
        *measured = Some((Instant::now(), sizes));
        Ok(size)
    }

    /// Removes a container, running or not, with its anonymous volumes; whether there was one.
    pub(crate) async fn remove_container(&self, name: &str) -> Result<bool, EngineError> {
        let docker = self.connected().await?;
        let options = query::RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        there_was(self.call(limit::REMOVE, docker.remove_container(name, Some(options))).await)
    }

    /// Removes a volume; whether there was one.
    pub(crate) async fn remove_volume(&self, name: &str) -> Result<bool, EngineError> {
        let docker = self.connected().await?;
        there_was(
            self.call(limit::REMOVE, docker.remove_volume(name, None::<query::RemoveVolumeOptions>)).await,
        )
    }

    /// Removes an image under this name; whether there was one. One that another container uses is well: the run of that
    /// container removes it.
    pub(crate) async fn remove_image(&self, image: &str) -> Result<bool, EngineError> {
        let docker = self.connected().await?;
        let removed = self
            .call(limit::REMOVE, docker.remove_image(image, None::<query::RemoveImageOptions>, None))
            .await;
        match removed {
            Err(error) if error.is_conflict() => Ok(false),
            other => there_was(other.map(drop)),
        }
    }

    /// Every container of this instance.
    pub(crate) async fn containers(&self, instance: &Instance) -> Result<BTreeSet<Held>, EngineError> {
        let version = self.connected().await?.client_version();
        self.call(limit::LIST, container::list(&self.socket, &version, instance.as_str())).await
    }

    /// Every image that this instance has pulled, once for each name. An image is not marked, so its name tells.
    pub(crate) async fn images(&self, instance: &Instance) -> Result<Vec<Pulled>, EngineError> {
        let docker = self.connected().await?;
        let found = self.call(limit::LIST, docker.list_images(None::<query::ListImagesOptions>)).await?;
        let named = found.into_iter().flat_map(|image| {
            let size = u64::try_from(image.size).unwrap_or_default();
            image.repo_digests.into_iter().filter_map(move |name| {
                let run = instance.run_of_image(&name)?;
                Some(Pulled { name, run, id: image.id.clone(), size })
            })
        });
        Ok(named.collect())
    }

    /// Every volume of this instance.
    pub(crate) async fn volumes(&self, instance: &Instance) -> Result<BTreeSet<Held>, EngineError> {
        let docker = self.connected().await?;
        let options = query::ListVolumesOptionsBuilder::default().filters(&marked(instance)).build();
        let found = self.call(limit::LIST, docker.list_volumes(Some(options))).await?;
        let held = found.volumes.unwrap_or_default().into_iter();
        Ok(held.map(|volume| Held { run: run_of(Some(&volume.labels)), name: volume.name }).collect())
    }
}

fn used(stats: &ContainerStatsResponse) -> Measured {
    let memory = stats.memory_stats.as_ref();
    let files = memory.and_then(|memory| {
        let stats = memory.stats.as_ref()?;
        // Of control groups version 1, and of version 2.
        stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")).copied()
    });
    let cpu = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    Measured {
        peak_memory: memory
            .and_then(|memory| memory.usage)
            .filter(|usage| *usage > 0)
            .map(|usage| usage.saturating_sub(files.unwrap_or(0))),
        cpu: cpu.filter(|cpu| *cpu > 0).map(Duration::from_nanos),
    }
}

/// The next of a stream, or an error when nothing comes for too long.
async fn heard<T>(silence: Duration, next: impl Future<Output = T>) -> Result<T, EngineError> {
    timeout(silence, next).await.map_err(|_| EngineError::Timeout(silence))
}

/// What is gone need not be removed.
fn there_was(removed: Result<(), EngineError>) -> Result<bool, EngineError> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn marked(instance: &Instance) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{INSTANCE_LABEL}={}", instance.as_str())])])
}

fn run_of(labels: Option<&HashMap<String, String>>) -> Option<RunId> {
    labels?.get(RUN_LABEL)?.parse().ok()
}

/// A tar archive of one folder: put at the root, it gives what stands at [`OUTPUT`] to the run's user.
fn owned_folder() -> Bytes {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o700);
    header.set_uid(u64::from(UID));
    header.set_gid(u64::from(UID));
    header.set_size(0);
    let mut archive = tar::Builder::new(Vec::new());
    let name = OUTPUT.trim_start_matches('/');
    let written = archive.append_data(&mut header, name, std::io::empty());
    written.and_then(|()| archive.into_inner()).expect("a short name and no bytes fit into memory").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_read_of_both_versions_of_control_groups() {
        let used = |text: &str| used(&serde_json::from_str(text).expect("an answer"));
        let seen = |memory, cpu| Measured { peak_memory: memory, cpu };
        let first = r#"{"memory_stats": {"usage": 1000, "max_usage": 9000, "stats": {"total_inactive_file": 300}},
            "cpu_stats": {"cpu_usage": {"total_usage": 5000000}}}"#;
        assert_eq!(used(first), seen(Some(700), Some(Duration::from_millis(5))));
        let second = r#"{"memory_stats": {"usage": 1000, "stats": {"inactive_file": 2000}},
            "cpu_stats": {"cpu_usage": {"total_usage": 7}}}"#;
        assert_eq!(used(second), seen(Some(0), Some(Duration::from_nanos(7))));
        // A container that has ended.
        let ended = r#"{"memory_stats": {}, "cpu_stats": {"cpu_usage": {"total_usage": 0}}}"#;
        assert_eq!((used(ended), used("{}")), (seen(None, None), seen(None, None)));
    }

    #[test]
    fn an_engine_that_is_not_there_is_unreachable() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let folder = tempfile::tempdir().expect("folder");
        let engine = Engine::new(&folder.path().join("none.sock"), folder.path());
        let error = runtime.block_on(engine.reach()).expect_err("nobody there");
        assert!(matches!(error, EngineError::Unreachable(_)), "{error}");
    }
}
