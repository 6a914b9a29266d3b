//! `/v2/<name>/blobs/uploads/` (distribution-spec: Pushing blobs).

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use hyper::body::Body as _;
use torno_audit::Event;
use torno_auth::PushPermit;
use torno_oci::{Algorithm, Digest, RepositoryName, UploadId};
use torno_registry::{BlobError, RegistryError};

use crate::{
    answer,
    body::{self, Body, WrongLength},
    failure::{Came, Failure},
    public::{Asked, Public},
    range,
};

/// `POST`: starts a session; with `mount` and `from` links a blob that is there already; with `digest` takes the
/// whole blob at once.
pub(crate) async fn begin(
    public: &Public,
    asked: Asked,
    name: &RepositoryName,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.push_permit(&asked.who, name).await?;
    if let Some(mounted) = mount(public, &asked, &permit).await? {
        return Ok(mounted);
    }
    let digest = digest_of(&asked)?;
    if let Some(name) = asked.query("digest-algorithm")
        && !Algorithm::ALL.iter().any(|known| known.name() == name)
    {
        return Err(Failure::Query("digest-algorithm", "it is sha256 or sha512".into()));
    }
    if digest.is_none() {
        // Told now, before anything is sent for nothing.
        public.registry.expect_room().await?;
    }
    let id = public.registry.begin_upload(&permit)?;
    if let Some(digest) = digest {
        let done = complete(public, &permit, &id, asked, &digest).await;
        if done.is_err() {
            // Nobody has been told of this session, so nobody goes on with it.
            match public.registry.cancel_upload(&permit, &id).await {
                Ok(()) | Err(RegistryError::UploadUnknown) => {}
                Err(error) => return Err(error.into()),
            }
        }
        return done;
    }
    let mut response = answer::status(StatusCode::ACCEPTED);
    describe(&mut response, name, &id, 0);
    if let Some(length) = public.settings.chunk_min_length {
        // A wish and no rule: which chunk is the last one, which may have any length, shows when the next one comes.
        answer::set(response.headers_mut(), answer::CHUNK_MIN_LENGTH, &length.to_string());
    }
    Ok(response)
}

/// Without the right to read the source, or when it lacks the blob, the client uploads as if it had not asked:
/// a mount tells nothing of what others have.
async fn mount(
    public: &Public,
    asked: &Asked,
    permit: &PushPermit,
) -> Result<Option<Response<Body>>, Failure> {
    let Some(digest) = asked.query("mount") else { return Ok(None) };
    let digest: Digest =
        digest.parse().map_err(|error: torno_oci::DigestError| Failure::Query("mount", error.to_string()))?;
    let source = match asked.query("from").map(|from| from.parse::<RepositoryName>()) {
        None => None,
        Some(Err(_)) => return Ok(None),
        Some(Ok(from)) => match public.registry.pull_permit(&asked.who, &from).await {
            Ok(source) => Some(source),
            Err(RegistryError::Refused(_)) => return Ok(None),
            Err(other) => return Err(other.into()),
        },
    };
    let registry = Arc::clone(&public.registry);
    let (who, by, permit) = (asked.who.clone(), asked.by.clone(), permit.clone());
    let mount = async move {
        let mounted = match source {
            None => registry.mount_from_anywhere(&who, &permit, &digest).await?,
            Some(source) => registry.mount(&source, &permit, &digest).await?,
        };
        if !mounted {
            return Ok::<_, RegistryError>(None);
        }
        let event = Event::BlobMount { repository: permit.repository().clone(), digest: digest.clone() };
        registry.audit().note(&by, event).await;
        Ok(Some(created(permit.repository(), &digest)))
    };
    public.to_the_end(mount).await
}

/// `PATCH`: adds bytes, in a stream or in chunks with a `Content-Range`.
pub(crate) async fn patch(
    public: &Public,
    asked: Asked,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.push_permit(&asked.who, name).await?;
    let size = receive(public, &permit, id, asked).await?;
    let mut response = answer::status(StatusCode::ACCEPTED);
    describe(&mut response, name, id, size);
    Ok(response)
}

/// `PUT`: adds the last bytes, if there are any, and ends the session.
pub(crate) async fn finish(
    public: &Public,
    asked: Asked,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.push_permit(&asked.who, name).await?;
    let digest = digest_of(&asked)?.ok_or(Failure::NoDigest)?;
    complete(public, &permit, id, asked, &digest).await
}

/// `GET`: how far a session is.
pub(crate) async fn status(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.push_permit(&asked.who, name).await?;
    let size = public.registry.upload_offset(&permit, id).await?;
    let mut response = answer::status(StatusCode::NO_CONTENT);
    describe(&mut response, name, id, size);
    Ok(response)
}

/// `DELETE`: gives a session up.
pub(crate) async fn cancel(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.push_permit(&asked.who, name).await?;
    public.registry.cancel_upload(&permit, id).await?;
    Ok(answer::status(StatusCode::NO_CONTENT))
}

/// Takes the body into the session; answers how many bytes that has then. A body that is shorter or longer than its
/// range is refused: before anything of it is taken if its length is known, and else as soon as it shows, with what
/// came of the range staying in the session.
async fn receive(public: &Public, permit: &PushPermit, id: &UploadId, asked: Asked) -> Result<u64, Failure> {
    let Some(range) = range::brought(&asked.parts.headers)? else {
        return Ok(public.registry.append(permit, id, None, body::chunks(asked.body)).await?);
    };
    let announced = range.end - range.start;
    let wrong = match asked.body.size_hint().exact() {
        Some(length) if length != announced => Came::Exactly(length),
        _ => {
            let body = body::exactly(asked.body, announced);
            match public.registry.append(permit, id, Some(range.start), body).await {
                Err(RegistryError::Blob(BlobError::Interrupted(cause))) => {
                    match cause.downcast::<WrongLength>() {
                        Ok(wrong) => wrong.0,
                        Err(cause) => return Err(RegistryError::Blob(BlobError::Interrupted(cause)).into()),
                    }
                }
                other => return Ok(other?),
            }
        }
    };
    let received = public.registry.upload_offset(permit, id).await?;
    Err(Failure::ChunkLength { announced, came: wrong, received })
}

/// Takes the body into the session and turns that into a blob. One whose bytes are wrong is given up: no more bytes can
/// make it right.
async fn complete(
    public: &Public,
    permit: &PushPermit,
    id: &UploadId,
    asked: Asked,
    digest: &Digest,
) -> Result<Response<Body>, Failure> {
    let by = asked.by.clone();
    let complete = if range::brought(&asked.parts.headers)?.is_some() {
        receive(public, permit, id, asked).await?;
        public.registry.complete_upload(permit, id, digest).await
    } else {
        public.registry.complete_upload_with(permit, id, body::chunks(asked.body), digest).await
    };
    let complete = match complete {
        Ok(complete) => complete,
        Err(error @ RegistryError::Blob(BlobError::DigestMismatch { .. })) => {
            public.registry.cancel_upload(permit, id).await?;
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    let registry = Arc::clone(&public.registry);
    let (permit, digest) = (permit.clone(), digest.clone());
    let keep = async move {
        registry.keep_upload(&permit, complete).await?;
        let event = Event::BlobPush { repository: permit.repository().clone(), digest: digest.clone() };
        registry.audit().note(&by, event).await;
        Ok::<_, RegistryError>(created(permit.repository(), &digest))
    };
    public.to_the_end(keep).await
}

fn digest_of(asked: &Asked) -> Result<Option<Digest>, Failure> {
    let parse = |text: String| {
        text.parse().map_err(|error: torno_oci::DigestError| Failure::Query("digest", error.to_string()))
    };
    asked.query("digest").map(parse).transpose()
}

fn created(name: &RepositoryName, digest: &Digest) -> Response<Body> {
    let mut response = answer::status(StatusCode::CREATED);
    answer::set(response.headers_mut(), header::LOCATION, &answer::blob_location(name, digest));
    answer::set(response.headers_mut(), answer::CONTENT_DIGEST, digest.as_str());
    response
}

fn describe(response: &mut Response<Body>, name: &RepositoryName, id: &UploadId, size: u64) {
    let headers = response.headers_mut();
    answer::set(headers, header::LOCATION, &answer::upload_location(name, id));
    answer::set(headers, answer::UPLOAD_ID, id.as_str());
    headers.insert(header::RANGE, answer::received(size));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
