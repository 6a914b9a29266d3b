//! Who is at work on a run: one at a time. Whoever makes or removes what the engine holds of a run has it in hand, so that
//! nobody takes away what another has just made.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;
use torno_oci::RunId;

/// The runs that somebody is at work on.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    taken: Mutex<BTreeSet<RunId>>,
    freed: Notify,
}

/// A run in somebody's hand, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hand {
    hands: Arc<Hands>,
    run: RunId,
}

impl Hands {
    /// Takes a run in hand unless somebody else has it.
    pub(crate) fn take(self: &Arc<Self>, run: RunId) -> Option<Hand> {
        let free = self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(run);
        free.then(|| Hand { hands: Arc::clone(self), run })
    }

    /// Takes a run in hand as soon as nobody else has it. Cancelled, it has taken nothing.
    pub(crate) async fn wait_for(self: &Arc<Self>, run: RunId) -> Hand {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look, so that nothing falls between that and the wait.
            freed.as_mut().enable();
            if let Some(hand) = self.take(run) {
                return hand;
            }
            freed.await;
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.hands.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
        self.hands.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_is_in_one_hand_at_a_time() {
        let hands = Arc::new(Hands::default());
        let run = |number| RunId::new(number).expect("a number");
        let first = hands.take(run(1)).expect("free");
        assert!(hands.take(run(1)).is_none());
        assert!(hands.take(run(2)).is_some(), "another is free, and free again");
        let waiting = tokio::spawn({
            let hands = Arc::clone(&hands);
            async move { hands.wait_for(run(1)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        let second = waiting.await.expect("no panic");
        assert!(hands.take(run(1)).is_none());
        drop(second);
        assert!(hands.take(run(1)).is_some());
    }
}
