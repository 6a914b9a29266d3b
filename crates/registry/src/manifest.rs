//! Manifests and tags: push, pull, delete, referrers.

use std::time::Duration;

use jiff::Timestamp;
use torno_auth::{DeletePermit, PullPermit, PushPermit};
use torno_metadata::{NewManifest, PutManifest, Referrers, StoredManifest};
use torno_oci::{Digest, Manifest, MediaType, Namespace, Reference, RunId, Tag};

use crate::{Registry, RegistryError};

/// A manifest that has been stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its digest.
    pub digest: Digest,
    /// The manifest it speaks of.
    pub subject: Option<Digest>,
    /// The run it queued.
    pub run: Option<RunId>,
}

impl Registry {
    /// Stores a manifest under a tag or its digest (distribution-spec: Pushing Manifests). A push by tag under
    /// `run/` queues a run in the same transaction.
    pub async fn put_manifest(
        &self,
        permit: &PushPermit,
        reference: &Reference,
        content_type: Option<&MediaType>,
        bytes: Vec<u8>,
    ) -> Result<Pushed, RegistryError> {
        let manifest = Manifest::parse(content_type, &bytes)?;
        let (digest, tag) = match reference {
            Reference::Tag(tag) => (Digest::sha256(&bytes), Some(tag)),
            Reference::Digest(expected) => {
                let found = Digest::of(expected.algorithm(), &bytes);
                if found != *expected {
                    return Err(RegistryError::DigestMismatch { expected: expected.clone(), found });
                }
                (found, None)
            }
        };
        let repository = permit.repository();
        let new = new_manifest(digest.clone(), &manifest, bytes);
        let run = match (repository.namespace(), tag) {
            (Namespace::Run { .. }, Some(tag)) => {
                Some(self.admit(repository, tag, &digest, &manifest).await?)
            }
            _ => None,
        };
        let subject = new.subject.clone();
        match self.metadata.put_manifest(repository, permit.owner(), new, tag, run, Timestamp::now()).await? {
            PutManifest::Missing(digests) => Err(RegistryError::Missing(digests)),
            PutManifest::Stored { run } => {
                if run.is_some() {
                    self.queued.notify_one();
                    self.runs_changed.send_replace(());
                }
                Ok(Pushed { digest, subject, run })
            }
        }
    }

    /// A manifest by tag or digest (distribution-spec: Pulling manifests).
    ///
    /// For the tag of a result that is not there yet it waits up to `wait`, then says how far its run is
    /// ([`RegistryError::NoResult`]). Cancelling it is harmless.
    pub async fn manifest(
        &self,
        permit: &PullPermit,
        reference: &Reference,
        wait: Duration,
    ) -> Result<StoredManifest, RegistryError> {
        let repository = permit.repository();
        if let (Some(source), Reference::Tag(tag)) = (repository.source(), reference) {
            return self.result(repository, &source, tag, wait).await;
        }
        let found = self.metadata.manifest(repository, reference).await?;
        found.ok_or_else(|| RegistryError::ManifestUnknown(reference.clone()))
    }

    /// Takes a tag away (distribution-spec: Deleting tags).
    pub async fn delete_tag(&self, permit: &DeletePermit, tag: &Tag) -> Result<(), RegistryError> {
        if self.metadata.delete_tag(permit.repository(), tag).await? {
            Ok(())
        } else {
            Err(RegistryError::ManifestUnknown(Reference::Tag(tag.clone())))
        }
    }

    /// Takes a manifest and its tags out of a repository (distribution-spec: Deleting Manifests).
    pub async fn delete_manifest(
        &self,
        permit: &DeletePermit,
        manifest: &Digest,
    ) -> Result<(), RegistryError> {
        if self.metadata.delete_manifest(permit.repository(), manifest).await? {
            Ok(())
        } else {
            Err(RegistryError::ManifestUnknown(Reference::Digest(manifest.clone())))
        }
    }

    /// A page of the manifests that speak of `subject`, behind `after` (distribution-spec: Listing Referrers).
    pub async fn referrers(
        &self,
        permit: &PullPermit,
        subject: &Digest,
        after: Option<&str>,
    ) -> Result<Referrers, RegistryError> {
        Ok(self.metadata.referrers(permit.repository(), subject, after).await?)
    }
}

pub(crate) fn new_manifest(digest: Digest, manifest: &Manifest, bytes: Vec<u8>) -> NewManifest {
    let mut children: Vec<Digest> =
        manifest.children().iter().map(|child| child.descriptor.digest.clone()).collect();
    children.sort();
    children.dedup();
    NewManifest {
        digest,
        bytes,
        media_type: manifest.media_type.clone(),
        blobs: manifest.blobs().into_iter().map(|blob| blob.digest.clone()).collect(),
        children,
        subject: manifest.subject.as_ref().map(|subject| subject.digest.clone()),
        artifact_type: manifest.artifact_type.clone(),
    }
}
