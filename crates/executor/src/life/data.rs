//! What a run is given of the data, noted before it begins and compared when it is over.

use torno_oci::Digest;

use crate::fingerprint::{folders, look};

use super::{Life, prepare::Unready};

impl Life {
    /// Notes how the data looks that the run is about to see. Data that cannot be looked at, as when the engine alone may
    /// read it, is noted as such.
    pub(super) async fn note_data(&self) -> Result<(), Unready> {
        for (dataset, folder) in folders(&self.policy()) {
            let stamp = match look(&folder.path).await {
                Ok((stamp, _)) => Some(stamp),
                Err(error) => {
                    tracing::warn!(run = %self.run.id, dataset, %error, "it cannot be told what a run is given");
                    None
                }
            };
            self.site.registry.note_run_data(self.run.id, &dataset, &folder.source, stamp).await?;
        }
        Ok(())
    }

    /// Notes whether the data still looks as it did.
    pub(super) async fn compare_data(&self) -> Result<(), crate::ExecutorError> {
        for (dataset, folder) in folders(&self.policy()) {
            // What cannot be looked at any more is not what it was.
            let stamp = match look(&folder.path).await {
                Ok((stamp, _)) => stamp,
                Err(error) => Digest::sha256(error.to_string().as_bytes()),
            };
            self.site.registry.compare_run_data(self.run.id, &dataset, &stamp).await?;
        }
        Ok(())
    }
}
