//! `torno-probe ATTACK`: tries one thing that a run must not be able to do, as the process of a container.
//!
//! Ends with 0 when the host kept its promise, with 1 and a line on stdout when it did not, with 2 and a line when that
//! cannot be told. With several attacks, or with none for all of them, each is tried in a process of its own and gets a
//! line: `kept NAME`, `broken NAME: …` or `unknown NAME: …`. Without arguments the variable `PROBE_ATTACKS` may name them,
//! and the first line is `kernel gvisor` where that is so. `torno-probe list` lists them.
//!
//! `occupy`, `litter` and `hole` are no attacks by themselves: what the hostile suite looks at is what comes of them.
//!
//! Which promise each attack tests is in `src/attack.rs`. Whatever succeeds here must do no harm: a container that is
//! not confined is what this is looking for.

mod files;
mod identity;
mod kernel;
mod limits;
mod neighbour;
mod network;
mod processes;
mod system;

use std::{
    fmt::Display,
    io,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long one of several attacks may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of an attack.
enum Verdict {
    /// It failed.
    Kept,
    /// It succeeded, and how that showed.
    Broken(String),
    /// It could not be tried.
    Unknown(String),
}

type Attack = (&'static str, fn() -> Verdict);

/// In this order; what uses up the run's limits comes last.
const ATTACKS: &[Attack] = &[
    ("write-input", files::write_input),
    ("write-root", files::write_root),
    ("write-proc", files::write_proc),
    ("write-sys", files::write_sys),
    ("write-cgroup", files::write_cgroup),
    ("remount", files::remount),
    ("mount", files::mount),
    ("mknod", files::mknod),
    ("chroot", files::chroot),
    ("file-handle", files::file_handle),
    ("devices", files::devices),
    ("masked-paths", files::masked_paths),
    ("root-user", identity::root_user),
    ("setuid", identity::setuid),
    ("capabilities", identity::capabilities),
    ("no-new-privileges", identity::no_new_privileges),
    ("seccomp", identity::seccomp),
    ("environment", identity::environment),
    ("user-namespace", identity::user_namespace),
    ("namespaces", identity::namespaces),
    ("other-processes", processes::other_processes),
    ("first-process", processes::first_process),
    ("ptrace", processes::ptrace),
    ("shared-memory", processes::shared_memory),
    ("keyrings", kernel::keyrings),
    ("bpf", kernel::bpf),
    ("perf-events", kernel::perf_events),
    ("userfaultfd", kernel::userfaultfd),
    ("io-uring", kernel::io_uring),
    ("modules", kernel::modules),
    ("kexec", kernel::kexec),
    ("reboot", kernel::reboot),
    ("kernel-log", kernel::kernel_log),
    ("clock", kernel::clock),
    ("administration", kernel::administration),
    ("priority", kernel::priority),
    ("interfaces", network::interfaces),
    ("loopback", network::loopback),
    ("dns", network::dns),
    ("tcp", network::tcp),
    ("udp", network::udp),
    ("ipv6", network::ipv6),
    ("gateway", network::gateway),
    ("metadata", network::metadata),
    ("abstract-sockets", network::abstract_sockets),
    ("engine-socket", network::engine_socket),
    ("raw-socket", network::raw_socket),
    ("packet-socket", network::packet_socket),
    ("socket-families", network::socket_families),
    ("core-dumps", limits::core_dumps),
    ("tmp-size", limits::tmp_size),
    ("processors", limits::processors),
    ("open-files", limits::open_files),
    ("processes", limits::processes),
    ("memory", limits::memory),
];

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match names[..] {
        [limits::BOMB] => limits::explode(),
        ["occupy"] => neighbour::done(neighbour::occupy),
        ["litter"] => neighbour::done(neighbour::litter),
        ["hole"] => neighbour::done(neighbour::hole),
        ["list"] => {
            for (name, _) in ATTACKS {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        [] => {
            if kernel::is_gvisor() {
                println!("kernel gvisor");
            }
            match std::env::var("PROBE_ATTACKS") {
                Ok(names) => each(names.split_whitespace()),
                Err(_) => each(ATTACKS.iter().map(|(name, _)| *name)),
            }
        }
        [name] => match ATTACKS.iter().find(|(known, _)| *known == name) {
            Some((_, attack)) => told(&attack()),
            None => told(&Verdict::Unknown("no such attack".into())),
        },
        _ => each(names.into_iter()),
    }
}

fn told(verdict: &Verdict) -> ExitCode {
    match verdict {
        Verdict::Kept => ExitCode::SUCCESS,
        Verdict::Broken(words) => {
            println!("{words}");
            ExitCode::from(1)
        }
        Verdict::Unknown(words) => {
            println!("{words}");
            ExitCode::from(2)
        }
    }
}

/// Tries each in a process of its own, so that what one does to itself is not done to the next.
fn each<'a>(names: impl Iterator<Item = &'a str>) -> ExitCode {
    let mut all_kept = true;
    for name in names {
        let (word, said) = alone(name).unwrap_or_else(|error| ("unknown", error.to_string()));
        all_kept &= word == "kept";
        if said.is_empty() {
            println!("{word} {name}");
        } else {
            println!("{word} {name}: {said}");
        }
    }
    ExitCode::from(u8::from(!all_kept))
}

fn alone(name: &str) -> io::Result<(&'static str, String)> {
    let mut child = myself(name)?;
    let since = Instant::now();
    while child.try_wait()?.is_none() {
        if since.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(("unknown", "it took too long".into()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().replace('\n', " ");
    Ok(match output.status.code() {
        Some(0) => ("kept", said),
        Some(1) => ("broken", said),
        Some(2) => ("unknown", said),
        _ => ("unknown", output.status.to_string()),
    })
}

/// This program again.
fn myself(argument: &str) -> io::Result<Child> {
    Command::new("/proc/self/exe").arg(argument).stdout(Stdio::piped()).spawn()
}

/// For what must be refused before anything is looked at: whoever gets another answer than "you may not" was let in.
fn refused<T>(what: impl Display, tried: io::Result<T>) -> Verdict {
    match tried {
        Ok(_) => Verdict::Broken(format!("{what} succeeded")),
        Err(error) if system::is_refusal(&error) => Verdict::Kept,
        Err(error) => Verdict::Broken(format!("{what} was looked at: {error}")),
    }
}

/// For what fails for many good reasons.
fn failed<T>(what: impl Display, tried: io::Result<T>) -> Verdict {
    tried.map_or(Verdict::Kept, |_| Verdict::Broken(format!("{what} succeeded")))
}

/// The first promise that is broken, or that nothing is known of; otherwise all were kept.
fn first_broken(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let mut all = Verdict::Kept;
    for verdict in verdicts {
        match verdict {
            Verdict::Kept => {}
            Verdict::Broken(words) => return Verdict::Broken(words),
            Verdict::Unknown(words) => all = Verdict::Unknown(words),
        }
    }
    all
}
