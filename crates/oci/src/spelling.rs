//! JSON that says one thing to every reader.
//!
//! Most engines and clients are written in Go, whose JSON reader takes `volumes` and `Volumeſ` for `Volumes` and of
//! two such keys believes the last. A document that is checked by exact keys here and obeyed by folded keys there
//! has not been checked at all, so one with such keys is refused.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The keys that matter in an object, or in each of a list of objects, with what stands below each. Others may be
/// spelled as they like.
#[derive(Clone, Copy)]
pub(crate) struct Shape(pub(crate) &'static [(&'static str, Shape)]);

/// What has no keys that matter.
pub(crate) const LEAF: Shape = Shape(&[]);

/// Refuses a document in which a key that matters stands twice or in another spelling.
pub(crate) fn check(bytes: &[u8], shape: Shape) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    shape.deserialize(&mut reader)?;
    reader.end()
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.0.is_empty() {
            return from.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = vec![false; self.0.len()];
        while let Some(key) = map.next_key::<String>()? {
            let folded = fold(&key);
            let keys = self.0.iter().zip(&mut seen);
            let Some(((known, below), seen)) = keys.into_iter().find(|((known, _), _)| fold(known) == folded)
            else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if key != *known {
                return Err(A::Error::custom(format_args!(
                    "a key is spelled almost like `{known}`; spell it so"
                )));
            }
            if std::mem::replace(seen, true) {
                return Err(A::Error::custom(format_args!("the key `{known}` stands there twice")));
            }
            map.next_value_seed(*below)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    // Whether these may stand here is for the parser proper to say.
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// As Go's `encoding/json` compares keys: without regard to case, and these two letters are all of Unicode beyond
/// ASCII that have an ASCII letter for another case.
fn fold(key: &str) -> String {
    let one = |character| match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    key.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape(&[("config", Shape(&[("Volumes", LEAF)])), ("layers", Shape(&[("digest", LEAF)]))]);

    fn passes(text: &str) -> bool {
        check(text.as_bytes(), SHAPE).is_ok()
    }

    #[test]
    fn exact_keys_pass_and_others_are_free() {
        for good in [
            r#"{"config": {"Volumes": {"volumes": 1, "VOLUMES": 2}, "labels": {}, "Labels": {}}}"#,
            r#"{"layers": [{"digest": 1}, {"digest": 2}], "x": {"Config": 1}, "X": null}"#,
            r#"{"config": null, "layers": "x"}"#,
            "[1, true, -1, 1.5]",
        ] {
            assert!(passes(good), "{good}");
        }
    }

    #[test]
    fn other_spellings_and_second_ones_do_not() {
        for bad in [
            r#"{"Config": {}}"#,
            r#"{"config": {}, "CONFIG": {}}"#,
            r#"{"config": {"volumes": {}}}"#,
            "{\"config\": {\"Volume\u{17f}\": {}}}",
            r#"{"config": {"Volume\u017f": {}}}"#,
            r#"{"config": {"Volumes": 1, "Volumes": 2}}"#,
            r#"{"layers": [{"digest": 1}, {"Digest": 2}]}"#,
            r#"{"config": {}} {"config": {}}"#,
            "{",
        ] {
            assert!(!passes(bad), "{bad}");
        }
    }
}
