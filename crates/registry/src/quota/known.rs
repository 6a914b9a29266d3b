//! What is known of what somebody keeps, and of what is on its way to them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use torno_oci::RepositoryName;

/// What was deleted, and what other processes do, is seen after this in any case.
const FRESH: Duration = Duration::from_mins(10);

/// What is known of what somebody keeps.
#[derive(Debug, Default)]
pub(super) struct Known {
    state: Mutex<State>,
    /// Held while it is counted. Nobody else waits for it.
    pub(super) counting: AsyncMutex<()>,
    /// Held while it is found out whether a new repository may be.
    pub(super) opening: AsyncMutex<()>,
}

#[derive(Debug, Default)]
struct State {
    estimate: Option<Estimate>,
    /// What was let in since this was made, in all.
    kept: u64,
    /// What is on its way in and was not kept before, as far as is known.
    coming: u64,
    /// What is on its way in and is kept already.
    again: u64,
    /// Repositories that pushes under way would make, and how many do.
    opened: BTreeMap<RepositoryName, usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    /// At least what is kept.
    pub(super) bytes: u64,
    /// When it was counted.
    pub(super) at: Instant,
}

/// Whether what comes was kept before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// It needs room beside all that is kept.
    New,
    /// It takes the place of what is kept. Until it has, it takes room all the same: as much as is allowed, at most.
    Again,
}

/// Bytes that are on their way to somebody, who has room for them. It ends with the value.
#[derive(Debug)]
pub(super) struct Room {
    known: Arc<Known>,
    coming: Coming,
    bytes: u64,
}

/// A repository that a push is about to make. It ends with the value.
#[derive(Debug)]
pub(super) struct Opening {
    known: Arc<Known>,
    name: RepositoryName,
}

/// When a count was begun, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    kept: u64,
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn estimate(&self) -> Option<Estimate> {
        self.state().estimate
    }

    /// What is kept and what is coming, as far as is known.
    pub(super) fn used(&self) -> u64 {
        let state = self.state();
        state.estimate.map_or(0, |estimate| estimate.bytes).saturating_add(state.coming)
    }

    pub(super) fn begin_counting(&self) -> Begun {
        Begun { kept: self.state().kept }
    }

    /// Notes what was counted. What was let in meanwhile may be in it or not, and is added.
    pub(super) fn set(&self, begun: Begun, bytes: u64) {
        let mut state = self.state();
        let meanwhile = state.kept.saturating_sub(begun.kept);
        state.estimate = Some(Estimate { bytes: bytes.saturating_add(meanwhile), at: Instant::now() });
    }

    /// The repositories that pushes under way would make, but for one.
    pub(super) fn opened_beside(&self, name: &RepositoryName) -> Vec<RepositoryName> {
        self.state().opened.keys().filter(|other| *other != name).cloned().collect()
    }
}

impl Room {
    pub(super) fn new(known: &Arc<Known>, coming: Coming) -> Self {
        Self { known: Arc::clone(known), coming, bytes: 0 }
    }

    /// Takes `more` bytes, if there is room for them by the estimate.
    pub(super) fn grow(&mut self, more: u64, allowed: u64) -> bool {
        let mut state = self.known.state();
        let (beside, coming) = match self.coming {
            Coming::Again => (0, &mut state.again),
            Coming::New => {
                let fresh = state.estimate.filter(|estimate| estimate.at.elapsed() < FRESH);
                let Some(estimate) = fresh else { return false };
                (estimate.bytes, &mut state.coming)
            }
        };
        let then = coming.saturating_add(more);
        if beside.saturating_add(then) > allowed {
            return false;
        }
        *coming = then;
        self.bytes += more;
        true
    }

    /// What came is kept from now on.
    pub(super) fn keep(self) {
        if self.coming == Coming::New {
            let mut state = self.known.state();
            state.kept = state.kept.saturating_add(self.bytes);
            if let Some(estimate) = &mut state.estimate {
                estimate.bytes = estimate.bytes.saturating_add(self.bytes);
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn known(&self) -> &Arc<Known> {
        &self.known
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut state = self.known.state();
        let coming = match self.coming {
            Coming::New => &mut state.coming,
            Coming::Again => &mut state.again,
        };
        *coming = coming.saturating_sub(self.bytes);
    }
}

impl Opening {
    pub(super) fn new(known: &Arc<Known>, name: &RepositoryName) -> Self {
        *known.state().opened.entry(name.clone()).or_default() += 1;
        Self { known: Arc::clone(known), name: name.clone() }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut state = self.known.state();
        if let Some(count) = state.opened.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.opened.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_together_has_room_together() {
        let known = Arc::new(Known::default());
        let mut first = Room::new(&known, Coming::New);
        assert!(!first.grow(1, 100), "nothing was counted yet");
        known.set(known.begin_counting(), 50);
        assert!(first.grow(30, 100));
        let mut second = Room::new(&known, Coming::New);
        assert!(!second.grow(21, 100) && second.grow(20, 100) && !second.grow(1, 100));
        drop(second);
        assert_eq!(known.used(), 80, "what did not come takes nothing");
        // What is let in while it is counted is not forgotten.
        let begun = known.begin_counting();
        first.keep();
        known.set(begun, 50);
        assert_eq!(known.used(), 80);
        let mut again = Room::new(&known, Coming::Again);
        assert!(again.grow(100, 100) && !again.grow(1, 100));
        assert_eq!(known.used(), 80);
        again.keep();
        assert_eq!(known.used(), 80);
    }
}
