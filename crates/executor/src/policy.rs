//! What the site allows the runs of a project: the half of a plan that the image has no say in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use bytesize::ByteSize;
use torno_inside::Attack;
use torno_registry::Resources;

use crate::{DataPlace, Dataset, Service, collect::Bounds};

/// How many services the runs of a project may reach. Each name has an address of its own, `127.0.1.1` to `127.0.1.16`.
pub const MAX_SERVICES: usize = 16;

/// How many secrets the runs of a project may be given: some for each service.
pub const MAX_SECRETS: usize = 32;

/// What the executor is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The socket of the Docker-compatible engine.
    pub engine: PathBuf,
    /// How many runs may be under way at once, at least 1.
    pub concurrent_runs: usize,
    /// A folder in memory, which the engine sees under the same path.
    pub volatile: PathBuf,
    /// Promises that this host may break and start runs all the same.
    pub accept: Vec<&'static Attack>,
    /// What the disk of the outputs keeps free: with less, runs are stopped.
    pub keep_free: ByteSize,
    /// The bytes of images that the engine keeps after their runs, for the next run that shares layers with them.
    pub keep_cache: ByteSize,
    /// What the limits of the runs under way may add up to.
    pub total: Resources,
    /// How often database and engine are compared.
    pub reconcile: Duration,
    /// How long a run that has begun waits for what the site owes it: an engine that is away, room for what it left.
    pub patience: Duration,
    /// How often a run is tried in all when the site fails it, at least 1.
    pub attempts: u64,
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
    /// The services of the site that runs may reach, at most [`MAX_SERVICES`].
    pub services: Vec<Service>,
    /// The files on the host that runs are given below `/run/secrets`, by their names there, at most [`MAX_SECRETS`].
    pub secrets: BTreeMap<String, PathBuf>,
    /// What a run may use.
    pub limits: Limits,
    /// When the person who pushed may read what the container printed.
    pub logs: LogPolicy,
    /// What runs the container; `None`: what the engine takes when nothing is said.
    pub runtime: Option<Runtime>,
}

/// What stands between a program and the kernel, under the name that the engine knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Runtime {
    /// The host's own kernel, which the program shares.
    Runc,
    /// gVisor: a kernel of its own, which is a program without rights on the host's.
    Runsc,
}

impl Runtime {
    /// Every one that can be asked for.
    pub const ALL: [Self; 2] = [Self::Runc, Self::Runsc];

    /// The name that the engine knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Runsc => "runsc",
        }
    }
}

/// The runtimes that projects ask for; at least what the engine takes when nothing is said.
pub fn runtimes<'p>(projects: impl IntoIterator<Item = &'p ProjectPolicy>) -> BTreeSet<Option<Runtime>> {
    let asked: BTreeSet<_> = projects.into_iter().map(|policy| policy.runtime).collect();
    if asked.is_empty() { BTreeSet::from([None]) } else { asked }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Runtime {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, UnknownRuntime> {
        Self::ALL.into_iter().find(|runtime| runtime.name() == text).ok_or(UnknownRuntime)
    }
}

/// A name of no runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a runtime is \"runc\" or \"runsc\" (gVisor), and the engine must know it by that name")]
pub struct UnknownRuntime;

impl Default for ProjectPolicy {
    fn default() -> Self {
        Self {
            datasets: Vec::new(),
            mount: "/input".into(),
            environment: BTreeMap::new(),
            services: Vec::new(),
            secrets: BTreeMap::new(),
            limits: Limits::default(),
            logs: LogPolicy::default(),
            runtime: None,
        }
    }
}

impl ProjectPolicy {
    /// What a run of `try/` is given and held to: the samples in place of the data, and everything it says.
    ///
    /// What it leaves is bounded in size alone, since nothing of it is confidential.
    pub(crate) fn for_try(&self) -> Result<Self, NoSample> {
        // Field by field: whoever adds one says here what of it a try may have.
        let Self { datasets, mount, environment, services: _, secrets: _, limits, logs: _, runtime } = self;
        let sampled = |dataset: &Dataset| match &dataset.sample {
            Some(sample) => Ok(Dataset { place: DataPlace::Folder(sample.clone()), ..dataset.clone() }),
            None => Err(NoSample(dataset.name.clone())),
        };
        Ok(Self {
            datasets: datasets.iter().map(sampled).collect::<Result<_, _>>()?,
            mount: mount.clone(),
            environment: environment.clone(),
            // What stands behind them is confidential, and nobody looks at what a try gives back.
            services: Vec::new(),
            secrets: BTreeMap::new(),
            limits: Limits { entries: TRY_ENTRIES, log: limits.log.max(TRY_LOG), ..*limits },
            logs: LogPolicy::Always,
            runtime: *runtime,
        })
    }
}

/// The files and folders that a try may leave: as many as a project can allow at all. Each takes memory while it is
/// collected.
const TRY_ENTRIES: u32 = 1_000_000;

/// How much of each stream of a try is kept, unless the project keeps more: what a program says while it is mended. The
/// engine keeps sixteen times that on its disk while the run lasts.
const TRY_LOG: ByteSize = ByteSize::mib(8);

/// A dataset that nobody can try a program on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoSample(pub(crate) String);

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
    /// Names in a path below `/output`: 1 is what lies in it directly.
    pub depth: u32,
    /// The size of `/tmp`, which is kept in memory and counts towards `memory`.
    pub tmp: ByteSize,
    /// How much of the end of stdout and of stderr is kept, each.
    pub log: ByteSize,
    /// GPUs, each of them nobody else's while the run lasts.
    pub gpus: u32,
}

impl Limits {
    /// What a run may leave in `/output`.
    pub(crate) fn output(&self) -> Bounds {
        Bounds { bytes: self.output.as_u64(), entries: u64::from(self.entries), depth: self.depth }
    }

    /// What a run takes of the host.
    pub fn resources(&self) -> Resources {
        Resources { nano_cpus: self.cpus.nanos(), memory: self.memory.as_u64(), gpus: self.gpus }
    }
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
            depth: 32,
            tmp: ByteSize::mib(256),
            log: ByteSize::mib(1),
            gpus: 0,
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

    /// That many billionths, within the same bounds.
    pub(crate) fn from_nanos(nanos: u64) -> Option<Self> {
        (10_000_000..=1024 * Self::ONE.0).contains(&nanos).then_some(Self(nanos))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn project(samples: &[Option<&str>]) -> ProjectPolicy {
        let dataset = |(number, sample): (usize, Option<&str>)| Dataset {
            sample: sample.map(PathBuf::from),
            ..Dataset::folder(format!("d{number}"), format!("/confidential/{number}"))
        };
        ProjectPolicy {
            datasets: samples.iter().copied().enumerate().map(dataset).collect(),
            services: vec!["db:5432".parse().expect("service")],
            secrets: [("db".to_owned(), PathBuf::from("/etc/secret"))].into(),
            limits: Limits { log: ByteSize::kib(1), entries: 1, ..Limits::default() },
            logs: LogPolicy::Never,
            ..ProjectPolicy::default()
        }
    }

    #[test]
    fn a_try_has_the_samples_and_nothing_of_the_data() {
        let tried = project(&[Some("/sample/0"), Some("/sample/1")]).for_try().expect("both have a sample");
        let places: Vec<_> = tried.datasets.iter().map(|dataset| dataset.place.to_string()).collect();
        assert_eq!(places, ["/sample/0", "/sample/1"]);
        assert!(tried.services.is_empty() && tried.secrets.is_empty());
        assert_eq!(tried.logs, LogPolicy::Always);
        assert_eq!((tried.limits.log, tried.limits.entries), (TRY_LOG, TRY_ENTRIES));
        assert_eq!(tried.limits.output, Limits::default().output, "its size is bounded as ever");
        let wide = Limits { log: ByteSize::mib(64), ..Limits::default() };
        let wide = ProjectPolicy { limits: wide, ..project(&[]) }.for_try().expect("no data");
        assert_eq!(wide.limits.log, ByteSize::mib(64));
    }

    #[test]
    fn without_every_sample_there_is_no_try() {
        let refused = project(&[Some("/sample/0"), None]).for_try().expect_err("one has none");
        assert_eq!(refused, NoSample("d1".into()));
    }
}
