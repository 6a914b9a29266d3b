//! Garbage collection, while the registry serves.

use std::time::Duration;

use jiff::Timestamp;
use torno_blob::FilesLock;
use torno_metadata::{Garbage, Sweep, Swept};
use torno_oci::Digest;

use crate::{Expired, Registry, RegistryError, Retention};

/// How long a blob that a push brought waits for its manifest before it is garbage: pushes of large images over
/// slow lines bring their manifest last.
pub const DEFAULT_GRACE: Duration = Duration::from_hours(1);

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Tags and manifests without one that retention let go of.
    pub expired: u64,
    /// Manifests forgotten.
    pub manifests: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Abandoned uploads removed.
    pub uploads: u64,
}

/// What happens in a collection.
#[derive(Clone, Copy, Debug)]
pub enum CollectionProgress<'a> {
    /// Retention let go of something.
    Expired(&'a Expired),
    /// A blob is gone.
    Removed(&'a Garbage),
    /// So many of what may be garbage have been looked at.
    LookedAt {
        /// How many.
        looked_at: u64,
        /// Of so many; what is found can lead to more.
        of: u64,
    },
}

impl Collected {
    fn add(&mut self, blobs: &[Garbage], progress: &mut impl FnMut(CollectionProgress<'_>)) {
        for garbage in blobs {
            self.blobs += 1;
            self.bytes += garbage.size;
            progress(CollectionProgress::Removed(garbage));
        }
    }
}

impl Registry {
    /// What [`Registry::collect`] would let go of and remove. Nothing changes.
    pub async fn garbage(
        &self,
        retention: &Retention,
        grace: Duration,
    ) -> Result<(Vec<Expired>, Swept), RegistryError> {
        self.release_dead().await?;
        let expired = self.expirable(retention).await?;
        let expiring = expired.iter().map(|one| one.what.clone()).collect();
        Ok((expired, self.metadata.sweepable(expiring, grace, Timestamp::now()).await?))
    }

    /// Lets go of what `retention` does not keep, and removes what nothing needs, beside pushes and pulls, in this or
    /// another process, and beside other collections. `progress` is told how it goes on.
    ///
    /// It works in small steps. Stopped anywhere, it leaves blobs that are `deleting`; the next collection, or a push of
    /// such a blob, goes on. On a disk that is full it uses the reserve.
    pub async fn collect(
        &self,
        retention: &Retention,
        grace: Duration,
        mut progress: impl FnMut(CollectionProgress<'_>),
    ) -> Result<Collected, RegistryError> {
        let mut collected = Collected { uploads: self.expire_uploads().await?, ..Collected::default() };
        self.release_dead().await?;
        for expired in self.expire(self.expirable(retention).await?).await? {
            collected.expired += 1;
            progress(CollectionProgress::Expired(&expired));
        }
        loop {
            let right = self.blobs.lock_files().await?;
            // What a collection that was stopped has left.
            let left = self.metadata.deleting().await?;
            if left.is_empty() {
                break;
            }
            self.remove(&left, &right).await?;
            collected.add(&left, &mut progress);
        }
        let (now, mut next) = (Timestamp::now(), Some(Sweep::default()));
        let mut looked_at = 0;
        let all = self.metadata.to_look_at(grace, now).await?;
        while let Some(from) = next {
            // Let go of after each step, so that pushes which want one of these blobs, or to put theirs in place, come
            // in between.
            let right = self.blobs.lock_files().await?;
            let sweep = || self.metadata.sweep(from, grace, now);
            let swept = self.even_when_full(sweep).await?;
            self.remove(&swept.blobs, &right).await?;
            drop(right);
            collected.manifests += swept.manifests;
            collected.add(&swept.blobs, &mut progress);
            looked_at += swept.looked_at;
            progress(CollectionProgress::LookedAt { of: all.max(looked_at), looked_at });
            next = swept.next;
        }
        // Pushes try it too; whoever looks at the disk after a collection need not wait for one.
        self.restore_reserve().await?;
        Ok(collected)
    }

    /// Removes the files of `deleting` blobs, and then their rows.
    async fn remove(&self, blobs: &[Garbage], right: &FilesLock) -> Result<(), RegistryError> {
        if blobs.is_empty() {
            return Ok(());
        }
        let digests: Vec<&Digest> = blobs.iter().map(|garbage| &garbage.blob).collect();
        self.record_removal(blobs).await?;
        self.blobs.remove(&digests, right).await?;
        let forget = || self.metadata.forget(digests.iter().map(|&digest| digest.clone()).collect());
        self.even_when_full(forget).await
    }

    /// Lets go of what processes held that have died.
    async fn release_dead(&self) -> Result<(), RegistryError> {
        let dead = self.blobs.dead_among(self.metadata.holders().await?).await?;
        let release = || self.metadata.release_all(dead.clone(), Timestamp::now());
        self.even_when_full(release).await
    }
}
