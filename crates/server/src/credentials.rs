//! The `Authorization` header (RFC 7617 and RFC 6750).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use torno_auth::MAX_TOKEN_LENGTH;

use crate::failure::Failure;

/// The longest header looked at, in bytes: the longest bearer token that is given out.
const MAX_LENGTH: usize = "Bearer ".len() + MAX_TOKEN_LENGTH;

/// What somebody sent to show who they are. None of it is logged.
pub(crate) enum Authorization {
    /// A name, and a password or a token in its place.
    Basic { user: String, password: String },
    /// A token that was given out before.
    Bearer(String),
}

/// What a request brings; `None` if it brings nothing.
pub(crate) fn authorization(headers: &HeaderMap) -> Result<Option<Authorization>, Failure> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    parse(value.as_bytes()).map(Some).ok_or(Failure::Authorization)
}

pub(crate) fn parse(value: &[u8]) -> Option<Authorization> {
    if value.len() > MAX_LENGTH {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        let is_token = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic());
        return is_token.then(|| Authorization::Bearer(rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Authorization::Basic { user: user.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_password_may_hold_colons() {
        let value = format!("Basic {}", STANDARD.encode("ada:a:b"));
        let Some(Authorization::Basic { user, password }) = parse(value.as_bytes()) else {
            panic!("a name and a password");
        };
        assert_eq!((user.as_str(), password.as_str()), ("ada", "a:b"));
        assert!(parse(value.to_lowercase().get(..6).unwrap_or_default().as_bytes()).is_none());
    }

    #[test]
    fn tokens() {
        for text in ["Bearer a.b-c_d", "bearer  a.b-c_d "] {
            let Some(Authorization::Bearer(token)) = parse(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(token, "a.b-c_d");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for bad in ["", "Basic", "Basic !", "Bearer", "Bearer ", "Bearer a b", "Digest x", "Basic YWRh"] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(parse(format!("Basic {}", "A".repeat(MAX_LENGTH)).as_bytes()).is_none());
        assert!(parse(format!("Bearer {}", "A".repeat(MAX_TOKEN_LENGTH)).as_bytes()).is_some());
        assert!(parse(format!("Bearer {}", "A".repeat(MAX_TOKEN_LENGTH + 1)).as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
