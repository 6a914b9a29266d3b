//! How often somebody may be wrong.
//!
//! Attempts are counted per person and per address just before they are made, one after the other, and given back when they
//! were right: many wrong ones at once do not slip through, and many right ones at once are none too many. Whoever has logged in from an address before is counted by both together: a flood
//! of wrong passwords for their name from elsewhere, or from their address for other names, does not touch them.
//!
//! Memory is fixed: counters are found by a keyed hash, and the few who share one share its limit. So there is nothing
//! to fill up, and a name that nobody has is counted like any other.

use std::{
    hash::{BuildHasher as _, Hash, RandomState},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;
use torno_oci::UserName;

/// Wrong attempts in a row: somebody who tries all the passwords they have.
pub(crate) const BURST: u32 = 20;

/// After those, one attempt in so long. A guesser gets 10,000 a day, which no password but the very worst falls to.
pub(crate) const INTERVAL: Duration = Duration::from_secs(8);

/// Counters of each kind. A site has fewer people than this, and an attacker who has more addresses slows down those
/// only who log in for the first time.
const COUNTERS: usize = 1 << 14;

/// Pairs of person and address that are remembered to be right.
const KNOWN: usize = 10_000;

/// Counts attempts to log in.
pub(crate) struct Throttle {
    start: Instant,
    hasher: RandomState,
    users: Counters,
    addresses: Counters,
    pairs: Counters,
    known: Mutex<Cache<(UserName, IpAddr), ()>>,
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Throttle")
    }
}

/// An attempt that was let through, which is counted as a wrong one unless it turns out to be right.
#[derive(Debug)]
pub(crate) struct Attempt {
    user: UserName,
    address: IpAddr,
    known: Known,
}

/// Whether somebody has logged in from an address before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Yes,
    No,
}

impl Throttle {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            hasher: RandomState::new(),
            users: Counters::new(),
            addresses: Counters::new(),
            pairs: Counters::new(),
            known: Mutex::new(Cache::new(KNOWN)),
        }
    }

    /// Whether somebody has logged in from an address before.
    pub(crate) fn known(&self, user: &UserName, address: IpAddr) -> Known {
        let pair = (user.clone(), network(address));
        match self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&pair) {
            Some(()) => Known::Yes,
            None => Known::No,
        }
    }

    /// Says how long to wait before an attempt, if that is known already; counts nothing.
    pub(crate) fn look(&self, user: &UserName, address: IpAddr, now: Instant) -> Result<(), Duration> {
        self.admit(user, address, now).map(|attempt| self.unmade(&attempt))
    }

    /// Lets an attempt through and counts it, or says how long to wait.
    pub(crate) fn admit(&self, user: &UserName, address: IpAddr, now: Instant) -> Result<Attempt, Duration> {
        let known = self.known(user, address);
        let address = network(address);
        let pair = (user.clone(), address);
        let now = now.saturating_duration_since(self.start);
        match known {
            Known::Yes => self.pairs.take(self.place(&pair), now)?,
            Known::No => {
                let (by_user, by_address) = (self.place(user), self.place(&address));
                self.addresses.take(by_address, now)?;
                if let Err(wait) = self.users.take(by_user, now) {
                    self.addresses.give_back(by_address);
                    return Err(wait);
                }
            }
        }
        Ok(Attempt { user: pair.0, address, known })
    }

    /// The attempt was right.
    pub(crate) fn right(&self, attempt: Attempt) {
        self.unmade(&attempt);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((attempt.user, attempt.address), ());
    }

    /// The attempt was not made after all.
    pub(crate) fn unmade(&self, attempt: &Attempt) {
        match attempt.known {
            Known::Yes => self.pairs.give_back(self.place(&(&attempt.user, attempt.address))),
            Known::No => {
                self.addresses.give_back(self.place(&attempt.address));
                self.users.give_back(self.place(&attempt.user));
            }
        }
    }

    fn place(&self, key: &impl Hash) -> usize {
        usize::try_from(self.hasher.hash_one(key) % COUNTERS as u64).unwrap_or_default()
    }
}

/// The networks that one customer is given have 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Counters that empty by one each [`INTERVAL`]. Each holds the moment at which it will be empty, in nanoseconds.
struct Counters(Box<[AtomicU64]>);

impl Counters {
    fn new() -> Self {
        Self((0..COUNTERS).map(|_| AtomicU64::new(0)).collect())
    }

    /// Adds one, or says how long it takes until there is room.
    fn take(&self, place: usize, now: Duration) -> Result<(), Duration> {
        let Some(counter) = self.0.get(place) else { return Ok(()) };
        let (now, interval) = (nanos(now), nanos(INTERVAL));
        let full = now + u64::from(BURST) * interval;
        let next = |empty: u64| {
            let next = empty.max(now) + interval;
            (next <= full).then_some(next)
        };
        match counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(empty) => Err(Duration::from_nanos((empty.max(now) + interval).saturating_sub(full))),
        }
    }

    fn give_back(&self, place: usize) {
        if let Some(counter) = self.0.get(place) {
            let less = |empty: u64| Some(empty.saturating_sub(nanos(INTERVAL)));
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// A time since the start, which is never as long as 584 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        name.parse().expect("name")
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn so_many_attempts_and_then_one_at_a_time() {
        let now = Instant::now();
        let throttle = Throttle::new(now);
        for _ in 0..BURST {
            throttle.admit(&user("ada"), address(1), now).expect("within the burst");
        }
        let wait = throttle.admit(&user("ada"), address(1), now).expect_err("one past it");
        assert_eq!(wait, INTERVAL);
        let later = now + INTERVAL;
        throttle.admit(&user("ada"), address(1), later).expect("one more, later");
        throttle.admit(&user("ada"), address(1), later).expect_err("and no other");
    }

    #[test]
    fn right_attempts_do_not_count() {
        let now = Instant::now();
        let throttle = Throttle::new(now);
        for _ in 0..3 * BURST {
            let attempt = throttle.admit(&user("ada"), address(1), now).expect("admitted");
            throttle.right(attempt);
        }
    }

    #[test]
    fn a_flood_for_a_name_does_not_touch_who_is_known() {
        let now = Instant::now();
        let throttle = Throttle::new(now);
        throttle.right(throttle.admit(&user("ada"), address(1), now).expect("first"));
        // From many addresses for her name, and from hers for many names.
        for last in 0..=u8::MAX {
            let _ = throttle.admit(&user("ada"), address(last), now);
            let _ = throttle.admit(&user(&format!("u{last}")), address(1), now);
        }
        throttle.admit(&user("ada"), address(9), now).expect_err("a stranger with her name");
        throttle.admit(&user("bob"), address(1), now).expect_err("another from her address");
        // The flood from her own address counted her once as well.
        throttle.admit(&user("ada"), address(1), now).expect("herself");
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let now = Instant::now();
        let throttle = Throttle::new(now);
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 1, 2, 0, 0, 0, last]);
        for last in 0..BURST {
            let last = u16::try_from(last).expect("small");
            throttle.admit(&user(&format!("u{last}")), v6(last), now).expect("within the burst");
        }
        throttle.admit(&user("eve"), v6(999), now).expect_err("the same network");
    }
}
