//! Work that one thread does for all who ask at the same time.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What waits to be done. Whoever adds to it while nobody is at work starts a thread that takes group after group until
/// nothing waits.
#[derive(Debug)]
pub struct Gatherer<T> {
    queue: Mutex<Queue<T>>,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: Vec<T>,
    /// A thread is at work and will look again before it goes.
    served: bool,
}

impl<T> Default for Gatherer<T> {
    fn default() -> Self {
        Self { queue: Mutex::new(Queue { waiting: Vec::new(), served: false }) }
    }
}

impl<T> Gatherer<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what waits; whether nobody is at work, so that whoever asks must see to it that
    /// [`Gatherer::next_group`] is called until there is none.
    #[must_use]
    pub fn push(&self, item: T) -> bool {
        let mut queue = self.lock();
        queue.waiting.push(item);
        !std::mem::replace(&mut queue.served, true)
    }

    /// All that waits; `None` when nothing does, and the one who asks is no longer at work.
    pub fn next_group(&self) -> Option<Vec<T>> {
        let mut queue = self.lock();
        queue.served = !queue.waiting.is_empty();
        queue.served.then(|| std::mem::take(&mut queue.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_group_starts_the_work() {
        let gatherer = Gatherer::default();
        assert!(gatherer.push(1));
        assert!(!gatherer.push(2));
        assert_eq!(gatherer.next_group(), Some(vec![1, 2]));
        assert!(!gatherer.push(3), "somebody is still at work");
        assert_eq!(gatherer.next_group(), Some(vec![3]));
        assert_eq!(gatherer.next_group(), None);
        assert!(gatherer.push(4));
    }
}
