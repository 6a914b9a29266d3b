//! What a campaign has found.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// An acknowledged push whose bytes are not there whole, or an acknowledged deletion that was undone.
    Lost,
    /// A link to bytes or rows that are not there.
    Dangling,
    /// What should be gone and is not: holds, temporary files, files and rows that nothing speaks of.
    Leaked,
}

/// All that was found, and how often each thing was done; shared by all threads.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    kills: u64,
    lost: u64,
    dangling: u64,
    leaked: u64,
    odd: u64,
    told: BTreeSet<String>,
    /// Answers by what was asked, `push 201` and the like.
    answers: BTreeMap<String, u64>,
}

impl Tally {
    /// Notes one thing that is wrong, and tells of it: once, though it may be found again after every kill.
    pub(crate) fn wrong(&self, what: Wrong, when: &str, detail: &str) {
        let mut counts = self.counts();
        if !counts.told.insert(detail.to_owned()) {
            return;
        }
        println!("{what:?}: {when}: {detail}");
        match what {
            Wrong::Lost => counts.lost += 1,
            Wrong::Dangling => counts.dangling += 1,
            Wrong::Leaked => counts.leaked += 1,
        }
    }

    /// Notes an answer that loses nothing and that nobody expects all the same.
    pub(crate) fn odd(&self, detail: impl fmt::Display) {
        println!("Odd: {detail}");
        self.counts().odd += 1;
    }

    /// Notes a kill.
    pub(crate) fn killed(&self) {
        self.counts().kills += 1;
    }

    /// Notes what was answered to what.
    pub(crate) fn answered(&self, what: &str, status: u16) {
        *self.counts().answers.entry(format!("{what} {status}")).or_default() += 1;
    }

    /// Whether nothing is wrong, and nothing was answered that nobody expects.
    pub(crate) fn is_clean(&self) -> bool {
        let Counts { lost, dangling, leaked, odd, .. } = *self.counts();
        lost == 0 && dangling == 0 && leaked == 0 && odd == 0
    }

    /// What was asked for and answered, on one line.
    pub(crate) fn answers(&self) -> String {
        let counts = self.counts();
        let answers: Vec<String> =
            counts.answers.iter().map(|(what, times)| format!("{what} ×{times}")).collect();
        format!("{}; {} odd", answers.join(", "), counts.odd)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { kills, lost, dangling, leaked, .. } = self.counts().clone();
        write!(formatter, "{kills} kills, {lost} lost, {dangling} dangling, {leaked} leaked")
    }
}
