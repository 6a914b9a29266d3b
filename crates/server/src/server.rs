//! The servers over one registry: of people, and of the engine.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use torno_auth::{Authenticator, Tokens};
use torno_registry::Registry;

use crate::{
    clear::Clear,
    connection::{self, Answerer, Limits, Terms},
    engine::Engine,
    forwarded::Proxies,
    project::DryRuns,
    provider::Provider,
    public::Public,
    tls::Tls,
};

/// What the server is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name people know this registry by, as in `docker login <name>`.
    pub hostname: String,
    /// How long a pull of a result waits for the run that makes it.
    pub result_wait: Duration,
    /// How long requests under way may take to end when the server stops.
    pub drain: Duration,
    /// How people on other machines reach this registry where it does not speak TLS itself.
    pub outside: Outside,
    /// How long a bearer token is good.
    pub token_lifetime: Duration,
    /// How long a login is good that a client keeps.
    pub login_lifetime: Duration,
    /// How many bytes clients are asked to put into each chunk of a blob but the last, at least; `None`: as few as
    /// they like (distribution-spec: Pushing a blob in chunks, `OCI-Chunk-Min-Length`).
    pub chunk_min_length: Option<NonZeroU64>,
    /// How many connections there may be, and how long a peer may take.
    pub limits: Limits,
    /// The reverse proxies that are believed when they say whom they speak for.
    pub proxies: Proxies,
}

/// How other machines reach a listener that speaks in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Through a proxy that speaks TLS.
    Encrypted,
    /// Directly: somebody has said that they know what travels then.
    InClear,
}

#[cfg(any(test, feature = "fuzzing"))]
impl Settings {
    /// Some, for tests.
    pub(crate) fn named(hostname: &str) -> Self {
        Self {
            hostname: hostname.into(),
            result_wait: Duration::ZERO,
            drain: Duration::ZERO,
            outside: Outside::Encrypted,
            token_lifetime: Duration::from_mins(5),
            login_lifetime: Duration::from_hours(1),
            chunk_min_length: None,
            limits: Limits::default(),
            proxies: Proxies::default(),
        }
    }
}

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// For people.
    pub public: TcpListener,
    /// For those who come without TLS, if there is TLS: they are sent on.
    pub clear: Option<TcpListener>,
}

/// A registry over HTTP.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    authenticator: Arc<Authenticator>,
    tokens: Arc<Tokens>,
    provider: Option<Provider>,
    settings: Settings,
    dry_runs: DryRuns,
    tls: Option<Arc<Tls>>,
}

impl Server {
    /// A server that has not begun to answer. With `tls`, people speak TLS to it and are refused in clear;
    /// with `provider`, they log in there with a browser. `dry_runs` may change while it answers.
    pub fn new(
        registry: Arc<Registry>,
        authenticator: Arc<Authenticator>,
        tokens: Arc<Tokens>,
        provider: Option<Provider>,
        settings: Settings,
        dry_runs: DryRuns,
        tls: Option<Arc<Tls>>,
    ) -> Self {
        Self { registry, authenticator, tokens, provider, settings, dry_runs, tls }
    }

    /// Answers people until `stop`; then lets requests under way end, for a bounded time.
    pub async fn serve(self, listeners: Listeners, stop: CancellationToken) {
        let Listeners { public, clear } = listeners;
        let Settings { drain, limits, ref proxies, .. } = self.settings;
        let people_terms = Terms { limits, proxies: Arc::new(proxies.clone()), drain };
        let clear_terms = people_terms.clone();
        let clear = clear.zip(self.tls.clone()).map(|(listener, tls)| {
            (listener, Answerer::Clear(Clear { hostname: self.settings.hostname.clone(), tls }))
        });
        let people = Public::new(
            self.registry,
            self.authenticator,
            self.tokens,
            self.provider,
            self.settings,
            self.dry_runs,
            stop.clone(),
        );
        let endings = people.endings.clone();
        tokio::join!(
            connection::serve(public, Answerer::Public(Box::new(people)), self.tls, people_terms, &stop),
            async {
                if let Some((listener, answerer)) = clear {
                    connection::serve(listener, answerer, None, clear_terms, &stop).await;
                }
            },
        );
        endings.drain().await;
    }
}

/// Where the engine pulls the images of claimed runs: on this machine, whether or not people are answered there.
#[derive(Debug)]
pub struct Images {
    registry: Arc<Registry>,
    limits: Limits,
    drain: Duration,
}

impl Images {
    /// Those of a registry. Its connections are limited as people's are.
    pub fn new(registry: Arc<Registry>, limits: Limits, drain: Duration) -> Self {
        Self { registry, limits, drain }
    }

    /// Answers the engine until `stop`; then lets requests under way end, for a bounded time.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        // One peer, the engine, has all the places there.
        let limits = Limits { connections_per_address: self.limits.connections, ..self.limits };
        let terms = Terms { limits, proxies: Arc::default(), drain: self.drain };
        let images = Engine { registry: self.registry };
        connection::serve(listener, Answerer::Engine(images), None, terms, &stop).await;
    }
}
