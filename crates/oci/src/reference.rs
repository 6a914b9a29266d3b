//! Tags and references (distribution-spec: Pulling manifests).

use std::{fmt, str::FromStr};

use crate::{Digest, DigestError};

/// The longest tag, in bytes (distribution-spec: Pulling manifests).
const MAX_TAG_LENGTH: usize = 128;

/// A tag: a name within a repository that may move from manifest to manifest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

/// A text that is not a tag.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a tag has 1 to {MAX_TAG_LENGTH} letters, digits, `_`, `.` and `-`, and starts with none of the last two"
)]
pub struct TagError;

impl Tag {
    /// The tag as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let (first, rest) = text.as_bytes().split_first().ok_or(TagError)?;
        let fits = text.len() <= MAX_TAG_LENGTH;
        if fits && word(*first) && rest.iter().all(|byte| word(*byte) || matches!(byte, b'.' | b'-')) {
            Ok(Self(text.into()))
        } else {
            Err(TagError)
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By a tag.
    Tag(Tag),
    /// By its digest.
    Digest(Digest),
}

/// Why a text is neither tag nor digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// It has a colon, as only digests have, and is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It has none and is no tag.
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_the_specification() {
        for good in ["latest", "v1.0", "_x", "A-b", "1"] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a b", "a/b", "a:b", "é"] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
        assert!("x".repeat(MAX_TAG_LENGTH).parse::<Tag>().is_ok());
        assert!("x".repeat(MAX_TAG_LENGTH + 1).parse::<Tag>().is_err());
    }

    #[test]
    fn a_colon_makes_it_a_digest() {
        assert!(matches!("sha256:zz".parse::<Reference>(), Err(ReferenceError::Digest(_))));
        assert!(matches!("latest".parse::<Reference>(), Ok(Reference::Tag(_))));
    }
}
