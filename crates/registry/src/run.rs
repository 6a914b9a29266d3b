//! The executor's side: claiming runs, moving them on, publishing what they leave.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use torno_auth::PushPermit;
use torno_blob::Reading;
use torno_metadata::{
    Claim, FinishedRun, Given, Gpu, Measured, MetadataError, NewManifest, Outcome, Resources, Run, RunLog,
    Selection, ServiceTraffic, StoredManifest,
};
use torno_oci::{Digest, Manifest, ProjectName, Reference, RunId};

use crate::{Content, Registry, RegistryError, Settings, manifest::new_manifest};

/// A run that has been claimed and is to be carried out.
#[derive(Debug)]
pub struct ClaimedRun {
    /// The run.
    pub run: Run,
    /// What the engine pulls its image with.
    pub token: PullToken,
    /// The GPUs it has until nothing of it is left in the engine.
    pub gpus: Vec<Gpu>,
}

/// What the engine pulls one run's image with. It is worth nothing once the container is about to start.
pub struct PullToken(String);

impl PullToken {
    /// The password; the user name is `run-<number>`.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PullToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PullToken(…)")
    }
}

/// The right to read the image of one run and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagePermit {
    run: RunId,
}

/// What a run leaves in its results repository: an image manifest whose blobs have been pushed there, and what is
/// attached to it. All of it becomes visible at once.
#[derive(Clone, Debug)]
pub struct Publication {
    result: NewManifest,
    attachments: Vec<NewManifest>,
}

impl Publication {
    /// A manifest to publish, from its exact bytes.
    pub fn new(bytes: Vec<u8>) -> Result<Self, RegistryError> {
        let manifest = Manifest::parse(None, &bytes)?;
        let result = new_manifest(Digest::sha256(&bytes), &manifest, bytes, Settings::default());
        Ok(Self { result, attachments: Vec::new() })
    }

    /// With another manifest that speaks of this one. It goes when this one does.
    pub fn with(mut self, bytes: Vec<u8>) -> Result<Self, RegistryError> {
        let manifest = Manifest::parse(None, &bytes)?;
        let attachment = new_manifest(Digest::sha256(&bytes), &manifest, bytes, Settings::default());
        if attachment.refers.as_ref().is_none_or(|refers| refers.subject != self.result.digest) {
            let result = Reference::Digest(self.result.digest);
            return Err(RegistryError::ManifestUnknown(result));
        }
        self.attachments.push(attachment);
        Ok(self)
    }

    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.result.digest
    }

    /// The manifest alone, to be stored.
    pub(crate) fn into_manifest(self) -> NewManifest {
        self.result
    }
}

impl Registry {
    /// Claims the run whose turn it is, if what it needs is left of `total`. `needs` says what a run of each project
    /// takes; of what is `held` nothing is claimed.
    pub async fn claim(
        &self,
        needs: BTreeMap<ProjectName, Resources>,
        held: BTreeSet<ProjectName>,
        total: Resources,
    ) -> Result<Option<ClaimedRun>, RegistryError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(RegistryError::Random)?;
        let secret = Digest::sha256(&bytes).hex().to_owned();
        let claimed = self.metadata.claim_run(hash(&secret), needs, held, total).await?;
        Ok(claimed.map(|Claim { run, gpus }| {
            self.news.changed();
            ClaimedRun { run, token: PullToken(secret), gpus }
        }))
    }

    /// Resolves when a run may have been queued since this was last called. Cancelling it is harmless.
    pub async fn queued(&self) {
        self.news.queued.notified().await;
    }

    /// Puts a claimed run back into the queue, or ends it if somebody wants that. Only for one of which nothing has run.
    pub async fn requeue(&self, run: RunId) -> Result<(), RegistryError> {
        match self.metadata.requeue_run(run).await {
            Err(MetadataError::Cancelled(by)) => {
                Box::pin(self.finish(run, Outcome::Cancelled { by }, RunLog::default(), None)).await
            }
            requeued => {
                requeued?;
                self.news.queued();
                Ok(())
            }
        }
    }

    /// Notes that the engine is about to be told to start a run's container, and what that is given, and ends its pull
    /// token. What cannot be recorded does not start, nor does what is cancelled.
    pub async fn starting(&self, run: RunId, given: Given) -> Result<(), RegistryError> {
        if let Some(Outcome::Cancelled { by }) = self.cancellation(run).await? {
            return Err(RegistryError::Cancelled(by));
        }
        let starting = async { Ok(self.metadata.starting_run(run, given).await?) };
        self.recorded_with_room(self.run_start(run).await?, starting).await?;
        self.news.changed();
        Ok(())
    }

    /// Notes that a run's container has started.
    pub async fn started(&self, run: RunId, at: Timestamp) -> Result<(), RegistryError> {
        self.metadata.started_run(run, at).await?;
        self.news.changed();
        Ok(())
    }

    /// Notes that a run's container has ended, and what it was seen to use.
    pub async fn collecting(&self, run: RunId, measured: Measured) -> Result<(), RegistryError> {
        Ok(self.metadata.collecting_run(run, measured).await?)
    }

    /// Ends a run and publishes what it leaves, all or nothing, and nothing that cannot be recorded.
    ///
    /// One that is cancelled ends as that, whatever else is said; what was to be published then is not
    /// ([`RegistryError::Cancelled`]), since it says otherwise.
    pub async fn finish(
        &self,
        run: RunId,
        outcome: Outcome,
        log: RunLog,
        publish: Option<Publication>,
    ) -> Result<(), RegistryError> {
        let outcome = match (self.cancellation(run).await?, &outcome) {
            (None, _) | (_, Outcome::Cancelled { .. }) => outcome,
            (Some(Outcome::Cancelled { by }), _) if publish.is_some() => {
                return Err(RegistryError::Cancelled(by));
            }
            (Some(cancelled), _) => cancelled,
        };
        let ended = self.ending(run, &outcome, publish.as_ref().map(Publication::digest)).await?;
        let (publish, attachments) = match publish {
            Some(Publication { result, attachments }) => (Some(result), attachments),
            None => (None, Vec::new()),
        };
        let finished = FinishedRun { outcome, log, publish, attachments, at: Timestamp::now() };
        let finish = async { Ok(self.metadata.finish_run(run, finished).await?) };
        Box::pin(self.recorded_with_room(ended, finish)).await?;
        self.news.changed();
        Ok(())
    }

    /// Notes that the engine holds nothing of a finished run any more: its GPUs are free.
    pub async fn tidied(&self, run: RunId) -> Result<(), RegistryError> {
        self.freed(self.metadata.tidied_run(run).await?);
        Ok(())
    }

    /// The runs in the queue that still have GPUs of an attempt that was lost.
    pub async fn keeping_gpus(&self) -> Result<BTreeSet<RunId>, RegistryError> {
        Ok(self.metadata.runs_keeping_gpus().await?)
    }

    /// Notes that the engine holds nothing any more of the attempts of a run that waits in the queue: its GPUs are free.
    /// One that has been claimed meanwhile keeps them.
    pub async fn free_gpus(&self, run: RunId) -> Result<(), RegistryError> {
        self.freed(self.metadata.free_gpus(run).await?);
        Ok(())
    }

    /// Whoever waits for GPUs may have them now.
    fn freed(&self, gpus: usize) {
        if gpus > 0 {
            self.news.queued();
        }
    }

    /// The right to push blobs of a run's result.
    pub fn publish_permit(&self, run: &Run) -> Result<PushPermit, RegistryError> {
        let permit = run.repository.results().and_then(|results| PushPermit::publish(&results, &run.owner));
        permit.ok_or(RegistryError::UploadUnknown)
    }

    /// Runs, at most `limit`.
    pub async fn runs(&self, which: Selection, limit: usize) -> Result<Vec<Run>, RegistryError> {
        Ok(self.metadata.runs(which, limit).await?)
    }

    /// A run by its number.
    pub async fn run(&self, id: RunId) -> Result<Option<Run>, RegistryError> {
        Ok(self.metadata.run(id).await?)
    }

    /// Notes what a run has exchanged with services so far, in place of what was noted before.
    pub async fn note_traffic(&self, run: RunId, traffic: Vec<ServiceTraffic>) -> Result<(), RegistryError> {
        Ok(self.metadata.note_traffic(run, traffic).await?)
    }

    /// What a run has exchanged with the services of the site.
    pub async fn traffic(&self, run: RunId) -> Result<Vec<ServiceTraffic>, RegistryError> {
        Ok(self.metadata.traffic(run).await?)
    }

    /// What a finished run's container printed.
    pub async fn run_log(&self, id: RunId) -> Result<Option<RunLog>, RegistryError> {
        Ok(self.metadata.run_log(id).await?)
    }

    /// The right to read a run's image, for whoever shows its pull token while the engine prepares it.
    pub async fn image_permit(&self, run: RunId, secret: &str) -> Result<Option<ImagePermit>, RegistryError> {
        let expected = self.metadata.run_token_hash(run).await?;
        let right =
            expected.is_some_and(|expected| expected.as_slice().ct_eq(hash(secret).as_slice()).into());
        Ok(right.then_some(ImagePermit { run }))
    }

    /// The manifest of a run's image, which stays readable though its tag has moved or been deleted.
    pub async fn run_manifest(&self, permit: &ImagePermit) -> Result<Option<StoredManifest>, RegistryError> {
        self.quarantine.manifest(self.metadata.run_image(permit.run).await).await
    }

    /// The manifest of a run's image, for its executor.
    pub async fn claimed_image(&self, run: &Run) -> Result<Option<StoredManifest>, RegistryError> {
        self.quarantine.manifest(self.metadata.run_image(run.id).await).await
    }

    /// A blob of a run's image.
    pub async fn run_blob(
        &self,
        permit: &ImagePermit,
        blob: &Digest,
        reading: Reading,
    ) -> Result<Content, RegistryError> {
        let size = self.metadata.run_blob(permit.run, blob).await?;
        let size = size.ok_or_else(|| RegistryError::BlobUnknown(blob.clone()))?;
        self.content(blob, size, reading).await
    }
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}
