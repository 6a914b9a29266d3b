//! Who a run is, and becoming somebody else.

use std::{fs, fs::File};

use crate::{
    Verdict, failed, first_broken, refused,
    system::{self, Word, call},
};

/// The words behind a name in `/proc/self/status`.
fn status(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

fn is(name: &str, expected: &str) -> Verdict {
    match status(name) {
        Some(found) if found == expected => Verdict::Kept,
        Some(found) => Verdict::Broken(format!("{name} is {found}")),
        None => Verdict::Unknown(format!("the kernel does not tell {name}")),
    }
}

pub(crate) fn root_user() -> Verdict {
    let is_root = |words: &str| words.split_whitespace().any(|number| number == "0");
    first_broken(["Uid", "Gid", "Groups"].map(|name| match status(name) {
        Some(found) if is_root(&found) => Verdict::Broken(format!("{name}: {found}")),
        Some(_) => Verdict::Kept,
        None => Verdict::Unknown(format!("the kernel does not tell {name}")),
    }))
}

pub(crate) fn setuid() -> Verdict {
    let mut groups = [0; 4];
    first_broken([
        failed("becoming root", call(system::SETUID, [Word::Number(0)])),
        failed("joining root's group", call(system::SETGID, [Word::Number(0)])),
        failed("joining groups", call(system::SETGROUPS, [Word::Number(1), Word::Bytes(&mut groups)])),
    ])
}

pub(crate) fn capabilities() -> Verdict {
    first_broken(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| is(set, "0000000000000000")))
}

pub(crate) fn no_new_privileges() -> Verdict {
    is("NoNewPrivs", "1")
}

pub(crate) fn seccomp() -> Verdict {
    is("Seccomp", "2")
}

/// Whoever tries this image gives it variables whose value is `forged`.
pub(crate) fn environment() -> Verdict {
    let ill = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.to_string_lossy().into_owned();
        // Torno's own word for no GPU.
        let none = name == "NVIDIA_VISIBLE_DEVICES" && value == "void";
        let forbidden = !none && ["LD_", "NVIDIA_"].iter().any(|prefix| name.starts_with(prefix));
        (forbidden || value == "forged").then_some(name)
    };
    match std::env::vars_os().find_map(ill) {
        Some(name) => Verdict::Broken(format!("{name} was not taken away")),
        None => Verdict::Kept,
    }
}

const NEW_USER: u64 = 0x1000_0000;

pub(crate) fn user_namespace() -> Verdict {
    first_broken([
        failed("clone", system::clone_into(NEW_USER)),
        failed("clone3", system::clone3_into(NEW_USER)),
        failed("unshare", call(system::UNSHARE, [Word::Number(NEW_USER)])),
    ])
}

pub(crate) fn namespaces() -> Verdict {
    const KINDS: [(u64, &str); 7] = [
        (0x0002_0000, "mnt"),
        (0x0200_0000, "cgroup"),
        (0x0400_0000, "uts"),
        (0x0800_0000, "ipc"),
        (0x2000_0000, "pid"),
        (0x4000_0000, "net"),
        (0x0000_0080, "time"),
    ];
    let made = KINDS.map(|(kind, name)| {
        failed(format!("a {name} namespace of its own"), call(system::UNSHARE, [Word::Number(kind)]))
    });
    let joined = KINDS.map(|(_, name)| {
        // The first process is the container's own; of a host it would be the way out.
        let Ok(first) = File::open(format!("/proc/1/ns/{name}")) else { return Verdict::Kept };
        let words = [Word::file(&first), Word::Number(0)];
        refused(format!("joining the first process's {name} namespace"), call(system::SETNS, words))
    });
    first_broken(made.into_iter().chain(joined))
}
