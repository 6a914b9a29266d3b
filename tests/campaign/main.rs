//! `make crash`: Torno is killed, and its power is cut, under load; nothing that was acknowledged may be lost
//! (docs/ADMINISTRATION.md says how to read it).
//!
//! [`model`] is what clients may rely on, [`work`] what they do, [`check`] and [`store`] how the two are compared.
//! Whatever is started or mounted ends with this program.

mod arguments;
mod check;
mod client;
mod collector;
mod disk;
mod engine;
mod failure;
mod kills;
mod model;
mod noise;
mod phase;
mod power;
mod server;
mod store;
mod tally;
mod work;

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
};

use arguments::Arguments;
use failure::Failure;
use tally::Tally;

fn main() -> ExitCode {
    match Arguments::of_command_line().and_then(|arguments| run(&arguments)) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("crash: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Exit status 0; 1 when anything was lost, dangles or leaked, or an answer was odd.
fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if is_root() && env::var_os(ALONE).is_none() {
        alone()?;
    } else if !is_root() && arguments.cuts > 0 {
        return Err(Failure::Usage(
            "only root can mount disks whose power is cut; leave them out with POWER=0".into(),
        ));
    }
    phase::stop_with_signals()?;
    println!("seed {}", arguments.seed);
    // Beside the build: on its disk, and where `cargo clean` finds it should this program be killed.
    let folder = tempfile::Builder::new()
        .prefix("crash.")
        .tempdir_in(&arguments.target)
        .map_err(Failure::io("no folder could be made beside the build"))?;
    let tally = Tally::default();
    kills::run(arguments, folder.path(), &tally)?;
    power::run(arguments, folder.path(), &tally)?;
    println!("answers: {}", tally.answers());
    println!("crash: {tally}");
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Set for a process that is [`alone`].
const ALONE: &str = "CRASH_ALONE";

/// Begins anew where nobody else sees what is mounted, and where all that was started ends with this process however
/// that ends: even one that is killed leaves no mount, no loop device and no server. Returns where that cannot be.
fn alone() -> Result<(), Failure> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
        command
    };
    let tried = unshare().arg("true").stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let own = env::current_exe().map_err(Failure::io("this program's path is not known"))?;
    Err(Failure::io("unshare")(unshare().arg(own).args(env::args_os().skip(1)).env(ALONE, "1").exec()))
}
