//! Ranges: which bytes of a blob a client wants, and which bytes of an upload it brings.

use std::ops::Range;

use http::{HeaderMap, header};

use crate::failure::Failure;

/// What a `Range` header asks of `size` bytes (RFC 9110, section 14.2). A range that ends before it begins is refused
/// and anything else but a single range of bytes is passed over, both as that section allows: passed over, the whole
/// is served.
pub(crate) fn wanted(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, Failure> {
    let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Ok(None);
    };
    let unsatisfiable = || Err(Failure::Range { size });
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(_), Some(_)) => return unsatisfiable(),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(0)) if first.is_empty() => return unsatisfiable(),
        (None, Some(length)) if first.is_empty() => size.saturating_sub(length)..size,
        _ => return Ok(None),
    };
    if range.start >= size { unsatisfiable() } else { Ok(Some(range)) }
}

/// The first byte that a chunk claims to bring, and how many it claims
/// (distribution-spec: Pushing a blob in chunks: `Content-Range: <start>-<end>`).
pub(crate) fn brought(headers: &HeaderMap) -> Result<Option<Range<u64>>, Failure> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let text = value.to_str().map_err(|_| Failure::ContentRange)?;
    // Some clients write it as responses do, `bytes 0-9/*`.
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let text = text.split('/').next().unwrap_or_default();
    let (first, last) = text.split_once('-').ok_or(Failure::ContentRange)?;
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => {
            let end = last.checked_add(1).ok_or(Failure::ContentRange)?;
            Ok(Some(first..end))
        }
        _ => Err(Failure::ContentRange),
    }
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn want(text: &str, size: u64) -> Result<Option<Range<u64>>, ()> {
        let headers = [(header::RANGE, HeaderValue::from_str(text).expect("value"))].into_iter().collect();
        wanted(&headers, size).map_err(|_| ())
    }

    fn bring(text: &str) -> Result<Option<Range<u64>>, ()> {
        let headers =
            [(header::CONTENT_RANGE, HeaderValue::from_str(text).expect("value"))].into_iter().collect();
        brought(&headers).map_err(|_| ())
    }

    #[test]
    fn ranges_of_ten_bytes() {
        assert_eq!(want("bytes=0-3", 10), Ok(Some(0..4)));
        assert_eq!(want("bytes=4-", 10), Ok(Some(4..10)));
        assert_eq!(want("bytes=-3", 10), Ok(Some(7..10)));
        assert_eq!(want("bytes=-30", 10), Ok(Some(0..10)));
        assert_eq!(want("bytes=9-99", 10), Ok(Some(9..10)));
        for unsatisfiable in ["bytes=10-", "bytes=-0", "bytes=10-11", "bytes=3-1"] {
            assert_eq!(want(unsatisfiable, 10), Err(()), "{unsatisfiable}");
        }
        for passed_over in ["bytes=a-b", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2", "bytes="] {
            assert_eq!(want(passed_over, 10), Ok(None), "{passed_over}");
        }
        assert_eq!(want("bytes=0-", 0), Err(()));
    }

    #[test]
    fn chunks() {
        assert_eq!(bring("0-9"), Ok(Some(0..10)));
        assert_eq!(bring("bytes 5-5/*"), Ok(Some(5..6)));
        for bad in ["", "5", "9-0", "-5", "a-b", "0-18446744073709551615"] {
            assert_eq!(bring(bad), Err(()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_range_lies_within(text in "bytes=[0-9]{0,20}-[0-9]{0,20}", size: u64) {
            if let Ok(Some(range)) = want(&text, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn no_value_panics(text in "[ -~]{0,30}") {
            let _ = want(&text, 10);
            let _ = bring(&text);
        }
    }
}
