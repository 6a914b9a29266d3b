//! How runs end, and the words for it.

use std::{fmt, time::Duration};

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use torno_oci::Capacity;

/// How a run ended. What it says is shown to the person who pushed: nothing of the data and nothing of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Outcome {
    /// Exit status 0, and the result is published.
    Succeeded,
    /// Another exit status.
    ExitStatus {
        /// As the engine gives it: 128 and the signal's number when a signal ended it.
        status: i64,
    },
    /// The kernel ended it for using more memory than allowed.
    OutOfMemory {
        /// The limit.
        bytes: u64,
    },
    /// It took longer than allowed.
    TimeLimit {
        /// The limit.
        millis: u64,
    },
    /// `/output` grew past its limit.
    OutputTooLarge {
        /// The limit.
        bytes: u64,
    },
    /// `/output` held more files and folders than allowed.
    OutputTooManyFiles {
        /// The limit.
        entries: u64,
    },
    /// `/output` held folders in more folders than allowed, or paths that are too long to be read.
    OutputTooDeep {
        /// The limit, in names of a path.
        depth: u32,
    },
    /// The site's disk for outputs was nearly full while it ran, whoever filled it.
    DiskFull,
    /// The engine could not start the image's command; the reason is the engine's word for it.
    CannotStart {
        /// Why, such as `no such file or directory`.
        reason: String,
    },
    /// The engine went away while the container ran, or did not answer.
    EngineGone {
        /// How often it was tried in all; 0 when that was not counted yet.
        #[serde(default)]
        attempts: u64,
    },
    /// The container or its volume was removed before it had ended, and not by Torno.
    ContainerGone {
        /// How often it was tried in all.
        attempts: u64,
    },
    /// Somebody at the site had the engine end its processes.
    Killed,
    /// What it left could not be kept: the site's disk is full.
    NoRoom,
    /// What passes a run's connections on to the services of the site ended before the run did.
    RelayGone {
        /// How often it was tried in all; 0 when that was not counted yet.
        #[serde(default)]
        attempts: u64,
    },
    /// The engine did not give it the GPUs that its project's runs get.
    NoGpus {
        /// How often it was tried in all.
        attempts: u64,
    },
    /// The project was taken out of the configuration before the run began.
    ProjectGone,
    /// A sample was taken out of the configuration before the run that was to be tried on it began.
    SampleGone,
    /// Its project's runs need more than the site lets all runs have together.
    TooLarge,
    /// Somebody wanted it to end.
    Cancelled {
        /// As what they had a say about it.
        by: Capacity,
    },
    /// Something at the site failed; the admin's log knows.
    SiteFailure {
        /// How often it was tried in all; 0 when that was not counted yet.
        #[serde(default)]
        attempts: u64,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::ExitStatus { status } => write!(f, "exit status {status}"),
            Self::OutOfMemory { bytes } => write!(f, "out of memory (limit {})", size(*bytes)),
            Self::TimeLimit { millis } => write!(f, "stopped after {}", span(Duration::from_millis(*millis))),
            Self::OutputTooLarge { bytes } => write!(f, "output too large (limit {})", size(*bytes)),
            Self::OutputTooManyFiles { entries } => {
                write!(f, "too many files in the output (limit {entries})")
            }
            Self::OutputTooDeep { depth } => {
                write!(f, "folders nested too deeply in the output (limit {depth}, or a path of 3 KiB)")
            }
            Self::DiskFull => f.write_str(
                "the site's disk for outputs was nearly full; push the tag again later, or tell its admin",
            ),
            Self::CannotStart { reason } => write!(f, "the command could not be started: {reason}"),
            Self::EngineGone { attempts } => {
                write!(f, "the site's container engine went away{}; tell its admin", tried(*attempts))
            }
            Self::ContainerGone { attempts } => {
                write!(f, "its container was removed at the site{}; tell its admin", tried(*attempts))
            }
            Self::Killed => f.write_str("it was killed at the site; ask its admin why"),
            Self::NoRoom => f.write_str(
                "the site's disk had no room for what it left; tell its admin, and push the tag again when there is",
            ),
            Self::RelayGone { attempts } => {
                write!(f, "its connection to the site's services was lost{}; tell its admin", tried(*attempts))
            }
            Self::NoGpus { attempts } => write!(
                f,
                "the site could not give it the GPUs that its project's runs get{}; tell its admin",
                tried(*attempts)
            ),
            Self::SampleGone => f.write_str("there is no sample to try it on any more"),
            Self::ProjectGone => f.write_str("its project is no longer offered here"),
            Self::TooLarge => f.write_str(
                "its project's runs need more than this site has for all runs together; tell its admin",
            ),
            Self::Cancelled { by } => write!(f, "cancelled by {by}"),
            Self::SiteFailure { attempts } => {
                write!(f, "something failed at this site{}; tell its admin the run's number", tried(*attempts))
            }
        }
    }
}

/// How often, where that is worth a word.
fn tried(attempts: u64) -> String {
    if attempts > 1 { format!(", and it was tried {attempts} times") } else { String::new() }
}

/// `4GiB` rather than `4.0 GiB`, as it is written in the configuration.
fn size(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let whole = units.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole.map_or_else(
        || ByteSize::b(bytes).display().iec().to_string(),
        |(name, unit)| format!("{}{name}", bytes / unit),
    )
}

/// `2h`, `4m10s`: whole seconds from one second up, without blanks.
fn span(time: Duration) -> String {
    let shown = if time >= Duration::from_secs(1) { Duration::from_secs(time.as_secs()) } else { time };
    humantime::format_duration(shown).to_string().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_speak_as_the_configuration_does() {
        assert_eq!(Outcome::OutOfMemory { bytes: 4 << 30 }.to_string(), "out of memory (limit 4GiB)");
        assert_eq!(Outcome::TimeLimit { millis: 7_200_000 }.to_string(), "stopped after 2h");
        assert_eq!(Outcome::TimeLimit { millis: 250_000 }.to_string(), "stopped after 4m10s");
        assert_eq!(Outcome::OutputTooLarge { bytes: 1536 }.to_string(), "output too large (limit 1.5 KiB)");
    }

    #[test]
    fn what_was_tried_once_is_not_told_to_have_been_tried() {
        let told = |attempts| Outcome::EngineGone { attempts }.to_string();
        assert_eq!(told(1), "the site's container engine went away; tell its admin");
        assert_eq!(
            told(3),
            "the site's container engine went away, and it was tried 3 times; tell its admin"
        );
        // As it was noted before attempts were.
        let noted: Outcome = serde_json::from_str(r#"{"kind":"engine-gone"}"#).expect("an outcome");
        assert_eq!(noted, Outcome::EngineGone { attempts: 0 });
        let noted: Outcome = serde_json::from_str(r#"{"kind":"site-failure"}"#).expect("an outcome");
        assert_eq!(noted.to_string(), "something failed at this site; tell its admin the run's number");
    }
}
