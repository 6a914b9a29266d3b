//! Names of people, of projects and of datasets.

use std::{fmt, str::FromStr};

/// The longest user name, in bytes.
const MAX_USER_LENGTH: usize = 64;
/// The longest project name, in bytes: a repository name holds it and must leave room for more.
const MAX_PROJECT_LENGTH: usize = 64;

/// The longest dataset name, in bytes: a repository name and a path inside containers hold it.
const MAX_DATASET_LENGTH: usize = 64;

/// A text that is no name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PersonError {
    /// Not a user name.
    #[error(
        "a user name has 1 to {MAX_USER_LENGTH} letters, digits, `.`, `_`, `-` and `@`, and starts with a letter or \
         a digit"
    )]
    User,
    /// Not a project name.
    #[error(
        "a project name has 1 to {MAX_PROJECT_LENGTH} lower-case letters, digits and single `.`, `_` or `-` between \
         them, since it stands in repository names"
    )]
    Project,
    /// Not the name of a dataset.
    #[error(
        "the name of a dataset has 1 to {MAX_DATASET_LENGTH} lower-case letters, digits and `-` or `_` between them, \
         since it stands in repository names and paths"
    )]
    Dataset,
}

/// The name someone logs in with.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Box<str>);

impl UserName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = PersonError;

    fn from_str(text: &str) -> Result<Self, PersonError> {
        let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let fits = text.len() <= MAX_USER_LENGTH;
        if starts && fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte))
        {
            Ok(Self(text.into()))
        } else {
            Err(PersonError::User)
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a project: the second component of `run/<project>/<name>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName(Box<str>);

impl ProjectName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectName {
    type Err = PersonError;

    fn from_str(text: &str) -> Result<Self, PersonError> {
        let component = text.parse::<crate::RepositoryName>().is_ok() && !text.contains('/');
        if component && text.len() <= MAX_PROJECT_LENGTH {
            Ok(Self(text.into()))
        } else {
            Err(PersonError::Project)
        }
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for ProjectName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The name of a dataset: the second component of `samples/<dataset>`, and a folder's inside a run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetName(Box<str>);

impl DatasetName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DatasetName {
    type Err = PersonError;

    fn from_str(text: &str) -> Result<Self, PersonError> {
        let component = text.parse::<crate::RepositoryName>().is_ok() && !text.contains(['/', '.']);
        if component && text.len() <= MAX_DATASET_LENGTH {
            Ok(Self(text.into()))
        } else {
            Err(PersonError::Dataset)
        }
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for DatasetName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ada", "team-a", "a.b@example.org", "A1"] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        for bad in ["", "a:b", "-a", "a b", "é", "@group", "a\n"] {
            assert!(bad.parse::<UserName>().is_err(), "{bad}");
        }
        assert!("a".repeat(MAX_USER_LENGTH).parse::<UserName>().is_ok());
        assert!("a".repeat(MAX_USER_LENGTH + 1).parse::<UserName>().is_err());
        assert!("breast-cancer".parse::<ProjectName>().is_ok());
        assert!("a/b".parse::<ProjectName>().is_err());
        assert!("A".parse::<ProjectName>().is_err());
        assert!("retina-2_b".parse::<DatasetName>().is_ok());
        for bad in ["", "a/b", "a.b", "..", "A", "-a", "a_"] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad}");
        }
        assert!("a".repeat(MAX_DATASET_LENGTH).parse::<DatasetName>().is_ok());
        assert!("a".repeat(MAX_DATASET_LENGTH + 1).parse::<DatasetName>().is_err());
    }
}
