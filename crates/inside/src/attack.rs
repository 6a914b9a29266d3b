//! What the probe tries, and the promise that each attack tests.

/// Something that a run must not be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attack {
    /// What the probe, `torno doctor` and `executor.accept` call it.
    pub name: &'static str,
    /// What is promised, in one sentence.
    pub promise: &'static str,
    /// Whether a host that does not keep the promise must start no runs.
    pub mandatory: bool,
    /// What can be done about a host that does not keep it.
    pub remedy: &'static str,
    /// What it is tried against.
    pub against: Against,
}

/// Who keeps a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// What the engine puts around a run: its files, its network, its neighbours.
    Engine,
    /// The kernel that the run's system calls go to. Where that is one of the run's own (gVisor), the host's is not asked.
    Kernel,
    /// A limit at which a run may be ended as a whole.
    Limit,
}

/// The engine is told so in every plan, so something between it and the kernel has to be looked for.
const ASKED_FOR: &str = "the engine is asked for this and does not do it: look for a runtime, a wrapper or a plugin that \
    changes what containers are started with (`docker info`, /etc/docker/daemon.json), or update the engine";
const FILTER: &str = "the filter of system calls is not in force: the kernel and the engine must have seccomp (`docker \
    info` names it under Security Options), and no runtime may take it away";
const MEMORY_GROUP: &str = "the kernel must count memory and swap by control group: boot with `cgroup_enable=memory \
    swapaccount=1`, or use a host with control groups of version 2";
const PROCESS_GROUP: &str = "the kernel must count processes by control group (CONFIG_CGROUP_PIDS), and a rootless \
    engine must be given the controllers (systemd's `Delegate=`)";
const CPU_GROUP: &str = "the kernel must share processors out by control group (CONFIG_CFS_BANDWIDTH), and a rootless \
    engine must be given the controllers (systemd's `Delegate=`)";

const fn must(name: &'static str, promise: &'static str, remedy: &'static str) -> Attack {
    Attack { name, promise, mandatory: true, remedy, against: Against::Engine }
}

/// What is promised beside that, and lets nothing out if it is not kept.
const fn should(name: &'static str, promise: &'static str, remedy: &'static str) -> Attack {
    Attack { name, promise, mandatory: false, remedy, against: Against::Engine }
}

const fn kernel(attack: Attack) -> Attack {
    Attack { against: Against::Kernel, ..attack }
}

const fn limit(attack: Attack) -> Attack {
    Attack { against: Against::Limit, ..attack }
}

/// Every attack, in the order in which they are tried.
pub const ATTACKS: &[Attack] = &[
    must("write-input", "The data cannot be changed, added to or removed.", ASKED_FOR),
    must(
        "write-root",
        "Nothing of the image and nothing that the engine puts beside it can be changed.",
        ASKED_FOR,
    ),
    kernel(must("write-proc", "No setting of the kernel can be changed.", ASKED_FOR)),
    kernel(must("write-sys", "No setting of a device or a module can be changed.", ASKED_FOR)),
    kernel(must("write-cgroup", "A run cannot lift its own limits.", ASKED_FOR)),
    must("remount", "What is mounted read-only stays so.", ASKED_FOR),
    kernel(must("mount", "Nothing can be mounted.", ASKED_FOR)),
    kernel(must("mknod", "No device can be made.", ASKED_FOR)),
    kernel(must("chroot", "The root folder cannot be changed.", ASKED_FOR)),
    kernel(must(
        "file-handle",
        "No file can be opened by its number, past its folder's permissions.",
        ASKED_FOR,
    )),
    kernel(must("devices", "No device is there but those that every container has.", ASKED_FOR)),
    kernel(should(
        "masked-paths",
        "What /proc and /sys tell of the machine's memory, keys and firmware is hidden.",
        ASKED_FOR,
    )),
    must("root-user", "A run is not root, nor in root's group.", ASKED_FOR),
    must("setuid", "A run cannot become another user or join a group.", ASKED_FOR),
    kernel(must("capabilities", "A run has no capability in any set.", ASKED_FOR)),
    kernel(must(
        "no-new-privileges",
        "No program that a run starts can have more rights than it.",
        ASKED_FOR,
    )),
    kernel(must("seccomp", "System calls are filtered.", FILTER)),
    must(
        "environment",
        "An image cannot set variables that change what programs load or which devices there are, nor \
        Torno's own.",
        ASKED_FOR,
    ),
    kernel(must("user-namespace", "A run cannot become root in a user namespace of its own.", FILTER)),
    kernel(must("namespaces", "A run can neither make nor join another namespace.", ASKED_FOR)),
    must("other-processes", "A run sees no process but its own.", ASKED_FOR),
    must("first-process", "The first process that a run sees leads to no other root.", ASKED_FOR),
    must("ptrace", "No process but the run's own can be traced.", ASKED_FOR),
    must(
        "shared-memory",
        "A run finds nothing that another left in shared memory, queues, /tmp or /output.",
        ASKED_FOR,
    ),
    kernel(must("keyrings", "The kernel's keyrings, which are no container's own, cannot be used.", FILTER)),
    kernel(must("bpf", "No program can be put into the kernel.", FILTER)),
    kernel(should("perf-events", "The machine cannot be watched by counting its events.", FILTER)),
    kernel(should("userfaultfd", "A run cannot hold up the kernel in the middle of a copy.", FILTER)),
    kernel(should("io-uring", "Nothing can be asked of the kernel past the filter of system calls.", FILTER)),
    kernel(must("modules", "No kernel module can be loaded or removed.", ASKED_FOR)),
    kernel(must("kexec", "No other kernel can be started.", ASKED_FOR)),
    kernel(must("reboot", "The machine cannot be restarted.", ASKED_FOR)),
    kernel(must("kernel-log", "The kernel's log cannot be read.", FILTER)),
    kernel(must("clock", "The clock cannot be set.", ASKED_FOR)),
    kernel(must("administration", "Swap, accounting and the machine's name cannot be changed.", ASKED_FOR)),
    kernel(should("priority", "A run cannot put itself before the machine's own processes.", ASKED_FOR)),
    must("interfaces", "There is no network interface but `lo`.", ASKED_FOR),
    must("loopback", "Nobody but the run itself listens on its `lo`.", ASKED_FOR),
    must("dns", "No name server can be asked.", ASKED_FOR),
    must("tcp", "No TCP connection can be opened.", ASKED_FOR),
    must("udp", "No UDP packet can be sent, to one or to many.", ASKED_FOR),
    must("ipv6", "There is no way out by IPv6.", ASKED_FOR),
    must("gateway", "The host cannot be reached by its bridges.", ASKED_FOR),
    must("metadata", "A cloud's metadata service cannot be asked for credentials.", ASKED_FOR),
    must("abstract-sockets", "No abstract Unix socket of the host or of another run is there.", ASKED_FOR),
    must("engine-socket", "The engine's socket is not there.", ASKED_FOR),
    must("raw-socket", "No raw socket can be opened.", ASKED_FOR),
    must("packet-socket", "No packet socket can be opened.", ASKED_FOR),
    must("socket-families", "No socket reaches past the network namespace, to a hypervisor for one.", FILTER),
    must("core-dumps", "A process that crashes leaves no core dump, which would hold data.", ASKED_FOR),
    should("tmp-size", "What a run keeps in memory as files is bounded.", ASKED_FOR),
    kernel(should("processors", "A run's processor time is bounded.", CPU_GROUP)),
    should("open-files", "A run's open files are bounded.", ASKED_FOR),
    limit(must("processes", "A run's processes are bounded: a fork bomb ends at the limit.", PROCESS_GROUP)),
    limit(must(
        "memory",
        "A run's memory is bounded, swap included: whoever takes more is ended.",
        MEMORY_GROUP,
    )),
];

/// The attack of that name.
pub fn attack(name: &str) -> Option<&'static Attack> {
    ATTACKS.iter().find(|attack| attack.name == name)
}
