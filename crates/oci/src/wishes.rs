//! What whoever made an image asks of its runs, in labels of the image: parameters, and less than the project gives.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytesize::ByteSize;

/// A parameter's label, up to its name.
const PARAMETER: &str = "org.torno.param.";
const TIMEOUT: &str = "org.torno.timeout";
const CPUS: &str = "org.torno.cpus";
const MEMORY: &str = "org.torno.memory";

/// The longest name of a parameter, in bytes.
const MAX_NAME: usize = 64;
/// The longest value of a parameter, in bytes: settings are short, and what is long belongs into the image.
const MAX_VALUE: usize = 4096;
/// The most parameters of an image.
const MAX_PARAMETERS: usize = 64;
/// The names and values of all of them together, in bytes: a program's variables and arguments share 128 KiB and more.
const MAX_TOTAL: usize = 32 * 1024;
/// The most labels of an image that runs, of whatever kind: each is one more that its container has.
const MAX_LABELS: usize = 256;

/// Starting a container takes a good part of a second.
const LEAST_TIME: Duration = Duration::from_secs(1);
/// The least that engines make a container with.
const LEAST_MEMORY: ByteSize = ByteSize::mib(6);
/// The least the kernel schedules by, and more than any machine has.
const CPUS_WITHIN: std::ops::RangeInclusive<f64> = 0.01..=1024.0;

/// What an image asks of its runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Parameters by name, in lower-case letters, digits and `_`. Values hold no control character.
    pub parameters: BTreeMap<String, String>,
    /// Wall-clock time.
    pub time: Option<Duration>,
    /// Billionths of a processor.
    pub nano_cpus: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// Why labels are refused, and the way out. The Docker client shows this to the person who pushed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WishError {
    /// A parameter's name that cannot become a variable's.
    #[error(
        "the label `{PARAMETER}{0}` has no name that can be a variable's; use at most {MAX_NAME} lower-case letters, \
         digits and `_`, and begin with a letter"
    )]
    Name(String),
    /// A parameter's value that is too long, or has line breaks or other control characters.
    #[error(
        "the value of the label `{PARAMETER}{0}` cannot be handed on; use at most {MAX_VALUE} bytes without line breaks \
         or other control characters"
    )]
    Value(String),
    /// Too many parameters, or too much in them.
    #[error(
        "the image has more than {MAX_PARAMETERS} parameters, or more than {MAX_TOTAL} bytes in them; put them into a file of the image"
    )]
    TooMuch,
    /// Too many labels.
    #[error("the image has {0} labels; at most {MAX_LABELS} can be on an image that runs")]
    Labels(usize),
    /// A time, a number of processors or a size that is none.
    #[error("the label `{label}` is `{value}`; {example}")]
    Unreadable {
        /// The label.
        label: &'static str,
        /// What stands there.
        value: String,
        /// What may stand there.
        example: &'static str,
    },
}

impl Wishes {
    /// Reads the labels of an image.
    pub(crate) fn parse(labels: &HashMap<String, String>) -> Result<Self, WishError> {
        if labels.len() > MAX_LABELS {
            return Err(WishError::Labels(labels.len()));
        }
        // In the order of their names: of several mistakes it is always the same that is told.
        let labels: BTreeMap<&str, &str> =
            labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
        let mut wishes = Self::default();
        let mut total = 0;
        for (label, value) in &labels {
            let Some(name) = label.strip_prefix(PARAMETER) else { continue };
            if !is_name(name) {
                return Err(WishError::Name(shown(name)));
            }
            if value.len() > MAX_VALUE || value.chars().any(is_control) {
                return Err(WishError::Value(name.to_owned()));
            }
            total += name.len() + value.len();
            wishes.parameters.insert(name.to_owned(), (*value).to_owned());
        }
        if total > MAX_TOTAL || wishes.parameters.len() > MAX_PARAMETERS {
            return Err(WishError::TooMuch);
        }
        let wish = |label| labels.get(label).copied();
        wishes.time = wish(TIMEOUT).map(time).transpose()?;
        wishes.nano_cpus = wish(CPUS).map(cpus).transpose()?;
        wishes.memory = wish(MEMORY).map(memory).transpose()?;
        Ok(wishes)
    }
}

fn time(text: &str) -> Result<Duration, WishError> {
    let time = has_unit(text).then(|| humantime::parse_duration(text).ok()).flatten();
    let example = "write a length of time from 1s on, such as 30m or 2h";
    time.filter(|time| *time >= LEAST_TIME).ok_or_else(|| unreadable(TIMEOUT, text, example))
}

fn cpus(text: &str) -> Result<u64, WishError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let cpus = plain.then(|| text.parse::<f64>().ok()).flatten().filter(|cpus| CPUS_WITHIN.contains(cpus));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    let nanos = cpus.map(|cpus| (cpus * 1e9).round() as u64);
    nanos.ok_or_else(|| unreadable(CPUS, text, "write a number of processors from 0.01 to 1024, such as 1.5"))
}

fn memory(text: &str) -> Result<u64, WishError> {
    let size = has_unit(text).then(|| text.parse::<ByteSize>().ok()).flatten();
    let size = size.filter(|size| *size >= LEAST_MEMORY).map(|size| size.as_u64());
    size.ok_or_else(|| unreadable(MEMORY, text, "write a size from 6MiB on, such as 512MiB or 4GiB"))
}

/// A bare number is a guess.
fn has_unit(text: &str) -> bool {
    text.parse::<f64>().is_err()
}

fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= MAX_NAME
        && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && name.bytes().all(word)
}

/// What breaks lines, moves a cursor or turns the direction of writing.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn unreadable(label: &'static str, value: &str, example: &'static str) -> WishError {
    WishError::Unreadable { label, value: shown(value), example }
}

/// Enough of an image's words to recognise them in a message.
fn shown(text: &str) -> String {
    text.chars().filter(|character| !is_control(*character)).take(100).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(labels: &[(&str, &str)]) -> HashMap<String, String> {
        labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
    }

    fn parse(all: &[(&str, &str)]) -> Result<Wishes, WishError> {
        Wishes::parse(&labels(all))
    }

    #[test]
    fn what_an_image_may_ask() {
        let asked = parse(&[
            ("org.torno.param.folds", "5"),
            ("org.torno.param.model_2", "$(rm -rf /); \"é\""),
            ("org.torno.param.empty", ""),
            ("org.torno.timeout", "1h 30m"),
            ("org.torno.cpus", "1.5"),
            ("org.torno.memory", "512MiB"),
            ("org.opencontainers.image.title", "line\nbreak"),
        ]);
        let asked = asked.expect("wishes");
        let parameters: Vec<_> =
            asked.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(parameters, [("empty", ""), ("folds", "5"), ("model_2", "$(rm -rf /); \"é\"")]);
        assert_eq!(asked.time, Some(Duration::from_mins(90)));
        assert_eq!((asked.nano_cpus, asked.memory), (Some(1_500_000_000), Some(512 << 20)));
        assert_eq!(parse(&[]), Ok(Wishes::default()));
    }

    #[test]
    fn names_and_values_at_their_limits_and_one_past_them() {
        let named = |name: &str| parse(&[(&format!("{PARAMETER}{name}"), "")]);
        assert!(named(&"a".repeat(MAX_NAME)).is_ok());
        for bad in ["", "A", "1a", "_a", "a-b", "a.b", "a b", "a=b", "a\nb", "é", &"a".repeat(MAX_NAME + 1)]
        {
            assert!(matches!(named(bad), Err(WishError::Name(_))), "{bad}");
        }
        let valued = |value: &str| parse(&[("org.torno.param.a", value)]);
        assert!(valued(&"x".repeat(MAX_VALUE)).is_ok());
        for bad in
            ["a\nb", "a\r", "\0", "\u{1b}[2J", "\t", "\u{202e}x", "\u{2028}", &"x".repeat(MAX_VALUE + 1)]
        {
            assert_eq!(valued(bad), Err(WishError::Value("a".into())), "{bad:?}");
        }
    }

    #[test]
    fn all_together_are_bounded() {
        let many = |count: usize, value: &str| {
            let all =
                (0..count).map(|number| (format!("{PARAMETER}p{number:02}"), value.to_owned())).collect();
            Wishes::parse(&all)
        };
        assert!(many(MAX_PARAMETERS, "").is_ok());
        assert_eq!(many(MAX_PARAMETERS + 1, ""), Err(WishError::TooMuch));
        // Each name has three bytes.
        assert!(many(8, &"x".repeat(MAX_TOTAL / 8 - 3)).is_ok());
        assert_eq!(many(8, &"x".repeat(MAX_TOTAL / 8 - 2)), Err(WishError::TooMuch));
        let others = |count: usize| {
            Wishes::parse(&(0..count).map(|number| (format!("l{number}"), String::new())).collect())
        };
        assert!(others(MAX_LABELS).is_ok());
        assert_eq!(others(MAX_LABELS + 1), Err(WishError::Labels(MAX_LABELS + 1)));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for (label, good, bad) in [
            (TIMEOUT, ["1s", "30days"], ["999ms", "30", "", "soon", "-1s", "99999999999999999999h"]),
            (CPUS, ["0.01", "1024"], ["0.009", "1025", "", "two", "-1", "NaN"]),
            (MEMORY, ["6MiB", "16TiB"], ["5MiB", "1073741824", "", "much", "-1GiB", "4GiB\n"]),
        ] {
            for value in good {
                assert!(parse(&[(label, value)]).is_ok(), "{label} {value}");
            }
            for value in bad {
                let refused = parse(&[(label, value)]).expect_err(value);
                assert!(matches!(refused, WishError::Unreadable { .. }), "{label} {value}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_label_panics(label in "org\\.torno\\.(param\\..{0,5}|timeout|cpus|memory)", value in ".*") {
            if let Ok(wishes) = parse(&[(&label, &value)]) {
                prop_assert!(!wishes.parameters.values().any(|value| value.contains(['\n', '\0'])));
            }
        }
    }
}
