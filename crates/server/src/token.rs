//! `/token`: bearer tokens for whoever logs in (Token Authentication Specification; the same using `OAuth2`).

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::json;
use torno_audit::Actor;
use torno_auth::{Identity, Proof, Secret, Voucher, Wish};
use torno_registry::{NewToken, TokenAccount, TokenKind};

use crate::{
    answer,
    body::{self, Body, Brought},
    connection::Client,
    credentials::{Authorization, authorization},
    failure::Failure,
    login::{self, Login},
    public::Public,
    query,
    record::{self, Asking},
    route::RouteError,
};

/// Where tokens are given out.
pub(crate) const PATH: &str = "/token";

/// The longest form read, in bytes: a hundred scopes with the longest names.
const MAX_FORM: usize = 64 * 1024;

/// The longest description of a client that is kept, in bytes.
const MAX_CLIENT: usize = 64;

/// What somebody asks for.
struct Asked {
    login: Login,
    wish: Wish,
    service: Option<String>,
    /// What a client is to be given to keep in place of the password.
    keep: Keep,
    client: String,
}

/// What a client keeps.
enum Keep {
    /// Nothing more than it has.
    Nothing,
    /// A token made for it.
    New,
    /// The one that it came with.
    Same(Secret),
}

/// Answers a request for a token.
pub(crate) async fn answer(
    public: &Public,
    request: Request<Brought>,
    client: &Client,
    asking: &mut Asking,
    user: &mut Option<String>,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let asked = match parts.method {
        Method::GET | Method::HEAD => by_query(public, &parts, client, asking).await?,
        Method::POST => {
            let form = body::collect(body, MAX_FORM).await?;
            by_form(public, &String::from_utf8_lossy(&form), client, asking).await?
        }
        _ => return Err(RouteError::Method("GET, HEAD, POST").into()),
    };
    *user = asked.login.who.name().map(ToString::to_string);
    asking.is(&asked.login.who);
    record::login(&public.registry, &asking.by, &asked.login.who).await;
    give(public, asked, &asking.by).await
}

/// `GET`, with a name and a password or with nothing.
async fn by_query(
    public: &Public,
    parts: &http::request::Parts,
    client: &Client,
    asking: &mut Asking,
) -> Result<Asked, Failure> {
    let query = parts.uri.query().unwrap_or_default();
    let mut wish = Wish::default();
    for scope in query::values(query, "scope") {
        wish.add(&scope);
    }
    let (login, secret) = match authorization(&parts.headers)? {
        None if public.registry.policy().admits_anonymous() => (Login::anonymous(), None),
        None => return Err(Failure::Unauthenticated(public.settings.hostname.clone())),
        Some(Authorization::Basic { user, password }) => {
            let login = login::with_password(public, &user, &password, client, asking).await?;
            (login, Secret::parse(&password))
        }
        Some(Authorization::Bearer(_)) => return Err(Failure::Authorization),
    };
    let keep = match (query::value(query, "offline_token").as_deref(), secret) {
        (Some("true"), Some(secret)) => Keep::Same(secret),
        (Some("true"), None) => Keep::New,
        _ => Keep::Nothing,
    };
    let value = |name| query::value(query, name);
    let client = value("client_id").unwrap_or_default();
    Ok(Asked { login, wish, service: value("service"), keep, client })
}

/// `POST`, with a name and a password in the form, or with a token that the client kept (RFC 6749, sections 4.3 and 6).
async fn by_form(
    public: &Public,
    form: &str,
    client: &Client,
    asking: &mut Asking,
) -> Result<Asked, Failure> {
    // Forms write a space as a plus.
    let form = form.replace('+', " ");
    let value = |name| query::value(&form, name);
    let required = |name: &'static str| value(name).ok_or(Failure::Grant(name));
    let mut wish = Wish::default();
    for scope in query::values(&form, "scope") {
        wish.add(&scope);
    }
    let (login, keep) = match required("grant_type")?.as_str() {
        "password" => {
            let (user, password) = (required("username")?, required("password")?);
            let login = login::with_password(public, &user, &password, client, asking).await?;
            let keep = match (value("access_type").as_deref(), Secret::parse(&password)) {
                (Some("offline"), Some(secret)) => Keep::Same(secret),
                (Some("offline"), None) => Keep::New,
                _ => Keep::Nothing,
            };
            (login, keep)
        }
        "refresh_token" => {
            let secret = Secret::parse(&required("refresh_token")?).ok_or(Failure::Secret)?;
            (login::with_secret(public, &secret).await?, Keep::Same(secret))
        }
        _ => return Err(Failure::Grant("grant_type")),
    };
    let client = value("client_id").unwrap_or_default();
    Ok(Asked { login, wish, service: value("service"), keep, client })
}

async fn give(public: &Public, asked: Asked, by: &Actor) -> Result<Response<Body>, Failure> {
    let Asked { login: Login { who, account, voucher }, wish, service, keep, client } = asked;
    // A token for another registry would be of no use there.
    if service.is_some_and(|service| service != public.settings.hostname) {
        return Err(Failure::Service(public.settings.hostname.clone()));
    }
    let granted = public.registry.granted(&who, wish).await?;
    let (refresh, new) = match keep {
        Keep::Nothing => (None, None),
        Keep::Same(secret) => (Some(secret), None),
        Keep::New => {
            let made = kept(public, by, &who, account, voucher.clone(), client).await?;
            let id = made.as_ref().map(|secret| secret.id().clone());
            (made, id)
        }
    };
    // A bearer token that comes from a login which is kept ends with it.
    let who = match (&refresh, who.proof()) {
        (Some(secret), Proof::Password) => who.clone().proven_by(Proof::Token(secret.id().clone())),
        _ => who,
    };
    let lifetime = public.settings.token_lifetime;
    let issued = match public.tokens.issue(&who, &granted, voucher.as_ref(), lifetime) {
        Ok(issued) => issued,
        Err(error) => {
            // Nobody is told of it.
            if let Some(id) = new {
                public.registry.revoke_token(by, &id).await?;
            }
            return Err(error.into());
        }
    };
    let at = Timestamp::try_from(issued.at).unwrap_or_default();
    let mut value = json!({
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.lifetime.as_secs(),
        "issued_at": at.to_string(),
        "token_type": "Bearer",
        "scope": written(&granted),
    });
    if let Some(secret) = refresh {
        value["refresh_token"] = secret.expose().into();
    }
    let mut response = answer::json(StatusCode::OK, &value);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A token that a client keeps in place of a password, if there is somebody whose it is.
async fn kept(
    public: &Public,
    by: &Actor,
    who: &Identity,
    account: TokenAccount,
    voucher: Option<Voucher>,
    client: String,
) -> Result<Option<Secret>, Failure> {
    let Some(user) = who.name() else { return Ok(None) };
    let client: String = client.chars().filter(char::is_ascii_graphic).take(MAX_CLIENT).collect();
    let token = NewToken {
        user: user.clone(),
        kind: TokenKind::Login,
        account,
        scope: None,
        groups: who.groups().clone(),
        voucher,
        description: if client.is_empty() { "login".into() } else { format!("login of {client}") },
        lifetime: Some(public.settings.login_lifetime),
    };
    Ok(Some(public.registry.make_token(by, token).await?))
}

/// What was granted (Token Scope Documentation: Resource Scope Grammar).
fn written(granted: &Wish) -> String {
    let repositories = granted.repositories.iter().map(|(name, actions)| {
        let actions: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
        format!("repository:{name}:{}", actions.join(","))
    });
    let catalog = granted.catalog.then(|| "registry:catalog:*".to_owned());
    repositories.chain(catalog).collect::<Vec<_>>().join(" ")
}
