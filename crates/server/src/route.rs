//! Every route under `/v2/` and `/api/`, parsed from method and path in one total function
//! (distribution-spec: Endpoints; the numbers are its own).

use http::Method;
use percent_encoding::percent_decode_str;
use torno_oci::{
    Digest, DigestError, NameError, ProjectName, Reference, ReferenceError, RepositoryName, RunId, UploadId,
    UploadIdError,
};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /v2/` (end-1): is this a registry, and who am I to it?
    Base,
    /// `GET /v2/_catalog` (Docker registry API: Listing Repositories).
    Catalog,
    /// `GET|HEAD /v2/<name>/blobs/<digest>` (end-2).
    ReadBlob(RepositoryName, Digest),
    /// `DELETE /v2/<name>/blobs/<digest>` (end-10).
    DeleteBlob(RepositoryName, Digest),
    /// `GET|HEAD /v2/<name>/manifests/<reference>` (end-3).
    ReadManifest(RepositoryName, Reference),
    /// `PUT /v2/<name>/manifests/<reference>` (end-7).
    PutManifest(RepositoryName, Reference),
    /// `DELETE /v2/<name>/manifests/<reference>` (end-9).
    DeleteManifest(RepositoryName, Reference),
    /// `POST /v2/<name>/blobs/uploads/` (end-4, end-11).
    BeginUpload(RepositoryName),
    /// `PATCH /v2/<name>/blobs/uploads/<id>` (end-5).
    PatchUpload(RepositoryName, UploadId),
    /// `PUT /v2/<name>/blobs/uploads/<id>?digest=<digest>` (end-6).
    FinishUpload(RepositoryName, UploadId),
    /// `GET /v2/<name>/blobs/uploads/<id>` (end-13).
    UploadStatus(RepositoryName, UploadId),
    /// `DELETE /v2/<name>/blobs/uploads/<id>` (end-14).
    CancelUpload(RepositoryName, UploadId),
    /// `GET /v2/<name>/tags/list` (end-8).
    Tags(RepositoryName),
    /// `GET /v2/<name>/referrers/<digest>` (end-12).
    Referrers(RepositoryName, Digest),
    /// `GET /api/whoami`: what am I here, and what may I push to?
    Whoami,
    /// `GET /api/projects/<project>/dry-run`: how do I run an image at home as the project would?
    DryRun(ProjectName),
    /// `POST /api/projects/<project>/pause`: nothing new of it is started.
    PauseProject(ProjectName),
    /// `POST /api/projects/<project>/resume`: it goes on.
    ResumeProject(ProjectName),
    /// `POST /api/runs/<n>/cancel`: it ends.
    CancelRun(RunId),
    /// `POST /api/runs/<n>/retry`: its image runs again.
    RetryRun(RunId),
    /// `PUT /api/runs/<n>/priority`: it goes before others, or after them.
    PrioritizeRun(RunId),
}

/// Why a request asks for nothing there is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No such path.
    #[error("there is nothing at this path")]
    Path,
    /// The path exists, for other methods.
    #[error("this path takes {0}")]
    Method(&'static str),
    /// The repository name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The reference is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The upload session's name is none.
    #[error(transparent)]
    Upload(#[from] UploadIdError),
}

impl Route {
    /// What `method` and `path` ask for. The path is still percent-encoded.
    pub fn parse(method: &Method, path: &str) -> Result<Self, RouteError> {
        if let Some(rest) = path.strip_prefix("/api/") {
            return api(method, rest);
        }
        let rest = path.strip_prefix("/v2").ok_or(RouteError::Path)?;
        let rest = match rest {
            "" => "",
            rest => rest.strip_prefix('/').ok_or(RouteError::Path)?,
        };
        let decoded = percent_decode_str(rest).decode_utf8().map_err(|_| RouteError::Path)?;
        // Names may hold `blobs`, `tags` … themselves, so the path is read from its end.
        let parts: Vec<&str> = decoded.split('/').collect();
        match parts.as_slice() {
            [""] => read(method, Self::Base),
            ["_catalog"] => read(method, Self::Catalog),
            [name @ .., "tags", "list"] => Ok(read(method, Self::Tags(repository(name)?))?),
            [name @ .., "blobs", "uploads" | "uploads/"] | [name @ .., "blobs", "uploads", ""] => {
                match *method {
                    Method::POST => Ok(Self::BeginUpload(repository(name)?)),
                    _ => Err(RouteError::Method("POST")),
                }
            }
            [name @ .., "blobs", "uploads", id] => {
                let (name, id) = (repository(name)?, id.parse());
                match *method {
                    Method::PATCH => Ok(Self::PatchUpload(name, id?)),
                    Method::PUT => Ok(Self::FinishUpload(name, id?)),
                    Method::GET | Method::HEAD => Ok(Self::UploadStatus(name, id?)),
                    Method::DELETE => Ok(Self::CancelUpload(name, id?)),
                    _ => Err(RouteError::Method("GET, PATCH, PUT, DELETE")),
                }
            }
            [name @ .., "blobs", digest] => {
                let (name, digest) = (repository(name)?, digest.parse());
                match *method {
                    Method::GET | Method::HEAD => Ok(Self::ReadBlob(name, digest?)),
                    Method::DELETE => Ok(Self::DeleteBlob(name, digest?)),
                    _ => Err(RouteError::Method("GET, HEAD, DELETE")),
                }
            }
            [name @ .., "manifests", reference] => {
                let (name, reference) = (repository(name)?, reference.parse());
                match *method {
                    Method::GET | Method::HEAD => Ok(Self::ReadManifest(name, reference?)),
                    Method::PUT => Ok(Self::PutManifest(name, reference?)),
                    Method::DELETE => Ok(Self::DeleteManifest(name, reference?)),
                    _ => Err(RouteError::Method("GET, HEAD, PUT, DELETE")),
                }
            }
            [name @ .., "referrers", digest] => {
                Ok(read(method, Self::Referrers(repository(name)?, digest.parse()?))?)
            }
            _ => Err(RouteError::Path),
        }
    }
}

/// What is Torno's own, behind `/api/`.
fn api(method: &Method, rest: &str) -> Result<Route, RouteError> {
    let decoded = percent_decode_str(rest).decode_utf8().map_err(|_| RouteError::Path)?;
    let parts: Vec<&str> = decoded.split('/').collect();
    let only = |allowed: Method, name: &'static str, route: Route| {
        if *method == allowed { Ok(route) } else { Err(RouteError::Method(name)) }
    };
    // What is no name is the name of nothing.
    let project = |name: &str| name.parse::<ProjectName>().map_err(|_| RouteError::Path);
    let run = |number: &str| number.parse::<RunId>().map_err(|_| RouteError::Path);
    match parts.as_slice() {
        ["whoami"] => read(method, Route::Whoami),
        ["projects", name, "dry-run"] => read(method, Route::DryRun(project(name)?)),
        ["projects", name, "pause"] => only(Method::POST, "POST", Route::PauseProject(project(name)?)),
        ["projects", name, "resume"] => only(Method::POST, "POST", Route::ResumeProject(project(name)?)),
        ["runs", number, "cancel"] => only(Method::POST, "POST", Route::CancelRun(run(number)?)),
        ["runs", number, "retry"] => only(Method::POST, "POST", Route::RetryRun(run(number)?)),
        ["runs", number, "priority"] => only(Method::PUT, "PUT", Route::PrioritizeRun(run(number)?)),
        _ => Err(RouteError::Path),
    }
}

fn read(method: &Method, route: Route) -> Result<Route, RouteError> {
    match *method {
        Method::GET | Method::HEAD => Ok(route),
        _ => Err(RouteError::Method("GET, HEAD")),
    }
}

fn repository(parts: &[&str]) -> Result<RepositoryName, NameError> {
    parts.join("/").parse()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest() -> Digest {
        Digest::sha256(b"")
    }

    fn name(text: &str) -> RepositoryName {
        text.parse().expect("name")
    }

    fn project() -> ProjectName {
        "heart".parse().expect("name")
    }

    fn run(number: u64) -> RunId {
        RunId::new(number).expect("number")
    }

    #[test]
    fn every_endpoint() {
        let id = UploadId::from_bytes([7; 16]);
        let blob = format!("/v2/a/b/blobs/{}", digest());
        let upload = format!("/v2/a/b/blobs/uploads/{id}");
        let tag = Reference::Tag("v1".parse().expect("tag"));
        let table = [
            (Method::GET, "/v2/".to_owned(), Route::Base),
            (Method::GET, "/v2".to_owned(), Route::Base),
            (Method::GET, "/v2/_catalog".to_owned(), Route::Catalog),
            (Method::GET, blob.clone(), Route::ReadBlob(name("a/b"), digest())),
            (Method::HEAD, blob.replace("sha256:", "sha256%3A"), Route::ReadBlob(name("a/b"), digest())),
            (Method::DELETE, blob, Route::DeleteBlob(name("a/b"), digest())),
            (Method::GET, "/v2/a/b/manifests/v1".to_owned(), Route::ReadManifest(name("a/b"), tag.clone())),
            (Method::PUT, "/v2/a/b/manifests/v1".to_owned(), Route::PutManifest(name("a/b"), tag.clone())),
            (Method::DELETE, "/v2/a/b/manifests/v1".to_owned(), Route::DeleteManifest(name("a/b"), tag)),
            (Method::POST, "/v2/a/b/blobs/uploads/".to_owned(), Route::BeginUpload(name("a/b"))),
            (Method::POST, "/v2/a/b/blobs/uploads".to_owned(), Route::BeginUpload(name("a/b"))),
            (Method::PATCH, upload.clone(), Route::PatchUpload(name("a/b"), id.clone())),
            (Method::PUT, upload.clone(), Route::FinishUpload(name("a/b"), id.clone())),
            (Method::GET, upload.clone(), Route::UploadStatus(name("a/b"), id.clone())),
            (Method::DELETE, upload, Route::CancelUpload(name("a/b"), id)),
            (Method::GET, "/v2/a/b/tags/list".to_owned(), Route::Tags(name("a/b"))),
            (Method::GET, format!("/v2/a/b/referrers/{}", digest()), Route::Referrers(name("a/b"), digest())),
            (Method::GET, "/v2/tags/list/tags/list".to_owned(), Route::Tags(name("tags/list"))),
            (Method::GET, "/api/whoami".to_owned(), Route::Whoami),
            (Method::GET, "/api/projects/heart/dry-run".to_owned(), Route::DryRun(project())),
            (Method::POST, "/api/projects/heart/pause".to_owned(), Route::PauseProject(project())),
            (Method::POST, "/api/projects/heart/resume".to_owned(), Route::ResumeProject(project())),
            (Method::POST, "/api/runs/12/cancel".to_owned(), Route::CancelRun(run(12))),
            (Method::POST, "/api/runs/%31%32/retry".to_owned(), Route::RetryRun(run(12))),
            (
                Method::PUT,
                "/api/runs/18446744073709551615/priority".to_owned(),
                Route::PrioritizeRun(run(u64::MAX)),
            ),
        ];
        for (method, path, route) in table {
            assert_eq!(Route::parse(&method, &path), Ok(route), "{method} {path}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let parse = |path: &str| Route::parse(&Method::GET, path);
        assert_eq!(parse("/v1/"), Err(RouteError::Path));
        assert_eq!(parse("/v2x"), Err(RouteError::Path));
        assert!(matches!(parse("/v2/A/manifests/x"), Err(RouteError::Name(_))));
        assert!(matches!(parse("/v2/../manifests/x"), Err(RouteError::Name(_))));
        assert!(matches!(parse("/v2/a%2f..%2fb/manifests/x"), Err(RouteError::Name(_))));
        assert!(matches!(parse("/v2/a/manifests/.x"), Err(RouteError::Reference(_))));
        assert!(matches!(parse("/v2/a/blobs/sha256:x"), Err(RouteError::Digest(_))));
        assert!(parse("/v2/a/blobs/uploads/..%2fx").is_err());
        assert_eq!(Route::parse(&Method::POST, "/v2/"), Err(RouteError::Method("GET, HEAD")));
        for none in ["0", "-1", "1.0", "18446744073709551616", "", " 1", "a", "1/2"] {
            let path = format!("/api/runs/{none}/cancel");
            assert_eq!(Route::parse(&Method::POST, &path), Err(RouteError::Path), "{path}");
        }
        for path in
            ["/api/", "/api/runs/1", "/api/runs/1/cancel/", "/api/projects/A/pause", "/api/projects/../pause"]
        {
            assert_eq!(Route::parse(&Method::POST, path), Err(RouteError::Path), "{path}");
        }
        assert_eq!(parse("/api/runs/1/cancel"), Err(RouteError::Method("POST")));
        assert_eq!(parse("/api/runs/1/priority"), Err(RouteError::Method("PUT")));
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(/v2|/api)?(/[a-z%2F._:-]{0,12}){0,6}", anything: String) {
            for method in [Method::GET, Method::PUT, Method::POST, Method::PATCH] {
                let _ = Route::parse(&method, &path);
                let _ = Route::parse(&method, &anything);
            }
        }
    }
}
