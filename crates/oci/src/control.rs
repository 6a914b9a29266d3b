//! What people say about runs after the push: which goes first, and as what they may say it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Whether a run goes before others of its project. Between projects it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After all others.
    Low,
    /// As it was pushed.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl Priority {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Low, Self::Normal, Self::High];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a priority is `high`, `normal` or `low`")]
pub struct PriorityError;

impl FromStr for Priority {
    type Err = PriorityError;

    fn from_str(text: &str) -> Result<Self, PriorityError> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == text).ok_or(PriorityError)
    }
}

/// As what somebody has a say about a run or a project. Whoever is several of these acts as the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capacity {
    /// The run is theirs.
    Owner,
    /// They answer for the data of its project.
    Custodian,
    /// They run the site, or have the data directory itself.
    Admin,
}

impl Capacity {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Custodian => "custodian",
            Self::Admin => "admin",
        }
    }
}

/// As it is told to others, who need not know the name.
impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "its owner",
            Self::Custodian => "a custodian of its project",
            Self::Admin => "an admin of this site",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_have_names_and_an_order() {
        for priority in Priority::ALL {
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        assert!(Priority::High > Priority::Normal && Priority::Normal > Priority::Low);
        for bad in ["", "High", "1", "highest"] {
            assert_eq!(bad.parse::<Priority>(), Err(PriorityError), "{bad}");
        }
    }
}
