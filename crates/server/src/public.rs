//! Requests of people: authenticated, routed, answered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use tokio_util::sync::CancellationToken;
use torno_audit::Actor;
use torno_auth::{Authenticator, Identity, RunControl, Tokens};
use torno_oci::{RepositoryName, Tag, UserName};
use torno_registry::{Registry, RegistryError};
use tower::ServiceExt as _;

use crate::{
    Settings, answer, blob,
    body::{Body, Brought},
    catalog,
    challenge::{self, Challenge},
    connection::Client,
    control,
    ending::Endings,
    failure::Failure,
    login, manifest,
    origin::origin,
    page,
    project::{self, DryRuns},
    provider::{self, Provider},
    query,
    record::{self, Asking},
    route::Route,
    token, upload, whoami,
};

/// What answering requests takes.
#[derive(Debug)]
pub(crate) struct Public {
    pub(crate) registry: Arc<Registry>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) tokens: Arc<Tokens>,
    /// Where people log in with a browser, if they do.
    pub(crate) provider: Option<Provider>,
    pub(crate) settings: Settings,
    /// How to run an image of each project at home.
    pub(crate) dry_runs: DryRuns,
    /// Ends waits for results, so that the server can stop.
    pub(crate) stop: CancellationToken,
    pub(crate) waited: Waited,
    pub(crate) endings: Endings,
    pages: axum::Router,
}

/// A request of somebody who is who they say.
pub(crate) struct Asked {
    pub(crate) who: Identity,
    /// The same for the record.
    pub(crate) by: Actor,
    pub(crate) parts: http::request::Parts,
    pub(crate) body: Brought,
    /// Where they ask from, and how the answer travels.
    pub(crate) client: Client,
}

impl Asked {
    /// A value of the query.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        query::value(self.parts.uri.query().unwrap_or_default(), name)
    }

    /// Every value of the query under this name.
    pub(crate) fn queries(&self, name: &str) -> Vec<String> {
        query::values(self.parts.uri.query().unwrap_or_default(), name)
    }

    pub(crate) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }
}

impl Public {
    pub(crate) fn new(
        registry: Arc<Registry>,
        authenticator: Arc<Authenticator>,
        tokens: Arc<Tokens>,
        provider: Option<Provider>,
        settings: Settings,
        dry_runs: DryRuns,
        stop: CancellationToken,
    ) -> Self {
        let pages = page::routes();
        let (waited, endings) = (Waited::default(), Endings::default());
        Self { registry, authenticator, tokens, provider, settings, dry_runs, stop, waited, endings, pages }
    }

    /// Answers one request; every failure becomes an answer here. `user` is told who asked, for the log.
    pub(crate) async fn answer(
        &self,
        request: Request<Brought>,
        client: Client,
        id: &str,
        user: &mut Option<String>,
    ) -> Response<Body> {
        let path = request.uri().path();
        let api = path == "/v2" || path.starts_with("/v2/");
        let own = path.starts_with("/api/");
        if !api && !own && path != token::PATH {
            return match &self.provider {
                Some(provider) if matches!(path, provider::PATH | provider::CALLBACK) => {
                    provider::answer(self, provider, &request, &client, id, user).await
                }
                _ => self.page(request, &client).await,
            };
        }
        // Cheap to clone, and needed only if the request fails.
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let host = request.headers().get(header::HOST).cloned();
        let mut asking = Asking::new(client.address, id);
        let answered = match path {
            token::PATH => token::answer(self, request, &client, &mut asking, user).await,
            _ if own => self.own_api(request, client.clone(), &mut asking, user).await,
            _ => self.registry_api(request, client.clone(), &mut asking, user).await,
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(failure) => {
                record::failure(&self.registry, &asking, &method, &uri, &failure).await;
                let origin = origin(&self.settings, &client, &uri, host.as_ref());
                let challenge = self.challenge(&method, &uri, origin).of(failure.scope());
                failure.answer(&self.settings.hostname, id, &challenge)
            }
        };
        if api {
            response
                .headers_mut()
                .insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
        }
        response
    }

    /// How to log in for a request. Whoever asks for a token and cannot have it needs a name and a password.
    fn challenge(&self, method: &Method, uri: &Uri, origin: String) -> Challenge {
        if uri.path() == token::PATH {
            return Challenge::Basic;
        }
        let route = Route::parse(method, uri.path()).ok();
        let query = uri.query().unwrap_or_default();
        Challenge::Bearer {
            realm: origin + token::PATH,
            service: self.settings.hostname.clone(),
            scope: route.map(|route| challenge::scope(&route, query)).unwrap_or_default(),
        }
    }

    /// Does what stores something, whether the client waits for it or not.
    pub(crate) async fn to_the_end<T: Send + 'static, E: Into<Failure> + Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, Failure> {
        self.endings.to_the_end(work).await?.map_err(Into::into)
    }

    fn log_in(&self) -> Failure {
        Failure::Unauthenticated(self.settings.hostname.clone())
    }

    /// What is Torno's own: for people with a name only, and what changes something for no page of another site.
    async fn own_api(
        &self,
        request: Request<Brought>,
        client: Client,
        asking: &mut Asking,
        user: &mut Option<String>,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let who = login::identify(self, &parts.headers, &client, asking).await?;
        *user = Some(who.name().ok_or_else(|| self.log_in())?.to_string());
        let route = Route::parse(&parts.method, parts.uri.path())?;
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            let own = origin(&self.settings, &client, &parts.uri, parts.headers.get(header::HOST));
            control::from_no_other_page(&parts.headers, &own)?;
        }
        let by = asking.by.clone();
        self.routed(route, Asked { who, by, parts, body, client }).await
    }

    async fn registry_api(
        &self,
        request: Request<Brought>,
        client: Client,
        asking: &mut Asking,
        user: &mut Option<String>,
    ) -> Result<Response<Body>, Failure> {
        let (parts, body) = request.into_parts();
        let who = login::identify(self, &parts.headers, &client, asking).await?;
        let by = asking.by.clone();
        let Some(name) = who.name() else {
            return self.anonymous(Asked { who, by, parts, body, client }).await;
        };
        *user = Some(name.to_string());
        let route = Route::parse(&parts.method, parts.uri.path())?;
        self.routed(route, Asked { who, by, parts, body, client }).await
    }

    /// Whoever has not logged in may read what a rule says that anybody may. Whatever else they ask for, they are told
    /// to log in, whether it is there or not.
    async fn anonymous(&self, asked: Asked) -> Result<Response<Body>, Failure> {
        if !self.registry.policy().admits_anonymous() {
            return Err(self.log_in());
        }
        let parts = &asked.parts;
        let route = Route::parse(&parts.method, parts.uri.path())?;
        // Clients ask here first, to be told how to log in. A token shows that they have been told.
        if route == Route::Base && !parts.headers.contains_key(header::AUTHORIZATION) {
            return Err(self.log_in());
        }
        match self.routed(route, asked).await {
            Err(Failure::Registry(RegistryError::Refused(_))) => Err(self.log_in()),
            answered => answered,
        }
    }

    async fn routed(&self, route: Route, asked: Asked) -> Result<Response<Body>, Failure> {
        match route {
            Route::Base => {
                record::login(&self.registry, &asked.by, &asked.who).await;
                Ok(answer::json(StatusCode::OK, &serde_json::json!({})))
            }
            Route::Catalog => catalog::repositories(self, &asked).await,
            Route::Tags(name) => catalog::tags(self, &asked, &name).await,
            Route::Referrers(name, digest) => catalog::referrers(self, &asked, &name, &digest).await,
            Route::ReadBlob(name, digest) => blob::read(self, &asked, &name, &digest).await,
            Route::DeleteBlob(name, digest) => blob::delete(self, &asked, &name, &digest).await,
            Route::ReadManifest(name, reference) => manifest::read(self, &asked, &name, &reference).await,
            Route::PutManifest(name, reference) => manifest::put(self, asked, &name, &reference).await,
            Route::DeleteManifest(name, reference) => manifest::delete(self, &asked, &name, &reference).await,
            Route::BeginUpload(name) => upload::begin(self, asked, &name).await,
            Route::PatchUpload(name, id) => upload::patch(self, asked, &name, &id).await,
            Route::FinishUpload(name, id) => upload::finish(self, asked, &name, &id).await,
            Route::UploadStatus(name, id) => upload::status(self, &asked, &name, &id).await,
            Route::CancelUpload(name, id) => upload::cancel(self, &asked, &name, &id).await,
            Route::Whoami => Ok(whoami::answer(self, &asked.who)),
            Route::DryRun(project) => project::dry_run(self, &asked, &project),
            Route::PauseProject(project) => control::pause(self, asked, project).await,
            Route::ResumeProject(project) => control::resume(self, asked, project).await,
            Route::CancelRun(run) => control::run(self, &asked.who, asked.by, run, RunControl::Cancel).await,
            Route::RetryRun(run) => control::run(self, &asked.who, asked.by, run, RunControl::Retry).await,
            Route::PrioritizeRun(run) => control::prioritize(self, asked, run).await,
        }
    }

    async fn page(&self, mut request: Request<Brought>, client: &Client) -> Response<Body> {
        use http_body_util::BodyExt as _;
        let origin = origin(&self.settings, client, request.uri(), request.headers().get(header::HOST));
        request.extensions_mut().insert(page::Origin(origin));
        let answered = self.pages.clone().oneshot(request.map(axum::body::Body::new)).await;
        match answered {
            Ok(response) => response.map(|body| body.map_err(std::io::Error::other).boxed_unsync()),
            Err(never) => match never {},
        }
    }
}

/// Who has just waited for which result in vain. A client that asks with HEAD and then with GET, to read the
/// message, has waited once and is answered at once.
#[derive(Debug, Default)]
pub(crate) struct Waited(Mutex<HashMap<Pull, Instant>>);

/// Who asks for which result.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Pull(Option<UserName>, RepositoryName, Tag);

impl Waited {
    /// How long after a wait the next question is the same pull.
    const SAME_PULL: Duration = Duration::from_secs(5);
    /// Questions remembered at most; past it none is until older ones are over: whoever asks then waits twice.
    const MAX: usize = 10_000;

    /// Notes that someone's HEAD has waited in vain.
    pub(crate) fn note(&self, who: &Identity, name: &RepositoryName, tag: &Tag) {
        let mut waited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pull = Pull(who.name().cloned(), name.clone(), tag.clone());
        if waited.len() >= Self::MAX && !waited.contains_key(&pull) {
            waited.retain(|_, since| since.elapsed() < Self::SAME_PULL);
            if waited.len() >= Self::MAX {
                return;
            }
        }
        waited.insert(pull, Instant::now());
    }

    /// Whether this is the second question of a pull whose first has waited.
    pub(crate) fn just_did(&self, who: &Identity, name: &RepositoryName, tag: &Tag) -> bool {
        let mut waited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = waited.remove(&Pull(who.name().cloned(), name.clone(), tag.clone()));
        since.is_some_and(|since| since.elapsed() < Self::SAME_PULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_remembered_of_waits_than_the_limit() {
        let waited = Waited::default();
        let (who, name) = (Identity::anonymous(), "results/p/x".parse().expect("name"));
        let tag = |number: usize| format!("t{number}").parse::<Tag>().expect("tag");
        let len = || waited.0.lock().expect("a lock").len();
        let begun = Instant::now();
        for number in 0..Waited::MAX {
            waited.note(&who, &name, &tag(number));
        }
        assert_eq!(len(), Waited::MAX, "at the limit");
        waited.note(&who, &name, &tag(Waited::MAX));
        assert!(len() <= Waited::MAX, "one past it");
        waited.note(&who, &name, &tag(0));
        // A machine that is busy for longer has forgotten them, and rightly so.
        if begun.elapsed() < Waited::SAME_PULL {
            assert!(waited.just_did(&who, &name, &tag(0)), "one that is remembered is noted again");
            assert!(!waited.just_did(&who, &name, &tag(Waited::MAX)), "one past it waits twice");
        }
    }
}
