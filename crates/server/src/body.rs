//! Bodies of requests and answers.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{
    BodyExt as _, BodyStream, Empty, Full, Limited, StreamBody, combinators::UnsyncBoxBody,
};
use hyper::body::{Frame, Incoming};

use crate::failure::Failure;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn streamed(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures_util::TryStreamExt as _;
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

/// The data of a request's body as it comes; trailers are passed over.
pub(crate) fn chunks(body: Incoming) -> impl Stream<Item = Result<Bytes, hyper::Error>> + Unpin {
    use futures_util::StreamExt as _;
    Box::pin(BodyStream::new(body).filter_map(|frame| async {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }))
}

/// A whole body of at most `limit` bytes; [`Failure::TooLarge`] past that.
pub(crate) async fn collect(mut body: Incoming, limit: usize) -> Result<Vec<u8>, Failure> {
    match Limited::new(&mut body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes().into()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            drain(body).await;
            Err(Failure::TooLarge { limit })
        }
        Err(_) => Err(Failure::CutOff),
    }
}

/// Passes over the rest of a body: a client whose connection closes while it sends never reads why it was refused.
/// Cancelled, it leaves nothing behind.
async fn drain(mut body: Incoming) {
    /// More than anyone takes for a manifest by mistake; past it the connection just ends.
    const MAX: usize = 16 * 1024 * 1024;
    let mut left = MAX;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}
