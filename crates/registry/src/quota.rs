//! Quotas: whether somebody may keep more.
//!
//! What somebody keeps is counted in the database when they first push, and from then on estimated in memory, never too
//! low: whatever is pushed is added, shared or not. Only when the estimate leaves no room is it counted again, before
//! anybody is refused. So a push pays for quotas with a look into a table in memory. What is under way counts as if it
//! were kept, so that many pushes at once find no more room than one.

mod known;
mod uploads;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use tokio::time::Instant;
use torno_auth::{Charged, PushPermit, Quota};
use torno_metadata::Account;
use torno_oci::Digest;

use crate::{Registry, RegistryError};

use known::{Coming, Known, Opening, Room};
pub(crate) use uploads::Uploads;

/// Counting looks at every link there is: so often at most for each, and only those wait for it who have no room.
const PAUSE: Duration = Duration::from_secs(1);

/// Why somebody may keep no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverQuota {
    /// Who.
    charged: Charged,
    /// Of what.
    of: Of,
    /// How much they keep.
    used: u64,
    /// How much they may.
    allowed: u64,
    /// How much more the push needs.
    needed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Bytes,
    Repositories,
}

impl std::error::Error for OverQuota {}

impl fmt::Display for OverQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.charged {
            Charged::User(name) => write!(f, "{name} has")?,
            Charged::Project(name) => write!(f, "project `{name}` has")?,
        }
        let size = |bytes: u64| ByteSize::b(bytes).display().iec();
        match self.of {
            Of::Bytes => write!(
                f,
                " used {} of the {} allowed here, and this push needs {} more",
                size(self.used),
                size(self.allowed),
                size(self.needed)
            )?,
            Of::Repositories => {
                write!(f, " {} of the {} repositories allowed here", self.used, self.allowed)?;
            }
        }
        f.write_str("; delete what is not needed any more, or ask whoever runs this site for more")
    }
}

/// What is known of what everybody keeps.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<Charged, Arc<Known>>>);

/// Room that a push has been given. What it brings is kept once it says so; dropped before, it takes nothing.
#[derive(Debug, Default)]
#[must_use]
pub(crate) struct Granted {
    rooms: Vec<Room>,
    openings: Vec<Opening>,
}

impl Granted {
    /// The push has brought what it was to bring.
    pub(crate) fn keep(self) {
        self.rooms.into_iter().for_each(Room::keep);
    }
}

impl Quotas {
    fn known(&self, charged: &Charged) -> Arc<Known> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(charged.clone()).or_default())
    }
}

impl Registry {
    /// Whether a push to a repository is charged to anybody.
    pub(crate) fn is_charged(&self, permit: &PushPermit) -> bool {
        !self.policy().quotas(permit.repository(), permit.owner()).is_empty()
    }

    /// Lets somebody keep a blob or manifest of `size` bytes, or says why not.
    pub(crate) async fn charge(
        &self,
        permit: &PushPermit,
        content: &Digest,
        size: u64,
    ) -> Result<Granted, RegistryError> {
        let mut granted = Granted::default();
        for (charged, quota) in self.policy().quotas(permit.repository(), permit.owner()) {
            granted.openings.extend(self.charge_repository(permit, &charged, quota).await?);
            if let Some(allowed) = quota.bytes {
                granted.rooms.extend(self.charge_bytes(charged, allowed, content, size).await?);
            }
        }
        Ok(granted)
    }

    async fn charge_repository(
        &self,
        permit: &PushPermit,
        charged: &Charged,
        quota: Quota,
    ) -> Result<Option<Opening>, RegistryError> {
        let Some(allowed) = quota.repositories else { return Ok(None) };
        if self.metadata.owner(permit.repository()).await?.is_some() {
            return Ok(None);
        }
        let known = self.quotas.known(charged);
        // One after the other, so that the second first push knows of the first.
        let _turn = known.opening.lock().await;
        // Those that pushes under way make may be there by now or not: they count once.
        let opened = known.opened_beside(permit.repository());
        let used = opened.len() as u64 + self.metadata.count_repositories(account(charged), opened).await?;
        if used < allowed {
            return Ok(Some(Opening::new(&known, permit.repository())));
        }
        let charged = charged.clone();
        Err(RegistryError::Quota(Box::new(OverQuota {
            charged,
            of: Of::Repositories,
            used,
            allowed,
            needed: 1,
        })))
    }

    async fn charge_bytes(
        &self,
        charged: Charged,
        allowed: u64,
        content: &Digest,
        size: u64,
    ) -> Result<Option<Room>, RegistryError> {
        let (known, began) = (self.quotas.known(&charged), Instant::now());
        let mut room = Room::new(&known, Coming::New);
        if room.grow(size, allowed) {
            return Ok(Some(room));
        }
        // What they keep already costs nothing, however little room there is.
        if self.metadata.is_charged(account(&charged), content).await? {
            return Ok(None);
        }
        self.count(&known, account(&charged), began).await?;
        if room.grow(size, allowed) {
            return Ok(Some(room));
        }
        let over = OverQuota { charged, of: Of::Bytes, used: known.used(), allowed, needed: size };
        Err(RegistryError::Quota(Box::new(over)))
    }

    /// Counts what somebody keeps, unless that was done since `began`.
    async fn count(&self, known: &Known, account: Account, began: Instant) -> Result<(), RegistryError> {
        let _turn = known.counting.lock().await;
        // Whoever had the turn before may have counted what was there when this began.
        if known.estimate().is_none_or(|estimate| estimate.at < began) {
            if let Some(last) = known.estimate() {
                tokio::time::sleep_until(last.at + PAUSE).await;
            }
            let moment = known.begin_counting();
            known.set(moment, self.metadata.charge(account).await?.bytes);
        }
        Ok(())
    }
}

pub(crate) fn account(charged: &Charged) -> Account {
    match charged {
        Charged::User(name) => Account::Owner(name.clone()),
        Charged::Project(name) => Account::Project(name.clone()),
    }
}
