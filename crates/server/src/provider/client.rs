//! What is asked of an identity provider over HTTPS. It goes to the provider's own address and nowhere else: no
//! redirect is followed.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use torno_auth::{AuthoritiesError, ProviderSettings};

use crate::query;

/// How long the provider may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(3);

/// The longest answer read, in bytes: keys with their certificates.
const MAX_ANSWER: usize = 512 * 1024;

/// Why the provider has not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("the provider cannot be reached")]
    Connection(#[source] hyper_util::client::legacy::Error),
    #[error("the provider does not answer in time")]
    Slow,
    #[error("the provider's answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the provider answers with {0}")]
    Status(StatusCode),
    #[error("the provider's answer is not what the specification says")]
    Nonsense(#[source] serde_json::Error),
    #[error("the provider says of itself that it is another one")]
    Issuer,
    #[error("the provider names an address that is not at its own host")]
    Elsewhere,
    #[error("no request can be made of this")]
    Request(#[from] http::Error),
}

/// What a provider says of itself (`OpenID` Connect Discovery 1.0, section 3).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Discovered {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

/// What comes for a code (`OpenID` Connect Core 1.0, section 3.1.3.3).
#[derive(Deserialize)]
struct Tokens {
    id_token: String,
}

/// Asks one provider.
#[derive(Debug)]
pub(super) struct Asker {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Asker {
    pub(super) fn new(settings: &ProviderSettings) -> Result<Self, AuthoritiesError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(settings.authorities.client()?)
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        // Logins are seldom: a connection that was kept would be closed by then.
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(tls);
        Ok(Self { http })
    }

    /// Where its endpoints are.
    pub(super) async fn discover(&self, settings: &ProviderSettings) -> Result<Discovered, AskError> {
        let bytes = self.get(&settings.issuer.configuration()).await?;
        let found: Discovered = serde_json::from_slice(&bytes).map_err(AskError::Nonsense)?;
        if found.issuer != settings.issuer.as_str() {
            return Err(AskError::Issuer);
        }
        // Whoever changed what it says of itself could send Torno's secret elsewhere, or Torno into the site's network.
        let own = [&found.authorization_endpoint, &found.token_endpoint, &found.jwks_uri];
        if own.iter().all(|address| settings.issuer.is_at(address)) {
            Ok(found)
        } else {
            Err(AskError::Elsewhere)
        }
    }

    /// The ID token for a code, and the keys that it may be signed with; `None`: the code is not good.
    pub(super) async fn exchange(
        &self,
        settings: &ProviderSettings,
        at: &Discovered,
        code: &str,
        verifier: &str,
        redirect: &str,
    ) -> Result<Option<(String, Bytes)>, AskError> {
        let form = query::write([
            ("grant_type", "authorization_code"),
            ("code", code),
            ("code_verifier", verifier),
            ("redirect_uri", redirect),
        ]);
        // Both are written as in a form first (RFC 6749, section 2.3.1).
        let client = query::escaped(&settings.client);
        let secret = query::escaped(settings.secret.expose());
        let mut basic =
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{client}:{secret}"))))
                .map_err(http::Error::from)?;
        basic.set_sensitive(true);
        let request = Request::builder()
            .method(Method::POST)
            .uri(&at.token_endpoint)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, basic)
            .body(Full::from(form))?;
        let bytes = match self.ask(request).await {
            Ok(bytes) => bytes,
            // RFC 6749, section 5.2. Another fault of this class is one of the configuration.
            Err(AskError::Status(StatusCode::BAD_REQUEST)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let tokens: Tokens = serde_json::from_slice(&bytes).map_err(AskError::Nonsense)?;
        // Fetched each time: the key may be new, and nobody gets here without a code from the provider.
        Ok(Some((tokens.id_token, self.get(&at.jwks_uri).await?)))
    }

    async fn get(&self, uri: &str) -> Result<Bytes, AskError> {
        let request = Request::builder().uri(uri).header(header::ACCEPT, "application/json");
        self.ask(request.body(Full::default())?).await
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Bytes, AskError> {
        let asked = async {
            let response = self.http.request(request).await.map_err(AskError::Connection)?;
            if response.status() != StatusCode::OK {
                return Err(AskError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(AskError::Body)?.to_bytes())
        };
        tokio::time::timeout(PATIENCE, asked).await.map_err(|_| AskError::Slow)?
    }
}
