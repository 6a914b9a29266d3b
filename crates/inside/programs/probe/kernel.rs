//! System calls that change the machine, or whose size makes them a way into the kernel.
//!
//! Each is made so that it fails even where it is allowed, but later and with other words.

use crate::{
    Verdict, failed, first_broken, refused,
    system::{self, Word, call},
};

const NOTHING: Word<'static> = Word::Number(0);

pub(crate) fn keyrings() -> Verdict {
    // `KEYCTL_GET_KEYRING_ID` of the session's keyring.
    let words = [Word::Number(0), Word::signed(-3), NOTHING];
    let session = refused("asking for a keyring", call(system::KEYCTL, words));
    let mut secret = [1; 4];
    let words = [
        Word::Text(c"user"),
        Word::Text(c"torno-probe"),
        Word::Bytes(&mut secret),
        Word::Number(4),
        // `KEY_SPEC_PROCESS_KEYRING`: gone with this process.
        Word::signed(-2),
    ];
    let added = refused("adding a key", call(system::ADD_KEY, words));
    let words = [Word::Text(c"user"), Word::Text(c"torno-probe-none"), NOTHING, NOTHING];
    let found = refused("asking for a key", call(system::REQUEST_KEY, words));
    first_broken([session, added, found])
}

pub(crate) fn bpf() -> Verdict {
    // `BPF_MAP_CREATE` and `BPF_PROG_LOAD` of nothing.
    first_broken([0, 5].map(|command| {
        let mut attributes = [0; 128];
        let size = attributes.len() as u64;
        let words = [Word::Number(command), Word::Bytes(&mut attributes), Word::Number(size)];
        refused("bpf", call(system::BPF, words))
    }))
}

pub(crate) fn perf_events() -> Verdict {
    let mut attributes = [0; 64];
    // A software event (1), of 64 bytes, of this process alone, without the kernel (`exclude_kernel`, `exclude_hv`).
    attributes[0] = 1;
    attributes[4] = 64;
    attributes[40] = 1 << 5 | 1 << 6;
    let words =
        [Word::Bytes(&mut attributes), NOTHING, Word::Number(u64::MAX), Word::Number(u64::MAX), NOTHING];
    refused("counting events", system::open(system::PERF_EVENT_OPEN, words))
}

pub(crate) fn userfaultfd() -> Verdict {
    // `UFFD_USER_MODE_ONLY` is what a kernel gives to anybody.
    refused("userfaultfd", system::open(system::USERFAULTFD, [Word::Number(1)]))
}

pub(crate) fn io_uring() -> Verdict {
    let mut parameters = [0; 120];
    let words = [Word::Number(1), Word::Bytes(&mut parameters)];
    refused("io_uring_setup", system::open(system::IO_URING_SETUP, words))
}

pub(crate) fn modules() -> Verdict {
    first_broken([
        refused("init_module", call(system::INIT_MODULE, [NOTHING, NOTHING, Word::Text(c"")])),
        refused(
            "finit_module",
            call(system::FINIT_MODULE, [Word::Number(u64::MAX), Word::Text(c""), NOTHING]),
        ),
        refused("delete_module", call(system::DELETE_MODULE, [Word::Text(c"torno_probe"), NOTHING])),
    ])
}

pub(crate) fn kexec() -> Verdict {
    // More segments than there may be: refused for that where everything is allowed.
    let words = [NOTHING, Word::Number(1 << 20), NOTHING, NOTHING];
    let invalid = Word::Number(u64::MAX);
    let of_files = [invalid, Word::Number(u64::MAX), NOTHING, NOTHING, Word::Number(1 << 20)];
    first_broken([
        refused("kexec_load", call(system::KEXEC_LOAD, words)),
        refused("kexec_file_load", call(system::KEXEC_FILE_LOAD, of_files)),
    ])
}

pub(crate) fn reboot() -> Verdict {
    // Without the magic numbers nothing happens; who may not is told so first.
    refused("reboot", call(system::REBOOT, [NOTHING, NOTHING, NOTHING, NOTHING]))
}

pub(crate) fn kernel_log() -> Verdict {
    let mut text = [0; 64];
    // `SYSLOG_ACTION_READ_ALL`
    let words = [Word::Number(3), Word::Bytes(&mut text), Word::Number(64)];
    let read = refused("reading the kernel's log", call(system::SYSLOG, words));
    let open = failed("opening /dev/kmsg", std::fs::File::open("/dev/kmsg"));
    first_broken([read, open])
}

/// gVisor has a log of its own, which everybody may read and which begins so.
pub(crate) fn is_gvisor() -> bool {
    let mut text = [0; 512];
    let words = [Word::Number(3), Word::Bytes(&mut text), Word::Number(512)];
    let read = call(system::SYSLOG, words).is_ok();
    read && String::from_utf8_lossy(&text).contains("Starting gVisor...")
}

pub(crate) fn clock() -> Verdict {
    let mut change = [0; 208];
    // `ADJ_TICK`, of no time at all: nonsense, which is said only to who may set the clock.
    change[1] = 0x40;
    refused("setting the clock", call(system::ADJTIMEX, [Word::Bytes(&mut change)]))
}

pub(crate) fn administration() -> Verdict {
    first_broken([
        refused("swapon", call(system::SWAPON, [Word::Text(c"/nonexistent"), NOTHING])),
        refused("acct", call(system::ACCT, [Word::Text(c"/nonexistent")])),
        // Longer than a name may be.
        refused("sethostname", call(system::SETHOSTNAME, [Word::Text(c""), Word::Number(1 << 10)])),
    ])
}

pub(crate) fn priority() -> Verdict {
    let mut parameters = [0; 4];
    parameters[0] = 1;
    // `SCHED_FIFO`
    let words = [NOTHING, Word::Number(1), Word::Bytes(&mut parameters)];
    first_broken([
        failed("becoming a real-time process", call(system::SCHED_SETSCHEDULER, words)),
        failed("going before others", call(system::SETPRIORITY, [NOTHING, NOTHING, Word::signed(-10)])),
    ])
}
