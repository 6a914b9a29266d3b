//! What a container is made with: the image's wishes, the project's policy and the house rules, as one value.
//!
//! Nothing here talks to an engine, reads a file or looks at a clock: the same run is always planned alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use torno_auth::ProjectName;
use torno_oci::{RunConfig, RunId};

use crate::{ProjectPolicy, instance::Instance};

/// Where a run writes what it gives back.
pub(crate) const OUTPUT: &str = "/output";
/// Where a run writes what it does not.
const TMP: &str = "/tmp";

/// Who a run is, and nobody on the host: 65532 is what distroless images call `nonroot`.
pub(crate) const UID: u32 = 65_532;

/// Shared memory, the engine's own default, said aloud. It counts towards the memory limit.
const SHM: ByteSize = ByteSize::mib(64);

/// Open files of one process: enough for a program that keeps a table of images open, far below what the host's
/// own table holds.
const OPEN_FILES: u64 = 4096;

/// The engine's log file is JSON: a line carries its time and stream (75 bytes), and a control character becomes
/// six. For lines of ten bytes and more on both streams this keeps the last `log` bytes of each; of shorter lines
/// less is kept. The engine drops whole files, so there are two, and no more than both are ever on the disk.
const LOG_FILE_FACTOR: u64 = 16;
const LOG_FILES: u32 = 2;

/// Every setting of a run's container. What is not here is left to the image (entry point, command, working
/// directory) or to the engine's default (the seccomp profile).
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
    /// `NAME=value` to set and `NAME` to take away what the image sets.
    pub environment: Vec<String>,
    /// The data, read-only.
    pub data: Vec<DataMount>,
    /// The volume that stands at [`OUTPUT`].
    pub volume: String,
    /// File systems in memory, with their options.
    pub tmpfs: BTreeMap<String, String>,
    /// Bytes of memory, with no swap beyond it.
    pub memory: u64,
    /// Bytes of shared memory.
    pub shm: u64,
    /// Billionths of a processor.
    pub nano_cpus: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Open files of one process.
    pub open_files: u64,
    /// The size of one log file and how many of them, in the engine's words.
    pub log_file: u64,
    /// How many log files the engine keeps.
    pub log_files: u32,
    /// How long it may run.
    pub time: Duration,
}

/// A folder of the host's, seen inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataMount {
    /// The dataset's name, for messages.
    pub dataset: String,
    /// Where it is on the host.
    pub source: PathBuf,
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
        let limits = &policy.limits;
        let data = data(policy);
        let name = subject.instance.container(subject.run);
        Ok(Self {
            image: subject.image.to_owned(),
            labels: subject.instance.labels(subject.run, subject.attempt),
            hostname: "run".into(),
            user: format!("{UID}:{UID}"),
            environment: environment(subject, config, policy),
            tmpfs: tmpfs(config, &data, limits.tmp)?,
            data,
            volume: name.clone(),
            name,
            memory: limits.memory.as_u64(),
            shm: SHM.as_u64(),
            nano_cpus: limits.cpus.nanos(),
            pids: limits.pids,
            open_files: OPEN_FILES,
            log_file: limits.log.as_u64().saturating_mul(LOG_FILE_FACTOR).max(ByteSize::kib(64).as_u64()),
            log_files: LOG_FILES,
            time: limits.time,
        })
    }
}

fn data(policy: &ProjectPolicy) -> Vec<DataMount> {
    let mount = |dataset: &crate::Dataset, target: String| DataMount {
        dataset: dataset.name.clone(),
        source: dataset.path.clone(),
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

/// The image's own variables stay, but for those that change what a program loads or which devices it is given,
/// and those that are Torno's to set. A name without `=` takes the image's value away.
fn environment(subject: &Subject<'_>, config: &RunConfig, policy: &ProjectPolicy) -> Vec<String> {
    let mut set = BTreeMap::from([("HOME".to_owned(), TMP.to_owned())]);
    set.extend(policy.environment.clone());
    set.extend([
        ("TORNO_INPUT".to_owned(), normal(&policy.mount)),
        ("TORNO_OUTPUT".to_owned(), OUTPUT.to_owned()),
        ("TORNO_RUN".to_owned(), subject.run.to_string()),
        ("TORNO_PROJECT".to_owned(), subject.project.as_str().to_owned()),
    ]);
    let dropped = |name: &&String| {
        ["LD_", "NVIDIA_", "TORNO_"].iter().any(|prefix| name.starts_with(prefix))
            && !set.contains_key(name.as_str())
    };
    let taken: BTreeSet<String> = config.environment.iter().filter(dropped).cloned().collect();
    set.iter().map(|(name, value)| format!("{name}={value}")).chain(taken).collect()
}

/// `/tmp`, and a file system in memory for each volume the image declares: the engine would otherwise make an
/// anonymous volume, on the host's disk and without a limit.
fn tmpfs(
    config: &RunConfig,
    data: &[DataMount],
    size: ByteSize,
) -> Result<BTreeMap<String, String>, Unplannable> {
    let options = format!("rw,exec,nosuid,nodev,size={},mode=1777", size.as_u64());
    let mut mounts = BTreeMap::from([(TMP.to_owned(), options.clone())]);
    let taken: Vec<&str> = data.iter().map(|mount| mount.target.as_str()).chain([OUTPUT]).collect();
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
mod tests {
    use crate::{Dataset, Limits};

    use super::*;

    fn config(environment: &[&str], volumes: &[&str]) -> RunConfig {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        RunConfig {
            environment: owned(environment),
            volumes: owned(volumes),
            working_directory: String::new(),
        }
    }

    fn datasets(names: &[&str]) -> Vec<Dataset> {
        let dataset = |name: &&str| Dataset { name: name.to_string(), path: format!("/srv/{name}").into() };
        names.iter().map(dataset).collect()
    }

    fn plan(config: &RunConfig, policy: &ProjectPolicy) -> Result<Plan, Unplannable> {
        let instance = "0123456789abcdef".parse::<Instance>().expect("instance");
        let project = "retina".parse().expect("project");
        let run = RunId::new(12).expect("run");
        let image = "127.0.0.1:1/run/retina/unet@sha256:00";
        Plan::new(&Subject { instance: &instance, run, attempt: 1, project: &project, image }, config, policy)
    }

    #[test]
    fn every_setting_of_a_plain_run() {
        let policy = ProjectPolicy { datasets: datasets(&["eyes"]), ..ProjectPolicy::default() };
        let made = plan(&config(&["PATH"], &[]), &policy).expect("plan");
        let text = |text: &str| text.to_owned();
        let expected = Plan {
            name: text("torno-0123456789abcdef-run-12"),
            image: text("127.0.0.1:1/run/retina/unet@sha256:00"),
            labels: BTreeMap::from([
                (text("org.torno.attempt"), text("1")),
                (text("org.torno.instance"), text("0123456789abcdef")),
                (text("org.torno.run"), text("12")),
            ]),
            hostname: text("run"),
            user: text("65532:65532"),
            environment: [
                "HOME=/tmp",
                "TORNO_INPUT=/input",
                "TORNO_OUTPUT=/output",
                "TORNO_PROJECT=retina",
                "TORNO_RUN=12",
            ]
            .map(text)
            .to_vec(),
            data: vec![DataMount {
                dataset: text("eyes"),
                source: "/srv/eyes".into(),
                target: text("/input"),
            }],
            volume: text("torno-0123456789abcdef-run-12"),
            tmpfs: BTreeMap::from([(text("/tmp"), text("rw,exec,nosuid,nodev,size=268435456,mode=1777"))]),
            memory: 2 << 30,
            shm: 64 << 20,
            nano_cpus: 1_000_000_000,
            pids: 256,
            open_files: 4096,
            log_file: 16 << 20,
            log_files: 2,
            time: Duration::from_hours(1),
        };
        assert_eq!(made, expected);
    }

    #[test]
    fn what_an_image_sets_is_taken_away_where_it_is_not_its_to_set() {
        let policy = ProjectPolicy {
            environment: BTreeMap::from([
                ("FOLDS".into(), "5".into()),
                ("HOME".into(), "/output".into()),
                ("TORNO_RUN".into(), "99".into()),
            ]),
            ..ProjectPolicy::default()
        };
        let names = ["LD_PRELOAD", "NVIDIA_VISIBLE_DEVICES", "TORNO_RUN", "TORNO_X", "HOME", "LDX", "FOLDS"];
        let made = plan(&config(&names, &[]), &policy).expect("plan");
        let expected = [
            "FOLDS=5",
            "HOME=/output",
            "TORNO_INPUT=/input",
            "TORNO_OUTPUT=/output",
            "TORNO_PROJECT=retina",
            "TORNO_RUN=12",
            "LD_PRELOAD",
            "NVIDIA_VISIBLE_DEVICES",
            "TORNO_X",
        ];
        assert_eq!(made.environment, expected);
    }

    #[test]
    fn several_datasets_stand_side_by_side() {
        let policy = ProjectPolicy {
            datasets: datasets(&["a", "b"]),
            mount: "/opt//ml/model/".into(),
            ..ProjectPolicy::default()
        };
        let made = plan(&config(&[], &["/opt", "/opt/ml/model/a"]), &policy).expect("plan");
        let targets: Vec<_> = made.data.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(targets, ["/opt/ml/model/a", "/opt/ml/model/b"]);
        assert_eq!(made.tmpfs.keys().collect::<Vec<_>>(), ["/opt", "/tmp"]);
    }

    #[test]
    fn volumes_are_kept_in_memory_and_never_hide_a_mount() {
        let policy = ProjectPolicy { datasets: datasets(&["a"]), ..ProjectPolicy::default() };
        let volumes = ["/data/", "/tmp", "/tmp/inner", "/output", "//input", "/outputs"];
        let made = plan(&config(&[], &volumes), &policy).expect("plan");
        assert_eq!(made.tmpfs.keys().collect::<Vec<_>>(), ["/data", "/outputs", "/tmp", "/tmp/inner"]);
        for (volume, mount) in [("/output/x", "/output"), ("/input//x/y", "/input")] {
            let refused = plan(&config(&[], &[volume]), &policy).expect_err("refused");
            assert_eq!(refused, Unplannable::Volume { volume: normal(volume), mount: mount.into() });
        }
    }

    #[test]
    fn the_log_file_has_a_floor() {
        let limits = Limits { log: ByteSize::b(1), ..Limits::default() };
        let made = plan(&config(&[], &[]), &ProjectPolicy { limits, ..ProjectPolicy::default() });
        assert_eq!(made.expect("plan").log_file, 64 << 10);
    }
}
