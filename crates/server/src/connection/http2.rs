//! HTTP/2 on one connection (RFC 9113): many requests at once, so more to watch than [`super::http1`].
//!
//! The `h2` crate bounds what single frames can do: the size of heads and the number of their continuations, resets of
//! requests nobody has looked at, errors, answers to pings and settings that the peer does not take. What goes on over
//! time is watched here, in [`Activity`].

use std::{
    collections::BTreeMap,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    rt::Executor,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Limits, ended, limits};
use crate::body::Body;

/// Requests under way at once on a connection. Clients pull and push a handful of layers at a time, and ask for more
/// when the first are done.
const STREAMS: u32 = 64;

/// What of a request's body may be on its way or wait to be looked at, in bytes: 20 MB/s at 50 ms of distance. It is
/// held in memory when a disk is slower than the network, so it is no more.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The same of all bodies of a connection together.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// What is prepared of an answer beyond what the peer takes, in bytes; pieces of blobs are as large.
const SEND_BUFFER: usize = 256 * 1024;

/// Requests that were cancelled before they were answered, beyond as many as were answered. A client that has changed its
/// mind cancels as many as it had under way; who cancels all the time wants work done that costs them nothing
/// (CVE-2023-44487).
const MAX_GIVEN_UP: u64 = 100;

/// How long a peer may take to leave by itself when the server stops and nothing of the peer's is under way.
const GOODBYE: Duration = Duration::from_secs(5);

/// Answers what is asked until the peer leaves, or until `stop` and the end of the requests under way, or until the peer
/// does not do its part. Cancelled, it cuts off what is under way.
pub(super) async fn serve<S, F>(
    stream: S,
    answer: impl Fn(Request<Incoming>) -> F,
    limits: &Limits,
    stop: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request| {
        let under_way = UnderWay::begin(&activity);
        let answered = answer(request);
        async move { Ok::<_, std::convert::Infallible>(under_way.answered(answered.await)) }
    });
    let mut connection = pin!(builder(limits).serve_connection(TokioIo::new(stream), service));
    let (mut leaving, mut rest) = (false, limits.header);
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => return ended(result),
            () = stop.cancelled(), if !leaving => rest = rest.min(GOODBYE),
            end = activity.watch(rest, limits.body) => match end {
                // What is left of answers may still be on its way; a peer that takes nothing of it is let go next time.
                End::Idle if !leaving => {}
                end => return tracing::debug!(?end, "a connection over HTTP/2 was closed"),
            },
        }
        leaving = true;
        activity.rest();
        connection.as_mut().graceful_shutdown();
    }
}

fn builder(limits: &Limits) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(Tasks::default());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(limits::HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        // A peer that has gone without a word is found out.
        .keep_alive_interval(limits.header)
        .keep_alive_timeout(limits.body);
    builder
}

/// Why a connection is closed that could go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing is asked.
    Idle,
    /// Of an answer nothing is taken.
    Stalled,
    /// Requests are cancelled again and again.
    Flooded,
}

/// What goes on on a connection.
#[derive(Debug, Default)]
struct Activity {
    state: Mutex<State>,
    flooded: Notify,
}

#[derive(Debug)]
struct State {
    next: u64,
    under_way: BTreeMap<u64, Turn>,
    /// Since when nothing is under way, if nothing is.
    resting: Instant,
    answered: u64,
    given_up: u64,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The answer is being found.
    Answering,
    /// A piece of the answer is being fetched.
    Fetching,
    /// The peer has not taken the last piece yet, since then.
    Sending(Instant),
}

impl Default for State {
    fn default() -> Self {
        Self { next: 0, under_way: BTreeMap::new(), resting: Instant::now(), answered: 0, given_up: 0 }
    }
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks now and then, until there is a reason to close the connection: nothing is asked for as long as `rest`, or of
    /// an answer nothing is taken for as long as `stall`. Cancelled, it has done nothing.
    async fn watch(&self, rest: Duration, stall: Duration) -> End {
        // Often enough that no time is passed by more than a quarter.
        let often = rest.min(stall) / 4;
        let mut look = tokio::time::interval(often.max(Duration::from_millis(1)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.flooded.notified() => return End::Flooded,
            }
            if let Some(end) = self.state().end(rest, stall, Instant::now()) {
                return end;
            }
        }
    }

    /// Lets the connection rest once more.
    fn rest(&self) {
        self.state().resting = Instant::now();
    }
}

impl State {
    fn end(&self, rest: Duration, stall: Duration, now: Instant) -> Option<End> {
        let since = |then: Instant| now.saturating_duration_since(then);
        let stalled = |turn: &Turn| matches!(turn, Turn::Sending(then) if since(*then) >= stall);
        if self.under_way.is_empty() {
            return (since(self.resting) >= rest).then_some(End::Idle);
        }
        self.under_way.values().any(stalled).then_some(End::Stalled)
    }
}

/// One request, from its head to the end of its answer or to its being cancelled.
#[derive(Debug)]
struct UnderWay {
    activity: Arc<Activity>,
    number: u64,
}

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> Self {
        let mut state = activity.state();
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number, Turn::Answering);
        Self { activity: Arc::clone(activity), number }
    }

    fn is(&self, turn: Turn) {
        self.activity.state().under_way.insert(self.number, turn);
    }

    fn answered(self, response: Response<Body>) -> Response<Sent> {
        self.is(Turn::Fetching);
        response.map(|body| Sent { body, under_way: self })
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        match state.under_way.remove(&self.number) {
            Some(Turn::Answering) => state.given_up += 1,
            Some(Turn::Fetching | Turn::Sending(_)) | None => state.answered += 1,
        }
        if state.under_way.is_empty() {
            state.resting = Instant::now();
        }
        if state.given_up > state.answered.saturating_add(MAX_GIVEN_UP) {
            self.activity.flooded.notify_one();
        }
    }
}

/// The body of an answer, which tells whose turn it is.
#[derive(Debug)]
struct Sent {
    body: Body,
    under_way: UnderWay,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        // Asked for the next piece only when the peer has room for it.
        self.under_way.is(if polled.is_pending() { Turn::Fetching } else { Turn::Sending(Instant::now()) });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The requests under way, each in a task. They end with the connection.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(30);
    const STALL: Duration = Duration::from_mins(1);

    fn end_after(activity: &Activity, time: Duration) -> Option<End> {
        activity.state().end(REST, STALL, Instant::now() + time)
    }

    #[tokio::test]
    async fn whose_turn_it_is_decides_who_waits() {
        let activity = Arc::new(Activity::default());
        assert_eq!(end_after(&activity, Duration::from_secs(29)), None);
        assert_eq!(end_after(&activity, Duration::from_secs(31)), Some(End::Idle));
        let long = Duration::from_hours(1);
        let one = UnderWay::begin(&activity);
        assert_eq!(end_after(&activity, long), None, "we take as long as we like");
        one.is(Turn::Fetching);
        assert_eq!(end_after(&activity, long), None);
        one.is(Turn::Sending(Instant::now()));
        assert_eq!(end_after(&activity, Duration::from_secs(59)), None);
        assert_eq!(end_after(&activity, Duration::from_secs(61)), Some(End::Stalled));
        drop(one);
        assert_eq!(end_after(&activity, Duration::from_secs(29)), None, "it rests from now on");
    }

    #[tokio::test]
    async fn only_who_cancels_all_the_time_is_let_go() {
        let activity = Arc::new(Activity::default());
        let finish = || drop(UnderWay::begin(&activity).answered(Response::new(crate::body::empty())));
        for _ in 0..MAX_GIVEN_UP {
            drop(UnderWay::begin(&activity));
        }
        finish();
        drop(UnderWay::begin(&activity));
        let flooded = tokio::time::timeout(Duration::ZERO, activity.flooded.notified());
        assert!(flooded.await.is_err(), "as many as were answered, and a hundred");
        drop(UnderWay::begin(&activity));
        activity.flooded.notified().await;
    }
}
