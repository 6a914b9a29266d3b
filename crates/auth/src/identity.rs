//! The proof that a person is who they say.

use torno_oci::UserName;

/// Someone who has shown that they are who they say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(UserName);

impl Identity {
    /// For callers to whom the person is already known: the authenticator, and tests.
    pub fn of(name: UserName) -> Self {
        Self(name)
    }

    /// Their name.
    pub fn name(&self) -> &UserName {
        &self.0
    }
}
