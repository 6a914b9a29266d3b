//! How much is measured: the full form, and a short one that proves that the instrument works.

use std::time::Duration;

/// Sizes and counts of one form.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub(crate) name: &'static str,
    /// Rounds of which the median counts.
    pub(crate) rounds: usize,
    /// Bytes of the large blob.
    pub(crate) large: u64,
    /// Pulls of it in a round, one after the other: one alone takes a third of a second.
    pub(crate) pulls: u32,
    /// Bytes of a small blob.
    pub(crate) small: u64,
    /// How many different small blobs there are.
    pub(crate) small_blobs: u64,
    /// How long a round of many small requests takes.
    pub(crate) window: Duration,
    /// Requests of one page in a round.
    pub(crate) pages: usize,
    /// Tags of the large repository; a multiple of 100.
    pub(crate) tags: u64,
    /// Repositories of the large catalog.
    pub(crate) repositories: u64,
    /// Referrers of the manifest with many.
    pub(crate) referrers: u64,
    /// Images of the store that garbage is collected from; a multiple of 100.
    pub(crate) images: u64,
    /// Bytes of the large image that is run.
    pub(crate) ballast: u64,
    /// Pushes, and as many pulls, at once.
    pub(crate) parallel: usize,
}

/// What pages of many are compared with.
pub(crate) const FEW: u64 = 100;

const MIB: u64 = 1024 * 1024;

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            name: "full",
            rounds: 3,
            large: 1024 * MIB,
            pulls: 4,
            small: MIB,
            small_blobs: 256,
            window: Duration::from_secs(4),
            pages: 200,
            tags: 100_000,
            repositories: 10_000,
            referrers: 10_000,
            images: 100_000,
            ballast: 500_000_000,
            parallel: 8,
        }
    }

    pub(crate) fn short() -> Self {
        Self {
            name: "short",
            rounds: 1,
            large: 4 * MIB,
            pulls: 2,
            small: MIB / 4,
            small_blobs: 16,
            window: Duration::from_millis(200),
            pages: 5,
            tags: 300,
            repositories: 200,
            referrers: 200,
            images: 300,
            ballast: 4_000_000,
            parallel: 2,
        }
    }
}
