//! The registry itself: what it holds together, and who may do what with it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify, OnceCell};
use torno_audit::{Actor, Audit, Rotation};
use torno_auth::{DeletePermit, Identity, Plain, Policy, PullPermit, PushPermit, Reach, Refusal, UserName};
use torno_blob::{Alive, BlobStore, Reserve};
use torno_metadata::{Among, Metadata, MetadataError, Owned};
use torno_oci::{Platform, ProjectName, RepositoryName, Tag};

use crate::{
    Ceiling, RegistryError, Settings,
    news::News,
    placer::Placer,
    quarantine::Quarantine,
    quota::{Quotas, Uploads},
    retention::Pulls,
    upload_key::UploadKey,
};

/// A registry over one data directory.
#[derive(Debug)]
pub struct Registry {
    pub(crate) blobs: Arc<BlobStore>,
    pub(crate) reserve: Arc<Reserve>,
    pub(crate) placer: Placer,
    pub(crate) metadata: Metadata,
    pub(crate) quarantine: Quarantine,
    pub(crate) audit: Audit,
    pub(crate) itself: Actor,
    policy: ArcSwap<Policy>,
    ceilings: ArcSwap<BTreeMap<ProjectName, Ceiling>>,
    pub(crate) settings: Settings,
    pub(crate) upload_key: UploadKey,
    pub(crate) quotas: Quotas,
    pub(crate) uploads: Uploads,
    /// What images must be built for to run here.
    pub(crate) platform: Platform,
    /// What is new of runs.
    pub(crate) news: News,
    /// Rung when the journal has something.
    pub(crate) unsettled: Notify,
    /// One settles the journal at a time.
    pub(crate) settling: Mutex<()>,
    /// Which tags were pulled.
    pub(crate) pulls: Pulls,
    /// What tells that this process is alive, once it has held something.
    pub(crate) alive: OnceCell<Alive>,
}

impl Registry {
    /// Opens the registry in a data directory, made as needed. Blocks. What is done is recorded in `audit/` there, or where
    /// [`Registry::recording`] says.
    pub fn open(data: &Path, policy: Policy, settings: Settings) -> Result<Self, RegistryError> {
        let blobs = Arc::new(BlobStore::open(data, settings.upload_lifetime)?);
        let reserve = Reserve::of(data);
        let metadata = loop {
            match Metadata::open(&data.join("torno.db")) {
                Err(MetadataError::Full) if reserve.give_back()? => {}
                opened => break opened?,
            }
        };
        // Where it cannot be kept now, a start must not fail for it.
        if let Err(error) = reserve.restore() {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "no room is kept for deleting on a full disk");
        }
        let placer = Placer::new(Arc::clone(&blobs), metadata.journal_reader()?);
        let upload_key = UploadKey::open(&data.join("keys/upload"))?;
        let quarantine = Quarantine::new(Arc::clone(&blobs), metadata.clone());
        let audit = Audit::new(data.join("audit"), Rotation::default())?;
        Ok(Self {
            blobs,
            reserve: Arc::new(reserve),
            placer,
            metadata,
            quarantine,
            audit,
            itself: Actor::torno(),
            policy: ArcSwap::from_pointee(policy),
            ceilings: ArcSwap::default(),
            settings,
            upload_key,
            quotas: Quotas::default(),
            uploads: Uploads::default(),
            platform: Platform::host(),
            news: News::of(data),
            unsettled: Notify::new(),
            settling: Mutex::new(()),
            pulls: Pulls::default(),
            alive: OnceCell::new(),
        })
    }

    /// Records in this from now on, and what nobody asks for as done by `itself`.
    #[must_use]
    pub fn recording(self, audit: Audit, itself: Actor) -> Self {
        Self { audit, itself, ..self }
    }

    /// Judges by another policy from now on.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Admits images by what these projects give their runs from now on. What an image of another project asks for is
    /// not looked at.
    pub fn set_ceilings(&self, ceilings: BTreeMap<ProjectName, Ceiling>) {
        self.ceilings.store(Arc::new(ceilings));
    }

    /// The most that a project gives a run, if it is known.
    pub(crate) fn ceiling(&self, project: &str) -> Option<Ceiling> {
        self.ceilings.load().iter().find(|(name, _)| name.as_str() == project).map(|(_, ceiling)| *ceiling)
    }

    /// Who may do what, now.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// The right to read a repository.
    pub async fn pull_permit(
        &self,
        who: &Identity,
        repository: &RepositoryName,
    ) -> Result<PullPermit, RegistryError> {
        self.permit(repository, |policy, owner| policy.pull(who, repository, owner)).await
    }

    /// The right to write to a repository.
    pub async fn push_permit(
        &self,
        who: &Identity,
        repository: &RepositoryName,
    ) -> Result<PushPermit, RegistryError> {
        self.permit(repository, |policy, owner| policy.push(who, repository, owner)).await
    }

    /// The right to delete in a repository.
    pub async fn delete_permit(
        &self,
        who: &Identity,
        repository: &RepositoryName,
    ) -> Result<DeletePermit, RegistryError> {
        self.permit(repository, |policy, owner| policy.delete(who, repository, owner)).await
    }

    /// Whether there is such a repository, for whoever may know. One of which that cannot be told is.
    pub async fn is_known(&self, repository: &RepositoryName) -> bool {
        !matches!(self.owner(repository).await, Ok(None))
    }

    /// What the policy says of a repository. Only who is allowed is answered from memory, where nothing is but what is
    /// there: a refusal takes as long whether the repository is there or not.
    async fn permit<T>(
        &self,
        repository: &RepositoryName,
        judge: impl Fn(&Policy, Option<&UserName>) -> Result<T, Refusal>,
    ) -> Result<T, RegistryError> {
        let policy = self.policy();
        if let Some(owner) = self.metadata.remembered_owner(repository)
            && let Ok(permit) = judge(&policy, Some(&owner))
        {
            return Ok(permit);
        }
        let owner = self.owner(repository).await?;
        Ok(judge(&policy, owner.as_ref())?)
    }

    /// Whose a repository is. Results belong to whoever owns the images they come from, before there are any.
    pub(crate) async fn owner(&self, repository: &RepositoryName) -> Result<Option<UserName>, RegistryError> {
        let owner = self.metadata.owner(repository).await?;
        match repository.source() {
            None => Ok(owner),
            // Asked in any case, for the same time.
            Some(source) => Ok(owner.or(self.metadata.owner(&source).await?)),
        }
    }

    /// The tags of a repository in their order, behind `after`, at most `limit` (distribution-spec: Listing Tags).
    pub async fn tags(
        &self,
        permit: &PullPermit,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, RegistryError> {
        Ok(self.metadata.tags(permit.repository(), after, limit).await?)
    }

    /// The repositories that someone may read, in the order of their names, behind `after`, at most `limit`.
    pub async fn catalog(
        &self,
        who: &Identity,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<RepositoryName>, RegistryError> {
        /// Read from the database at a time at most, when more is read than is asked for.
        const MOST: usize = 1000;
        let policy = self.policy.load_full();
        let among = among(policy.reach(who));
        let mut after = after.map(str::to_owned);
        let mut names = Vec::new();
        let mut rows = limit.max(1);
        loop {
            let page = self.metadata.repositories(among.clone(), after.as_deref(), rows).await?;
            let last = page.last().map(|owned| owned.name.to_string());
            let end = page.len() < rows;
            let mine = |owned: &Owned| policy.lists(who, &owned.name, &owned.owner);
            names.extend(page.into_iter().filter(mine).map(|owned| owned.name));
            if names.len() >= limit || end {
                names.truncate(limit);
                return Ok(names);
            }
            after = last;
            // Some were other people's; in case many are, they are passed in few steps.
            rows = (rows * 2).min(MOST.max(limit));
        }
    }
}

/// Where to look for what somebody may read.
pub(crate) fn among(reach: Reach) -> Among {
    match reach {
        Reach::Everywhere => Among::All,
        Reach::Within { owner, projects, samples, plain } => {
            Among::Some { owner, projects, samples, plain: plain == Plain::All }
        }
    }
}
