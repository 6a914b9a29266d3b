//! Every cause of a refused request, and the one function that turns them into answers
//! (distribution-spec: Error Codes).

use std::{fmt, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use torno_audit::AuditError;
use torno_auth::{Action, AuthenticationError, BadToken, IssueError, KeyError, Refusal};
use torno_oci::{ErrorCode, ManifestError};
use torno_registry::{Left, MetadataError, RegistryError};

use crate::{
    answer,
    body::{self, Body, Stalled},
    challenge::{Challenge, TokenFault},
    detail,
    route::RouteError,
};

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("log in first: docker login {0}")]
    Unauthenticated(String),
    #[error(transparent)]
    Authentication(#[from] AuthenticationError),
    #[error("the Authorization header cannot be read; it must be `Basic` or `Bearer`")]
    Authorization,
    #[error(
        "this token is not good here, or no longer: it was revoked, has expired, belongs to somebody else, or the \
         password behind it was changed; log in again"
    )]
    Secret,
    #[error("this name is a machine's, which logs in with a token; see `torno token create --help`")]
    Robot,
    #[error("{0}; log in again, or ask for another")]
    Bearer(BadToken),
    #[error("this token is not good for the catalog; ask for one that is")]
    Catalog,
    #[error("`{0}` is missing from the form, or is none of those that are known here")]
    Grant(&'static str),
    #[error("tokens are given out here for the service `{0}` only")]
    Service(String),
    #[error("no token can be given out")]
    Keys(#[source] KeyError),
    #[error(transparent)]
    TokenTooLong(IssueError),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("a web page of another site may not do this; use curl, or a page of this registry")]
    OtherPage,
    #[error("the body says no priority; send {{\"priority\": \"high\"}}, or \"normal\", or \"low\"")]
    Priority,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the query has no `digest`; end the upload with ?digest=sha256:…")]
    NoDigest,
    #[error("`{0}` cannot be read: {1}")]
    Query(&'static str, String),
    #[error("the Content-Range cannot be read; write it `<first byte>-<last byte>`")]
    ContentRange,
    #[error(
        "the Content-Range speaks of {announced} bytes and the body has {came}; the upload now has {received} bytes, so \
         go on from there"
    )]
    ChunkLength { announced: u64, came: Came, received: u64 },
    #[error("the Content-Type is no media type")]
    ContentType,
    #[error("a manifest has at most {limit} bytes, and this one has more; keep what is large in a blob")]
    TooLarge { limit: usize },
    #[error("at most {limit} tags can be pushed at once")]
    TooManyTags { limit: usize },
    #[error("the body was cut off")]
    CutOff,
    #[error("the request could not be carried out to its end")]
    Unfinished,
    #[error("{0}; send it again")]
    Stalled(Stalled),
    #[error("this port speaks TLS: use https:// in front of its name")]
    InClear,
    #[error("the range lies outside the blob's {size} bytes")]
    Range { size: u64 },
}

/// How long a body was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// So many bytes.
    Exactly(u64),
    /// More than announced; how many more was not waited for.
    More,
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(length) => length.fmt(f),
            Self::More => f.write_str("more"),
        }
    }
}

/// What the client is told.
struct Told {
    status: StatusCode,
    code: ErrorCode,
    message: String,
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Key(error) => Self::Keys(error),
            too_long @ IssueError::TooLong(_) => Self::TokenTooLong(too_long),
        }
    }
}

impl Failure {
    /// The answer. `host` is the name people know this registry by, `challenge` how they log in. What the client cannot act on goes to the log,
    /// under the request's id.
    pub(crate) fn answer(self, host: &str, request: &str, challenge: &Challenge) -> Response<Body> {
        let Told { status, code, mut message } = self.told(host);
        if status.is_server_error() {
            tracing::error!(request, error = &self as &dyn std::error::Error, "the request failed");
            message = format!("{message} (request {request})");
        }
        let mut error = json!({"code": code.as_str(), "message": message});
        if let Some(detail) = detail::of(&self) {
            error["detail"] = detail;
        }
        let mut response = answer::json(status, &json!({"errors": [error]}));
        let headers = response.headers_mut();
        match &self {
            _ if status == StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, challenge.value(self.fault()));
            }
            Self::Authentication(AuthenticationError::TooMany(wait)) => {
                answer::set(headers, header::RETRY_AFTER, &whole_seconds(*wait).to_string());
            }
            Self::Registry(RegistryError::Crowded(crowded)) => {
                if let Some(wait) = crowded.wait() {
                    answer::set(headers, header::RETRY_AFTER, &whole_seconds(wait).to_string());
                }
            }
            Self::Route(RouteError::Method(allowed)) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::Range { size } => {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            Self::Registry(RegistryError::Blob(torno_registry::BlobError::OutOfOrder {
                has: received,
                ..
            }))
            | Self::ChunkLength { received, .. } => {
                headers.insert(header::RANGE, answer::received(*received));
            }
            _ => {}
        }
        response
    }

    /// What a token must be good for, if whoever asks may know and their request does not say.
    pub(crate) fn scope(&self) -> Option<String> {
        match self {
            Self::Registry(RegistryError::Refused(Refusal::OutOfScope(Action::Control, name))) => {
                Some(format!("repository:{name}:{}", Action::Control))
            }
            _ => None,
        }
    }

    /// What is wrong with the token that came.
    fn fault(&self) -> TokenFault {
        match self {
            Self::Bearer(_) => TokenFault::Invalid,
            Self::Catalog | Self::Registry(RegistryError::Refused(Refusal::OutOfScope(..))) => {
                TokenFault::Scope
            }
            _ => TokenFault::None,
        }
    }

    fn told(&self, host: &str) -> Told {
        use ErrorCode as Code;
        let told = |status, code| Told { status, code, message: self.to_string() };
        match self {
            Self::Unauthenticated(_)
            | Self::Authorization
            | Self::Secret
            | Self::Robot
            | Self::Bearer(_)
            | Self::Catalog
            | Self::Registry(RegistryError::Refused(Refusal::OutOfScope(..)))
            | Self::Authentication(AuthenticationError::Wrong) => {
                told(StatusCode::UNAUTHORIZED, Code::Unauthorized)
            }
            Self::Authentication(AuthenticationError::TooMany(_)) => {
                told(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests)
            }
            // Not 401: clients would forget a login that is still good.
            Self::Authentication(AuthenticationError::Directory(_)) => {
                told(StatusCode::SERVICE_UNAVAILABLE, Code::Unknown)
            }
            Self::Authentication(_) | Self::Keys(_) | Self::Unfinished => hidden(),
            Self::Route(error) => told_of_route(error, self.to_string()),
            Self::OtherPage => told(StatusCode::FORBIDDEN, Code::Denied),
            Self::Priority => told(StatusCode::BAD_REQUEST, Code::Unsupported),
            Self::Registry(error) => told_of_registry(error, host),
            Self::TooManyTags { .. } => told(StatusCode::URI_TOO_LONG, Code::TagInvalid),
            Self::Query("tag", _) => told(StatusCode::BAD_REQUEST, Code::TagInvalid),
            Self::NoDigest | Self::Query("digest" | "digest-algorithm" | "mount", _) => {
                told(StatusCode::BAD_REQUEST, Code::DigestInvalid)
            }
            Self::Query(..) | Self::InClear | Self::Grant(_) | Self::Service(_) | Self::TokenTooLong(_) => {
                told(StatusCode::BAD_REQUEST, Code::Unsupported)
            }
            Self::ContentRange => told(StatusCode::BAD_REQUEST, Code::BlobUploadInvalid),
            Self::ChunkLength { .. } | Self::CutOff => told(StatusCode::BAD_REQUEST, Code::SizeInvalid),
            Self::Stalled(_) => told(StatusCode::REQUEST_TIMEOUT, Code::SizeInvalid),
            Self::ContentType => told(StatusCode::BAD_REQUEST, Code::ManifestInvalid),
            Self::TooLarge { .. } => told(StatusCode::PAYLOAD_TOO_LARGE, Code::ManifestInvalid),
            Self::Range { .. } => told(StatusCode::RANGE_NOT_SATISFIABLE, Code::Unsupported),
        }
    }
}

/// Rounded up: whoever comes back a moment too early is refused again.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn told_of_route(error: &RouteError, message: String) -> Told {
    let (status, code) = match error {
        RouteError::Path => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
        RouteError::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported),
        RouteError::Name(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
        RouteError::Reference(torno_oci::ReferenceError::Tag(_)) => {
            (StatusCode::BAD_REQUEST, ErrorCode::TagInvalid)
        }
        RouteError::Reference(torno_oci::ReferenceError::Digest(_)) | RouteError::Digest(_) => {
            (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
        }
        RouteError::Upload(_) => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
    };
    Told { status, code, message }
}

fn told_of_registry(error: &RegistryError, host: &str) -> Told {
    use ErrorCode as Code;
    let told = |status, code| Told { status, code, message: error.to_string() };
    match error {
        RegistryError::Refused(Refusal::Unknown(_) | Refusal::UnknownRun(_) | Refusal::UnknownProject(_)) => {
            told(StatusCode::NOT_FOUND, Code::NameUnknown)
        }
        RegistryError::Left(left) => match left.why() {
            Left::Unknown => told(StatusCode::NOT_FOUND, Code::NameUnknown),
            _ => told(StatusCode::CONFLICT, Code::Unsupported),
        },
        RegistryError::Refused(Refusal::Denied(_) | Refusal::OutOfScope(..))
        | RegistryError::Taken
        | RegistryError::Quota(_) => told(StatusCode::FORBIDDEN, Code::Denied),
        RegistryError::Crowded(_) => told(StatusCode::TOO_MANY_REQUESTS, Code::TooManyRequests),
        RegistryError::Damaged(_) => told(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown),
        RegistryError::BlobUnknown(_) => told(StatusCode::NOT_FOUND, Code::BlobUnknown),
        RegistryError::ManifestUnknown(_) => told(StatusCode::NOT_FOUND, Code::ManifestUnknown),
        RegistryError::UploadUnknown => told(StatusCode::NOT_FOUND, Code::BlobUploadUnknown),
        RegistryError::NoResult(reason) => {
            Told { status: StatusCode::NOT_FOUND, code: Code::ManifestUnknown, message: reason.message(host) }
        }
        RegistryError::ManifestInvalid(ManifestError::TooLarge) => {
            told(StatusCode::PAYLOAD_TOO_LARGE, Code::ManifestInvalid)
        }
        RegistryError::ManifestInvalid(_) | RegistryError::Admission(_) => {
            told(StatusCode::BAD_REQUEST, Code::ManifestInvalid)
        }
        RegistryError::DigestMismatch { .. } => told(StatusCode::BAD_REQUEST, Code::DigestInvalid),
        RegistryError::Changed(_) => told(StatusCode::PRECONDITION_FAILED, Code::Denied),
        RegistryError::WrongSize(_) => told(StatusCode::BAD_REQUEST, Code::SizeInvalid),
        RegistryError::Missing(_) => told(StatusCode::NOT_FOUND, Code::ManifestBlobUnknown),
        // Docker clients replace the message of TAG_INVALID by one about an old schema.
        RegistryError::ReservedTag(_) => told(StatusCode::BAD_REQUEST, Code::ManifestInvalid),
        RegistryError::Blob(error) => told_of_blob(error),
        RegistryError::Audit(AuditError::Full) | RegistryError::Metadata(MetadataError::Full) => full(),
        RegistryError::Audit(AuditError::ReadOnly) | RegistryError::Metadata(MetadataError::Disk(_)) => {
            unwritable()
        }
        RegistryError::Audit(_) => unrecorded(),
        RegistryError::Metadata(MetadataError::Busy) | RegistryError::Collecting => Told {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: Code::Unknown,
            message: "the registry is busy with other work; try again in a moment".into(),
        },
        RegistryError::Metadata(_)
        | RegistryError::Cancelled(_)
        | RegistryError::Random(_)
        | RegistryError::News(_) => hidden(),
    }
}

fn told_of_blob(error: &torno_registry::BlobError) -> Told {
    use torno_registry::BlobError;
    let told = |status, code| Told { status, code, message: error.to_string() };
    match error {
        BlobError::UnknownUpload(_) => told(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
        BlobError::Busy(_) => told(StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid),
        BlobError::OutOfOrder { .. } => told(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid),
        BlobError::DigestMismatch { .. } => told(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid),
        BlobError::TooLarge(_) => told(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
        BlobError::Interrupted(cause) => match body::stalled(&**cause) {
            Some(stalled) => Told {
                status: StatusCode::REQUEST_TIMEOUT,
                code: ErrorCode::SizeInvalid,
                message: format!("{stalled}; what came of it is kept, so go on from there"),
            },
            None => told(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),
        },
        BlobError::Full => full(),
        BlobError::ReadOnly { .. } => unwritable(),
        BlobError::Descriptors { .. } => Told {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: ErrorCode::Unknown,
            message: "the registry has too many files open; try again in a moment".into(),
        },
        BlobError::Length { .. } | BlobError::Missing(_) | BlobError::Io { .. } | BlobError::Unfinished => {
            hidden()
        }
    }
}

/// The disk has no room.
fn full() -> Told {
    Told {
        status: StatusCode::INSUFFICIENT_STORAGE,
        code: ErrorCode::Unknown,
        message:
            "the registry's disk is full; pulls go on, and you can push again when the admin has made room"
                .into(),
    }
}

/// The disk takes nothing.
fn unwritable() -> Told {
    Told {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: ErrorCode::Unknown,
        message:
            "the registry's disk cannot be written to; nothing can be pushed or deleted until the admin has \
            repaired it"
                .into(),
    }
}

/// What is done cannot be recorded.
fn unrecorded() -> Told {
    Told {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: ErrorCode::Unknown,
        message: "the registry cannot record what is done, so it was not done; tell the admin".into(),
    }
}

/// What is nobody's business but the admin's.
fn hidden() -> Told {
    Told {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        code: ErrorCode::Unknown,
        message: "something failed here; tell the admin".into(),
    }
}

/// An answer whose body could not be made is still an answer.
pub(crate) fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_as_such() {
        for error in [RegistryError::Metadata(MetadataError::Busy), RegistryError::Collecting] {
            let told = Failure::from(error).told("host");
            assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(told.message.contains("try again"), "{}", told.message);
        }
    }
}
