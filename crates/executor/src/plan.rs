//! What a container is made with: the image's wishes, the project's policy and the house rules, as one value.
//!
//! Nothing here talks to an engine, reads a file or looks at a clock: the same run is always planned alike.

mod confinement;
mod relay;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use torno_auth::ProjectName;
use torno_oci::{RunConfig, RunId};
use torno_registry::{Given, GivenDataset, GivenLimits, Gpu};

use crate::{Cpus, DataPlace, Limits, ProjectPolicy, Runtime, instance::Instance};

pub(crate) use confinement::{Capabilities, Confinement, HealthCheck, Namespace, Network, SystemCalls};
pub(crate) use relay::{RelayPlan, relay_name};

/// Where a run writes what it gives back.
pub(crate) const OUTPUT: &str = "/output";
/// Where a run finds the secrets it is given.
pub(crate) const SECRETS: &str = "/run/secrets";
/// The host name inside every run.
const HOSTNAME: &str = "run";
/// Where a run writes what it does not.
const TMP: &str = "/tmp";

/// Who a run is, and nobody on the host: 65532 is what distroless images call `nonroot`.
pub(crate) const UID: u32 = 65_532;

/// Shared memory, the engine's own default, said aloud. It counts towards the memory limit.
const SHM: ByteSize = ByteSize::mib(64);

/// Open files of one process: enough for a program that keeps a table of images open, far below what the host's
/// own table holds.
const OPEN_FILES: u64 = 4096;

/// Processes of one user. All runs are one user to the kernel, so this bounds them together; a run by itself is
/// bounded by its project's `pids`, which may be as many.
const USER_PROCESSES: u64 = 32_768;

/// gVisor's own threads are counted with the run's. It has 62 of them before a program does anything, and up to 8.2
/// for each process of the program (measured with release 20221219 and its platform `ptrace`, which has most).
const GVISOR_ITSELF: u32 = 128;
const GVISOR_PER_PROCESS: u32 = 9;

/// What tells NVIDIA's runtime which GPUs a container gets, and the word for none. An engine may have that runtime by
/// default, and then an image that has `CUDA_VERSION` and not this variable would get all of the host's.
const GPUS_SEEN: (&str, &str) = ("NVIDIA_VISIBLE_DEVICES", "void");

/// Core dumps: none, since they would hold data.
const CORE: u64 = 0;

/// When the host is out of memory, runs go before anything else: they can be run again.
const OOM_SCORE: u16 = 1000;

/// The engine's log file is JSON: a line carries its time and stream (75 bytes), and a control character becomes
/// six. For lines of ten bytes and more on both streams this keeps the last `log` bytes of each; of shorter lines
/// less is kept. The engine drops whole files, so there are two, and no more than both are ever on the disk.
const LOG_FILE_FACTOR: u64 = 16;
const LOG_FILES: u32 = 2;

/// What a log file holds at least: one error message with its trace, however it is written.
const LEAST_LOG_FILE: ByteSize = ByteSize::kib(64);

/// Every setting of a run's container. What is not here is left to the image: its entry point, its command and
/// those of its variables that are not taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The container's name: one run has one, so a second cannot be made.
    pub name: String,
    /// The image, by digest.
    pub image: String,
    /// What the container and the volume are found by again.
    pub labels: BTreeMap<String, String>,
    /// The host name inside.
    pub hostname: String,
    /// User and group.
    pub user: String,
    /// Where the command starts.
    pub working_directory: String,
    /// The variables that are set.
    pub environment: BTreeMap<String, String>,
    /// The variables of the image that are taken away.
    pub taken_away: BTreeSet<String>,
    /// The data, read-only.
    pub data: Vec<DataMount>,
    /// The folder of the host's that stands at [`SECRETS`], of a run that is given some.
    pub secrets: Option<PathBuf>,
    /// Through what it reaches the services it may reach.
    pub relay: Option<RelayPlan>,
    /// The volume that stands at [`OUTPUT`].
    pub volume: String,
    /// File systems in memory, with their options.
    pub tmpfs: BTreeMap<String, String>,
    /// What stands between the run and the host.
    pub confinement: Confinement,
    /// What runs it; `None`: what the engine takes when nothing is said.
    pub runtime: Option<Runtime>,
    /// What the engine and the kernel hold it to.
    pub resources: Resources,
    /// The GPUs of the host's that it has for itself.
    pub gpus: Vec<Gpu>,
    /// How long it may run.
    pub time: Duration,
}

/// How much a run may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Bytes of memory, with no swap beyond it.
    pub memory: u64,
    /// Bytes of shared memory.
    pub shm: u64,
    /// Billionths of a processor.
    pub nano_cpus: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Limits of single processes, soft and hard alike, by the names the engine has for them.
    pub ulimits: BTreeMap<&'static str, u64>,
    /// How readily the kernel ends it when the whole host is out of memory, up to 1000.
    pub oom_score_adj: u16,
    /// The size of one log file, in bytes.
    pub log_file: u64,
    /// How many log files the engine keeps.
    pub log_files: u32,
}

/// Data of the site's, seen inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataMount {
    /// The dataset's name, for messages.
    pub dataset: String,
    /// Where it is.
    pub source: DataPlace,
    /// Where it stands inside.
    pub target: String,
}

/// What is planned: which run, of what.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    /// Whose container it is among those of an engine.
    pub instance: &'a Instance,
    /// The run.
    pub run: RunId,
    /// How often it was claimed.
    pub attempt: u64,
    /// Its project.
    pub project: &'a ProjectName,
    /// Its image, by digest, as the engine pulls it.
    pub image: &'a str,
    /// Where the sockets for its relay are, if it needs one.
    pub sockets: &'a Path,
    /// Where its secrets are, if it is given some.
    pub secrets: &'a Path,
    /// The GPUs it was given.
    pub gpus: &'a [Gpu],
}

/// Why an image cannot be run by this project. The person who pushed reads this.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Unplannable {
    /// A volume inside a mount that is read-only or is collected.
    #[error("the image declares the VOLUME {volume} inside {mount}; remove that line from its Dockerfile")]
    Volume {
        /// What the image declares.
        volume: String,
        /// What stands there.
        mount: String,
    },
}

impl Plan {
    /// Plans a run.
    pub(crate) fn new(
        subject: &Subject<'_>,
        config: &RunConfig,
        policy: &ProjectPolicy,
    ) -> Result<Self, Unplannable> {
        let limits = &limits(config, policy);
        let data = data(policy);
        let environment = environment(subject, config, policy);
        let name = subject.instance.container(subject.run);
        let relay = RelayPlan::new(subject, policy);
        let secrets = (!policy.secrets.is_empty()).then(|| subject.secrets.to_owned());
        Ok(Self {
            image: subject.image.to_owned(),
            labels: labels(subject, config),
            hostname: HOSTNAME.into(),
            user: format!("{UID}:{UID}"),
            working_directory: working_directory(config),
            taken_away: taken_away(config, &environment),
            environment,
            tmpfs: tmpfs(config, &data, secrets.is_some(), limits.tmp)?,
            data,
            secrets,
            volume: name.clone(),
            name,
            confinement: Confinement::new(relay.as_ref().map(|relay| relay.name.as_str())),
            relay,
            runtime: policy.runtime,
            resources: Resources::new(limits, policy.runtime),
            gpus: subject.gpus.to_vec(),
            time: limits.time,
        })
    }
}

impl Resources {
    fn new(limits: &Limits, runtime: Option<Runtime>) -> Self {
        Self {
            memory: limits.memory.as_u64(),
            shm: SHM.as_u64(),
            nano_cpus: limits.cpus.nanos(),
            pids: match runtime {
                None | Some(Runtime::Runc) => limits.pids,
                Some(Runtime::Runsc) => {
                    limits.pids.saturating_mul(GVISOR_PER_PROCESS).saturating_add(GVISOR_ITSELF)
                }
            },
            ulimits: BTreeMap::from([("core", CORE), ("nofile", OPEN_FILES), ("nproc", USER_PROCESSES)]),
            oom_score_adj: OOM_SCORE,
            log_file: limits.log.as_u64().saturating_mul(LOG_FILE_FACTOR).max(LEAST_LOG_FILE.as_u64()),
            log_files: LOG_FILES,
        }
    }
}

impl Plan {
    /// What of it the run's researchers may know.
    pub(crate) fn given(&self, policy: &ProjectPolicy) -> Given {
        let limits = &policy.limits;
        let dataset = |data: &DataMount| GivenDataset {
            name: data.dataset.clone(),
            mount: data.target.clone(),
            digest: None,
        };
        Given {
            datasets: self.data.iter().map(dataset).collect(),
            network: match self.confinement.network {
                Network::None => "none".into(),
                // The name is the engine's; which services there were, its counts tell.
                Network::WithRelay(_) => "services".into(),
            },
            user: self.user.clone(),
            limits: GivenLimits {
                nano_cpus: self.resources.nano_cpus,
                memory_bytes: self.resources.memory,
                pids: limits.pids,
                millis: u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX),
                output_bytes: limits.output.as_u64(),
                output_entries: limits.entries,
                tmp_bytes: limits.tmp.as_u64(),
                log_bytes: limits.log.as_u64(),
                gpus: u32::try_from(self.gpus.len()).unwrap_or(u32::MAX),
            },
        }
    }
}

fn data(policy: &ProjectPolicy) -> Vec<DataMount> {
    let mount = |dataset: &crate::Dataset, target: String| DataMount {
        dataset: dataset.name.clone(),
        source: dataset.seen(),
        target,
    };
    match policy.datasets.as_slice() {
        [only] => vec![mount(only, normal(&policy.mount))],
        several => several
            .iter()
            .map(|dataset| mount(dataset, normal(&format!("{}/{}", policy.mount, dataset.name))))
            .collect(),
    }
}

/// The project's limits, or less where the image asks for less. What it may ask for was looked at when it was pushed;
/// the project's limits may be lower by now.
fn limits(config: &RunConfig, policy: &ProjectPolicy) -> Limits {
    let (limits, wishes) = (policy.limits, &config.wishes);
    let memory = wishes.memory.map_or(limits.memory, |bytes| ByteSize::b(bytes).min(limits.memory));
    Limits {
        time: wishes.time.map_or(limits.time, |time| time.min(limits.time)),
        cpus: wishes.nano_cpus.and_then(Cpus::from_nanos).map_or(limits.cpus, |cpus| cpus.min(limits.cpus)),
        memory,
        tmp: limits.tmp.min(memory),
        ..limits
    }
}

/// What Torno finds the container by. The image's own labels, which an engine would put on it too, are emptied: other
/// programs of the host start commands for what is labelled so.
fn labels(subject: &Subject<'_>, config: &RunConfig) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> =
        config.labels.iter().map(|label| (label.clone(), String::new())).collect();
    labels.extend(subject.instance.labels(subject.run, subject.attempt));
    labels
}

/// What the project sets, what the image's parameters say and what a run is told. Which GPUs it has, the engine says.
fn environment(
    subject: &Subject<'_>,
    config: &RunConfig,
    policy: &ProjectPolicy,
) -> BTreeMap<String, String> {
    let mut set = BTreeMap::from([("HOME".to_owned(), TMP.to_owned())]);
    set.extend(policy.environment.clone());
    let parameters = config.wishes.parameters.iter();
    set.extend(
        parameters.map(|(name, value)| (format!("TORNO_PARAM_{}", name.to_uppercase()), value.clone())),
    );
    set.extend([
        ("TORNO_INPUT".to_owned(), normal(&policy.mount)),
        ("TORNO_OUTPUT".to_owned(), OUTPUT.to_owned()),
        ("TORNO_RUN".to_owned(), subject.run.to_string()),
        ("TORNO_PROJECT".to_owned(), subject.project.as_str().to_owned()),
    ]);
    if subject.gpus.is_empty() {
        let (name, none) = GPUS_SEEN;
        set.insert(name.to_owned(), none.to_owned());
    }
    set
}

/// The image's own variables stay, but for those that change what a program loads or which devices it is given,
/// and those that are Torno's to set.
fn taken_away(config: &RunConfig, set: &BTreeMap<String, String>) -> BTreeSet<String> {
    let dropped = |name: &&String| {
        ["LD_", "NVIDIA_", "TORNO_"].iter().any(|prefix| name.starts_with(prefix))
            && !set.contains_key(name.as_str())
    };
    config.environment.iter().filter(dropped).cloned().collect()
}

/// The image's own, which its configuration's parser has held to folders of the image's. It is said, so that it is
/// this one that is used and no other reading of the configuration.
fn working_directory(config: &RunConfig) -> String {
    let path = normal(&config.working_directory);
    if path.is_empty() { "/".into() } else { path }
}

/// `/tmp`, and a file system in memory for each volume the image declares: the engine would otherwise make an
/// anonymous volume, on the host's disk and without a limit.
fn tmpfs(
    config: &RunConfig,
    data: &[DataMount],
    secrets: bool,
    size: ByteSize,
) -> Result<BTreeMap<String, String>, Unplannable> {
    let options = format!("rw,exec,nosuid,nodev,size={},mode=1777", size.as_u64());
    let mut mounts = BTreeMap::from([(TMP.to_owned(), options.clone())]);
    let taken = data.iter().map(|mount| mount.target.as_str()).chain([OUTPUT]);
    let taken: Vec<&str> = taken.chain(secrets.then_some(SECRETS)).collect();
    for volume in &config.volumes {
        let volume = normal(volume);
        if taken.contains(&volume.as_str()) {
            continue;
        }
        if let Some(mount) = taken.iter().find(|mount| is_inside(&volume, mount)) {
            return Err(Unplannable::Volume { volume: shown(&volume), mount: (*mount).to_owned() });
        }
        mounts.insert(volume, options.clone());
    }
    Ok(mounts)
}

fn is_inside(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

/// Without doubled and trailing slashes, as the engine writes paths.
fn normal(path: &str) -> String {
    let components = path.split('/').filter(|component| !component.is_empty());
    components.fold(String::new(), |whole, component| whole + "/" + component)
}

/// Enough of an image's words to recognise them in a message.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
