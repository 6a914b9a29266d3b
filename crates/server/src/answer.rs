//! Small pieces that answers are made of.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use torno_oci::{Digest, Reference, RepositoryName, UploadId};
use torno_registry::{Condition, Versions};

use crate::{
    body::{self, Body},
    failure,
};

/// `Docker-Content-Digest` (distribution-spec: Pulling manifests).
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// `Docker-Upload-UUID` (Docker registry API: Starting An Upload).
pub(crate) const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// `OCI-Chunk-Min-Length` (distribution-spec: Pushing a blob in chunks).
pub(crate) const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// `OCI-Subject` (distribution-spec: Pushing Manifests with Subject).
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// `OCI-Tag` (distribution-spec: Pushing Manifests).
pub(crate) const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// `OCI-Filters-Applied` (distribution-spec: Listing Referrers).
pub(crate) const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// An answer without a body.
pub(crate) fn status(status: StatusCode) -> Response<Body> {
    let mut response = failure::bare(status);
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    response
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    json_text(status, value.to_string())
}

/// An answer in JSON that is written already.
pub(crate) fn json_text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Sets a header whose value is made of names, digests and numbers, which are all visible ASCII.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What a client may keep and ask about again: the digest is the entity's tag.
pub(crate) fn set_digest(headers: &mut HeaderMap, digest: &Digest) {
    set(headers, CONTENT_DIGEST, digest.as_str());
    set(headers, header::ETAG, &format!("\"{digest}\""));
}

/// Whether the client has this entity already (RFC 9110, section 13.1.2).
pub(crate) fn has_already(headers: &HeaderMap, digest: &Digest) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|tag| {
        let strong = tag.strip_prefix("W/").unwrap_or(tag);
        tag == "*"
            || strong.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) == Some(digest.as_str())
    })
}

/// What a request asks of what it replaces (RFC 9110, sections 13.1.1 and 13.1.2); `None` if nothing.
pub(crate) fn condition(headers: &HeaderMap, reference: &Reference) -> Option<Condition> {
    let matches = versions(headers, &header::IF_MATCH, |tag| tag);
    let differs = versions(headers, &header::IF_NONE_MATCH, |tag| tag.strip_prefix("W/").unwrap_or(tag));
    if matches.is_none() && differs.is_none() {
        return None;
    }
    Some(Condition { reference: reference.clone(), matches, differs })
}

/// The digests in a list of entity tags. A tag that is no digest of ours is no manifest's; nor is a weak one, unless
/// `strong` makes a strong one of it.
fn versions(headers: &HeaderMap, name: &HeaderName, strong: impl Fn(&str) -> &str) -> Option<Versions> {
    if !headers.contains_key(name) {
        return None;
    }
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let tags: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    if tags.contains(&"*") {
        return Some(Versions::Any);
    }
    let digest = |tag: &&str| strong(tag).strip_prefix('"')?.strip_suffix('"')?.parse().ok();
    Some(Versions::Of(tags.iter().filter_map(digest).collect()))
}

/// Whether a range is wanted of this very entity. Dates are no validators here, so they never hold.
pub(crate) fn range_holds(headers: &HeaderMap, digest: &Digest) -> bool {
    let Some(value) = headers.get(header::IF_RANGE) else { return true };
    value.to_str().is_ok_and(|tag| tag.trim() == format!("\"{digest}\""))
}

/// Where a blob is; relative, so that it holds behind a reverse proxy too.
pub(crate) fn blob_location(name: &RepositoryName, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

/// Where an upload session is.
pub(crate) fn upload_location(name: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

/// The `Range` of a session with so many bytes: `0-<last>`, and by custom `0-0` for none.
pub(crate) fn received(bytes: u64) -> HeaderValue {
    let text = format!("0-{}", bytes.saturating_sub(1));
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("0-0"))
}
