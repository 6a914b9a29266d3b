//! What a run is given of the data, noted before it begins and compared when it is over.

use torno_oci::Digest;

use crate::{
    DataPlace, ExecutorError,
    engine::FoundVolume,
    fingerprint::{folders, look},
};

use super::{Life, prepare::Unready};

impl Life {
    /// Refuses data that is somewhere else than the configuration says: a link has come in between since that was read.
    /// The whole of a dataset may be where only the engine sees it; of a part it must be seen that it is one.
    pub(super) async fn check_data(&self) -> Result<(), Unready> {
        for dataset in &self.policy().datasets {
            let DataPlace::Folder(place) = dataset.seen() else { continue };
            let strayed = match tokio::fs::canonicalize(&place).await {
                Ok(real) if real == place => None,
                Ok(_) => Some("a link leads elsewhere".to_owned()),
                Err(error) => dataset.part.as_ref().map(|_| error.to_string()),
            };
            if let Some(reason) = strayed {
                return Err(self.without_data(&dataset.name, DataPlace::Folder(place), reason));
            }
        }
        Ok(())
    }

    /// The volumes that data is in. To an engine, a container with a volume that is not there is a wish for an empty one of
    /// that name: so this is asked before, and again when the container has been made and holds on to them.
    pub(super) async fn volumes(&self) -> Result<Vec<FoundVolume>, Unready> {
        let mut found = Vec::new();
        for dataset in self.policy().datasets {
            let DataPlace::Volume(name) = &dataset.place else { continue };
            let volume = self.site.engine.volume(name).await?;
            found.push(volume.ok_or_else(|| {
                self.without_data(
                    &dataset.name,
                    dataset.place.clone(),
                    "the engine has no such volume".into(),
                )
            })?);
        }
        Ok(found)
    }

    /// Refuses volumes that are others than those that were found before.
    pub(super) async fn check_volumes(&self, before: &[FoundVolume]) -> Result<(), Unready> {
        if self.volumes().await? == before {
            return Ok(());
        }
        tracing::error!(
            run = %self.run.id,
            "a run cannot be given its data: one of its volumes was removed, and the engine has made an empty one of that name"
        );
        Err(Unready::Ends(self.unfit()))
    }

    /// The end of a run whose data is not there.
    pub(super) fn without_data(&self, dataset: &str, place: DataPlace, reason: String) -> Unready {
        let error = ExecutorError::Dataset { dataset: dataset.to_owned(), place, reason };
        tracing::error!(run = %self.run.id, dataset, %error, "a run cannot be given its data");
        Unready::Ends(self.unfit())
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
