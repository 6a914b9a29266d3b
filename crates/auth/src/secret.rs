//! Tokens that people and machines keep: made here, shown once, known afterwards by their hash alone.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// What every token begins with, so that scanners for leaked secrets find them.
const PREFIX: &str = "torno_";

/// Bytes of a token's name: enough that no two of a site are alike.
const ID: usize = 6;

/// Bytes of the secret itself. So many random ones need no slow hash.
const SECRET: usize = 32;

/// The name of a token: no secret, and never used twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(Box<str>);

/// A text that is no token's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a token's name has {} digits and letters from a to f; see `torno token list`", 2 * ID)]
pub struct TokenIdError;

impl TokenId {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        let hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if hex && text.len() == 2 * ID { Ok(Self(text.into())) } else { Err(TokenIdError) }
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A token as its owner has it. It shows itself by [`Secret::expose`] only.
pub struct Secret {
    id: TokenId,
    bytes: [u8; SECRET],
}

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl Secret {
    /// A new one.
    pub fn random() -> Result<Self, getrandom::Error> {
        let (mut id, mut bytes) = ([0; ID], [0; SECRET]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut bytes)?;
        Ok(Self { id: TokenId(hex::encode(id).into()), bytes })
    }

    /// A token that somebody sent in place of a password; `None`: it is a password.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let mut bytes = [0; SECRET];
        hex::decode_to_slice(secret, &mut bytes).ok()?;
        Some(Self { id: id.parse().ok()?, bytes })
    }

    /// Its name.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The text to show to its owner, once.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, hex::encode(self.bytes))
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        let mut hasher = Sha256::new();
        hasher.update(self.id.as_str());
        hasher.update(self.bytes);
        SecretHash(hasher.finalize().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SecretHash {
    /// As it is kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is what was kept, in a time that does not tell where they differ.
    pub fn is(&self, kept: &[u8]) -> bool {
        self.0.as_slice().ct_eq(kept).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_again_by_its_hash() {
        let secret = Secret::random().expect("random");
        let again = Secret::parse(&secret.expose()).expect("parsed");
        assert_eq!(again.id(), secret.id());
        assert!(again.hash().is(secret.hash().as_bytes()));
        let other = Secret::random().expect("random");
        assert!(!other.hash().is(secret.hash().as_bytes()));
        assert!(!format!("{secret:?}").contains(&hex::encode(secret.bytes)), "it does not show itself");
    }

    #[test]
    fn passwords_are_no_tokens() {
        let token = Secret::random().expect("random").expose();
        for text in
            ["", "torno_", "hunter2", &token[..token.len() - 1], &token.to_uppercase(), &format!("{token}0")]
        {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
