//! Why a campaign could not go on. What it finds out about Torno is no failure of it, see [`crate::tally`].

use std::{io, process::Output};

/// A cause; the text is for whoever runs `make crash`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An argument of the command line.
    #[error("{0}")]
    Usage(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// Torno's database.
    #[error("the database cannot be read: {0}")]
    Database(#[from] rusqlite::Error),
    /// Something is not as it must be.
    #[error("{0}")]
    Wrong(String),
    /// Somebody pressed Ctrl-C.
    #[error("stopped by a signal")]
    Stopped,
}

impl Failure {
    /// For `map_err`: what was being done when the system refused.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }

    /// A program that ended without success.
    pub(crate) fn program(name: &str, output: &Output) -> Self {
        let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Self::Wrong(format!("`{name}` ended with {}: {}", output.status, said.concat().trim()))
    }
}
