//! Requests of the engine on its loopback listener: the image of one claimed run, for its token, and nothing else.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use torno_oci::RunId;
use torno_registry::{ImagePermit, Reading, Registry, RegistryError};

use crate::{
    answer, blob,
    body::{Body, Brought},
    challenge::Challenge,
    credentials::{Authorization, authorization},
    failure::Failure,
    manifest,
    route::{Route, RouteError},
};

/// What answering the engine takes.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) registry: Arc<Registry>,
}

impl Engine {
    pub(crate) async fn answer(
        &self,
        request: Request<Brought>,
        id: &str,
        user: &mut Option<String>,
    ) -> Response<Body> {
        match self.image(&request, user).await {
            Ok(response) => response,
            Err(failure) => failure.answer("the engine's listener", id, &Challenge::Basic),
        }
    }

    async fn image(
        &self,
        request: &Request<Brought>,
        user: &mut Option<String>,
    ) -> Result<Response<Body>, Failure> {
        let permit = self.permit(request, user).await?;
        let head = request.method() == http::Method::HEAD;
        match Route::parse(request.method(), request.uri().path())? {
            Route::Base => Ok(answer::json(StatusCode::OK, &serde_json::json!({}))),
            Route::ReadManifest(_, reference) => {
                let stored = self.registry.run_manifest(&permit).await?;
                let image = stored.filter(|stored| manifest::is_digest(&reference, &stored.digest));
                let image = image.ok_or(RegistryError::ManifestUnknown(reference))?;
                Ok(manifest::stored(image, head))
            }
            Route::ReadBlob(_, digest) => {
                let blob = self.registry.run_blob(&permit, &digest, Reading::Mapped).await?;
                blob::stream(blob, &digest, request.headers())
            }
            _ => Err(RouteError::Path.into()),
        }
    }

    async fn permit(
        &self,
        request: &Request<Brought>,
        user: &mut Option<String>,
    ) -> Result<ImagePermit, Failure> {
        let unauthenticated = || Failure::Unauthenticated("(this listener is the engine's)".into());
        let Some(Authorization::Basic { user: name, password }) = authorization(request.headers())? else {
            return Err(unauthenticated());
        };
        let run = name.strip_prefix("run-").and_then(|number| number.parse::<RunId>().ok());
        let run = run.ok_or_else(unauthenticated)?;
        *user = Some(name);
        self.registry.image_permit(run, &password).await?.ok_or_else(unauthenticated)
    }
}
