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
        let done = work.await;
        if let Err(error) = &done {
            let reason = Text::new(&error.to_string());
            self.audit.note(by, Event::NotDone { of, reason }).await;
        }
        done
    }

    /// Records that a run is about to start.
    pub(crate) async fn record_start(&self, run: RunId) -> Result<(), RegistryError> {
        let Some(Run { repository, tag, image: digest, owner, .. }) = self.metadata.run(run).await? else {
            return Ok(());
        };
        let event = Event::RunStarted { run, repository, tag, digest, owner };
        self.audit.record(&self.itself, event).await?;
        Ok(())
    }

    /// Records that a run is over and what it leaves is about to be released.
    pub(crate) async fn record_end(
        &self,
        run: RunId,
        outcome: &Outcome,
        result: Option<&torno_oci::Digest>,
    ) -> Result<(), RegistryError> {
        let Some(Run { repository, tag, image: digest, owner, .. }) = self.metadata.run(run).await? else {
            return Ok(());
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
        self.audit.record_all(&self.itself, reached.into_iter().chain([ended])).await?;
        Ok(())
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
