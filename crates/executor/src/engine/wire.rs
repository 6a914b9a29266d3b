//! Calls that the client library does not know, or of whose answers it knows one shape only.

use std::{io, path::Path, time::Duration};

use bollard::ClientVersion;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty};
use hyper::{client::conn::http1, http::request::Builder};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::{EngineError, error::causes, heard};

/// The longest answer read: a busy engine's list of everything it holds is far shorter.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// What a path begins with in the version both sides know.
pub(super) fn base(ClientVersion { major_version, minor_version }: &ClientVersion) -> String {
    format!("/v{major_version}.{minor_version}")
}

/// What the engine answers to a request without a body, within a time.
pub(super) async fn json<T: DeserializeOwned>(
    socket: &Path,
    request: Builder,
    limit: Duration,
) -> Result<T, EngineError> {
    let answer = call(socket, request, limit).await?;
    serde_json::from_slice(&answer)
        .map_err(|error| EngineError::Refused { status: 0, reason: error.to_string() })
}

/// The whole answer to a request without a body, which pauses for `silence` at most.
pub(super) async fn call(socket: &Path, request: Builder, silence: Duration) -> Result<Bytes, EngineError> {
    let unreachable = |error: &(dyn std::error::Error + 'static)| EngineError::Unreachable(causes(error));
    let stream = UnixStream::connect(socket).await.map_err(|error: io::Error| unreachable(&error))?;
    let handshake = heard(silence, http1::handshake(TokioIo::new(stream))).await?;
    let (mut sender, connection) = handshake.map_err(|error| unreachable(&error))?;
    let request =
        request.header("host", "engine").body(Empty::<Bytes>::new()).map_err(|error| unreachable(&error))?;
    let exchange = async {
        let answer = heard(silence, sender.send_request(request)).await?;
        let answer = answer.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = heard(silence, body.frame()).await? {
            let frame = frame.map_err(|error| unreachable(&error))?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[], Bytes::as_ref));
            if bytes.len() > MAX_ANSWER {
                return Err(EngineError::Refused { status: 0, reason: "its answer has no end".into() });
            }
        }
        if status.is_success() {
            return Ok(bytes.freeze());
        }
        let reason = String::from_utf8_lossy(&bytes).into_owned();
        Err(EngineError::of_status(status.as_u16(), reason))
    };
    tokio::pin!(exchange);
    // The connection moves the bytes; it ends by itself only when the exchange cannot go on.
    tokio::select! {
        done = &mut exchange => done,
        _ended = connection => exchange.await,
    }
}
