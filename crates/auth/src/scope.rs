//! What a token is good for: actions on repositories (Docker registry: Token Scope Documentation).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use torno_oci::{ProjectName, RepositoryName};

use crate::Patterns;

/// Something that can be done to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Reading it.
    Pull,
    /// Writing to it.
    Push,
    /// Deleting in it.
    Delete,
    /// Stopping and repeating its runs, and saying which goes first.
    Control,
}

impl Action {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Pull, Self::Push, Self::Delete, Self::Control];

    /// Its name in scopes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::Control => "control",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// Not `actions:pattern`.
    #[error(
        "`{0}` is no scope; write the actions (pull, push, delete, control, with commas between) and a pattern of repositories, \
         such as `pull:results/retina/**`"
    )]
    Form(String),
    /// An action that there is not.
    #[error("`{0}` is no action; there are pull, push, delete and control")]
    Action(String),
    /// The part behind the colon.
    #[error("{0}")]
    Pattern(String),
    /// More than a token can carry.
    #[error("a token has at most {MAX_GRANTS} scopes")]
    TooMany,
}

/// Scopes of one token. They travel with every request.
const MAX_GRANTS: usize = 32;

/// What may be done at most: the sum of its grants, and nothing when there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    named: BTreeMap<RepositoryName, BTreeSet<Action>>,
    like: Vec<Grant>,
    catalog: bool,
}

/// Actions on every repository whose name is like a pattern, written `pull,push:run/retina/**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    actions: BTreeSet<Action>,
    repositories: Patterns,
}

impl Scope {
    /// The scope that people write for the tokens they make.
    pub fn of_grants(grants: Vec<Grant>) -> Result<Self, ScopeError> {
        if grants.len() > MAX_GRANTS {
            return Err(ScopeError::TooMany);
        }
        Ok(Self { like: grants, ..Self::default() })
    }

    /// The scope of a bearer token: actions on repositories by their names, and perhaps listing them.
    pub fn of_wish(wish: Wish) -> Self {
        Self { named: wish.repositories, like: Vec::new(), catalog: wish.catalog }
    }

    /// Whether it includes the catalog.
    pub fn lists(&self) -> bool {
        self.catalog
    }

    /// Whether it includes controlling runs at all.
    pub fn controls(&self) -> bool {
        let mut actions = self.named.values().chain(self.like.iter().map(|grant| &grant.actions));
        actions.any(|actions| actions.contains(&Action::Control))
    }

    /// Whether it includes, by name, controlling the runs of some repository of a project.
    pub(crate) fn controls_in(&self, project: &ProjectName) -> bool {
        let mut of_project =
            self.named.iter().filter(|(name, _)| name.namespace().project() == Some(project.as_str()));
        of_project.any(|(_, actions)| actions.contains(&Action::Control))
    }

    /// Whether it includes an action on a repository.
    pub fn allows(&self, action: Action, repository: &RepositoryName) -> bool {
        self.named.get(repository).is_some_and(|actions| actions.contains(&action))
            || self
                .like
                .iter()
                .any(|grant| grant.actions.contains(&action) && grant.repositories.fit(repository.as_str()))
    }
}

/// Its grants with spaces between, which [`Scope::from_str`] reads.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grants: Vec<String> = self.like.iter().map(ToString::to_string).collect();
        f.write_str(&grants.join(" "))
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Self::of_grants(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let actions: Vec<&str> = self.actions.iter().map(|action| action.as_str()).collect();
        write!(f, "{}:{}", actions.join(","), self.repositories)
    }
}

impl FromStr for Grant {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let shown = || text.escape_debug().to_string();
        let (actions, pattern) = text.split_once(':').ok_or_else(|| ScopeError::Form(shown()))?;
        if pattern.is_empty() || text.contains(char::is_whitespace) {
            return Err(ScopeError::Form(shown()));
        }
        let actions = actions.split(',').map(|action| {
            let known = Action::ALL.into_iter().find(|known| known.as_str() == action);
            known.ok_or_else(|| ScopeError::Action(action.escape_debug().to_string()))
        });
        Ok(Self {
            actions: actions.collect::<Result<_, _>>()?,
            repositories: Patterns::parse(vec![pattern.to_owned()]).map_err(ScopeError::Pattern)?,
        })
    }
}

/// What somebody asks a bearer token for, whatever of it they are given (Token Scope Documentation: Resource Scope
/// Grammar). What Torno does not know is passed over, as the specification wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Actions on repositories.
    pub repositories: BTreeMap<RepositoryName, BTreeSet<Action>>,
    /// Whether the catalog is asked for.
    pub catalog: bool,
}

impl Wish {
    /// Repositories asked for at once; Docker asks for two.
    pub const MAX: usize = 100;

    /// Adds what stands in one `scope`, which may be several with spaces between.
    pub fn add(&mut self, text: &str) {
        for part in text.split(' ') {
            // The name may hold a colon, before a port, so both ends are cut off first.
            let Some((kind, rest)) = part.split_once(':') else { continue };
            let Some((name, actions)) = rest.rsplit_once(':') else { continue };
            match kind.split('(').next() {
                Some("repository") => self.add_repository(name, actions),
                Some("registry") if name == "catalog" => self.catalog = true,
                _ => {}
            }
        }
    }

    fn add_repository(&mut self, name: &str, actions: &str) {
        let Ok(name) = name.parse::<RepositoryName>() else { return };
        if self.repositories.len() >= Self::MAX && !self.repositories.contains_key(&name) {
            return;
        }
        let wished = self.repositories.entry(name).or_default();
        for action in actions.split(',') {
            match action {
                "*" => wished.extend(Action::ALL),
                _ => wished.extend(Action::ALL.into_iter().find(|known| known.as_str() == action)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().expect("name")
    }

    #[test]
    fn a_scope_allows_what_it_says() {
        let scope: Scope = "pull:results/retina/** pull,push:run/retina/*".parse().expect("scope");
        for (action, repository, expected) in [
            (Action::Pull, "results/retina/a", true),
            (Action::Pull, "results/retina/a/b", true),
            (Action::Push, "results/retina/a", false),
            (Action::Push, "run/retina/a", true),
            (Action::Push, "run/retina/a/b", false),
            (Action::Delete, "run/retina/a", false),
            (Action::Pull, "results/retina", false),
            (Action::Pull, "tools/x", false),
        ] {
            assert_eq!(scope.allows(action, &name(repository)), expected, "{action} {repository}");
        }
        assert_eq!(scope.to_string().parse(), Ok(scope.clone()), "it is read as it was written");
        assert!(!Scope::default().allows(Action::Pull, &name("a")), "nothing allows nothing");
    }

    #[test]
    fn what_is_no_scope() {
        for bad in ["pull", "pull:", "pul:a", ":a", "pull,:a", "pull:[", "repository:a:pull,push"] {
            assert!(bad.parse::<Grant>().is_err(), "{bad}");
        }
        let most = vec!["pull:a"; MAX_GRANTS].join(" ");
        assert!(most.parse::<Scope>().is_ok());
        assert_eq!(format!("{most} pull:b").parse::<Scope>(), Err(ScopeError::TooMany));
    }

    #[test]
    fn wishes() {
        let mut wish = Wish::default();
        wish.add("repository:run/a/b:pull,push repository:tools/x:* registry:catalog:*");
        wish.add("repository(plugin):p:pull");
        wish.add("repository:HOST:5000/x:pull repository:x repository:y:fly :: nonsense");
        let all: BTreeSet<Action> = Action::ALL.into();
        assert_eq!(wish.repositories[&name("run/a/b")], [Action::Pull, Action::Push].into());
        assert_eq!(wish.repositories[&name("tools/x")], all);
        assert_eq!(wish.repositories[&name("p")], [Action::Pull].into());
        assert_eq!(wish.repositories[&name("y")], BTreeSet::new());
        assert_eq!(wish.repositories.len(), 4);
        assert!(wish.catalog);
    }

    #[test]
    fn a_wish_is_bounded() {
        let mut wish = Wish::default();
        for number in 0..=Wish::MAX {
            wish.add(&format!("repository:r{number}:pull"));
        }
        assert_eq!(wish.repositories.len(), Wish::MAX);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            Wish::default().add(&text);
            let _ = text.parse::<Scope>();
        }
    }
}
