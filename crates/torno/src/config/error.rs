//! What is wrong with a configuration, where, and what to do about it.

use std::{
    cell::RefCell,
    fmt, io,
    path::{Path, PathBuf},
};

/// Everything that is wrong with a configuration, at least one thing.
#[derive(Debug)]
pub(crate) struct ConfigErrors {
    file: PathBuf,
    errors: Vec<ConfigError>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(crate) struct ConfigError {
    place: Place,
    cause: Cause,
}

/// Where in the configuration something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A whole file.
    File(String),
    /// A key.
    Key {
        /// The file under `projects.d`; `None` for the main file.
        beside: Option<String>,
        /// The path of the key, such as `projects.retina.limits.memory`.
        key: String,
    },
    /// An environment variable.
    Variable(String),
}

/// What is wrong there.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    /// The file system said no.
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Too large to be meant as a configuration.
    #[error("it is larger than the {0} that a configuration file may have")]
    TooLarge(String),
    /// Not TOML.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// The parser's words.
        message: String,
    },
    /// A key that means nothing there.
    #[error("unknown key{}; known here: {}", suggestion(*.nearest), .known.join(", "))]
    UnknownKey {
        /// The known key that was probably meant.
        nearest: Option<&'static str>,
        /// All that may stand there, sorted.
        known: Vec<&'static str>,
    },
    /// A value of the wrong kind.
    #[error("expected {expected}, found {found}")]
    Kind {
        /// What belongs there, with an example.
        expected: &'static str,
        /// What stands there.
        found: &'static str,
    },
    /// A value of the right kind that will not do; the words say what will.
    #[error("{0}")]
    Value(String),
}

fn suggestion(nearest: Option<&'static str>) -> String {
    nearest.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(name) | Self::Variable(name) => f.write_str(name),
            Self::Key { beside: None, key } => f.write_str(key),
            Self::Key { beside: Some(file), key } => write!(f, "{file}: {key}"),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)
    }
}

/// One error on a line, then how many there are.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
        }
        let plural = if self.errors.len() == 1 { "" } else { "s" };
        write!(f, "{} has {} error{plural}", self.file.display(), self.errors.len())
    }
}

impl std::error::Error for ConfigErrors {}

/// Gathers what is wrong while reading goes on, so that a person sees all of it at once.
#[derive(Debug, Default)]
pub(super) struct Problems {
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<String>>,
}

impl Problems {
    /// Without this being put right there is no configuration.
    pub(super) fn error(&self, place: &Place, cause: impl Into<Cause>) {
        self.errors.borrow_mut().push(ConfigError { place: place.clone(), cause: cause.into() });
    }

    /// This is allowed, but probably not meant.
    pub(super) fn warn(&self, place: &Place, words: impl fmt::Display) {
        self.warnings.borrow_mut().push(format!("{place}: {words}"));
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.borrow().is_empty()
    }

    /// What is wrong.
    pub(super) fn into_errors(self, file: &Path) -> ConfigErrors {
        ConfigErrors { file: file.to_owned(), errors: self.errors.into_inner() }
    }

    /// The warnings, if nothing is wrong.
    pub(super) fn finish(self, file: &Path) -> Result<Vec<String>, ConfigErrors> {
        if self.is_empty() { Ok(self.warnings.into_inner()) } else { Err(self.into_errors(file)) }
    }
}
