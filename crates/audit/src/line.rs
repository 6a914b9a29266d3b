//! One line of the record: how it is sealed, and how one is read back that may have been changed.
//!
//! ```text
//! {"seq":2,"at":"…","event":"push",…,"prev":"<hash of line 1>","hash":"<SHA-256 of this line up to `,"hash":`>"}
//! ```

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Event, actor::Actor};

/// The longest line that is read, in bytes, with its end: what is written has a few KiB (`batch`).
pub(crate) const MAX_LINE: usize = 64 * 1024;

/// How a line ends: the hash of what is before.
const SEAL: &str = ",\"hash\":\"";

/// The hash of a line. Whoever has kept it can tell whether everything up to that line is as it was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

/// A text that is no hash.
#[derive(Debug, thiserror::Error)]
#[error("a hash has 64 digits 0 to 9 and a to f, as `torno audit head` prints it")]
pub struct HashError;

impl Hash {
    /// What the first line of all names as the one before.
    pub(crate) const NONE: Self = Self([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        let mut hash = [0; 32];
        let lower = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        hex::decode_to_slice(text, &mut hash).ok().filter(|()| lower).ok_or(HashError)?;
        Ok(Self(hash))
    }
}

/// Where a chain ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) hash: Hash,
}

impl Link {
    /// Before the first line of all.
    pub(crate) const START: Self = Self { seq: 0, hash: Hash::NONE };
}

/// What a line is to say besides its place in the chain.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) at: Timestamp,
    pub(crate) event: &'a Event,
    pub(crate) actor: &'a Actor,
    /// How often, and when last, if more than once.
    pub(crate) repeated: Option<(u64, Timestamp)>,
}

#[derive(Serialize)]
struct Written<'a> {
    seq: u64,
    at: String,
    #[serde(flatten)]
    event: &'a Event,
    #[serde(flatten)]
    actor: &'a Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    prev: String,
}

/// A time as it is written.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// Appends a line behind `after`, whose link it moves on.
pub(crate) fn seal(content: &Content<'_>, after: &mut Link, to: &mut Vec<u8>) -> serde_json::Result<()> {
    let seq = after.seq + 1;
    let (count, last) = content.repeated.map(|(count, last)| (count, time(last))).unzip();
    let Content { at, event, actor, .. } = content;
    let written = Written { seq, at: time(*at), event, actor, count, last, prev: after.hash.to_string() };
    let from = to.len();
    serde_json::to_writer(&mut *to, &written)?;
    // The brace at its end comes behind the seal.
    to.pop();
    let hash = Hash(Sha256::digest(to.get(from..).unwrap_or_default()).into());
    to.extend_from_slice(format!("{SEAL}{hash}\"}}\n").as_bytes());
    *after = Link { seq, hash };
    Ok(())
}

/// A line whose hash is that of its text. Whether it is in its place, the one before it tells.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) link: Link,
    pub(crate) prev: Hash,
    pub(crate) kind: Kind,
    pub(crate) at: String,
}

/// What the chain itself makes of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Closed,
    Torn { bytes: u64, sha256: String },
    Other,
}

#[derive(Deserialize)]
struct Found {
    seq: u64,
    at: String,
    event: String,
    prev: String,
    bytes: Option<u64>,
    sha256: Option<String>,
}

impl Line {
    /// Reads a line without its end; `None` if its hash is not that of its text, or if it lacks what every line has.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (body, sealed) = text.rsplit_once(SEAL)?;
        let hash: Hash = sealed.strip_suffix("\"}")?.parse().ok()?;
        if Hash(Sha256::digest(body).into()) != hash {
            return None;
        }
        let found: Found = serde_json::from_str(text).ok()?;
        let kind = match (found.event.as_str(), found.bytes, found.sha256) {
            ("closed", ..) => Kind::Closed,
            ("torn", Some(bytes), Some(sha256)) => Kind::Torn { bytes, sha256 },
            _ => Kind::Other,
        };
        let prev = found.prev.parse().ok()?;
        Some(Self { link: Link { seq: found.seq, hash }, prev, kind, at: found.at })
    }

    /// Whether it comes right behind `link`.
    pub(crate) fn continues(&self, link: &Link) -> bool {
        self.prev == link.hash && link.seq.checked_add(1) == Some(self.link.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_no_other() {
        let (mut link, mut bytes) = (Link::START, Vec::new());
        let (event, actor) = (Event::Begun, Actor::torno());
        let content = Content { at: Timestamp::UNIX_EPOCH, event: &event, actor: &actor, repeated: None };
        seal(&content, &mut link, &mut bytes).expect("JSON");
        let text = bytes.strip_suffix(b"\n").expect("an end");
        let read = Line::read(text).expect("a text");
        assert_eq!((read.link, read.prev, read.at.as_str()), (link, Hash::NONE, "1970-01-01T00:00:00.000Z"));
        assert!(read.continues(&Link::START));
        for place in 0..text.len() {
            let mut changed = text.to_vec();
            changed[place] ^= 1;
            assert!(Line::read(&changed).is_none(), "byte {place}");
            assert!(Line::read(&text[..place]).is_none(), "up to {place}");
        }
    }

    #[test]
    fn a_hash_is_lower_case_hexadecimal() {
        let hash = "a".repeat(64);
        assert_eq!(hash.parse::<Hash>().expect("a hash").to_string(), hash);
        for bad in ["", "a", &"A".repeat(64), &"a".repeat(65), &"g".repeat(64)] {
            assert!(bad.parse::<Hash>().is_err(), "{bad}");
        }
    }
}
