//! Answers kept in memory: whose a repository is, which manifest a tag or digest is, how large a blob is.
//!
//! Only what is there is kept, never that something is not. A write of this process forgets what it may have changed
//! after it is committed and before anybody is told so: whoever asks after a write was acknowledged sees it. What
//! another process (`torno gc`) takes away is seen after [`FRESH`].

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use quick_cache::{Weighter, sync::Cache as Answers};
use torno_oci::{Digest, Reference, RepositoryName, UserName};

use crate::StoredManifest;

/// How long an answer is good for without asking the database again, which a hot one can bear once in that time.
const FRESH: Duration = Duration::from_secs(1);

/// What all answers may have together, in bytes.
const CAPACITY: u64 = 16 * 1024 * 1024;

/// Answers expected at once; the cache grows from there.
const EXPECTED: usize = 1024;

/// Larger manifests are read from the database each time.
const MAX_MANIFEST: usize = 256 * 1024;

/// How many repositories share a generation at least: a write may forget the answers of some others too.
const GENERATIONS: usize = 1024;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Question {
    Owner(RepositoryName),
    Manifest(RepositoryName, Reference),
    BlobSize(RepositoryName, Digest),
}

/// Its answer.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Owner(UserName),
    Manifest(StoredManifest),
    BlobSize(u64),
}

/// Which answers a write makes untrue.
#[derive(Clone, Debug)]
pub(crate) enum Stale {
    /// None: it only adds what nobody has been told is there.
    None,
    /// Those of these repositories, but for whose they are.
    Of(Vec<RepositoryName>),
    /// Any.
    All,
}

/// When a question was asked, as far as writes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    generation: u64,
    at: Instant,
}

/// The answers of one process.
#[derive(Debug)]
pub(crate) struct Cache {
    answers: Answers<Question, (Moment, Answer), ByBytes>,
    /// A repository's counts the writes that may have changed something in it.
    generations: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            answers: Answers::with_weighter(EXPECTED, CAPACITY, ByBytes),
            generations: (0..GENERATIONS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Cache {
    /// An answer that is still good.
    pub(crate) fn recall(&self, question: &Question) -> Option<Answer> {
        let (then, answer) = self.answers.get(question)?;
        let good = then.generation == self.generation(question) && then.at.elapsed() < FRESH;
        good.then_some(answer)
    }

    /// The moment before the database is asked. What it answers is kept as of then, so a write that is committed
    /// meanwhile makes it worthless.
    pub(crate) fn moment(&self, question: &Question) -> Moment {
        Moment { generation: self.generation(question), at: Instant::now() }
    }

    /// Keeps an answer.
    pub(crate) fn keep(&self, question: Question, asked: Moment, answer: Answer) {
        if let Answer::Manifest(manifest) = &answer
            && manifest.bytes.len() > MAX_MANIFEST
        {
            return;
        }
        self.answers.insert(question, (asked, answer));
    }

    /// Takes a write into account that has just been committed.
    pub(crate) fn forget(&self, stale: &Stale) {
        match stale {
            Stale::None => {}
            Stale::Of(repositories) => {
                for slot in repositories.iter().filter_map(|name| self.slot(name, About::Content)) {
                    slot.fetch_add(1, Ordering::SeqCst);
                }
            }
            Stale::All => {
                for slot in &self.generations {
                    slot.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    fn slot(&self, repository: &RepositoryName, about: About) -> Option<&AtomicU64> {
        let hash = self.hasher.hash_one((repository, about));
        let number = usize::try_from(hash % GENERATIONS as u64).ok()?;
        self.generations.get(number)
    }

    fn generation(&self, question: &Question) -> u64 {
        let (repository, about) = match question {
            Question::Owner(name) => (name, About::Owner),
            Question::Manifest(name, _) | Question::BlobSize(name, _) => (name, About::Content),
        };
        self.slot(repository, about).map_or(0, |slot| slot.load(Ordering::SeqCst))
    }
}

/// What of a repository a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum About {
    /// Whose it is, which pushes do not change.
    Owner,
    /// What is in it.
    Content,
}

/// What an answer takes up in memory, nearly.
#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Question, (Moment, Answer)> for ByBytes {
    fn weight(&self, _: &Question, (_, answer): &(Moment, Answer)) -> u64 {
        /// Names, digests and the cache's own.
        const AROUND: u64 = 512;
        match answer {
            Answer::Owner(_) | Answer::BlobSize(_) => AROUND,
            Answer::Manifest(manifest) => AROUND + manifest.bytes.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner_of(name: &str) -> Question {
        Question::Owner(name.parse().expect("name"))
    }

    fn ada() -> Answer {
        Answer::Owner("ada".parse().expect("name"))
    }

    #[test]
    fn an_answer_is_good_until_a_write_of_its_repository() {
        let cache = Cache::default();
        let name: RepositoryName = "tools/x".parse().expect("name");
        let size = Question::BlobSize(name.clone(), Digest::sha256(b""));
        let keep = |question: &Question, answer| cache.keep(question.clone(), cache.moment(question), answer);
        assert!(cache.recall(&size).is_none());
        keep(&size, Answer::BlobSize(1));
        cache.forget(&Stale::None);
        assert!(cache.recall(&size).is_some());
        for stale in [Stale::Of(vec![name.clone()]), Stale::All] {
            keep(&size, Answer::BlobSize(1));
            assert!(cache.recall(&size).is_some());
            cache.forget(&stale);
            assert!(cache.recall(&size).is_none(), "{stale:?}");
        }
        let owner = owner_of("tools/x");
        keep(&owner, ada());
        cache.forget(&Stale::Of(vec![name]));
        assert!(cache.recall(&owner).is_some(), "a push does not change whose it is");
        cache.forget(&Stale::All);
        assert!(cache.recall(&owner).is_none());
    }

    #[test]
    fn what_was_read_before_a_write_and_kept_after_it_is_worthless() {
        let cache = Cache::default();
        let question = owner_of("tools/x");
        let before = cache.moment(&question);
        cache.forget(&Stale::All);
        cache.keep(question.clone(), before, ada());
        assert!(cache.recall(&question).is_none());
    }

    #[test]
    fn an_answer_gets_old() {
        let cache = Cache::default();
        let question = owner_of("tools/x");
        let mut before = cache.moment(&question);
        before.at = before.at.checked_sub(FRESH).expect("the machine runs for longer");
        cache.keep(question.clone(), before, ada());
        assert!(cache.recall(&question).is_none());
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let cache = Cache::default();
        let manifest = |size| {
            Answer::Manifest(StoredManifest {
                digest: Digest::sha256(b""),
                media_type: "application/x".parse().expect("type"),
                bytes: vec![0; size].into(),
            })
        };
        for number in 0..200 {
            let question = owner_of(&format!("tools/x{number}"));
            cache.keep(question.clone(), cache.moment(&question), manifest(MAX_MANIFEST));
        }
        assert!(cache.answers.weight() <= CAPACITY);
        let question = owner_of("tools/large");
        cache.keep(question.clone(), cache.moment(&question), manifest(MAX_MANIFEST + 1));
        assert!(cache.recall(&question).is_none());
    }
}
