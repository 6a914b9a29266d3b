//! What is done here is recorded here: durably before whatever takes something away or lets something out, and soon after
//! everything else.

use torno_audit::{Actor, Audit, Event, Exchanged, Text};
use torno_metadata::{Outcome, Run, ServiceTraffic};
use torno_oci::RunId;

use crate::{Expired, Garbage, Registry, RegistryError};

impl Registry {
    /// The record of what is done.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Who does what nobody asks for: the server, or the command that has opened this.
    pub fn itself(&self) -> &Actor {
        &self.itself
    }

    /// Does something once it has been recorded that it is about to be done.
    pub(crate) async fn recorded<T>(
        &self,
        by: &Actor,
        event: Event,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let of = self.record_even_when_full(|| self.audit.record(by, event.clone())).await?;
        self.done(by, of, work).await
    }

    /// The same of something that Torno does and that takes room, so that none is kept for it. The last of these lines
    /// tells of it.
    pub(crate) async fn recorded_with_room<T>(
        &self,
        events: impl IntoIterator<Item = Event>,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        match self.audit.record_all(&self.itself, events).await?.last() {
            Some(of) => self.done(&self.itself, *of, work).await,
            None => work.await,
        }
    }

    /// Does what the line of this number tells of, or adds that it was not done.
    async fn done<T>(
        &self,
        by: &Actor,
        of: u64,
        work: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let done = work.await;
        if let Err(error) = &done {
            let reason = Text::new(&error.to_string());
            self.audit.note(by, Event::NotDone { of, reason }).await;
        }
        done
    }

    /// What is recorded of a run that is about to start.
    pub(crate) async fn run_start(&self, run: RunId) -> Result<Option<Event>, RegistryError> {
        let found = self.metadata.run(run).await?;
        Ok(found.map(|Run { repository, tag, image: digest, owner, .. }| Event::RunStarted {
            run,
            repository,
            tag,
            digest,
            owner,
        }))
    }

    /// What is recorded of a run that is over and of what it leaves.
    pub(crate) async fn ending(
        &self,
        run: RunId,
        outcome: &Outcome,
        result: Option<&torno_oci::Digest>,
    ) -> Result<Vec<Event>, RegistryError> {
        let Some(Run { repository, tag, image: digest, owner, .. }) = self.metadata.run(run).await? else {
            return Ok(Vec::new());
        };
        let outcome = match outcome {
            // Why not may be a line of its log.
            Outcome::CannotStart { .. } => Text::new("cannot start"),
            other => Text::new(&other.to_string()),
        };
        let result = result.cloned();
        let services: Vec<_> = self.metadata.traffic(run).await?.into_iter().map(exchanged).collect();
        let reached = (!services.is_empty()).then(|| {
            let (repository, owner) = (repository.clone(), owner.clone());
            Event::RunExchanged { run, repository, owner, services }
        });
        let ended = Event::RunEnded { run, repository, tag, digest, owner, outcome, result };
        Ok(reached.into_iter().chain([ended]).collect())
    }

    /// Records what retention is about to let go of, and why.
    pub(crate) async fn record_expired(&self, expired: &[Expired]) -> Result<Vec<u64>, RegistryError> {
        let events = || {
            expired.iter().map(|one| Event::Expired {
                repository: one.repository().clone(),
                reference: one.reference(),
                digest: one.manifest().clone(),
                rule: Text::new(&one.reason.to_string()),
            })
        };
        self.record_even_when_full(|| self.audit.record_all(&self.itself, events())).await
    }

    /// Records that something stayed of which [`Registry::record_expired`] has given this number.
    pub(crate) async fn record_kept(&self, of: u64) {
        let reason = Text::new("it was needed again, or had gone");
        self.audit.note(&self.itself, Event::NotDone { of, reason }).await;
    }

    /// Records which blobs are about to be removed.
    pub(crate) async fn record_removal(&self, garbage: &[Garbage]) -> Result<(), RegistryError> {
        /// In a line.
        const MOST: usize = 100;
        let events = || {
            garbage.chunks(MOST).map(|some| Event::Collected {
                digests: some.iter().map(|garbage| garbage.blob.clone()).collect(),
            })
        };
        self.record_even_when_full(|| self.audit.record_all(&self.itself, events())).await.map(drop)
    }
}

fn exchanged(traffic: ServiceTraffic) -> Exchanged {
    let ServiceTraffic { service, connections, refused, sent, received } = traffic;
    Exchanged { service: Text::new(&service), connections, refused, sent, received }
}
