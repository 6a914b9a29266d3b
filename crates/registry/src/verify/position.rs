//! How far a verification has come, and how that is written down.

use std::{fmt, str::FromStr};

/// The parts of a verification, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Rows of blobs, their files and their bytes.
    #[default]
    Blobs,
    /// Files that are neither blobs nor uploads.
    Strays,
    /// Manifests and what is kept of what they name.
    Manifests,
    /// Rows that speak of others, and the quarantine.
    Rows,
}

impl Phase {
    pub(super) const ALL: [Self; 4] = [Self::Blobs, Self::Strays, Self::Manifests, Self::Rows];

    fn name(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Strays => "strays",
            Self::Manifests => "manifests",
            Self::Rows => "rows",
        }
    }
}

/// How far a verification has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The part it is in.
    pub phase: Phase,
    /// The last digest in it that was looked at; empty at its beginning.
    pub after: String,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.phase.name(), self.after)
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, after) = text.split_once(' ').ok_or(())?;
        let phase = Phase::ALL.into_iter().find(|phase| phase.name() == name).ok_or(())?;
        Ok(Self { phase, after: after.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_written() {
        for phase in Phase::ALL {
            for after in ["", "sha256:ab"] {
                let position = Position { phase, after: after.to_owned() };
                assert_eq!(position.to_string().parse(), Ok(position));
            }
        }
        for bad in ["", "blobs", "other sha256:ab"] {
            assert_eq!(bad.parse::<Position>(), Err(()));
        }
    }
}
