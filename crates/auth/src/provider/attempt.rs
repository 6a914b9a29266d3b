//! Logins that somebody has been sent to the provider for.
//!
//! Nothing is kept of one until it comes back, so that beginning many fills nothing: its secrets are made of its name
//! with a key that only this process has. What is kept are those that came back, so that none does twice.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::hmac;
use sha2::{Digest as _, Sha256};

/// How long somebody may take at the provider.
const LIFETIME: Duration = Duration::from_mins(10);

/// Attempts that have come back and are remembered; past it no more come back until some are too old to.
const MAX_USED: usize = 10_000;

/// Bytes of a name that are random.
const RANDOM: usize = 16;

/// Makes attempts and knows its own.
pub struct Attempts {
    key: hmac::Key,
    used: Mutex<HashMap<[u8; RANDOM], SystemTime>>,
}

/// What belongs to one attempt.
#[derive(Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its name, which travels through the browser.
    pub state: String,
    /// What the ID token must hold.
    pub nonce: String,
    /// What proves to the provider that who asks for the token also began the attempt (RFC 7636).
    pub verifier: String,
}

impl std::fmt::Debug for Attempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attempts")
    }
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Attempt")
    }
}

impl Attempt {
    /// What is shown of the verifier when the attempt begins: its hash (RFC 7636, section 4.2).
    pub fn challenge(&self) -> [u8; 32] {
        Sha256::digest(&self.verifier).into()
    }
}

impl Attempts {
    /// With a key of their own.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), used: Mutex::default() })
    }

    /// A new one.
    pub fn begin(&self, now: SystemTime) -> Result<Attempt, getrandom::Error> {
        let mut random = [0; RANDOM];
        getrandom::fill(&mut random)?;
        Ok(self.attempt(random, seconds(now)))
    }

    /// The one of this name that has come back, the first time and in time.
    pub fn end(&self, state: &str, now: SystemTime) -> Option<Attempt> {
        let mut bytes = [0; RANDOM + 8 + 32];
        hex::decode_to_slice(state, &mut bytes).ok()?;
        let (name, tag) = bytes.split_at(RANDOM + 8);
        hmac::verify(&self.key, &purposed("state", name), tag).ok()?;
        let (random, begun) = name.split_at(RANDOM);
        let (random, begun) = (random.try_into().ok()?, u64::from_be_bytes(begun.try_into().ok()?));
        let age = seconds(now).checked_sub(begun)?;
        if age >= LIFETIME.as_secs() {
            return None;
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= MAX_USED {
            used.retain(|_, at| now.duration_since(*at).is_ok_and(|age| age <= LIFETIME));
        }
        if used.len() >= MAX_USED || used.insert(random, now).is_some() {
            return None;
        }
        Some(self.attempt(random, begun))
    }

    fn attempt(&self, random: [u8; RANDOM], begun: u64) -> Attempt {
        let name = [&random[..], &begun.to_be_bytes()].concat();
        let made = |purpose| hex::encode(hmac::sign(&self.key, &purposed(purpose, &name)));
        let state = hex::encode(&name) + &made("state");
        Attempt { state, nonce: made("nonce"), verifier: made("verifier") }
    }
}

/// What is made of a name for one purpose says nothing of what is made of it for another.
fn purposed(purpose: &str, name: &[u8]) -> Vec<u8> {
    [purpose.as_bytes(), b"\0", name].concat()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_comes_back_once_and_in_time() {
        let (ours, theirs) = (Attempts::new().expect("random"), Attempts::new().expect("random"));
        let now = SystemTime::now();
        let begun = ours.begin(now).expect("random");
        assert!(theirs.end(&begun.state, now).is_none(), "of another process");
        let mut forged = begun.state.clone();
        forged.replace_range(..1, if forged.starts_with('0') { "1" } else { "0" });
        for bad in ["", "00", &forged, &begun.state[1..]] {
            assert!(ours.end(bad, now).is_none(), "{bad}");
        }
        assert!(ours.end(&begun.state, now - Duration::from_secs(2)).is_none(), "from the future");
        assert!(ours.end(&begun.state, now + LIFETIME).is_none(), "too late");
        let late = now + LIFETIME - Duration::from_secs(1);
        assert_eq!(ours.end(&begun.state, late).as_ref(), Some(&begun));
        assert!(ours.end(&begun.state, late).is_none(), "the second time");
        let other = ours.begin(now).expect("random");
        assert!(
            other.nonce != begun.nonce && other.verifier != begun.verifier && other.nonce != other.verifier
        );
    }

    #[test]
    fn what_came_back_is_remembered_within_a_bound() {
        let ours = Attempts::new().expect("random");
        let now = SystemTime::now();
        for _ in 0..MAX_USED {
            let begun = ours.begin(now).expect("random");
            assert!(ours.end(&begun.state, now).is_some());
        }
        let later = now + LIFETIME + Duration::from_secs(1);
        let begun = |at| ours.begin(at).expect("random").state;
        assert!(ours.end(&begun(now), now).is_none(), "one past it");
        assert!(ours.end(&begun(later), later).is_some(), "the others are too old");
        assert!(ours.used.lock().expect("lock").len() < 3);
    }
}
