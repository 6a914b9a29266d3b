//! Accepting connections, shaking hands, and letting them end.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Answerer, Limits, Peer, Transport, ended, http1, http2,
    places::{Place, Places},
    request_id,
};
use crate::{
    challenge::Challenge,
    failure::Failure,
    forwarded::Proxies,
    tls::{self, Encrypted, Opened, Protocol, Tls},
};

/// What a listener grants, and to whom it listens.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) limits: Limits,
    pub(crate) proxies: Arc<Proxies>,
    /// How long requests under way may take to end when the server stops.
    pub(crate) drain: Duration,
}

/// Serves a listener, over TLS if there is one, until `stop`; then waits for the requests under way, for a bounded time.
pub(crate) async fn serve(
    listener: TcpListener,
    answerer: Answerer,
    tls: Option<Arc<Tls>>,
    terms: Terms,
    stop: &CancellationToken,
) {
    let answerer = Arc::new(answerer);
    let places = Places::new(&terms.limits);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &places, &terms) => accepted,
        };
        let Some((stream, address, place)) = accepted else { continue };
        let served = Served {
            answerer: Arc::clone(&answerer),
            proxies: Arc::clone(&terms.proxies),
            limits: terms.limits,
            // Its own, since all of them ask again and again whether it is time.
            stop: stop.child_token(),
        };
        let tls = tls.clone();
        connections.spawn(async move {
            served.serve(stream, address, tls).await;
            drop(place);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(terms.drain, ended).await.is_err() {
        tracing::warn!("requests were still under way after {:?} and were cut off", terms.drain);
    }
    connections.shutdown().await;
}

/// Cancelled between finding room and accepting, it gives the room back.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Places>,
    terms: &Terms,
) -> Option<(TcpStream, IpAddr, Place)> {
    /// Out of descriptors, accepting at once again would only burn a core.
    const BREATH: Duration = Duration::from_millis(50);
    let room = places.room().await?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // A v4 client of a v6 socket is the same client.
            let address = peer.ip().to_canonical();
            let place = if terms.proxies.contains(address) {
                Places::take_for_many(room)
            } else {
                places.take(room, address)?
            };
            prepare(&stream, &terms.limits);
            Some((stream, address, place))
        }
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(BREATH).await;
            None
        }
    }
}

/// Tells the kernel what this socket is for.
fn prepare(stream: &TcpStream, limits: &Limits) {
    // Answers are written whole; waiting to fill a packet would only delay small ones.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    // How much of an answer a peer has taken only the kernel knows: for so long it may take nothing at all
    // (RFC 5482; tcp(7)). Even a slow one that takes some goes on.
    let millis = u32::try_from(limits.body.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = sockopt::set_tcp_user_timeout(stream, millis) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
}

/// What serving one connection takes.
struct Served {
    answerer: Arc<Answerer>,
    proxies: Arc<Proxies>,
    limits: Limits,
    stop: CancellationToken,
}

impl Served {
    async fn serve(self, stream: TcpStream, address: IpAddr, tls: Option<Arc<Tls>>) {
        let Some(tls) = tls else {
            return self
                .serve_http1(stream, Peer { address, transport: Transport::Plain, certified: None })
                .await;
        };
        let opened = tokio::time::timeout(self.limits.handshake, open(&tls, stream, &self.limits));
        // Whoever has not finished shaking hands has asked for nothing yet.
        let Some(Ok(Some(stream))) = self.stop.run_until_cancelled(opened).await else { return };
        let certified = stream.certified().map(Arc::new);
        let peer = Peer { address, transport: Transport::Encrypted, certified };
        match stream.protocol() {
            Protocol::Http1 => self.serve_http1(stream, peer).await,
            Protocol::Http2 => {
                let Self { answerer, proxies, limits, stop } = self;
                let answer = move |request| {
                    let (answerer, proxies, peer) =
                        (Arc::clone(&answerer), Arc::clone(&proxies), peer.clone());
                    async move { answerer.answer(request, peer, &proxies, &limits).await }
                };
                http2::serve(stream, answer, &limits, &stop).await;
            }
        }
    }

    async fn serve_http1<S>(self, stream: S, peer: Peer)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let Self { answerer, proxies, limits, stop } = self;
        let service = service_fn(|request| async {
            Ok::<_, Infallible>(answerer.answer(request, peer.clone(), &proxies, &limits).await)
        });
        http1::serve(stream, service, &limits, &stop).await;
    }
}

/// Shakes hands; whoever speaks HTTP in clear is told what is spoken here. Cancelled, it closes the connection.
async fn open(tls: &Tls, stream: TcpStream, limits: &Limits) -> Option<Encrypted> {
    match tls.open(stream).await {
        Ok(Opened::Encrypted(stream)) => Some(stream),
        Ok(Opened::Plain(stream)) => {
            let service = service_fn(|_| async {
                let id = request_id();
                tracing::info!(request = id, "refused: HTTP in clear where TLS is spoken");
                Ok::<_, Infallible>(Failure::InClear.answer("", &id, &Challenge::Basic))
            });
            let mut builder = http1::builder(limits);
            ended(builder.keep_alive(false).serve_connection(TokioIo::new(stream), service).await);
            None
        }
        Ok(Opened::Checked) => {
            tracing::info!("a certificate authority was shown what it asked for");
            None
        }
        Err(error) => {
            if tls::is_about_a_certificate(&error) {
                tracing::info!(%error, "refused: the client's certificate");
            } else {
                tracing::debug!(%error, "no hands were shaken");
            }
            None
        }
    }
}
