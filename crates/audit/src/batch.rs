//! What waits to be written.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::{
    Actor, AuditError, Event,
    actor::{Text, Who},
    line::{Content, time},
};

/// How long what nobody waits for is gathered: so long a power cut may make it forgotten.
pub(crate) const GATHER: Duration = Duration::from_secs(1);

/// How many lines wait at most, of those that nobody waits for: some MiB of memory.
pub(crate) const MOST: usize = 16 * 1024;

/// Something to be recorded.
#[derive(Debug)]
pub(crate) struct Note {
    pub(crate) at: Timestamp,
    pub(crate) event: Event,
    pub(crate) actor: Actor,
    /// Tells who waits for it the number of its line.
    pub(crate) answer: Option<oneshot::Sender<Result<u64, AuditError>>>,
}

/// What is the same again and again.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Alike {
    event: Event,
    who: Arc<Who>,
}

/// How often it was.
#[derive(Debug)]
struct Tally {
    count: u64,
    first: Timestamp,
    last: Timestamp,
    request: Option<Text>,
}

/// A time in which not everything could be recorded.
#[derive(Clone, Copy, Debug)]
struct Gap {
    since: Timestamp,
    unrecorded: u64,
}

/// All that waits.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    notes: Vec<Note>,
    /// For how many of them somebody waits.
    asked: usize,
    tallies: HashMap<Alike, Tally>,
    gap: Option<Gap>,
    flushes: Vec<oneshot::Sender<Result<(), AuditError>>>,
    /// When what nobody waits for is to be written.
    due: Option<Instant>,
}

/// Whether whoever adds something has to wake the one who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Up,
    Not,
}

impl Batch {
    pub(crate) fn flush(&mut self, answer: oneshot::Sender<Result<(), AuditError>>) {
        self.flushes.push(answer);
    }

    pub(crate) fn note(&mut self, note: Note) -> Wake {
        if note.answer.is_some() {
            self.asked += 1;
            self.notes.push(note);
            return Wake::Up;
        }
        if self.notes.len() - self.asked < MOST {
            self.notes.push(note);
            self.gather()
        } else {
            self.lose(note.at)
        }
    }

    /// Whether so much waits that whoever has more should wait too.
    pub(crate) fn is_crowded(&self) -> bool {
        self.notes.len() > MOST / 2
    }

    /// Counts something; given back if it is new and there is no room.
    pub(crate) fn tally(&mut self, actor: &Actor, event: Event, now: Timestamp) -> Result<Wake, Event> {
        let room = self.tallies.len() < MOST;
        match self.tallies.entry(Alike { event, who: actor.who.clone() }) {
            Entry::Occupied(mut entry) => {
                let tally = entry.get_mut();
                tally.count += 1;
                tally.last = now;
            }
            Entry::Vacant(entry) if room => {
                entry.insert(Tally { count: 1, first: now, last: now, request: actor.request.clone() });
            }
            Entry::Vacant(entry) => return Err(entry.into_key().event),
        }
        Ok(self.gather())
    }

    /// Something was done that will not be recorded.
    pub(crate) fn lose(&mut self, at: Timestamp) -> Wake {
        self.gap.get_or_insert(Gap { since: at, unrecorded: 0 }).unrecorded += 1;
        self.gather()
    }

    fn gather(&mut self) -> Wake {
        if self.due.is_some() {
            return Wake::Not;
        }
        self.due = Some(Instant::now() + GATHER);
        Wake::Up
    }

    /// How long nothing need be written; `None`: until something is added.
    pub(crate) fn rest(&self) -> Option<Duration> {
        if self.asked == 0 && self.flushes.is_empty() {
            self.due.map(|due| due.saturating_duration_since(Instant::now()))
        } else {
            Some(Duration::ZERO)
        }
    }

    /// What is to be written now. Tallies go on growing until they are due.
    pub(crate) fn take(&mut self) -> Self {
        let is_due = self.due.is_some_and(|due| due <= Instant::now());
        if is_due || !self.flushes.is_empty() {
            return std::mem::take(self);
        }
        let (notes, asked) = (std::mem::take(&mut self.notes), std::mem::take(&mut self.asked));
        Self { notes, asked, ..Self::default() }
    }

    /// Everything, whether it is due or not.
    pub(crate) fn take_all(&mut self) -> Self {
        std::mem::take(self)
    }

    /// As lines, in the order in which it came; the number of the first.
    pub(crate) fn write(
        &self,
        write: impl FnOnce(&[Content<'_>]) -> Result<u64, AuditError>,
    ) -> Result<u64, AuditError> {
        let torno = Actor::torno();
        let gap = self.gap.map(|Gap { since, unrecorded }| Note {
            at: Timestamp::now(),
            event: Event::Gap { since: time(since), unrecorded },
            actor: torno,
            answer: None,
        });
        let notes = self.notes.iter().chain(&gap);
        let mut contents: Vec<Content<'_>> = notes
            .map(|Note { at, event, actor, .. }| Content { at: *at, event, actor, repeated: None })
            .collect();
        let tallied: Vec<(&Alike, &Tally, Actor)> = self
            .tallies
            .iter()
            .map(|(alike, tally)| {
                let actor = Actor { who: alike.who.clone(), request: tally.request.clone() };
                (alike, tally, actor)
            })
            .collect();
        let from = contents.len();
        contents.extend(tallied.iter().map(|(alike, tally, actor)| Content {
            at: tally.first,
            event: &alike.event,
            actor,
            repeated: (tally.count > 1).then_some((tally.count, tally.last)),
        }));
        if let Some(tallied) = contents.get_mut(from..) {
            tallied.sort_by_key(|content| content.at);
        }
        if contents.is_empty() { Ok(0) } else { write(&contents) }
    }

    /// Tells those who wait.
    pub(crate) fn written(self, first: u64) {
        for (note, seq) in self.notes.into_iter().zip(first..) {
            // Whoever asked may have gone away; the line stands all the same.
            let _ = note.answer.map(|answer| answer.send(Ok(seq)));
        }
        for answer in self.flushes {
            let _ = answer.send(Ok(()));
        }
    }

    /// Tells those who wait that it could not be written; the rest waits again, behind this.
    pub(crate) fn failed(self, error: &AuditError, rest: &mut Self) {
        for answer in self.flushes {
            let _ = answer.send(Err(error.clone()));
        }
        let now = Timestamp::now();
        let later = std::mem::take(&mut rest.notes);
        rest.asked = 0;
        for mut note in self.notes {
            // Who waited is told, and does not do it.
            match note.answer.take() {
                Some(answer) => drop(answer.send(Err(error.clone()))),
                None => rest.notes.push(note),
            }
        }
        for note in later {
            // It is due below.
            let _ = rest.note(note);
        }
        for (alike, tally) in self.tallies {
            let room = rest.tallies.len() < MOST;
            match rest.tallies.entry(alike) {
                Entry::Occupied(mut entry) => {
                    let again = entry.get_mut();
                    again.count += tally.count;
                    (again.first, again.request) = (tally.first, tally.request);
                }
                Entry::Vacant(entry) if room => drop(entry.insert(tally)),
                Entry::Vacant(_) => {
                    rest.gap.get_or_insert(Gap { since: tally.first, unrecorded: 0 }).unrecorded +=
                        tally.count;
                }
            }
        }
        let gap = rest.gap.get_or_insert(Gap { since: now, unrecorded: 0 });
        if let Some(earlier) = self.gap {
            gap.since = gap.since.min(earlier.since);
            gap.unrecorded += earlier.unrecorded;
        }
        rest.due = Some(Instant::now() + GATHER);
    }

    /// How many lines wait.
    pub(crate) fn len(&self) -> usize {
        self.notes.len() + self.tallies.len()
    }
}
