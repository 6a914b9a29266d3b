//! The binary: reads what was typed, finds the configuration, runs the subcommand, says what went wrong.

mod command;
mod config;
mod descriptors;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

use command::{
    Failure,
    audit::Audit,
    backup::{Backup, Restore},
    check_config::CheckConfig,
    datasets::Datasets,
    df::Df,
    doctor::Doctor,
    execute::Execute,
    gc::Gc,
    import::{Export, Import},
    init::Init,
    projects::Projects,
    provenance::Provenance,
    runs::Runs,
    serve::Serve,
    token::Token,
    user::User,
    verify::Verify,
};

/// Requests make and drop small things all the time, on several threads: faster here than with the system's allocator
/// (`docs/PERFORMANCE.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Getting started:
  torno init                 a configuration, the folders and the first admin, in this folder
  torno check-config         is the configuration good?
  torno doctor               does this host keep what runs are promised?
  torno user add ada         let somebody log in
  torno serve                serve, and run what is pushed

Exit codes: 0 done, 1 failed, 2 wrong usage, 64 the configuration is wrong or missing.";

/// An OCI registry that runs what is pushed to it beside data that must not leave
///
/// Researchers push a container image; Torno runs it, locked down, beside confidential data; they pull what may
/// come out.
#[derive(Debug, Parser)]
#[command(name = "torno", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Init(Init),
    CheckConfig(CheckConfig),
    Doctor(Doctor),
    User(User),
    Token(Token),
    Serve(Serve),
    Execute(Execute),
    Projects(Projects),
    Runs(Runs),
    Gc(Gc),
    Datasets(Datasets),
    Df(Df),
    Backup(Backup),
    Restore(Restore),
    Import(Import),
    Export(Export),
    Verify(Verify),
    Audit(Audit),
    Provenance(Provenance),
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Init(init) => init.run(),
        Command::CheckConfig(check) => check.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::User(user) => user.run(),
        Command::Token(token) => token.run(),
        Command::Serve(serve) => serve.run(),
        Command::Execute(execute) => execute.run(),
        Command::Projects(projects) => projects.run(),
        Command::Runs(runs) => runs.run(),
        Command::Gc(gc) => gc.run(),
        Command::Datasets(datasets) => datasets.run(),
        Command::Df(df) => df.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
        Command::Import(import) => import.run(),
        Command::Export(export) => export.run(),
        Command::Verify(verify) => verify.run(),
        Command::Audit(audit) => audit.run(),
        Command::Provenance(provenance) => provenance.run(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }
}
