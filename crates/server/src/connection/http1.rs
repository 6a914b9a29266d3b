//! HTTP/1.1 on one connection.

use std::pin::pin;

use hyper::{body::Incoming, server::conn::http1, service::HttpService};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Limits, ended, limits};
use crate::body::Body;

/// How these connections are spoken on.
pub(super) fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_header_size(limits::HEAD as usize);
    builder
}

/// Answers what is asked until the peer leaves, or until `stop` and the end of the request under way. Cancelled, it cuts
/// that off.
///
/// How long an answer may stand still is the kernel's to see: see [`super::listener`].
pub(super) async fn serve<S, T>(stream: S, service: T, limits: &Limits, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: HttpService<Incoming, ResBody = Body, Error: std::error::Error + Send + Sync>,
{
    let mut connection = pin!(builder(limits).serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        biased;
        result = connection.as_mut() => return ended(result),
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    ended(connection.await);
}
