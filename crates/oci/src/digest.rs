//! Content addresses (image-spec, Descriptor: Digests).

use std::{fmt, str::FromStr};

use sha2::Digest as _;

/// The registered digest algorithms (image-spec, Descriptor: Registered Algorithms).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, which everyone uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm Torno knows.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// The digest of some bytes: an algorithm and its value in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    text: Box<str>,
    algorithm: Algorithm,
}

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DigestError {
    /// There is no `algorithm:value` in it.
    #[error("a digest is written `sha256:<64 hexadecimal digits>`")]
    Shape,
    /// The algorithm is not one of the registered ones.
    #[error("this digest algorithm is not supported; use sha256 or sha512")]
    Algorithm,
    /// The value has the wrong length or is not lower-case hexadecimal.
    #[error("a {name} digest has {digits} lower-case hexadecimal digits", name = .0.name(), digits = .0.hex_length())]
    Value(Algorithm),
}

impl Digest {
    /// The digest of bytes at hand.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The SHA-256 of bytes at hand.
    pub fn sha256(bytes: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, bytes)
    }

    /// The algorithm in front of the colon.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal value behind the colon.
    pub fn hex(&self) -> &str {
        self.text.get(self.algorithm.name().len() + 1..).unwrap_or_default()
    }

    /// The whole, `algorithm:value`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, value) = text.split_once(':').ok_or(DigestError::Shape)?;
        let algorithm =
            Algorithm::ALL.into_iter().find(|known| known.name() == name).ok_or(DigestError::Algorithm)?;
        let hexadecimal = value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !hexadecimal || value.len() != algorithm.hex_length() {
            return Err(DigestError::Value(algorithm));
        }
        Ok(Self { text: text.into(), algorithm })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A digest being computed while bytes go by.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Starts with no bytes.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let (algorithm, value) = match self.0 {
            State::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            State::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        let mut text = String::with_capacity(algorithm.name().len() + 1 + algorithm.hex_length());
        text.push_str(algorithm.name());
        text.push(':');
        for byte in value {
            for nibble in [byte >> 4, byte & 0xf] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Digest { text: text.into(), algorithm }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_empty_string_has_its_known_digests() {
        assert_eq!(
            Digest::sha256(b"").as_str(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!(Digest::of(Algorithm::Sha512, b"").hex().starts_with("cf83e1357eefb8bd"));
    }

    #[test]
    fn malformed_digests_are_named_for_what_is_wrong() {
        assert_eq!("sha256".parse::<Digest>(), Err(DigestError::Shape));
        assert_eq!("md5:abcd".parse::<Digest>(), Err(DigestError::Algorithm));
        assert_eq!("sha256:ABCD".parse::<Digest>(), Err(DigestError::Value(Algorithm::Sha256)));
        let upper = Digest::sha256(b"").as_str().to_uppercase().replace("SHA", "sha");
        assert_eq!(upper.parse::<Digest>(), Err(DigestError::Value(Algorithm::Sha256)));
    }

    proptest! {
        #[test]
        fn what_is_computed_parses(bytes: Vec<u8>) {
            let digest = Digest::sha256(&bytes);
            prop_assert_eq!(digest.as_str().parse::<Digest>(), Ok(digest.clone()));
            prop_assert_eq!(digest.hex().len(), 64);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<Digest>();
        }
    }
}
