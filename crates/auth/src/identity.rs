//! Who somebody has shown themselves to be, and how far what they showed goes.

use std::{borrow::Borrow, collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use torno_oci::UserName;

use crate::{Scope, TokenId};

/// The longest name of a group, in bytes.
const MAX_GROUP_LENGTH: usize = 64;

/// The name of several people, from the configuration, a directory or an identity provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Box<str>);

/// A text that is no name of a group.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a group's name has 1 to {MAX_GROUP_LENGTH} lower-case letters, digits, `.`, `-` and `_`, and starts with a letter \
     or a digit"
)]
pub struct GroupError;

impl GroupName {
    /// The name as written, without the `@` that stands before it in lists of people.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts = text.bytes().next().is_some_and(letter);
        let all = text.bytes().all(|byte| letter(byte) || b".-_".contains(&byte));
        if starts && all && text.len() <= MAX_GROUP_LENGTH { Ok(Self(text.into())) } else { Err(GroupError) }
    }
}

impl Borrow<str> for GroupName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What somebody showed to be who they say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proof {
    /// Nothing: anybody.
    #[default]
    Nothing,
    /// A password.
    Password,
    /// A token that was made for them, or a login that was kept.
    Token(TokenId),
    /// A client certificate.
    Certificate,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Password => f.write_str("password"),
            Self::Token(id) => write!(f, "token {id}"),
            Self::Certificate => f.write_str("certificate"),
        }
    }
}

/// Somebody who has shown who they are, or nobody in particular. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Arc<Inner>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Inner {
    name: Option<UserName>,
    groups: BTreeSet<GroupName>,
    proof: Proof,
    limit: Option<Scope>,
    access: Option<Scope>,
}

impl Identity {
    /// Somebody whose name is known: from a login, or to a caller that has the data directory itself.
    pub fn of(name: UserName) -> Self {
        Self(Arc::new(Inner { name: Some(name), proof: Proof::Password, ..Inner::default() }))
    }

    /// Whoever has not logged in.
    pub fn anonymous() -> Self {
        Self(Arc::new(Inner::default()))
    }

    /// The same person, as a member of the groups that a directory or provider names.
    #[must_use]
    pub fn in_groups(self, groups: BTreeSet<GroupName>) -> Self {
        self.with(|inner| inner.groups = groups)
    }

    /// The same person, with what they showed.
    #[must_use]
    pub fn proven_by(self, proof: Proof) -> Self {
        self.with(|inner| inner.proof = proof)
    }

    /// The same person, who may do no more than a token that was made for them says.
    #[must_use]
    pub fn limited_to(self, scope: Scope) -> Self {
        self.with(|inner| inner.limit = Some(scope))
    }

    /// The same person, who may do no more than they asked for when they got a bearer token.
    #[must_use]
    pub fn with_access(self, scope: Scope) -> Self {
        self.with(|inner| inner.access = Some(scope))
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Their name; `None` of those who have not logged in.
    pub fn name(&self) -> Option<&UserName> {
        self.0.name.as_ref()
    }

    /// The groups that a directory or provider has named. Those of the configuration are known to the policy.
    pub fn groups(&self) -> &BTreeSet<GroupName> {
        &self.0.groups
    }

    /// What they showed.
    pub fn proof(&self) -> &Proof {
        &self.0.proof
    }

    /// What the token they came with says they may do at most.
    pub fn limit(&self) -> Option<&Scope> {
        self.0.limit.as_ref()
    }

    /// What they asked for when they got the bearer token they came with.
    pub fn access(&self) -> Option<&Scope> {
        self.0.access.as_ref()
    }

    /// Whether this is this person.
    pub fn is(&self, name: &UserName) -> bool {
        self.name() == Some(name)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => name.fmt(f),
            None => f.write_str("anonymous"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups() {
        let longest = "a".repeat(MAX_GROUP_LENGTH);
        for good in ["staff", "team-a", "1.b_c", longest.as_str()] {
            assert!(good.parse::<GroupName>().is_ok(), "{good}");
        }
        for bad in ["", "@staff", "Staff", "a b", "-a", "é", &format!("{longest}a")] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad}");
        }
    }
}
