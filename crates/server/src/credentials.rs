//! The `Authorization` header (RFC 7617).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

use crate::failure::Failure;

/// The longest header looked at, in bytes; names and passwords are far shorter.
const MAX_LENGTH: usize = 4096;

/// A name and a password that somebody sent. Neither is logged.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// What a request brings; `None` if it brings nothing.
pub(crate) fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>, Failure> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    parse(value.as_bytes()).map(Some).ok_or(Failure::Authorization)
}

pub(crate) fn parse(value: &[u8]) -> Option<Credentials> {
    if value.len() > MAX_LENGTH {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, encoded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Credentials { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_password_may_hold_colons() {
        let value = format!("Basic {}", STANDARD.encode("ada:a:b"));
        let found = parse(value.as_bytes()).expect("credentials");
        assert_eq!((found.user.as_str(), found.password.as_str()), ("ada", "a:b"));
        assert!(parse(value.to_lowercase().get(..6).unwrap_or_default().as_bytes()).is_none());
    }

    #[test]
    fn anything_else_is_none() {
        for bad in ["", "Basic", "Basic !", "Bearer x", "Basic YWRh"] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(parse(format!("Basic {}", "A".repeat(MAX_LENGTH)).as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
