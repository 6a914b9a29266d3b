//! What stands between a run and its host. All of it is said, and nothing left to an engine's defaults, which
//! whoever set up the engine may have changed.

/// What keeps a run from everything that it was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Confinement {
    /// What it can reach.
    pub network: Network,
    /// The image's files cannot be changed.
    pub read_only_root: bool,
    /// More rights than those of its user.
    pub capabilities: Capabilities,
    /// No program can give it more, whatever the bits of its file say.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    pub system_calls: SystemCalls,
    /// Its shared memory and message queues.
    pub ipc: Namespace,
    /// What it sees of control groups.
    pub cgroups: Namespace,
    /// A first process that ends what is left when the command ends.
    pub init: bool,
    /// Programs that an engine starts in the container by itself.
    pub health_check: HealthCheck,
    /// How an engine that is stopped ends it: at once, since nothing of a run that is cut off is used, and a program
    /// may not hold up an engine.
    pub stop_signal: &'static str,
    /// What is hidden of `/proc` and `/sys`.
    pub masked: &'static [&'static str],
    /// What cannot be written to there.
    pub read_only: &'static [&'static str],
}

/// What a run can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    /// Itself, by `lo`.
    None,
    /// Itself, by the `lo` of the relay of this name, who passes on what comes to some ports.
    WithRelay(String),
}

/// More rights than those of a run's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Capabilities {
    /// None of those there are.
    None,
}

/// Which system calls a run may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SystemCalls {
    /// Those of Torno's own profile.
    OfTheProfile,
}

/// Whose part of the kernel's tables is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// The run's own.
    Private,
}

/// Programs that an engine starts in a container by itself, when the image says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HealthCheck {
    /// Not one.
    None,
}

/// What tells of the host's memory, hardware and other processes: all that engines hide, of any version.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What would change the host.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

impl Confinement {
    /// The same for every run, but for the relay that some have.
    pub(super) fn new(relay: Option<&str>) -> Self {
        Self {
            network: relay.map_or(Network::None, |relay| Network::WithRelay(relay.to_owned())),
            read_only_root: true,
            capabilities: Capabilities::None,
            no_new_privileges: true,
            system_calls: SystemCalls::OfTheProfile,
            ipc: Namespace::Private,
            cgroups: Namespace::Private,
            init: true,
            health_check: HealthCheck::None,
            stop_signal: "SIGKILL",
            masked: MASKED,
            read_only: READ_ONLY,
        }
    }
}
