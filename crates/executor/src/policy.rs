//! What the site allows the runs of a project: the half of a plan that the image has no say in.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;

/// What the executor is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The socket of the Docker-compatible engine.
    pub engine: PathBuf,
    /// How many runs may be under way at once, at least 1.
    pub concurrent_runs: usize,
}

/// What the runs of one project are given and held to.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectPolicy {
    /// The data, mounted read-only. With one dataset it stands at `mount`; with several each stands at
    /// `mount/<name>`; with none there is no mount.
    pub datasets: Vec<Dataset>,
    /// The absolute path inside the container where the data stands; `/input` by default.
    pub mount: String,
    /// The project's own environment variables.
    pub environment: BTreeMap<String, String>,
    /// What a run may use.
    pub limits: Limits,
    /// When the person who pushed may read what the container printed.
    pub logs: LogPolicy,
}

impl Default for ProjectPolicy {
    fn default() -> Self {
        Self {
            datasets: Vec::new(),
            mount: "/input".into(),
            environment: BTreeMap::new(),
            limits: Limits::default(),
            logs: LogPolicy::default(),
        }
    }
}

impl ProjectPolicy {
    /// The names of the datasets, sorted.
    pub fn dataset_names(&self) -> BTreeSet<&str> {
        self.datasets.iter().map(|dataset| dataset.name.as_str()).collect()
    }
}

/// A folder of confidential data on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name in the configuration; one component of a path. Researchers see it.
    pub name: String,
    /// Where it is on the host, absolute. Researchers never see it.
    pub path: PathBuf,
}

/// What a run may use. Past a limit a run ends with an outcome of that name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Processors.
    pub cpus: Cpus,
    /// Memory, with no swap beyond it.
    pub memory: ByteSize,
    /// Processes and threads.
    pub pids: u32,
    /// Wall-clock time.
    pub time: Duration,
    /// Bytes in `/output`.
    pub output: ByteSize,
    /// Files and folders in `/output`.
    pub entries: u32,
    /// The size of `/tmp`, which is kept in memory and counts towards `memory`.
    pub tmp: ByteSize,
    /// How much of the end of stdout and of stderr is kept, each.
    pub log: ByteSize,
}

impl Default for Limits {
    /// Small enough for a laptop, large enough for a first try.
    fn default() -> Self {
        Self {
            cpus: Cpus::ONE,
            memory: ByteSize::gib(2),
            pids: 256,
            time: Duration::from_hours(1),
            output: ByteSize::gib(1),
            entries: 10_000,
            tmp: ByteSize::mib(256),
            log: ByteSize::mib(1),
        }
    }
}

/// A share of processors, in billionths of one, as the Docker API counts them (`NanoCpus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpus(u64);

impl Cpus {
    /// One whole processor.
    pub const ONE: Self = Self(1_000_000_000);

    /// That many processors: from a hundredth of one, the least the kernel schedules by, to 1024.
    pub fn new(processors: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
        let nanos = || (processors * 1e9).round() as u64;
        (0.01..=1024.0).contains(&processors).then(|| Self(nanos()))
    }

    /// In billionths of a processor.
    pub fn nanos(self) -> u64 {
        self.0
    }
}

/// When the person who pushed may read what the container printed. The admin always may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogPolicy {
    /// With every result and every failure.
    Always,
    /// Only when the run failed, so that the image can be mended.
    #[default]
    OnFailure,
    /// Never.
    Never,
}
