//! The command line.

use std::{env, path::PathBuf, time::SystemTime};

use crate::failure::Failure;

const USAGE: &str = "usage: torno-crash [--kills N] [--power N] [--seed N] [--torno PROGRAM]";

/// What is to be done to whom.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    /// How often the server is killed.
    pub(crate) kills: u64,
    /// How often its power is cut.
    pub(crate) cuts: u64,
    /// What decides everything that chance would.
    pub(crate) seed: u64,
    /// The program under test.
    pub(crate) torno: PathBuf,
    /// The folder of the build, which the work goes beside.
    pub(crate) target: PathBuf,
}

impl Arguments {
    /// Those of this process, which is `target/<profile>/torno-crash`: Torno is beside it.
    pub(crate) fn of_command_line() -> Result<Self, Failure> {
        let own = env::current_exe().map_err(Failure::io("this program's path is not known"))?;
        let profile = own.parent().unwrap_or(&own);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut this = Self {
            kills: 200,
            cuts: 12,
            seed: now.as_secs(),
            torno: profile.join("torno"),
            target: profile.parent().unwrap_or(profile).to_owned(),
        };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| Failure::Usage(USAGE.into()))?;
            let number = || {
                value.parse().map_err(|_| Failure::Usage(format!("{word} `{value}` is no number; {USAGE}")))
            };
            match word.as_str() {
                "--kills" => this.kills = number()?,
                "--power" => this.cuts = number()?,
                "--seed" => this.seed = number()?,
                "--torno" => this.torno = value.into(),
                _ => return Err(Failure::Usage(format!("`{word}` means nothing here; {USAGE}"))),
            }
        }
        Ok(this)
    }
}
