//! Who did something, how that is known, and from where.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    sync::Arc,
};

use serde::{Serialize, Serializer};
use torno_oci::UserName;

/// Who did something, by what that is known, from where, and in which request.
#[derive(Clone, Debug, Serialize)]
pub struct Actor {
    /// Who, by what, from where: two who are alike in it are the same.
    #[serde(flatten, serialize_with = "shared")]
    pub(crate) who: Arc<Who>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Text>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub(crate) struct Who {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown_if_any")]
    user: Option<UserName>,
    #[serde(flatten)]
    by: By,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<IpAddr>,
}

/// What tells that somebody is who they say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum By {
    /// Their password.
    Password,
    /// A token of theirs.
    Token {
        /// Which: its name, never its secret.
        credential: Text,
    },
    /// Their client certificate.
    Certificate,
    /// What an identity provider says.
    Provider,
    /// Nothing: nobody has logged in, or tried in vain.
    Nobody,
    /// It is Torno, by itself: the executor, or a collection that was due.
    Torno,
    /// A command on the machine itself, typed by a user of that.
    Command {
        /// The number of that user.
        uid: u32,
    },
}

impl Actor {
    /// A person, or somebody who is none yet, in a request.
    pub fn in_request(user: Option<UserName>, by: By, from: IpAddr, request: &str) -> Self {
        Self { who: Arc::new(Who { user, by, from: Some(from) }), request: Some(Text::new(request)) }
    }

    /// The same request is somebody's from now on, who has shown who they are.
    pub fn is_now(&mut self, user: UserName, by: By) {
        self.who = Arc::new(Who { user: Some(user), by, from: self.who.from });
    }

    /// Torno itself.
    pub fn torno() -> Self {
        Self { who: Arc::new(Who { user: None, by: By::Torno, from: None }), request: None }
    }

    /// Whoever has typed the command that this process carries out.
    pub fn command() -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self { who: Arc::new(Who { user: None, by: By::Command { uid }, from: None }), request: None }
    }
}

/// A text from a peer, made harmless: printable ASCII, everything else escaped, and bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// The longest, in bytes: a repository's name fits, a story does not.
    pub const MAX_LENGTH: usize = 256;

    /// As much of a text as fits.
    pub fn new(text: &str) -> Self {
        const CUT: &str = "...";
        let is_safe = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'\\';
        if text.len() <= Self::MAX_LENGTH && text.bytes().all(is_safe) {
            return Self(text.into());
        }
        let mut safe = String::new();
        for character in text.chars() {
            let from = safe.len();
            match character {
                '\\' => safe.push_str("\\\\"),
                ' '..='~' => safe.push(character),
                // Writing to a String cannot fail.
                _ => drop(write!(safe, "{}", character.escape_unicode())),
            }
            if safe.len() > Self::MAX_LENGTH {
                safe.truncate(from.min(Self::MAX_LENGTH - CUT.len()));
                safe.push_str(CUT);
                break;
            }
        }
        Self(safe.into())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

fn shared<S: Serializer>(who: &Arc<Who>, serializer: S) -> Result<S::Ok, S::Error> {
    who.serialize(serializer)
}

/// For values whose words are their `Display`.
pub(crate) fn shown<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The same for those that may be missing.
#[expect(clippy::ref_option, reason = "serde gives it so")]
pub(crate) fn shown_if_any<T: fmt::Display, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// The same for several.
pub(crate) fn all_shown<T: fmt::Display, S: Serializer>(
    values: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(ToString::to_string))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_printable_is_escaped() {
        let text = Text::new("a\u{1b}[2J\u{9b}b\\n\u{202e}é\n");
        assert_eq!(text.to_string(), "a\\u{1b}[2J\\u{9b}b\\\\n\\u{202e}\\u{e9}\\u{a}");
    }

    #[test]
    fn the_longest_text_and_one_byte_more() {
        let longest = "x".repeat(Text::MAX_LENGTH);
        assert_eq!(Text::new(&longest).to_string(), longest);
        let cut = Text::new(&format!("{longest}x")).to_string();
        assert!(cut.len() == Text::MAX_LENGTH && cut.ends_with("x..."), "{cut}");
    }

    proptest! {
        #[test]
        fn any_text_is_printable_and_bounded(text: String) {
            let safe = Text::new(&text).to_string();
            prop_assert!(safe.len() <= Text::MAX_LENGTH);
            prop_assert!(safe.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
}
