//! The body of a request, with an end to how long it may stand still.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// What must come of a body in the time that it may stand still, in bytes. The slowest line brings more; who sends less
/// wants to keep a place for ever.
const LEAST: usize = 1024;

/// A body as it comes. It ends with an error where it stands still: in each span of `patience` that is spent waiting,
/// 1 KiB must come, or the end.
#[derive(Debug)]
pub(crate) struct Brought<B = Incoming> {
    body: B,
    patience: Duration,
    /// Since when the body is waited for, if it is.
    waiting: Option<Instant>,
    /// How long it was waited for before, and how many bytes that has brought; nothing of it once it was enough.
    waited: (Duration, usize),
    /// Wakes when that has been for too long. It is set again only when it is over, not with every piece.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Why a body has no end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BroughtError {
    #[error("the connection broke off")]
    CutOff(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Stalled(#[from] Stalled),
}

/// Nothing came of a body for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body stood still for {0:?}")]
pub(crate) struct Stalled(pub(crate) Duration);

impl<B> Brought<B> {
    pub(crate) fn new(body: B, patience: Duration) -> Self {
        Self { body, patience, waiting: None, waited: (Duration::ZERO, 0), alarm: None }
    }

    fn came(&mut self, bytes: usize) {
        let waited = self.waiting.take().map_or(Duration::ZERO, |since| since.elapsed());
        let (before, brought) = self.waited;
        let brought = brought.saturating_add(bytes);
        self.waited = if brought < LEAST { (before + waited, brought) } else { (Duration::ZERO, 0) };
    }

    /// Ready when the body has been waited for too long.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<Stalled> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let end = since + self.patience.saturating_sub(self.waited.0);
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(end)));
        ready!(alarm.as_mut().poll(context));
        // It was set for an earlier wait.
        while alarm.deadline() < end {
            alarm.as_mut().reset(end);
            ready!(alarm.as_mut().poll(context));
        }
        Poll::Ready(Stalled(self.patience))
    }
}

impl<B> Body for Brought<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = BroughtError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BroughtError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                self.came(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BroughtError::CutOff(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => self.poll_patience(context).map(|stalled| Some(Err(stalled.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::poll_fn};

    use futures_util::{Stream, StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const PATIENCE: Duration = Duration::from_mins(1);

    /// Pieces, each after a time.
    fn pieces(
        pieces: Vec<(u64, usize)>,
    ) -> Brought<StreamBody<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Unpin>> {
        let stream = stream::iter(pieces).then(|(seconds, length)| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok(Frame::data(vec![0; length].into()))
        });
        Brought::new(StreamBody::new(Box::pin(stream)), PATIENCE)
    }

    async fn length(body: impl Body<Data = Bytes, Error = BroughtError>) -> Result<usize, BroughtError> {
        body.collect().await.map(|body| body.to_bytes().len())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_but_steady_comes_to_its_end() {
        let steady = vec![(59, LEAST); 100];
        assert_eq!(length(pieces(steady)).await.expect("all of it"), 100 * LEAST);
        // Whatever the size of its pieces.
        let small = vec![(5, LEAST / 10); 1000];
        assert_eq!(length(pieces(small)).await.expect("all of it"), 1000 * (LEAST / 10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_or_trickles_is_an_error() {
        for bad in
            [vec![(61, LEAST)], vec![(0, 5000), (61, 1)], vec![(59, LEAST - 1), (59, 1)], vec![(1, 1); 62]]
        {
            let stalled = length(pieces(bad)).await;
            assert!(matches!(stalled, Err(BroughtError::Stalled(Stalled(PATIENCE)))), "{stalled:?}");
        }
    }

    /// A disk that is slow is not the client's fault.
    #[tokio::test(start_paused = true)]
    async fn only_waiting_counts() {
        let mut body = pieces(vec![(1, 10), (1, 10), (1, LEAST), (1, 10)]);
        let mut next = async || poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        for _ in 0..4 {
            next().await.expect("a piece").expect("it came");
            tokio::time::sleep(2 * PATIENCE).await;
        }
        assert!(next().await.is_none());
    }
}
