//! `make crash`: Torno is killed, and its power is cut, under load; nothing that was acknowledged may be lost
//! (docs/ADMINISTRATION.md says how to read it).
//!
//! [`model`] is what clients may rely on, [`work`] what they do, [`check`] and [`store`] how the two are compared.
//! Whatever is started or mounted ends with this program.

mod arguments;
mod check;
mod client;
mod collector;
mod failure;
mod kills;
mod model;
mod noise;
mod phase;
mod server;
mod store;
mod tally;
mod work;

use std::process::ExitCode;

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

/// Exit status 0; 1 when anything was lost, dangles or leaked.
fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    phase::stop_with_signals()?;
    println!("seed {}", arguments.seed);
    // Beside the build: on its disk, and where `cargo clean` finds it should this program be killed.
    let folder = tempfile::Builder::new()
        .prefix("crash.")
        .tempdir_in(&arguments.target)
        .map_err(Failure::io("no folder could be made beside the build"))?;
    let tally = Tally::default();
    kills::run(arguments, folder.path(), &tally)?;
    println!("answers: {}", tally.answers());
    println!("crash: {tally}");
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
