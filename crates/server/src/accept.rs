//! The `Accept` header (RFC 9110, section 12.5.1), of which a registry makes little: a manifest is named by its
//! digest, so there is one representation of it and nothing to choose from.

use http::{HeaderMap, header};
use torno_oci::MediaType;

/// Whether a request accepts a media type; one that does not say what it accepts does.
pub(crate) fn accepts(headers: &HeaderMap, media_type: &MediaType) -> bool {
    if !headers.contains_key(header::ACCEPT) {
        return true;
    }
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| includes(range, media_type.as_str()))
}

fn includes(range: &str, media_type: &str) -> bool {
    let mut parts = range.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let refused = parts.any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("q") && value.trim().parse() == Ok(0.0)
    });
    let fits = match range.strip_suffix("/*") {
        Some("*") => true,
        Some(kind) => media_type.split('/').next().is_some_and(|found| found.eq_ignore_ascii_case(kind)),
        None => range.eq_ignore_ascii_case(media_type),
    };
    fits && !refused
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use torno_oci::media_types;

    use super::*;

    fn accepted(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, HeaderValue::from_str(value).expect("value"));
        }
        accepts(&headers, &media_types::OCI_INDEX.parse().expect("media type"))
    }

    #[test]
    fn ranges_that_include_an_index() {
        for values in [
            &[][..],
            &["*/*"],
            &["application/*"],
            &[media_types::OCI_INDEX],
            &["text/html, Application/Vnd.oci.image.index.v1+json;q=0.5"],
            &[media_types::OCI_MANIFEST, media_types::OCI_INDEX],
        ] {
            assert!(accepted(values), "{values:?}");
        }
        for values in [
            &[""][..],
            &["text/*"],
            &[media_types::OCI_MANIFEST],
            &["*/*; q=0"],
            &["application/vnd.oci.image.index.v1+json; q=0.0"],
            &["application", "/*"],
        ] {
            assert!(!accepted(values), "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(text in "[ -~]{0,60}") {
            accepted(&[&text]);
        }
    }
}
