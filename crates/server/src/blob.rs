//! `/v2/<name>/blobs/<digest>`.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use torno_oci::{Digest, RepositoryName};
use torno_registry::{Content, Reading};

use crate::{
    answer,
    body::{self, Body},
    connection::Transport,
    failure::Failure,
    public::{Asked, Public},
    range, record,
    warning::Warning,
};

/// `GET` and `HEAD` (distribution-spec: Pulling blobs).
pub(crate) async fn read(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.pull_permit(&asked.who, name).await?;
    let known = answer::has_already(&asked.parts.headers, digest);
    if known || asked.is_head() {
        let size = public.registry.blob_size(&permit, digest).await?;
        let mut response = answer::status(StatusCode::NOT_MODIFIED);
        answer::set_digest(response.headers_mut(), digest);
        if !known {
            *response.status_mut() = StatusCode::OK;
            describe(response.headers_mut(), digest, size);
        }
        return Ok(response);
    }
    let reading = match asked.client.transport {
        Transport::Plain => Reading::Mapped,
        Transport::Encrypted => Reading::Copied,
    };
    let blob = public.registry.blob(&permit, digest, reading).await?;
    record::blob_pull(&public.registry, &asked.by, name, digest).await?;
    stream(blob, digest, &asked.parts.headers)
}

/// A blob, or the range of it that the request wants, as an answer.
pub(crate) fn stream(blob: Content, digest: &Digest, request: &HeaderMap) -> Result<Response<Body>, Failure> {
    let size = blob.size();
    // With an `If-Range` of other bytes the whole is wanted (RFC 9110, section 13.1.5).
    let wanted = if answer::range_holds(request, digest) { range::wanted(request, size)? } else { None };
    let range = wanted.clone().unwrap_or(0..size);
    let length = range.end - range.start;
    let bytes = blob.stream(range.clone());
    let mut response = Response::new(body::streamed(bytes));
    describe(response.headers_mut(), digest, length);
    if wanted.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        answer::set(response.headers_mut(), header::CONTENT_RANGE, &text);
    }
    Ok(response)
}

/// `DELETE` (distribution-spec: Deleting Blobs).
pub(crate) async fn delete(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.delete_permit(&asked.who, name).await?;
    let mut response = answer::status(StatusCode::ACCEPTED);
    match public.registry.delete_blob(&permit, &asked.by, digest).await? {
        0 => {}
        count => Warning::BlobStillNamed(count).add(response.headers_mut()),
    }
    Ok(response)
}

fn describe(headers: &mut HeaderMap, digest: &Digest, length: u64) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer::set(headers, header::CONTENT_LENGTH, &length.to_string());
    answer::set_digest(headers, digest);
}
