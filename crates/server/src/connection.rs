//! Connections: who is at the other end, and what becomes of each of their requests.
//!
//! [`listener`] accepts them and lets them end, [`http1`] and [`http2`] speak on them, [`limits`] and [`places`] say what
//! is granted to whom.

mod http1;
mod http2;
mod limits;
mod listener;
mod places;

use std::{
    net::IpAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use torno_auth::UserName;

pub use limits::Limits;
pub(crate) use listener::{Terms, serve};

use crate::{
    body::{Body, Brought},
    browser,
    clear::Clear,
    engine::Engine,
    forwarded::{Proxies, Scheme},
    public::Public,
    tls::Certified,
};

/// How a connection's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// As they are: the kernel takes them from where they lie.
    Plain,
    /// Over TLS: this process reads every byte that it sends.
    Encrypted,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) transport: Transport,
    /// Whom its certificate names, if it has shown one.
    pub(crate) certified: Option<Arc<Certified>>,
}

/// Whose request came over a connection, before anybody has logged in: the peer, or somebody whom a proxy there speaks
/// for.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// How bytes travel between here and the peer.
    pub(crate) transport: Transport,
    /// What the client itself speaks, as far as anybody has said.
    pub(crate) scheme: Scheme,
    /// The host that it asked a proxy for, if the proxy says.
    pub(crate) host: Option<Box<str>>,
    /// Whom the client's own certificate names.
    pub(crate) certified: Option<Arc<Certified>>,
}

impl Client {
    /// Whom the client's certificate logs in. A browser shows it to us whichever page makes it ask, and says which page
    /// does (`Origin`): such a request may not be its owner's.
    pub(crate) fn certified(&self, headers: &HeaderMap) -> Option<&UserName> {
        self.certified.as_ref().filter(|_| !headers.contains_key(header::ORIGIN))?.user()
    }
}

impl From<Peer> for Client {
    /// Somebody who speaks for themselves.
    fn from(Peer { address, transport, certified }: Peer) -> Self {
        let scheme = match transport {
            Transport::Plain => Scheme::Http,
            Transport::Encrypted => Scheme::Https,
        };
        Self { address, transport, scheme, host: None, certified }
    }
}

/// Who answers the requests of a listener.
#[derive(Debug)]
pub(crate) enum Answerer {
    Public(Box<Public>),
    Engine(Engine),
    Clear(Clear),
}

impl Answerer {
    /// Answers one request; what it brings may stand still for as long as the limits say.
    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        proxies: &Proxies,
        limits: &Limits,
    ) -> Response<Body> {
        let since = Instant::now();
        let id = request_id();
        let client = proxies.client(peer, request.headers());
        let version = request.version();
        let request = request.map(|body| Brought::new(body, limits.body));
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let brings_bytes = !request.body().is_end_stream();
        let mut user = None;
        let mut response = match self {
            Self::Public(public) => public.answer(request, client.clone(), &id, &mut user).await,
            Self::Engine(engine) => engine.answer(request, &id, &mut user).await,
            Self::Clear(clear) => clear.answer(&request, &id),
        };
        let status = response.status().as_u16();
        let user = user.as_deref().unwrap_or("-");
        let from = client.address;
        let millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        if is_routine(&method, &path, response.status()) {
            tracing::debug!(request = id, %method, path, status, user, %from, ?version, millis, "answered");
        } else {
            tracing::info!(request = id, %method, path, status, user, %from, ?version, millis, "answered");
        }
        let refused = response.status().is_client_error() || response.status().is_server_error();
        if brings_bytes && refused && version < Version::HTTP_2 {
            // What was not read of the body ends the connection, and who does not know sends the next request on it
            // (RFC 9112, section 9.6).
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-request-id", value);
        }
        if let Self::Public(public) = self {
            browser::guard(response.headers_mut(), &client, &public.settings.hostname);
        }
        response
    }
}

/// Whether nobody will ever ask who did this: something was read, successfully, that is neither an image that ran nor
/// what came out of one.
fn is_routine(method: &Method, path: &str, status: StatusCode) -> bool {
    let kept = ["/v2/run/", "/v2/results/", "/v2/try/", "/v2/samples/"];
    matches!(*method, Method::GET | Method::HEAD)
        && (status.is_success() || status == StatusCode::NOT_MODIFIED)
        && !kept.iter().any(|namespace| path.starts_with(namespace))
}

/// How a connection ends is the peer's business.
fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// What a request is called in the log and in its answer. No other of this process has the name, and most likely
/// none of any other.
fn request_id() -> String {
    static FIRST: LazyLock<u64> = LazyLock::new(|| {
        let mut bytes = [0; 8];
        // Without random bytes a request is still served; its name may then be another's of an earlier process.
        let _ = getrandom::fill(&mut bytes);
        u64::from_be_bytes(bytes)
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}", FIRST.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)))
}
