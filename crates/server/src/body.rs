//! Bodies of requests and answers.

mod brought;

use std::{error::Error, io};

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{
    BodyExt as _, BodyStream, Empty, Full, Limited, StreamBody, combinators::UnsyncBoxBody,
};
use hyper::body::Frame;

pub(crate) use brought::{Brought, BroughtError, Stalled};

use crate::failure::{Came, Failure};

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
pub(crate) fn chunks(body: Brought) -> impl Stream<Item = Result<Bytes, BroughtError>> + Unpin {
    use futures_util::StreamExt as _;
    Box::pin(BodyStream::new(body).filter_map(|frame| async {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }))
}

/// The data of a body that must have `announced` bytes. It ends with [`WrongLength`] where it turns out to have fewer
/// or more, after the bytes that were announced.
pub(crate) fn exactly(
    body: Brought,
    announced: u64,
) -> impl Stream<Item = Result<Bytes, Box<dyn Error + Send + Sync>>> + Unpin {
    /// What is left to come.
    enum Left<B> {
        Bytes(B, u64),
        /// Nothing, and yet there was more.
        TooMany,
        Nothing,
    }
    use futures_util::StreamExt as _;
    let start = Left::Bytes(chunks(body), announced);
    Box::pin(futures_util::stream::unfold(start, move |left| async move {
        let (mut body, left) = match left {
            Left::Bytes(body, left) => (body, left),
            Left::TooMany => return Some((Err(WrongLength(Came::More).into()), Left::Nothing)),
            Left::Nothing => return None,
        };
        Some(match body.next().await {
            Some(Ok(chunk)) if chunk.len() as u64 <= left => {
                let left = left - chunk.len() as u64;
                (Ok(chunk), Left::Bytes(body, left))
            }
            Some(Ok(mut chunk)) => {
                chunk.truncate(usize::try_from(left).unwrap_or(chunk.len()));
                (Ok(chunk), Left::TooMany)
            }
            Some(Err(error)) => (Err(error.into()), Left::Nothing),
            None if left == 0 => return None,
            None => (Err(WrongLength(Came::Exactly(announced - left)).into()), Left::Nothing),
        })
    }))
}

/// A body has another length than its range.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body does not have the length of its range")]
pub(crate) struct WrongLength(pub(crate) Came);

/// A whole body of at most `limit` bytes; [`Failure::TooLarge`] past that.
pub(crate) async fn collect(mut body: Brought, limit: usize) -> Result<Vec<u8>, Failure> {
    match Limited::new(&mut body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes().into()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            drain(body).await;
            Err(Failure::TooLarge { limit })
        }
        Err(error) => Err(stalled(&*error).map_or(Failure::CutOff, Failure::Stalled)),
    }
}

/// Whether this is why a body has no end: it stood still.
pub(crate) fn stalled(error: &(dyn Error + Send + Sync + 'static)) -> Option<Stalled> {
    match error.downcast_ref() {
        Some(BroughtError::Stalled(stalled)) => Some(*stalled),
        Some(BroughtError::CutOff(_)) | None => None,
    }
}

/// Passes over the rest of a body: a client whose connection closes while it sends never reads why it was refused.
/// Cancelled, it leaves nothing behind.
async fn drain(mut body: Brought) {
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
