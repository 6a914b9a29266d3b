//! Other processes, and what processes share.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    Verdict, first_broken, refused,
    system::{self, Word, call},
};

/// Every process of a run has its user: one of another's is not a run's.
pub(crate) fn other_processes() -> Verdict {
    let Ok(own) = Path::new("/proc/self").metadata() else {
        return Verdict::Unknown("there is no /proc".into());
    };
    let is_process = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let strange = |path: &PathBuf| path.metadata().is_ok_and(|found| found.uid() != own.uid());
    match all.filter(is_process).find(strange) {
        Some(path) => Verdict::Broken(format!("{} is another user's", path.display())),
        None => Verdict::Kept,
    }
}

pub(crate) fn first_process() -> Verdict {
    let place = |path: &str| Path::new(path).metadata().map(|found| (found.dev(), found.ino()));
    let Ok(own) = place("/") else { return Verdict::Unknown("/ cannot be looked at".into()) };
    first_broken(["/proc/1/root/", "/proc/1/cwd/../../../../../.."].map(|path| match place(path) {
        Ok(found) if found != own => Verdict::Broken(format!("{path} leads elsewhere than /")),
        Ok(_) | Err(_) => Verdict::Kept,
    }))
}

pub(crate) fn ptrace() -> Verdict {
    // `PTRACE_TRACEME`: does nothing but ask to be traced.
    let traced = refused("being traced", call(system::PTRACE, [const { Word::Number(0) }; 4]));
    let mut words = [const { Word::Number(0) }; 6];
    words[0] = Word::Number(1);
    let read = refused("reading the first process's memory", call(system::PROCESS_VM_READV, words));
    first_broken([traced, read])
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
