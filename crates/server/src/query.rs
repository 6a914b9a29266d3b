//! The query of a request, and of the links that answers carry (RFC 3986, section 3.4).
//!
//! A `+` is a plus here, not the space that HTML forms write so: nothing that can be asked for holds a space, media
//! types do hold a plus (`application/spdx+json`), and not every client escapes it.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but what RFC 3986 calls unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The names and values of a query in its order. What is not UTF-8 becomes U+FFFD, which nothing is called.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let decode = |text| percent_decode_str(text).decode_utf8_lossy();
    query.split('&').filter(|pair| !pair.is_empty()).map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

/// The first value of that name.
pub(crate) fn value(query: &str, name: &str) -> Option<String> {
    pairs(query).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// Every value of that name.
pub(crate) fn values(query: &str, name: &str) -> Vec<String> {
    pairs(query).filter(|(key, _)| key == name).map(|(_, value)| value.into_owned()).collect()
}

/// A text as it stands in a query.
pub(crate) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// A query that [`pairs`] reads back as it was given.
pub(crate) fn write<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let escape = |text| utf8_percent_encode(text, ESCAPED);
    let written: Vec<String> =
        pairs.into_iter().map(|(name, value)| format!("{}={}", escape(name), escape(value))).collect();
    written.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_is_a_plus() {
        let query = "n=5&artifactType=application/spdx+json&tag=a&tag=b&&last";
        assert_eq!(value(query, "artifactType").as_deref(), Some("application/spdx+json"));
        assert_eq!(
            value("artifactType=application%2Fspdx%2Bjson", "artifactType"),
            value(query, "artifactType")
        );
        assert_eq!(values(query, "tag"), ["a", "b"]);
        assert_eq!(value(query, "last").as_deref(), Some(""));
        assert_eq!(value(query, "from"), None);
    }

    #[test]
    fn what_is_not_text_names_nothing() {
        assert_eq!(value("last=%ff", "last").as_deref(), Some("\u{fffd}"));
        assert_eq!(value("last=%f", "last").as_deref(), Some("%f"));
    }
}
