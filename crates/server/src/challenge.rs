//! What somebody is told who must log in: where to get a token, and for what (RFC 9110, section 11.6.1; Token
//! Authentication Specification: How to authenticate).

use http::HeaderValue;

use crate::{query, route::Route};

/// How to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// With a name and a password on every request, as the engine does.
    Basic,
    /// With a token. A name and a password on every request do as well, and who sends them needs no telling.
    Bearer {
        /// Where tokens are given out.
        realm: String,
        /// What they are for.
        service: String,
        /// What they must be good for, with spaces between.
        scope: String,
    },
}

/// Why a token that came was not good enough (RFC 6750, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// None came, or it is not the token's fault.
    None,
    /// It is not good at all.
    Invalid,
    /// It is good for something else.
    Scope,
}

impl Challenge {
    /// The same for something that only the answer knows what a token must be good for.
    pub(crate) fn of(self, wanted: Option<String>) -> Self {
        match (self, wanted) {
            (Self::Bearer { realm, service, .. }, Some(scope)) => Self::Bearer { realm, service, scope },
            (challenge, _) => challenge,
        }
    }

    /// The value of `WWW-Authenticate`. What it quotes is made of names and numbers; anything else is left out.
    pub(crate) fn value(&self, fault: TokenFault) -> HeaderValue {
        const BASIC: HeaderValue = HeaderValue::from_static("Basic realm=\"Torno\", charset=\"UTF-8\"");
        let Self::Bearer { realm, service, scope } = self else { return BASIC };
        let mut text = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
        if !scope.is_empty() {
            text.push_str(",scope=\"");
            text.push_str(scope);
            text.push('"');
        }
        match fault {
            TokenFault::None => {}
            TokenFault::Invalid => text.push_str(",error=\"invalid_token\""),
            TokenFault::Scope => text.push_str(",error=\"insufficient_scope\""),
        }
        HeaderValue::from_str(&text).unwrap_or(BASIC)
    }
}

/// What a token must be good for, for a request (Token Scope Documentation: Resource Scope Grammar).
pub(crate) fn scope(route: &Route, query: &str) -> String {
    let of = |name: &torno_oci::RepositoryName, actions: &str| format!("repository:{name}:{actions}");
    match route {
        Route::Catalog => "registry:catalog:*".into(),
        Route::Tags(name)
        | Route::Referrers(name, _)
        | Route::ReadBlob(name, _)
        | Route::ReadManifest(name, _) => of(name, "pull"),
        Route::DeleteBlob(name, _) | Route::DeleteManifest(name, _) => of(name, "delete"),
        Route::BeginUpload(name) => {
            let from = query::value(query, "from").and_then(|from| from.parse().ok());
            let from = from.map(|from| format!(" {}", of(&from, "pull"))).unwrap_or_default();
            of(name, "pull,push") + &from
        }
        Route::PutManifest(name, _)
        | Route::PatchUpload(name, _)
        | Route::FinishUpload(name, _)
        | Route::UploadStatus(name, _)
        | Route::CancelUpload(name, _) => of(name, "pull,push"),
        // Of which repository a run is, is said only to who may know (`Failure::scope`), as are those of a project.
        Route::Base
        | Route::Whoami
        | Route::DryRun(_)
        | Route::PauseProject(_)
        | Route::ResumeProject(_)
        | Route::CancelRun(_)
        | Route::RetryRun(_)
        | Route::PrioritizeRun(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn scopes() {
        for (method, path, query, expected) in [
            (Method::GET, "/v2/", "", ""),
            (Method::GET, "/v2/_catalog", "", "registry:catalog:*"),
            (Method::GET, "/v2/a/b/manifests/v1", "", "repository:a/b:pull"),
            (Method::PUT, "/v2/a/b/manifests/v1", "", "repository:a/b:pull,push"),
            (Method::DELETE, "/v2/a/b/manifests/v1", "", "repository:a/b:delete"),
            (
                Method::POST,
                "/v2/a/blobs/uploads/",
                "from=c/d&mount=x",
                "repository:a:pull,push repository:c/d:pull",
            ),
            (Method::POST, "/v2/a/blobs/uploads/", "from=%22", "repository:a:pull,push"),
        ] {
            let route = Route::parse(&method, path).expect("route");
            assert_eq!(scope(&route, query), expected, "{method} {path}");
        }
    }

    #[test]
    fn challenges() {
        let challenge = Challenge::Bearer {
            realm: "https://r.example.org/token".into(),
            service: "r.example.org".into(),
            scope: "repository:a:pull".into(),
        };
        let expected = "Bearer realm=\"https://r.example.org/token\",service=\"r.example.org\",\
            scope=\"repository:a:pull\",error=\"insufficient_scope\"";
        assert_eq!(challenge.value(TokenFault::Scope), expected);
        let hostile =
            Challenge::Bearer { realm: "a\r\nb".into(), service: String::new(), scope: String::new() };
        assert_eq!(hostile.value(TokenFault::None), Challenge::Basic.value(TokenFault::None));
    }
}
