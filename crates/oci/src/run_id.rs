//! The number of a run, unique within one Torno and never reused.

use std::{fmt, str::FromStr};

/// The number of a run, from 1 upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(u64);

/// A run number that is not one.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a run number; run numbers are 1, 2, 3 …")]
pub struct RunIdError(String);

impl RunId {
    /// The run with this number, or `None` for 0, which no run has.
    pub fn new(number: u64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The first run there is.
    pub const FIRST: Self = Self(1);

    /// The number itself.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = RunIdError;

    fn from_str(text: &str) -> Result<Self, RunIdError> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| RunIdError(text.chars().take(32).collect()))
    }
}
