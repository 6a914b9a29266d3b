//! What a run is given of the data, noted before it begins and compared when it is over.

use torno_oci::Digest;

use torno_registry::Outcome;

use crate::{
    ExecutorError,
    fingerprint::{folders, look},
};

use super::{Life, prepare::Unready};

impl Life {
    /// Refuses data that is somewhere else than the configuration says: a link has come in between since that was read.
    /// The whole of a dataset may be where only the engine sees it; of a part it must be seen that it is one.
    pub(super) async fn check_data(&self) -> Result<(), Unready> {
        for dataset in &self.policy().datasets {
            let place = dataset.place();
            let strayed = match tokio::fs::canonicalize(&place).await {
                Ok(real) if real == place => None,
                Ok(_) => Some("a link leads elsewhere".to_owned()),
                Err(error) => dataset.part.as_ref().map(|_| error.to_string()),
            };
            if let Some(reason) = strayed {
                let error = ExecutorError::Dataset { dataset: dataset.name.clone(), path: place, reason };
                tracing::error!(run = %self.run.id, dataset = dataset.name, %error, "a run cannot be given its data");
                return Err(Unready::Ends(Outcome::SiteFailure));
            }
        }
        Ok(())
    }

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
