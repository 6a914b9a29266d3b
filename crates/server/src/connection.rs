//! One listener: accepting connections, shaking hands, serving HTTP on them, and letting them end.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    body::Body,
    challenge::Challenge,
    engine::Engine,
    failure::Failure,
    public::Public,
    tls::{Encrypted, Opened, Tls},
};

/// Connections served at once by a listener. Past it new ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// How long a client may take to send the headers of a request, from the connection's start or the answer before.
const HEADERS: Duration = Duration::from_secs(30);

/// How long a client may take to shake hands over TLS: a few packets each way, on the slowest line.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How a connection's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// As they are: the kernel takes them from where they lie.
    Plain,
    /// Over TLS: this process reads every byte that it sends.
    Encrypted,
}

/// Whose requests come over a connection, before anybody has logged in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The other end of the connection.
    pub(crate) address: IpAddr,
    pub(crate) transport: Transport,
}

/// Who answers the requests of a listener.
#[derive(Debug)]
pub(crate) enum Answerer {
    Public(Public),
    Engine(Engine),
}

impl Answerer {
    async fn answer(&self, request: Request<Incoming>, client: Client) -> Response<Body> {
        let since = Instant::now();
        let id = request_id();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let brings_bytes = !request.body().is_end_stream();
        let mut user = None;
        let mut response = match self {
            Self::Public(public) => public.answer(request, client, &id, &mut user).await,
            Self::Engine(engine) => engine.answer(request, &id, &mut user).await,
        };
        let status = response.status().as_u16();
        let user = user.as_deref().unwrap_or("-");
        let from = client.address;
        let millis = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        if is_routine(&method, &path, response.status()) {
            tracing::debug!(request = id, %method, path, status, user, %from, millis, "answered");
        } else {
            tracing::info!(request = id, %method, path, status, user, %from, millis, "answered");
        }
        let refused = response.status().is_client_error() || response.status().is_server_error();
        if brings_bytes && refused {
            // What was not read of the body ends the connection, and who does not know sends the next request on it
            // (RFC 9112, section 9.6).
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-request-id", value);
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

/// Serves a listener, over TLS if there is one, until `stop`; then waits up to `drain` for the requests under way.
pub(crate) async fn serve(
    listener: TcpListener,
    answerer: Answerer,
    tls: Option<Arc<Tls>>,
    stop: &CancellationToken,
    drain: Duration,
) {
    let answerer = Arc::new(answerer);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, address, place)) = accepted else { continue };
        let client = move |transport| Client { address, transport };
        let (answerer, watcher) = (Arc::clone(&answerer), graceful.watcher());
        let handshake = tls.clone().map(|tls| (tls, stop.clone()));
        connections.spawn(async move {
            match handshake {
                None => serve_http(stream, client(Transport::Plain), answerer, watcher).await,
                Some((tls, stop)) => {
                    let opened = tokio::time::timeout(HANDSHAKE, open(&tls, stream));
                    // Whoever has not finished shaking hands has asked for nothing yet.
                    if let Some(Ok(Some(stream))) = stop.run_until_cancelled(opened).await {
                        serve_http(stream, client(Transport::Encrypted), answerer, watcher).await;
                    }
                }
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way after {drain:?} and were cut off");
    }
    connections.shutdown().await;
}

/// Shakes hands; whoever speaks HTTP in clear is told what is spoken here. Cancelled, it closes the connection.
async fn open(tls: &Tls, stream: TcpStream) -> Option<Encrypted> {
    match tls.open(stream).await {
        Ok(Opened::Encrypted(stream)) => Some(stream),
        Ok(Opened::Plain(stream)) => {
            let service = service_fn(|_| async {
                let id = request_id();
                tracing::info!(request = id, "refused: HTTP in clear where TLS is spoken");
                Ok::<_, Infallible>(Failure::InClear.answer("", &id, &Challenge::Basic))
            });
            let refusal = http1().keep_alive(false).serve_connection(TokioIo::new(stream), service);
            ended(refusal.await);
            None
        }
        Err(error) => {
            tracing::debug!(%error, "no hands were shaken");
            None
        }
    }
}

/// Answers what is asked on a connection until it ends, or until the watcher's shutdown and the end of the request
/// under way.
async fn serve_http<S>(stream: S, client: Client, answerer: Arc<Answerer>, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let answerer = Arc::clone(&answerer);
        async move { Ok::<_, Infallible>(answerer.answer(request, client).await) }
    });
    ended(watcher.watch(http1().serve_connection(TokioIo::new(stream), service)).await);
}

/// HTTP/1.1 alone: registry clients speak HTTP/2 over TLS only, where it is not offered, and its connections would
/// rest here for ever.
fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    builder
}

/// How a connection ends is the peer's business.
fn ended(result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Cancelled between taking a place and accepting, it gives the place back.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    /// Out of descriptors, accepting at once again would only burn a core.
    const BREATH: Duration = Duration::from_millis(50);
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are written whole; waiting to fill a packet would only delay small ones.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY could not be set");
            }
            // A v4 client of a v6 socket is the same client.
            Some((stream, peer.ip().to_canonical(), place))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(BREATH).await;
            None
        }
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
