//! `/v2/<name>/manifests/<reference>`.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Response, StatusCode, header};
use torno_oci::{Digest, MAX_MANIFEST_SIZE, MediaType, Reference, RepositoryName, Tag, TagError};
use torno_registry::{RegistryError, StoredManifest};

use crate::{
    accept, answer,
    body::{self, Body},
    failure::Failure,
    public::{Asked, Public},
    record,
    warning::Warning,
};

/// `GET` and `HEAD` (distribution-spec: Pulling manifests). The tag of a result is waited for.
///
/// `Accept` chooses nothing: the manifest comes as it was pushed, since its digest names these very bytes, with its
/// type in `Content-Type`, and with a warning if that was not asked for (RFC 9110, section 12.5.1, leaves it to the
/// server).
pub(crate) async fn read(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.pull_permit(&asked.who, name).await?;
    let wait = match reference {
        Reference::Tag(tag) if !public.waited.just_did(&asked.who, name, tag) => public.settings.result_wait,
        _ => Duration::ZERO,
    };
    let found = tokio::select! {
        found = public.registry.manifest(&permit, reference, wait) => found,
        () = public.stop.cancelled() => public.registry.manifest(&permit, reference, Duration::ZERO).await,
    };
    if let (Err(RegistryError::NoResult(reason)), Reference::Tag(tag), true) =
        (&found, reference, asked.is_head())
        && reason.is_pending()
    {
        public.waited.note(&asked.who, name, tag);
    }
    let found = found?;
    if answer::has_already(&asked.parts.headers, &found.digest) {
        let mut response = answer::status(StatusCode::NOT_MODIFIED);
        answer::set_digest(response.headers_mut(), &found.digest);
        return Ok(response);
    }
    if !asked.is_head() {
        record::pull(&public.registry, &asked.by, name, reference, &found.digest).await?;
    }
    let accepted = accept::accepts(&asked.parts.headers, &found.media_type);
    let not_accepted = (!accepted).then(|| Warning::NotAccepted(found.media_type.clone()));
    let mut response = stored(found, asked.is_head());
    if let Some(warning) = not_accepted {
        warning.add(response.headers_mut());
    }
    Ok(response)
}

/// A manifest as an answer.
pub(crate) fn stored(manifest: StoredManifest, head: bool) -> Response<Body> {
    let length = manifest.bytes.len();
    let mut response = Response::new(if head { body::empty() } else { body::full(manifest.bytes) });
    let headers = response.headers_mut();
    answer::set(headers, header::CONTENT_TYPE, manifest.media_type.as_str());
    answer::set(headers, header::CONTENT_LENGTH, &length.to_string());
    answer::set_digest(headers, &manifest.digest);
    response
}

/// `PUT` (distribution-spec: Pushing Manifests), perhaps conditional (the same: Referrers Tag Schema).
pub(crate) async fn put(
    public: &Public,
    asked: Asked,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.push_permit(&asked.who, name).await?;
    let content_type = match asked.parts.headers.get(header::CONTENT_TYPE) {
        Some(value) => {
            let text = value.to_str().map_err(|_| Failure::ContentType)?;
            Some(text.parse::<MediaType>().map_err(|_| Failure::ContentType)?)
        }
        None => None,
    };
    let further = further_tags(&asked, reference)?;
    let only_if = answer::condition(&asked.parts.headers, reference);
    let by = asked.by;
    let bytes = body::collect(asked.body, MAX_MANIFEST_SIZE).await?;
    let (registry, pushed_as) = (Arc::clone(&public.registry), reference.clone());
    let put = async move {
        let kind = content_type.as_ref();
        registry.put_manifest(&permit, &by, &pushed_as, further, kind, bytes, only_if).await
    };
    let pushed = public.to_the_end(put).await?;
    let mut response = answer::status(StatusCode::CREATED);
    let headers = response.headers_mut();
    answer::set(headers, header::LOCATION, &format!("/v2/{name}/manifests/{}", pushed.digest));
    answer::set_digest(headers, &pushed.digest);
    if let Some(subject) = &pushed.subject {
        answer::set(headers, answer::SUBJECT, subject.as_str());
    }
    if matches!(reference, Reference::Digest(_)) {
        for tag in &pushed.tags {
            if let Ok(value) = HeaderValue::from_str(tag.as_str()) {
                headers.append(answer::TAG, value);
            }
        }
    }
    if !pushed.absent.is_empty() {
        Warning::Absent(pushed.absent).add(headers);
    }
    if !pushed.unchanged.is_empty() {
        Warning::Unchanged(pushed.unchanged).add(headers);
    }
    for run in &pushed.runs {
        tracing::info!(%run, repository = %name, %reference, user = %asked.who, "run queued");
    }
    Ok(response)
}

/// The tags that a push by digest asks for beside it (distribution-spec: Pushing Manifests, end-7b).
fn further_tags(asked: &Asked, reference: &Reference) -> Result<Vec<Tag>, Failure> {
    /// The specification asks for at least 10.
    const MAX: usize = 100;
    if matches!(reference, Reference::Tag(_)) {
        return Ok(Vec::new());
    }
    let texts = asked.queries("tag");
    if texts.len() > MAX {
        return Err(Failure::TooManyTags { limit: MAX });
    }
    texts
        .iter()
        .map(|text| text.parse().map_err(|error: TagError| Failure::Query("tag", error.to_string())))
        .collect()
}

/// `DELETE` (distribution-spec: Deleting tags, Deleting Manifests).
pub(crate) async fn delete(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
    reference: &Reference,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.delete_permit(&asked.who, name).await?;
    let only_if = answer::condition(&asked.parts.headers, reference);
    let mut response = answer::status(StatusCode::ACCEPTED);
    match reference {
        Reference::Tag(tag) => public.registry.delete_tag(&permit, &asked.by, tag, only_if).await?,
        Reference::Digest(digest) => {
            match public.registry.delete_manifest(&permit, &asked.by, digest, only_if).await? {
                0 => {}
                count => Warning::ManifestStillNamed(count).add(response.headers_mut()),
            }
        }
    }
    Ok(response)
}

/// Whether a reference is this digest, for listeners that serve one manifest only.
pub(crate) fn is_digest(reference: &Reference, digest: &Digest) -> bool {
    matches!(reference, Reference::Digest(asked) if asked == digest)
}
