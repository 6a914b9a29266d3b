//! Why something could not be measured.

use std::{io, process::ExitStatus};

/// A cause; the text is for whoever runs `make bench`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An argument of the command line.
    #[error("{0}")]
    Usage(String),
    /// The system refused something.
    #[error("{what}")]
    Io { what: String, source: io::Error },
    /// A program ended with something else than success, or before it was told to.
    #[error("{program} ended with {status}{said}")]
    Program { program: String, status: ExitStatus, said: String },
    /// A server did not begin to answer in time.
    #[error("{program} did not answer within {seconds} s{said}")]
    Silent { program: String, seconds: u64, said: String },
    /// A server gave another answer than the one that is measured.
    #[error("{request}: status {status} instead of {expected}: {body}")]
    Status { request: String, status: u16, expected: u16, body: String },
    /// An answer that breaks HTTP, or one this client does not read.
    #[error("{request}: {problem}")]
    Answer { request: String, problem: String },
    /// What came is not what was asked for.
    #[error("{0}")]
    Wrong(String),
    /// TLS could not be set up.
    #[error("TLS: {0}")]
    Tls(String),
}

impl Failure {
    /// For `map_err`: what was being done when the system refused.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self::Io { what, source }
    }

    /// The failure and its causes on one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text.replace('\n', " ")
    }
}
