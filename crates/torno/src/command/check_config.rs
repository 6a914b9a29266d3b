//! `torno check-config`: is the configuration good?

use std::io::{self, Write as _};

use super::{ConfigFile, Failure};

const EXAMPLES: &str = "\
Examples:
  torno check-config
  torno check-config --config /etc/torno/torno.toml

Nothing is started or changed. Exit codes: 0 when the configuration is good, 64 when it is not; then every \
error is on stderr, one on a line.";

/// Check the configuration and say everything that is wrong with it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckConfig {
    #[command(flatten)]
    file: ConfigFile,
}

impl CheckConfig {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let projects = counted(config.projects.len(), "project");
        let datasets = counted(config.datasets.len(), "dataset");
        writeln!(io::stdout(), "{} is good: {projects}, {datasets}", self.file.path().display())
            .map_err(Failure::Output)
    }
}

fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
