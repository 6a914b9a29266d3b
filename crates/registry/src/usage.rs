//! How much the registry holds.

use jiff::Timestamp;
use torno_blob::Uploads;
use torno_metadata::Usages;

use crate::{DEFAULT_GRACE, Registry, RegistryError};

/// What there is, whose it is, and what is on its way in or out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// What the repositories hold.
    pub held: Usages,
    /// What is on its way in.
    pub uploads: Uploads,
}

impl Registry {
    /// What there is and whose it is, for the admin. Garbage is what [`Registry::collect`] would remove with
    /// [`DEFAULT_GRACE`].
    pub async fn usage(&self) -> Result<DiskUsage, RegistryError> {
        let held = self.metadata.usage(DEFAULT_GRACE, Timestamp::now()).await?;
        Ok(DiskUsage { held, uploads: self.blobs.uploads().await? })
    }
}
