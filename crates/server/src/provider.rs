//! `/login`: people with a browser, sent to the site's identity provider and back (`OpenID` Connect Core 1.0, section
//! 3.1). They are shown a token, once, that stands for a password in `docker login`.
//!
//! There is no cookie and no session: what belongs to a login is made of its `state` (see [`Attempts`]).

mod client;

use std::time::{Duration, Instant, SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use maud::{DOCTYPE, Markup, html};
use tokio::sync::{Mutex, Semaphore};
use torno_audit::{Actor, By};
use torno_auth::{Attempts, AuthoritiesError, IdTokenError, Identity, Known, ProviderSettings, UserName};
use torno_registry::{NewToken, TokenAccount, TokenKind};

use crate::{
    answer,
    body::{self, Body},
    connection::Client,
    origin::origin,
    public::Public,
    query, record,
};
use client::{AskError, Asker, Discovered};

/// Where people go.
pub(crate) const PATH: &str = "/login";

/// Where the provider sends them back to.
pub(crate) const CALLBACK: &str = "/login/callback";

/// How long what the provider says of itself is taken for true.
const FRESH: Duration = Duration::from_mins(10);

/// How long a provider that has failed is not asked again by who only begins to log in.
const PEACE: Duration = Duration::from_secs(2);

/// Logins that are being finished at once.
const FINISHING: usize = 8;

/// The longest code looked at, in bytes.
const MAX_CODE: usize = 4096;

/// An identity provider and the logins that are on their way.
#[derive(Debug)]
pub struct Provider {
    settings: ProviderSettings,
    attempts: Attempts,
    asker: Asker,
    discovered: Mutex<Option<(Instant, Result<Discovered, ()>)>>,
    finishing: Semaphore,
}

/// Why there is no provider to ask.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// TLS cannot be had.
    #[error(transparent)]
    Tls(#[from] AuthoritiesError),
    /// The system has no random numbers.
    #[error(transparent)]
    Random(#[from] getrandom::Error),
}

/// Why somebody is not logged in.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("this login is not known here, was finished before, or has taken too long")]
    Unknown,
    #[error("the identity provider has not let you in")]
    Refused,
    #[error(
        "the identity provider has answered, but its answer does not say who you are in a way that is accepted here"
    )]
    Token(#[source] IdTokenError),
    #[error("the identity provider has a name for you that is no user name here; ask the admin")]
    Name,
    #[error("the name `{0}` belongs to somebody else here; ask the admin")]
    Taken(UserName),
    #[error("the identity provider cannot be asked at the moment; try again in a minute")]
    Provider(#[source] AskError),
    #[error("the identity provider could not be asked a moment ago; try again in a minute")]
    Peace,
    #[error("too many people log in at this moment; try again in a minute")]
    Busy,
    #[error("something failed here; tell the admin")]
    Here(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Provider {
    /// One that has not been asked yet.
    pub fn new(settings: ProviderSettings) -> Result<Self, ProviderError> {
        let asker = Asker::new(&settings)?;
        Ok(Self {
            attempts: Attempts::new()?,
            asker,
            discovered: Mutex::default(),
            finishing: Semaphore::new(FINISHING),
            settings,
        })
    }

    /// What the provider says of itself. Whoever waits here is answered by what the first one has found.
    async fn discover(&self) -> Result<Discovered, Stopped> {
        let mut discovered = self.discovered.lock().await;
        match &*discovered {
            Some((at, Ok(found))) if at.elapsed() < FRESH => return Ok(found.clone()),
            Some((at, Err(()))) if at.elapsed() < PEACE => return Err(Stopped::Peace),
            _ => {}
        }
        let found = self.asker.discover(&self.settings).await;
        *discovered = Some((Instant::now(), found.as_ref().map(Clone::clone).map_err(|_| ())));
        found.map_err(Stopped::Provider)
    }

    /// The address at the provider to send somebody to.
    async fn begin(&self, redirect: &str) -> Result<String, Stopped> {
        let at = self.discover().await?;
        let attempt = self.attempts.begin(SystemTime::now()).map_err(|error| Stopped::Here(error.into()))?;
        let challenge = URL_SAFE_NO_PAD.encode(attempt.challenge());
        let query = query::write([
            ("response_type", "code"),
            ("client_id", self.settings.client.as_str()),
            ("redirect_uri", redirect),
            ("scope", &self.settings.scopes.join(" ")),
            ("state", &attempt.state),
            ("nonce", &attempt.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ]);
        let and = if at.authorization_endpoint.contains('?') { '&' } else { '?' };
        Ok(format!("{}{and}{query}", at.authorization_endpoint))
    }

    /// Who has come back.
    async fn finish(&self, asked: &str, redirect: &str) -> Result<Known, Stopped> {
        // First, so that whoever is sent away can come again with the same.
        let _turn = self.finishing.try_acquire().map_err(|_| Stopped::Busy)?;
        let state = query::value(asked, "state").unwrap_or_default();
        let attempt = self.attempts.end(&state, SystemTime::now()).ok_or(Stopped::Unknown)?;
        let code = query::value(asked, "code").filter(|code| (1..=MAX_CODE).contains(&code.len()));
        let code = code.ok_or(Stopped::Refused)?;
        let at = self.discover().await?;
        let exchanged = self.asker.exchange(&self.settings, &at, &code, &attempt.verifier, redirect).await;
        let (token, keys) = exchanged.map_err(Stopped::Provider)?.ok_or(Stopped::Refused)?;
        self.settings.check(&token, &keys, &attempt.nonce).map_err(|error| match error {
            IdTokenError::Name => Stopped::Name,
            other => Stopped::Token(other),
        })
    }
}

/// Answers at [`PATH`] and [`CALLBACK`].
pub(crate) async fn answer<B>(
    public: &Public,
    provider: &Provider,
    request: &Request<B>,
    client: &Client,
    id: &str,
    user: &mut Option<String>,
) -> Response<Body> {
    if request.method() != Method::GET {
        let mut response = answer::status(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    // By the name this registry has, and not by one that the request brings: it is what the provider knows.
    let here = Client { host: None, ..client.clone() };
    let origin = origin(&public.settings, &here, &http::Uri::from_static(PATH), None);
    let redirect = format!("{origin}{CALLBACK}");
    let answered = if request.uri().path() == PATH {
        provider.begin(&redirect).await.map(|address| send_to(&address))
    } else {
        let asked = request.uri().query().unwrap_or_default();
        let mut by = Actor::in_request(None, By::Nobody, client.address, id);
        let finished = finish(public, provider, asked, &redirect, &mut by, user).await;
        if let Err(stopped) = &finished {
            // Whoever does not come from the provider leaves no line, or there would be as many as they like.
            match stopped {
                Stopped::Taken(name) => record::provider_failure(&public.registry, &by, Some(name)).await,
                Stopped::Token(_) | Stopped::Name => {
                    record::provider_failure(&public.registry, &by, None).await;
                }
                _ => {}
            }
        }
        finished
    };
    let mut response = answered.unwrap_or_else(|stopped| refused(&stopped));
    let headers = response.headers_mut();
    // What is shown is a secret, and the address it is shown at holds a code.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

async fn finish(
    public: &Public,
    provider: &Provider,
    asked: &str,
    redirect: &str,
    by: &mut Actor,
    user: &mut Option<String>,
) -> Result<Response<Body>, Stopped> {
    let Known { name, groups } = provider.finish(asked, redirect).await?;
    *user = Some(name.to_string());
    if !is_free(public, &name).map_err(|error| Stopped::Here(error.into()))? {
        return Err(Stopped::Taken(name));
    }
    by.is_now(name.clone(), By::Provider);
    record::login(&public.registry, by, &Identity::of(name.clone())).await;
    let lifetime = provider.settings.token_lifetime;
    let token = NewToken {
        user: name.clone(),
        kind: TokenKind::Login,
        account: TokenAccount::Provider,
        scope: None,
        groups,
        voucher: None,
        description: "login by browser".into(),
        lifetime: Some(lifetime),
    };
    let secret = public.registry.make_token(by, token).await.map_err(|error| Stopped::Here(error.into()))?;
    let days = lifetime.as_secs() / (24 * 60 * 60);
    let page = html! {
        h1 { "You are " (name) }
        p { "Log in to the registry as " strong { (name) } " with this command:" }
        pre { "docker login -u " (name) " " (public.settings.hostname) }
        p { "and this token as the password. It is shown now and never again, and is good for "
            @if days == 1 { "a day" } @else { (days) " days" } ":" }
        pre { (secret.expose()) }
        p { "If this is not your name, somebody has sent you here with a login of theirs: close this page and do not \
             use the token." }
    };
    Ok(document(StatusCode::OK, "Logged in", &page))
}

/// Whether a name is nobody's whom Torno knows otherwise: a provider names its own people only.
pub(crate) fn is_free(public: &Public, name: &UserName) -> Result<bool, torno_auth::AuthenticationError> {
    let robot = public.registry.policy().robots.contains(name);
    Ok(!robot && public.authenticator.voucher(name)?.is_none())
}

fn send_to(address: &str) -> Response<Body> {
    let mut response = answer::status(StatusCode::SEE_OTHER);
    answer::set(response.headers_mut(), header::LOCATION, address);
    response
}

fn refused(stopped: &Stopped) -> Response<Body> {
    let status = match stopped {
        Stopped::Unknown => StatusCode::BAD_REQUEST,
        Stopped::Refused | Stopped::Token(_) | Stopped::Name | Stopped::Taken(_) => StatusCode::FORBIDDEN,
        Stopped::Provider(_) | Stopped::Peace | Stopped::Busy => StatusCode::SERVICE_UNAVAILABLE,
        Stopped::Here(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    tracing::warn!(error = stopped as &dyn std::error::Error, "a login by the identity provider has failed");
    let page = html! {
        h1 { "You are not logged in" }
        p { (stopped.to_string()) "." }
        p { a href=(PATH) { "Log in again" } }
    };
    document(status, "Not logged in", &page)
}

fn document(status: StatusCode, title: &str, content: &Markup) -> Response<Body> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { (title) " – Torno" } }
            body { (content) }
        }
    };
    let mut response = Response::new(body::full(page.into_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}
