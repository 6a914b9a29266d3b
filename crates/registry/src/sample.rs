//! Samples of datasets: published and withdrawn by whoever has the folders, pulled like any image.

use jiff::{SignedDuration, Timestamp};
use torno_audit::Event;
use torno_auth::PushPermit;
use torno_metadata::{Among, StoredManifest};
use torno_oci::{DatasetName, Namespace, Reference, RepositoryName, Tag};

use crate::{Publication, Registry, RegistryError};

/// How long a sample stays that another has taken the place of: pulls that have begun go on.
const SUPERSEDED: SignedDuration = SignedDuration::from_hours(24);

impl Registry {
    /// The sample of a dataset as it is published now.
    pub async fn sample(&self, dataset: &DatasetName) -> Result<Option<StoredManifest>, RegistryError> {
        let (repository, reference) =
            (PushPermit::sample(dataset).repository().clone(), Reference::Tag(tag()?));
        self.quarantine.manifest(self.metadata.manifest(&repository, &reference).await).await
    }

    /// Publishes a sample whose blobs have been pushed. Those before it go after a day.
    pub async fn publish_sample(
        &self,
        dataset: &DatasetName,
        sample: Publication,
    ) -> Result<(), RegistryError> {
        let permit = PushPermit::sample(dataset);
        let (repository, owner) = (permit.repository(), permit.owner());
        let (manifest, now) = (sample.into_manifest(), Timestamp::now());
        let event = Event::Push {
            repository: repository.clone(),
            tags: vec![tag()?],
            digest: manifest.digest.clone(),
            owner: owner.clone(),
        };
        let put = self.metadata.put_manifest(repository, owner, manifest, vec![tag()?], None, now).await?;
        if let torno_metadata::PutManifest::Missing(missing) = put {
            return Err(RegistryError::Missing(missing));
        }
        self.audit.note(&self.itself, event).await;
        let before = now.checked_sub(SUPERSEDED).unwrap_or(Timestamp::MIN);
        for old in self.metadata.untagged(repository, before).await? {
            self.metadata.delete_manifest(repository, &old, None).await?;
        }
        Ok(())
    }

    /// The datasets of which a sample is published.
    pub async fn samples(&self) -> Result<Vec<DatasetName>, RegistryError> {
        /// Read at a time; sites have few.
        const PAGE: usize = 1000;
        let mut found = Vec::new();
        let mut after = "samples/".to_owned();
        loop {
            let page = self.metadata.repositories(Among::All, Some(&after), PAGE).await?;
            let count = page.len();
            for owned in page {
                let name = owned.name;
                after = name.to_string();
                match name.namespace() {
                    Namespace::Sample { dataset } => found.extend(dataset.parse::<DatasetName>().ok()),
                    _ => return Ok(found),
                }
            }
            if count < PAGE {
                return Ok(found);
            }
        }
    }

    /// Takes a sample away.
    pub async fn withdraw_sample(&self, dataset: &DatasetName) -> Result<(), RegistryError> {
        let repository: RepositoryName = PushPermit::sample(dataset).repository().clone();
        while let Some(manifest) = self.sample(dataset).await? {
            let event = Event::Delete {
                repository: repository.clone(),
                reference: Reference::Digest(manifest.digest.clone()),
            };
            let delete = async {
                Ok(self.metadata.delete_manifest(&repository, &manifest.digest, None).await.map(drop)?)
            };
            self.recorded(&self.itself, event, delete).await?;
        }
        for old in self.metadata.untagged(&repository, Timestamp::MAX).await? {
            self.metadata.delete_manifest(&repository, &old, None).await?;
        }
        Ok(())
    }
}

/// The one tag of a sample: what `docker pull` asks for when nobody names one.
fn tag() -> Result<Tag, RegistryError> {
    let reserved: Result<Tag, _> = "latest".parse();
    // It is one; this is said without a panic.
    reserved.map_err(|_| RegistryError::UploadUnknown)
}
