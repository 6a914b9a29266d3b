//! Fingerprints of data, for whoever computes them and whoever asks what a run was given.

use torno_metadata::{DataFile, Fingerprint, RunData};
use torno_oci::{Digest, RunId};

use crate::{Registry, RegistryError};

impl Registry {
    /// Known files of a folder of data, in their order, behind `after`, at most `limit`.
    pub async fn data_files(
        &self,
        source: &str,
        after: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<DataFile>, RegistryError> {
        Ok(self.metadata.data_files(source, after, limit).await?)
    }

    /// Notes what was found in files, and which are there no more.
    pub async fn note_data_files(
        &self,
        source: &str,
        found: Vec<DataFile>,
        gone: Vec<Vec<u8>>,
    ) -> Result<(), RegistryError> {
        Ok(self.metadata.note_data_files(source, found, gone).await?)
    }

    /// Notes the fingerprint of a folder of data. Runs that were given it as it looked then have it from now on.
    pub async fn note_fingerprint(&self, source: &str, found: Fingerprint) -> Result<(), RegistryError> {
        Ok(self.metadata.note_fingerprint(source, found).await?)
    }

    /// The fingerprint of a folder of data that looks like this, if it is known.
    pub async fn fingerprint(
        &self,
        source: &str,
        stamp: &Digest,
    ) -> Result<Option<Fingerprint>, RegistryError> {
        Ok(self.metadata.fingerprint(source, stamp).await?)
    }

    /// The fingerprint of a folder of data that was known last.
    pub async fn last_fingerprint(&self, source: &str) -> Result<Option<Fingerprint>, RegistryError> {
        Ok(self.metadata.last_fingerprint(source).await?)
    }

    /// Notes what a run is about to be given; `stamp` is how the data looks, if that could be seen.
    pub async fn note_run_data(
        &self,
        run: RunId,
        dataset: &str,
        source: &str,
        stamp: Option<Digest>,
    ) -> Result<(), RegistryError> {
        Ok(self.metadata.note_run_data(run, dataset, source, stamp).await?)
    }

    /// Notes how a dataset looked when a run was over.
    pub async fn compare_run_data(
        &self,
        run: RunId,
        dataset: &str,
        stamp: &Digest,
    ) -> Result<(), RegistryError> {
        Ok(self.metadata.compare_run_data(run, dataset, stamp).await?)
    }

    /// What a run was given of each dataset.
    pub async fn run_data(&self, run: RunId) -> Result<Vec<RunData>, RegistryError> {
        Ok(self.metadata.run_data(run).await?)
    }
}
