//! What goes on to its end though the client has gone away.
//!
//! A request is given up where it stands when its client hangs up. What stores something must not be: it would be stored
//! without its line in the record, and without its run being begun.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;

/// So many at once; further ones wait, and have done nothing yet. As many pushes share a commit and a sync, and whoever
/// pushes and hangs up again and again has no more than these under way.
const MAX: usize = 256;

/// How long they may take when the server stops. Storing what has arrived takes a few waits for the disk.
const DRAIN: Duration = Duration::from_secs(10);

/// Whatever is under way to its end; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Endings {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Default for Endings {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX)), tasks: TaskTracker::new() }
    }
}

impl Endings {
    /// Does something from its beginning to its end. Cancelled before it has a place, nothing of it is done; cancelled later,
    /// all of it.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Failure> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Failure::Unfinished)?;
        let task = self.tasks.spawn(async move {
            let done = work.await;
            drop(place);
            done
        });
        task.await.map_err(|_| Failure::Unfinished)
    }

    /// Waits until all that was begun has ended, for a bounded time. Nothing more begins.
    pub(crate) async fn drain(&self) {
        self.places.close();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("what was pushed was still being stored after {DRAIN:?} and was cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::poll;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn what_has_begun_ends_and_what_has_no_place_does_not_begin() {
        let endings = Endings::default();
        let (go_on, begun, ended) =
            (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = || {
            let (go_on, begun, ended) = (Arc::clone(&go_on), Arc::clone(&begun), Arc::clone(&ended));
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                go_on.notified().await;
                ended.fetch_add(1, Ordering::SeqCst);
            }
        };
        // Each is asked for and given up at once.
        for _ in 0..=MAX {
            let mut asked = Box::pin(endings.to_the_end(work()));
            assert!(poll!(asked.as_mut()).is_pending());
            // A task that asks for much without a pause is told to wait, place or not.
            tokio::task::yield_now().await;
        }
        while begun.load(Ordering::SeqCst) < MAX {
            tokio::task::yield_now().await;
        }
        assert_eq!(endings.tasks.len(), MAX, "one past it did not begin");
        while !endings.tasks.is_empty() {
            go_on.notify_waiters();
            tokio::task::yield_now().await;
        }
        endings.drain().await;
        assert_eq!((begun.load(Ordering::SeqCst), ended.load(Ordering::SeqCst)), (MAX, MAX));
        assert!(endings.to_the_end(async {}).await.is_err(), "nothing begins when the server has stopped");
    }
}
