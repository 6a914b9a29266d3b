//! Garbage collection, while the registry serves.

use std::time::Duration;

use jiff::Timestamp;
use torno_metadata::{Garbage, Swept};

use crate::{Registry, RegistryError};

/// How long a blob that a push brought waits for its manifest before it is garbage: pushes of large images over
/// slow lines bring their manifest last.
pub const DEFAULT_GRACE: Duration = Duration::from_hours(1);

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests forgotten.
    pub manifests: u64,
    /// Blobs removed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Abandoned uploads removed.
    pub uploads: u64,
}

impl Registry {
    /// What [`Registry::collect`] would remove. Nothing changes.
    pub async fn garbage(&self, grace: Duration) -> Result<Swept, RegistryError> {
        Ok(self.metadata.sweepable(grace, Timestamp::now()).await?)
    }

    /// Removes what nothing needs, beside pushes and pulls, in this or another process. `progress` is told of all
    /// that was found, and then of each blob when it is gone.
    ///
    /// Stopped anywhere, it leaves blobs that are `deleting`; the next collection, or a push of such a blob, goes on.
    pub async fn collect(
        &self,
        grace: Duration,
        mut progress: impl FnMut(&[Garbage], Option<&Garbage>),
    ) -> Result<Collected, RegistryError> {
        let right = self.blobs.lock_files().await?;
        let mut collected = Collected { uploads: self.expire_uploads().await?, ..Collected::default() };
        let swept = self.metadata.sweep(grace, Timestamp::now()).await?;
        collected.manifests = swept.manifests;
        progress(&swept.blobs, None);
        for garbage in &swept.blobs {
            self.blobs.remove(&garbage.blob, &right).await?;
            self.metadata.forget(&garbage.blob).await?;
            collected.blobs += 1;
            collected.bytes += garbage.size;
            progress(&swept.blobs, Some(garbage));
        }
        Ok(collected)
    }
}
