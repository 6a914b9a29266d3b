//! Other processes, and what processes share.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use crate::{
    Verdict, failed, first_broken,
    system::{self, Word, call},
};

/// The numbers of the processes that can be seen.
fn processes() -> Vec<u64> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Every process of a run has its user: one of another's is not a run's.
pub(crate) fn other_processes() -> Verdict {
    let user = |path: &str| Path::new(path).metadata().map(|found| found.uid());
    let Ok(own) = user("/proc/self/") else { return Verdict::Unknown("there is no /proc".into()) };
    let strange = |number: &u64| user(&format!("/proc/{number}")).is_ok_and(|other| other != own);
    match processes().into_iter().find(strange) {
        Some(number) => Verdict::Broken(format!("process {number} is another user's")),
        None => Verdict::Kept,
    }
}

/// Which folder a path leads to, whatever it is called there.
fn place(path: &str) -> io::Result<(u64, u64)> {
    Path::new(path).metadata().map(|found| (found.dev(), found.ino()))
}

pub(crate) fn first_process() -> Verdict {
    let Ok(own) = place("/") else { return Verdict::Unknown("/ cannot be looked at".into()) };
    first_broken(["/proc/1/root/", "/proc/1/cwd/../../../../../.."].map(|path| match place(path) {
        Ok(found) if found != own => Verdict::Broken(format!("{path} leads elsewhere than /")),
        Ok(_) | Err(_) => Verdict::Kept,
    }))
}

/// Of processes with another root, which are not the run's; its own it may trace.
pub(crate) fn ptrace() -> Verdict {
    /// `PTRACE_SEIZE`: does not stop the other, and ends with this process.
    const SEIZE: u64 = 0x4206;
    let Ok(own) = place("/") else { return Verdict::Unknown("/ cannot be looked at".into()) };
    first_broken(processes().into_iter().map(|number| {
        if place(&format!("/proc/{number}/root/")).is_ok_and(|root| root == own) {
            return Verdict::Kept;
        }
        let words = [Word::Number(SEIZE), Word::Number(number), Word::Number(0), Word::Number(0)];
        failed(format!("tracing process {number}, which has another root,"), call(system::PTRACE, words))
    }))
}

/// What a second run, or the host, could read or leave there.
pub(crate) fn shared_memory() -> Verdict {
    let segments = ["shm", "sem", "msg"].map(|kind| {
        let table = fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        if table.lines().count() > 1 {
            Verdict::Broken(format!("/proc/sysvipc/{kind} shows what others made"))
        } else {
            Verdict::Kept
        }
    });
    let folders = ["/dev/shm", "/dev/mqueue", "/tmp", "/output"].map(|folder| {
        match fs::read_dir(folder).into_iter().flatten().flatten().next() {
            Some(entry) => Verdict::Broken(format!("{} is there already", entry.path().display())),
            None => Verdict::Kept,
        }
    });
    first_broken(segments.into_iter().chain(folders))
}
