//! Comparing everything that is stored: rows with files, files with rows, bytes with digests, and what is kept of
//! manifests with their bytes. All of it while the registry serves, in this or another process.
//!
//! What is found is looked at again before it is told, with the right to the files or at one moment of the database:
//! what is on its way in or out is no error.

mod blobs;
mod finding;
mod manifests;
mod position;
mod rows;

use std::{cell::RefCell, collections::BTreeSet, num::NonZeroUsize};

use torno_oci::Digest;

pub use finding::{Finding, Problem, Remedy};
pub use position::{Phase, Position};

use crate::{Registry, RegistryError, quarantine::USES};

/// What is done about what is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is told, and nothing changes.
    #[default]
    Look,
    /// What can be put right is; what cannot goes to quarantine.
    Repair,
}

/// Of which blobs the bytes are read. The files of the others are looked at without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    share: f64,
    seed: u32,
}

impl Sample {
    /// Of all.
    pub const ALL: Self = Self { share: 1.0, seed: 0 };

    /// Of so many in a hundred, others with each seed; `None` for a number outside 0 to 100.
    pub fn percent(percent: f64, seed: u32) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then_some(Self { share: percent / 100.0, seed })
    }

    /// Digests are as good as random.
    fn takes(self, blob: &Digest) -> bool {
        let part = blob.hex().get(8..16).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        f64::from(part.unwrap_or(0) ^ self.seed) < self.share * f64::from(u32::MAX) + 1.0 && self.share > 0.0
    }
}

/// How to verify.
#[derive(Clone, Debug)]
pub struct Verification {
    /// What is done about what is found.
    pub mode: Mode,
    /// Of which blobs the bytes are read.
    pub sample: Sample,
    /// Where to go on.
    pub from: Position,
    /// How many files are read at a time.
    pub threads: NonZeroUsize,
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum VerifyEvent<'a> {
    /// There are about so many blobs and bytes.
    All {
        /// Blobs.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// So many bytes have been read.
    Read(u64),
    /// A blob has been looked at whose other bytes, so many, are not read.
    Passed(u64),
    /// Something is wrong, or was.
    Found(&'a Finding),
    /// All before this has been looked at.
    At(&'a Position),
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs.
    pub blobs: u64,
    /// Bytes of blobs that were read.
    pub bytes: u64,
    /// Manifests.
    pub manifests: u64,
    /// Findings.
    pub findings: u64,
    /// How many of these are left.
    pub left: u64,
}

impl Registry {
    /// Looks at everything that is stored. With [`Mode::Look`] nothing changes; nor does it with [`Mode::Repair`] when
    /// all is well.
    ///
    /// Stopped anywhere, it can go on from the last [`VerifyEvent::At`].
    pub async fn verify(
        &self,
        how: Verification,
        tell: impl FnMut(VerifyEvent<'_>),
    ) -> Result<Verified, RegistryError> {
        let walk = Walk { registry: self, how, tell: RefCell::new(tell), state: RefCell::default() };
        walk.all().await?;
        Ok(walk.state.into_inner().verified)
    }
}

/// One verification. Many of its looks go on at once, in one task.
struct Walk<'a, F> {
    registry: &'a Registry,
    how: Verification,
    tell: RefCell<F>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    verified: Verified,
    /// What was put in quarantine, and has been told.
    put_aside: BTreeSet<Digest>,
}

impl<F: FnMut(VerifyEvent<'_>)> Walk<'_, F> {
    async fn all(&self) -> Result<(), RegistryError> {
        let (blobs, bytes) = self.registry.metadata.kept_in_all().await?;
        self.tell(VerifyEvent::All { blobs, bytes });
        let from = self.how.from.clone();
        for phase in Phase::ALL {
            let after = match phase.cmp(&from.phase) {
                std::cmp::Ordering::Less => continue,
                std::cmp::Ordering::Equal => from.after.as_str(),
                std::cmp::Ordering::Greater => "",
            };
            self.at(phase, after);
            match phase {
                Phase::Blobs => self.blobs(after).await?,
                Phase::Strays => self.strays().await?,
                Phase::Manifests => self.manifests(after).await?,
                Phase::Rows => {
                    self.journal().await?;
                    self.rows().await?;
                }
            }
        }
        Ok(())
    }

    fn tell(&self, event: VerifyEvent<'_>) {
        (self.tell.borrow_mut())(event);
    }

    fn at(&self, phase: Phase, after: &str) {
        self.tell(VerifyEvent::At(&Position { phase, after: after.to_owned() }));
    }

    fn is_repair(&self) -> bool {
        self.how.mode == Mode::Repair
    }

    /// What is to be done about something of which nothing but its digest is left.
    async fn found(&self, problem: Problem, remedy: Remedy) -> Result<(), RegistryError> {
        let used_by = match problem.digest() {
            Some(digest) => self.registry.metadata.uses(digest, USES).await?,
            None => Vec::new(),
        };
        let finding = Finding { problem, used_by, remedy };
        {
            let mut state = self.state.borrow_mut();
            state.verified.findings += 1;
            state.verified.left += u64::from(finding.is_left());
            if remedy == Remedy::PutAside {
                state.put_aside.extend(finding.problem.digest().cloned());
            }
        }
        self.tell(VerifyEvent::Found(&finding));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_about_as_large_as_was_asked_for_and_another_with_each_seed() {
        let digests: Vec<Digest> =
            (0..2000_u32).map(|number| Digest::sha256(&number.to_le_bytes())).collect();
        let taken = |sample: Sample| digests.iter().filter(|digest| sample.takes(digest)).collect::<Vec<_>>();
        assert_eq!(taken(Sample::ALL).len(), 2000);
        assert_eq!(taken(Sample::percent(100.0, 77).expect("all")).len(), 2000);
        assert_eq!(taken(Sample::percent(0.0, 7).expect("none")).len(), 0);
        let (one, other) = (Sample::percent(25.0, 1 << 30).expect("some"), Sample::percent(25.0, 1 << 31));
        assert!((400..600).contains(&taken(one).len()), "{}", taken(one).len());
        assert_ne!(taken(one), taken(other.expect("some")));
        for percent in [-0.1, 100.1, f64::NAN] {
            assert!(Sample::percent(percent, 0).is_none());
        }
    }
}
