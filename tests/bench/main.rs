//! `make bench`: Torno and its peers side by side, in one run (docs/PERFORMANCE.md says how to read it).
//!
//! [`figure`] has what is measured and what must be reached, [`figures`] how, [`server`] against whom, [`load`] the
//! client. Whatever is started ends with this program, and whatever is written is removed, but for the report.

mod arguments;
mod failure;
mod figure;
mod figures;
mod image;
mod load;
mod process;
mod report;
mod scale;
mod server;

use std::{fs, process::ExitCode, time::Instant};

use arguments::Arguments;
use failure::Failure;
use figures::Bench;
use report::Report;

fn main() -> ExitCode {
    match Arguments::of_command_line().and_then(|arguments| run(&arguments)) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("bench: {}", failure.chain());
            ExitCode::from(2)
        }
    }
}

/// Exit status 0; 1 when something could not be measured; with `--strict` 3 when a goal is missed.
fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    // Beside the build: on its disk, and where `cargo clean` finds it should this program be killed.
    let folder = tempfile::Builder::new()
        .prefix(&format!("bench.{}.", std::process::id()))
        .tempdir_in(&arguments.target)
        .map_err(Failure::io(format!("no folder could be made in {}", arguments.target.display())))?;
    process::end_with_signals(folder.path().to_owned())?;
    let mut report = Report::new(arguments);
    for figure in arguments.figures() {
        let since = Instant::now();
        let own = folder.path().join(figure.name);
        server::make_folder(&own)?;
        let bench = Bench {
            scale: &arguments.scale,
            programs: &arguments.programs,
            without: &arguments.without,
            folder: &own,
        };
        let measured = figures::measure(&bench, figure);
        fs::remove_dir_all(&own).map_err(Failure::io("what was measured with could not be removed"))?;
        report.add(figure, measured, since.elapsed());
    }
    folder.close().map_err(Failure::io("the folder could not be removed"))?;
    report.finish(&arguments.output)?;
    Ok(match (report.is_complete(), arguments.strict && report.misses_a_goal()) {
        (false, _) => ExitCode::from(1),
        (true, true) => ExitCode::from(3),
        (true, false) => ExitCode::SUCCESS,
    })
}
