//! Manifests and tags: push, pull, delete, referrers.

use std::time::Duration;

use jiff::Timestamp;
use torno_audit::{Actor, Event};
use torno_auth::{DeletePermit, PullPermit, PushPermit};
use torno_metadata::{
    Condition, Deleted, Named, NamedKind, NewManifest, Presence, PutManifest, Referrers, Refers,
    StoredManifest,
};
use torno_oci::{Descriptor, Digest, Manifest, ManifestKind, MediaType, Namespace, Reference, RunId, Tag};

use crate::{Crowded, Registry, RegistryError, Settings};

/// A manifest that has been stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Its digest.
    pub digest: Digest,
    /// The manifest it speaks of.
    pub subject: Option<Digest>,
    /// The tags that now point at it.
    pub tags: Vec<Tag>,
    /// The runs it queued, one for each tag under `run/` or `try/` but for those of `unchanged`.
    pub runs: Vec<RunId>,
    /// The runs of the same image under the same tag because of which none was queued, where its project does not run
    /// what has not changed.
    pub unchanged: Vec<RunId>,
    /// What it names and its repository does not have: layers that are kept elsewhere, or, where the settings allow
    /// them, the gaps of a sparse manifest.
    pub absent: Vec<Digest>,
}

impl Registry {
    /// Stores a manifest under a tag, or under its digest and any `further` tags (distribution-spec: Pushing
    /// Manifests). Each tag under `run/` and `try/` queues a run in the same transaction, unless its project does not run
    /// what has not changed ([`Pushed::unchanged`]) or somebody has too many runs ([`RegistryError::Crowded`]).
    ///
    /// What it names must be in the repository with the size it says, but for what [`Settings`] leave optional and
    /// for layers that are kept elsewhere. Of what is run nothing may be missing. With a condition, nothing changes
    /// unless that holds.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part of one request, and all are of different types"
    )]
    pub async fn put_manifest(
        &self,
        permit: &PushPermit,
        by: &Actor,
        reference: &Reference,
        further: Vec<Tag>,
        content_type: Option<&MediaType>,
        bytes: Vec<u8>,
        only_if: Option<Condition>,
    ) -> Result<Pushed, RegistryError> {
        let manifest = Manifest::parse(content_type, &bytes)?;
        let mut tags = further;
        let digest = match reference {
            Reference::Tag(tag) => {
                tags.push(tag.clone());
                Digest::sha256(&bytes)
            }
            Reference::Digest(expected) => {
                let found = Digest::of(expected.algorithm(), &bytes);
                if found != *expected {
                    return Err(RegistryError::DigestMismatch { expected: expected.clone(), found });
                }
                found
            }
        };
        tags.sort();
        tags.dedup();
        let repository = permit.repository();
        self.audit.ready().await?;
        let run = match repository.namespace() {
            Namespace::Run { .. } | Namespace::Try { .. } if !tags.is_empty() => {
                Some(self.admit(repository, &tags, &digest, &manifest).await?)
            }
            _ => None,
        };
        self.expect_room().await?;
        let granted = self.charge(permit, &digest, bytes.len() as u64).await?;
        let names = match run {
            Some(_) => Settings { blobs: Presence::Required, ..self.settings },
            None => self.settings,
        };
        let new = NewManifest { only_if, ..new_manifest(digest.clone(), &manifest, bytes, names) };
        let subject = new.refers.as_ref().map(|refers| refers.subject.clone());
        let now = Timestamp::now();
        let admission = run.map(|run| self.admission(permit, run));
        let put = self.metadata.put_manifest(repository, permit.owner(), new, tags.clone(), admission, now);
        let put = put.await?;
        match put {
            PutManifest::Missing(digests) => Err(RegistryError::Missing(digests)),
            PutManifest::Changed(current) => Err(RegistryError::Changed(current)),
            PutManifest::WrongSize(wrong) => Err(RegistryError::WrongSize(wrong)),
            PutManifest::TooManyRuns(too_many) => Err(RegistryError::Crowded(Box::new(Crowded(too_many)))),
            PutManifest::Stored { runs, unchanged, absent } => {
                granted.keep();
                if !runs.is_empty() {
                    self.news.queued();
                }
                self.note_push(permit, by, &digest, &tags, &runs).await;
                let runs = runs.into_iter().map(|(_, run)| run).collect();
                Ok(Pushed { digest, subject, tags, runs, unchanged, absent })
            }
        }
    }

    async fn note_push(
        &self,
        permit: &PushPermit,
        by: &Actor,
        digest: &Digest,
        tags: &[Tag],
        runs: &[(Tag, RunId)],
    ) {
        let (repository, owner) = (permit.repository().clone(), permit.owner().clone());
        let (digest, pushed) = (digest.clone(), tags.to_vec());
        let push = Event::Push { repository, tags: pushed, digest: digest.clone(), owner };
        self.audit.note(by, push).await;
        for (tag, run) in runs {
            let (repository, tag, digest) = (permit.repository().clone(), tag.clone(), digest.clone());
            self.audit.note(by, Event::RunQueued { run: *run, repository, tag, digest }).await;
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
        let found = match (repository.source(), reference) {
            (Some(source), Reference::Tag(tag)) => Some(self.result(repository, &source, tag, wait).await?),
            _ => self.quarantine.manifest(self.metadata.manifest(repository, reference).await).await?,
        };
        if let (Some(_), Reference::Tag(tag)) = (&found, reference) {
            self.pulls.note(repository, tag);
        }
        found.ok_or_else(|| RegistryError::ManifestUnknown(reference.clone()))
    }

    /// Takes a tag away (distribution-spec: Deleting tags). With a condition, nothing changes unless that holds.
    pub async fn delete_tag(
        &self,
        permit: &DeletePermit,
        by: &Actor,
        tag: &Tag,
        only_if: Option<Condition>,
    ) -> Result<(), RegistryError> {
        let (repository, reference) = (permit.repository(), Reference::Tag(tag.clone()));
        let event = Event::Delete { repository: repository.clone(), reference: reference.clone() };
        let delete = async {
            let delete = || self.metadata.delete_tag(repository, tag, only_if.clone());
            let deleted = self.even_when_full(delete).await?;
            gone(deleted, || reference).map(drop)
        };
        self.recorded(by, event, delete).await
    }

    /// Takes a manifest and its tags out of a repository (distribution-spec: Deleting Manifests); how many indexes
    /// of the repository still name it. With a condition, nothing changes unless that holds.
    pub async fn delete_manifest(
        &self,
        permit: &DeletePermit,
        by: &Actor,
        manifest: &Digest,
        only_if: Option<Condition>,
    ) -> Result<u64, RegistryError> {
        let (repository, reference) = (permit.repository(), Reference::Digest(manifest.clone()));
        let event = Event::Delete { repository: repository.clone(), reference: reference.clone() };
        let delete = async {
            let delete = || self.metadata.delete_manifest(repository, manifest, only_if.clone());
            let deleted = self.even_when_full(delete).await?;
            gone(deleted, || reference)
        };
        self.recorded(by, event, delete).await
    }

    /// A page of the manifests that speak of `subject`, all or those of an artifact type, behind `after`
    /// (distribution-spec: Listing Referrers).
    pub async fn referrers(
        &self,
        permit: &PullPermit,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&str>,
    ) -> Result<Referrers, RegistryError> {
        Ok(self.metadata.referrers(permit.repository(), subject, artifact_type, after).await?)
    }
}

/// How many manifests still name what has been deleted.
fn gone(deleted: Deleted, what: impl FnOnce() -> Reference) -> Result<u64, RegistryError> {
    match deleted {
        Deleted::Gone { named_by } => Ok(named_by),
        Deleted::Changed(current) => Err(RegistryError::Changed(current)),
        Deleted::Unknown => Err(RegistryError::ManifestUnknown(what())),
    }
}

pub(crate) fn new_manifest(
    digest: Digest,
    manifest: &Manifest,
    bytes: Vec<u8>,
    settings: Settings,
) -> NewManifest {
    let name = |descriptor: &Descriptor, kind: NamedKind, presence: Presence| Named {
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        kind,
        presence,
    };
    let mut names: Vec<Named> = match &manifest.kind {
        ManifestKind::Image { config, layers } => layers
            .iter()
            .map(|layer| {
                let elsewhere = layer.is_non_distributable();
                name(layer, NamedKind::Blob, if elsewhere { Presence::Optional } else { settings.blobs })
            })
            .chain([name(config, NamedKind::Blob, settings.blobs)])
            .collect(),
        ManifestKind::Index { children } => children
            .iter()
            .map(|child| name(&child.descriptor, NamedKind::Manifest, settings.children))
            .collect(),
    };
    names.sort();
    names.dedup();
    let refers = manifest.subject.as_ref().map(|subject| Refers {
        subject: subject.digest.clone(),
        artifact_type: manifest.artifact_type.clone(),
        descriptor: manifest.describe(&digest, bytes.len()),
    });
    NewManifest { digest, bytes, media_type: manifest.media_type.clone(), names, refers, only_if: None }
}
