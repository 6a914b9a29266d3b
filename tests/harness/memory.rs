//! How much memory a server has, and has had.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Looks at a process's memory again and again.
#[derive(Debug)]
pub struct Watch {
    done: Arc<AtomicBool>,
    looking: JoinHandle<u64>,
}

impl Watch {
    /// Begins to look.
    pub fn begin(pid: u32) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&done);
        let looking = thread::spawn(move || {
            let mut peak = 0;
            while !end.load(Ordering::Relaxed) {
                peak = peak.max(memory(pid));
                thread::park_timeout(Duration::from_millis(5));
            }
            peak
        });
        Self { done, looking }
    }

    /// The most that was seen, in KiB.
    pub fn end(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.looking.thread().unpark();
        self.looking.join().expect("looking does not panic")
    }
}

/// What a process has in memory that is no page of a file, in KiB: pages of blobs are the kernel's to keep or drop.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
