//! Requests in clear on a listener of their own: sent on to TLS, but for a certificate authority that checks a name
//! (RFC 8555, section 8.3).

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::{
    answer,
    body::{self, Body},
    challenge::Challenge,
    failure::Failure,
    tls::Tls,
};

/// Where an authority asks.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// What answering in clear takes.
#[derive(Debug)]
pub(crate) struct Clear {
    /// Where TLS is spoken.
    pub(crate) hostname: String,
    pub(crate) tls: Arc<Tls>,
}

impl Clear {
    pub(crate) fn answer<B>(&self, request: &Request<B>, id: &str) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            // Whoever sends something has sent it in clear already; they had better see it than be sent on.
            return Failure::InClear.answer("", id, &Challenge::Basic);
        }
        if let Some(token) = request.uri().path().strip_prefix(CHALLENGES) {
            return self.challenge(token);
        }
        self.elsewhere(request)
    }

    fn challenge(&self, token: &str) -> Response<Body> {
        let Some(authorization) = self.tls.challenges.authorization(token) else {
            return answer::status(StatusCode::NOT_FOUND);
        };
        let mut response = Response::new(body::full(authorization));
        let kind = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }

    /// Only ever to our own name: the request's `Host` is whatever its sender likes.
    fn elsewhere<B>(&self, request: &Request<B>) -> Response<Body> {
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut response = answer::status(StatusCode::PERMANENT_REDIRECT);
        answer::set(response.headers_mut(), header::LOCATION, &format!("https://{}{path}", self.hostname));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, uri: &str) -> Response<Body> {
        let clear = Clear { hostname: "registry.example.org:8443".into(), tls: Arc::default() };
        clear.tls.challenges.prove_by_http("token", "token.thumbprint");
        let request = Request::builder().method(method).uri(uri).header("host", "elsewhere.example");
        clear.answer(&request.body(()).expect("a request"), "1")
    }

    #[test]
    fn reads_are_sent_to_our_name_and_nowhere_else() {
        for (uri, place) in [
            ("/", "/"),
            ("/v2/a/b/tags/list?n=1", "/v2/a/b/tags/list?n=1"),
            ("//elsewhere.example/x", "//elsewhere.example/x"),
            ("http://elsewhere.example/x?y", "/x?y"),
            ("/.well-known/acme-challenge", "/.well-known/acme-challenge"),
        ] {
            let response = asked("GET", uri);
            assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT, "{uri}");
            let location = response.headers()[header::LOCATION].to_str().expect("text");
            assert_eq!(location, format!("https://registry.example.org:8443{place}"));
        }
    }

    #[test]
    fn what_is_sent_is_refused() {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let response = asked(method, "/v2/a/blobs/uploads/");
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{method}");
            assert!(!response.headers().contains_key(header::LOCATION));
        }
    }

    #[test]
    fn only_the_token_of_an_order_is_answered() {
        assert_eq!(asked("GET", "/.well-known/acme-challenge/token").status(), StatusCode::OK);
        for other in ["", "other", "token/", "../token", "token%00"] {
            let response = asked("GET", &format!("{CHALLENGES}{other}"));
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{other}");
        }
    }
}
