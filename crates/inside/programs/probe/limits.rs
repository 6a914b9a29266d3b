//! Using up the machine.

use std::{
    fs::{self, File},
    hint::black_box,
    os::unix::process::ExitStatusExt as _,
    process::ExitCode,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use crate::{
    Verdict, first_broken, myself,
    system::{self, Word, call},
};

/// What no run may have: whoever tries these attacks gives it less.
const MEMORY: usize = 512 << 20;
const PROCESSES: usize = 2048;
const OPEN_FILES: usize = 16_384;

/// The argument of the process that is to be ended for its memory.
pub(crate) const BOMB: &str = "memory-bomb";

pub(crate) fn core_dumps() -> Verdict {
    /// `RLIMIT_CORE`
    const CORE: u64 = 4;
    let mut limit = [0; 16];
    let words = [Word::Number(0), Word::Number(CORE), Word::Number(0), Word::Bytes(&mut limit)];
    match call(system::PRLIMIT64, words) {
        Ok(_) if limit == [0; 16] => Verdict::Kept,
        Ok(_) => Verdict::Broken("a process that crashes leaves its memory in a file".into()),
        Err(error) => Verdict::Unknown(error.to_string()),
    }
}

/// A file system in memory without a size may grow to half of the machine's.
pub(crate) fn tmp_size() -> Verdict {
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else {
        return Verdict::Unknown("the mounts cannot be read".into());
    };
    first_broken(["/tmp", "/dev/shm"].map(|path| {
        let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(path));
        match line {
            Some(line) if line.contains("size=") => Verdict::Kept,
            Some(line) => Verdict::Broken(format!("{path} has no size: {line}")),
            None => Verdict::Unknown(format!("{path} is no file system of its own")),
        }
    }))
}

pub(crate) fn processors() -> Verdict {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let quota = read("/sys/fs/cgroup/cpu.max")
        .or_else(|| read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
        .or_else(|| read("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"));
    match quota {
        Some(quota) if quota.starts_with("max") || quota.starts_with('-') => {
            Verdict::Broken("there is no bound on processor time".into())
        }
        Some(_) => Verdict::Kept,
        None => Verdict::Unknown("the control group cannot be read".into()),
    }
}

pub(crate) fn open_files() -> Verdict {
    let mut open = Vec::new();
    while open.len() < OPEN_FILES {
        match File::open("/dev/null") {
            Ok(file) => open.push(file),
            Err(_) => return Verdict::Kept,
        }
    }
    Verdict::Broken(format!("a process may have {OPEN_FILES} open files"))
}

/// Threads count as processes do, and are quicker to make.
pub(crate) fn processes() -> Verdict {
    let stop = Arc::new((Mutex::new(false), Condvar::new()));
    let mut refused = false;
    let mut threads = Vec::new();
    while threads.len() < PROCESSES && !refused {
        let stop = Arc::clone(&stop);
        let wait = move || {
            let (stopped, told) = &*stop;
            let guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
            drop(told.wait_while(guard, |stopped| !*stopped));
        };
        let made = thread::Builder::new().stack_size(64 << 10).spawn(wait);
        refused = made.is_err();
        threads.extend(made);
    }
    let (stopped, told) = &*stop;
    *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
    told.notify_all();
    for thread in threads {
        let _ = thread.join();
    }
    if refused { Verdict::Kept } else { Verdict::Broken(format!("a run may have {PROCESSES} processes")) }
}

/// A second process takes more memory than there is, and is the one the kernel ends for it.
pub(crate) fn memory() -> Verdict {
    match myself(BOMB).and_then(|mut bomb| bomb.wait()) {
        Ok(ended) if ended.success() => {
            Verdict::Broken(format!("a run may have {} MiB of memory", MEMORY >> 20))
        }
        Ok(ended) if ended.signal().is_some() => Verdict::Kept,
        Ok(ended) => Verdict::Unknown(ended.to_string()),
        Err(error) => Verdict::Unknown(error.to_string()),
    }
}

/// Takes the memory, page by page, and fails if that is refused.
pub(crate) fn explode() -> ExitCode {
    let mut taken = Vec::<u8>::new();
    if taken.try_reserve_exact(MEMORY).is_err() {
        return ExitCode::FAILURE;
    }
    while taken.len() < MEMORY {
        taken.extend_from_slice(&[1; 4096]);
        black_box(&taken);
    }
    ExitCode::SUCCESS
}
