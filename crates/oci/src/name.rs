//! Repository names (distribution-spec: Pulling manifests) and Torno's namespaces.

use std::{fmt, str::FromStr};

/// The longest repository name, in bytes. Clients limit host and name together to 255
/// (distribution-spec: Pulling manifests), so a longer name could never be pulled.
pub const MAX_NAME_LENGTH: usize = 255;

/// The name of a repository, such as `run/retina/unet`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Box<str>);

/// Why a text is not a repository name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// Longer than [`MAX_NAME_LENGTH`], or empty.
    #[error("a repository name has 1 to {MAX_NAME_LENGTH} characters")]
    Length,
    /// A component does not match the specification's grammar.
    #[error(
        "a repository name is made of lower-case letters, digits and single separators (`.`, `_`, `__`, `-`), \
         in components joined by `/`"
    )]
    Grammar,
}

/// Where a repository stands, which decides what a push to it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace<'a> {
    /// `run/<project>/<name>`: a push runs beside the confidential data.
    Run {
        /// The project.
        project: &'a str,
        /// The rest of the name.
        name: &'a str,
    },
    /// `results/<project>/<name>`: what came out of the runs of `run/<project>/<name>`.
    Results {
        /// The project.
        project: &'a str,
        /// The rest of the name.
        name: &'a str,
    },
    /// `try/<project>/<name>`: a push runs on the samples of the data, which may be given away.
    Try {
        /// The project.
        project: &'a str,
        /// The rest of the name.
        name: &'a str,
    },
    /// `try-results/<project>/<name>`: what came out of the runs of `try/<project>/<name>`.
    TryResults {
        /// The project.
        project: &'a str,
        /// The rest of the name.
        name: &'a str,
    },
    /// `samples/<dataset>`: a sample of the data.
    Sample {
        /// The dataset.
        dataset: &'a str,
    },
    /// A name that Torno keeps for itself and that means nothing: `run`, `results/x`, `samples/a/b`.
    Reserved,
    /// Anything else: stored.
    Plain,
}

impl RepositoryName {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The namespace this name stands in.
    pub fn namespace(&self) -> Namespace<'_> {
        let mut parts = self.0.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("run"), Some(project), Some(name)) => Namespace::Run { project, name },
            (Some("results"), Some(project), Some(name)) => Namespace::Results { project, name },
            (Some("try"), Some(project), Some(name)) => Namespace::Try { project, name },
            (Some("try-results"), Some(project), Some(name)) => Namespace::TryResults { project, name },
            (Some("samples"), Some(dataset), None) => Namespace::Sample { dataset },
            (Some("run" | "results" | "try" | "try-results" | "samples"), _, _) => Namespace::Reserved,
            _ => Namespace::Plain,
        }
    }

    /// The repository of the results of this one: `results/p/n` for `run/p/n`, `try-results/p/n` for `try/p/n`, `None`
    /// elsewhere.
    pub fn results(&self) -> Option<Self> {
        match self.namespace() {
            // The name grows by some bytes; a push refuses what would become too long (`Length`).
            Namespace::Run { project, name } => format!("results/{project}/{name}").parse().ok(),
            Namespace::Try { project, name } => format!("try-results/{project}/{name}").parse().ok(),
            _ => None,
        }
    }

    /// The repository whose runs fill this one: `run/p/n` for `results/p/n`, `try/p/n` for `try-results/p/n`, `None`
    /// elsewhere.
    pub fn source(&self) -> Option<Self> {
        match self.namespace() {
            Namespace::Results { project, name } => format!("run/{project}/{name}").parse().ok(),
            Namespace::TryResults { project, name } => format!("try/{project}/{name}").parse().ok(),
            _ => None,
        }
    }
}

impl<'a> Namespace<'a> {
    /// The project whose images or results are here.
    pub fn project(self) -> Option<&'a str> {
        match self {
            Self::Run { project, .. }
            | Self::Results { project, .. }
            | Self::Try { project, .. }
            | Self::TryResults { project, .. } => Some(project),
            Self::Sample { .. } | Self::Reserved | Self::Plain => None,
        }
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > MAX_NAME_LENGTH {
            return Err(NameError::Length);
        }
        if text.split('/').all(is_component) { Ok(Self(text.into())) } else { Err(NameError::Grammar) }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = text.as_bytes();
    loop {
        let word = rest.iter().take_while(|byte| alphanumeric(**byte)).count();
        rest = rest.get(word..).unwrap_or_default();
        if word == 0 {
            return false;
        }
        rest = match rest {
            [] => return true,
            [b'_', b'_', after @ ..] | [b'.' | b'_', after @ ..] => after,
            [b'-', ..] => {
                let dashes = rest.iter().take_while(|byte| **byte == b'-').count();
                rest.get(dashes..).unwrap_or_default()
            }
            _ => return false,
        };
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid(text: &str) -> bool {
        text.parse::<RepositoryName>().is_ok()
    }

    #[test]
    fn the_grammar_of_the_specification() {
        for good in ["a", "run/p/n", "a.b", "a_b", "a__b", "a---b", "0/1/2", "a-b.c_d"] {
            assert!(valid(good), "{good}");
        }
        for bad in
            ["", "A", "a/", "/a", "a//b", "a___b", "a..b", ".a", "a.", "-a", "a-", "a b", "..", "a/../b", "é"]
        {
            assert!(!valid(bad), "{bad}");
        }
        assert!(valid(&"a".repeat(MAX_NAME_LENGTH)));
        assert!(!valid(&"a".repeat(MAX_NAME_LENGTH + 1)));
    }

    #[test]
    fn namespaces() {
        let name = |text: &str| text.parse::<RepositoryName>().expect("valid");
        assert_eq!(name("run/p/n/m").namespace(), Namespace::Run { project: "p", name: "n/m" });
        assert_eq!(name("results/p/n").namespace(), Namespace::Results { project: "p", name: "n" });
        assert_eq!(name("run/p").namespace(), Namespace::Reserved);
        assert_eq!(name("try/p/n").namespace(), Namespace::Try { project: "p", name: "n" });
        assert_eq!(name("try-results/p/n").namespace(), Namespace::TryResults { project: "p", name: "n" });
        assert_eq!(name("samples/d").namespace(), Namespace::Sample { dataset: "d" });
        for reserved in ["try", "try/p", "try-results/p", "samples", "samples/d/e"] {
            assert_eq!(name(reserved).namespace(), Namespace::Reserved, "{reserved}");
        }
        assert_eq!(name("runner/p/n").namespace(), Namespace::Plain);
        assert_eq!(name("run/p/n").results(), Some(name("results/p/n")));
        assert_eq!(name("results/p/n").source(), Some(name("run/p/n")));
        assert_eq!(name("try/p/n").results(), Some(name("try-results/p/n")));
        assert_eq!(name("try-results/p/n").source(), Some(name("try/p/n")));
    }

    #[test]
    fn results_on_samples_and_on_the_data_never_share_a_name() {
        let name = |text: &str| text.parse::<RepositoryName>().expect("valid");
        let sources =
            ["run/p/n", "try/p/n", "run/p/try/n", "try/p/try/n", "run/try/p/n", "run/try-results/n"];
        let results: std::collections::BTreeSet<_> =
            sources.iter().map(|source| name(source).results().expect("results").to_string()).collect();
        assert_eq!(results.len(), sources.len());
    }

    proptest! {
        #[test]
        fn only_safe_bytes_pass(text in ".{0,40}") {
            if valid(&text) {
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/".contains(&byte)));
                prop_assert!(!text.contains(".."));
            }
        }
    }
}
