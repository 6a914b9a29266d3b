//! Lists of people, by their names and by their groups.

use std::collections::BTreeSet;

use torno_oci::UserName;

use crate::{GroupName, Identity};

/// People who may do something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// By name.
    pub users: BTreeSet<UserName>,
    /// Whoever a directory or provider counts among one of these.
    pub groups: BTreeSet<GroupName>,
    /// And these, whoever they are.
    pub others: Others,
}

/// People whom a list includes without naming them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Others {
    /// Nobody.
    #[default]
    Nobody,
    /// Everybody who has logged in, written `@users`.
    Users,
    /// Everybody, written `@anyone`.
    Anyone,
}

impl Members {
    /// Whether somebody is among them.
    pub fn contains(&self, who: &Identity) -> bool {
        match (self.others, who.name()) {
            (Others::Anyone, _) | (Others::Users, Some(_)) => true,
            (_, Some(name)) => self.users.contains(name) || !self.groups.is_disjoint(who.groups()),
            (_, None) => false,
        }
    }

    /// Whether nobody can be among them.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty() && self.others == Others::Nobody
    }
}

impl<const N: usize> From<[UserName; N]> for Members {
    fn from(users: [UserName; N]) -> Self {
        Self { users: users.into(), ..Self::default() }
    }
}

impl From<BTreeSet<UserName>> for Members {
    fn from(users: BTreeSet<UserName>) -> Self {
        Self { users, ..Self::default() }
    }
}
