//! Quotas: whether somebody may keep more.
//!
//! What somebody keeps is counted in the database when they first push, and from then on estimated in memory, never too
//! low: whatever is pushed is added, shared or not. Only when the estimate leaves no room is it counted again, before
//! anybody is refused. So a push pays for quotas with a look into a table in memory.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use torno_auth::{Charged, PushPermit, Quota};
use torno_metadata::Account;
use torno_oci::Digest;

use crate::{Registry, RegistryError};

/// Counting looks at every link there is: so often at most for each, and only those wait for it who have no room.
const PAUSE: Duration = Duration::from_secs(1);

/// What was deleted, and what other processes do, is seen after this in any case.
const FRESH: Duration = Duration::from_mins(10);

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

/// What is known of what somebody keeps.
#[derive(Debug, Default)]
struct Known {
    estimate: Mutex<Option<Estimate>>,
    /// Held while it is counted. Nobody else waits for it.
    counting: AsyncMutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    /// At least what is kept, and what was let in since.
    bytes: u64,
    /// When it was counted.
    at: Instant,
}

impl Quotas {
    fn known(&self, charged: &Charged) -> Arc<Known> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(charged.clone()).or_default())
    }
}

impl Known {
    /// Lets in `size` bytes if there is room for them by the estimate.
    fn let_in(&self, size: u64, allowed: u64) -> bool {
        let mut estimate = self.estimate.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = estimate.as_mut().filter(|known| known.at.elapsed() < FRESH) else { return false };
        match known.bytes.checked_add(size).filter(|then| *then <= allowed) {
            Some(then) => {
                known.bytes = then;
                true
            }
            None => false,
        }
    }

    fn estimate(&self) -> Option<Estimate> {
        *self.estimate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, bytes: u64) {
        let mut estimate = self.estimate.lock().unwrap_or_else(PoisonError::into_inner);
        *estimate = Some(Estimate { bytes, at: Instant::now() });
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
    ) -> Result<(), RegistryError> {
        for (charged, quota) in self.policy().quotas(permit.repository(), permit.owner()) {
            self.charge_repository(permit, &charged, quota).await?;
            if let Some(allowed) = quota.bytes {
                self.charge_bytes(charged, allowed, content, size).await?;
            }
        }
        Ok(())
    }

    /// Two first pushes at the same moment may both find room for one.
    async fn charge_repository(
        &self,
        permit: &PushPermit,
        charged: &Charged,
        quota: Quota,
    ) -> Result<(), RegistryError> {
        let Some(allowed) = quota.repositories else { return Ok(()) };
        if self.metadata.owner(permit.repository()).await?.is_some() {
            return Ok(());
        }
        let used = self.metadata.count_repositories(account(charged)).await?;
        if used < allowed {
            return Ok(());
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
    ) -> Result<(), RegistryError> {
        let (known, began) = (self.quotas.known(&charged), Instant::now());
        if known.let_in(size, allowed) {
            return Ok(());
        }
        // What they keep already costs nothing, however little room there is.
        if self.metadata.is_charged(account(&charged), content).await? {
            return Ok(());
        }
        let _turn = known.counting.lock().await;
        // Whoever had the turn before may have counted what was there when this began.
        if known.estimate().is_none_or(|estimate| estimate.at < began) {
            if let Some(last) = known.estimate() {
                tokio::time::sleep_until(last.at + PAUSE).await;
            }
            known.set(self.metadata.charge(account(&charged)).await?.bytes);
        }
        if known.let_in(size, allowed) {
            return Ok(());
        }
        let used = known.estimate().map_or(0, |estimate| estimate.bytes);
        let over = OverQuota { charged, of: Of::Bytes, used, allowed, needed: size };
        Err(RegistryError::Quota(Box::new(over)))
    }
}

fn account(charged: &Charged) -> Account {
    match charged {
        Charged::User(name) => Account::Owner(name.clone()),
        Charged::Project(name) => Account::Project(name.clone()),
    }
}
