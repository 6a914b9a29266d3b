//! What failures of the site do to runs: attempts that are lost and begin again, an engine that does not answer, and a host
//! that is not fit.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use torno_audit::{Event, Text};
use torno_metadata::{MetadataError, Outcome, Run, RunLog};
use torno_oci::{ProjectName, RunId};

use crate::{Registry, RegistryError};

impl Registry {
    /// Puts a run that is under way back into the queue, to begin anew from `not_before` on, and records why. One that
    /// somebody wants to end ends instead.
    pub async fn lost(&self, run: RunId, not_before: Timestamp, reason: &str) -> Result<(), RegistryError> {
        if let Some(cancelled) = self.cancellation(run).await? {
            return Box::pin(self.finish(run, cancelled, RunLog::default(), None)).await;
        }
        if let Some(Run { repository, tag, image: digest, owner, attempt, .. }) =
            self.metadata.run(run).await?
        {
            let reason = Text::new(reason);
            let event = Event::RunLost { run, repository, tag, digest, owner, attempt, reason };
            self.audit.record(&self.itself, event).await?;
        }
        match self.metadata.lost_run(run, not_before).await {
            Err(MetadataError::Cancelled(by)) => {
                Box::pin(self.finish(run, Outcome::Cancelled { by }, RunLog::default(), None)).await
            }
            lost => {
                lost?;
                self.news.queued();
                Ok(())
            }
        }
    }

    /// When the first of the runs that wait for a time may be claimed, if there are such.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, RegistryError> {
        Ok(self.metadata.next_due().await?)
    }

    /// Notes since when the engine has not answered, for whoever waits for a run; `None`: it does.
    pub async fn note_outage(&self, since: Option<Timestamp>) -> Result<(), RegistryError> {
        if self.metadata.outage().await? != since {
            self.metadata.note_outage(since).await?;
            self.news.changed();
        }
        Ok(())
    }

    /// Since when the engine has not answered, as its executor noted last.
    pub async fn outage(&self) -> Result<Option<Timestamp>, RegistryError> {
        Ok(self.metadata.outage().await?)
    }

    /// Notes the projects of which nothing is started, since the host was not found to keep what their runs are promised, for
    /// whoever waits for a run of theirs.
    pub async fn note_unfit(&self, projects: BTreeSet<ProjectName>) -> Result<(), RegistryError> {
        if !self.metadata.unfit().await?.keys().eq(&projects) {
            self.metadata.note_unfit(projects, Timestamp::now()).await?;
            self.news.changed();
        }
        Ok(())
    }

    /// The projects of which nothing is started for that, as their executor noted last, and since when.
    pub async fn unfit(&self) -> Result<BTreeMap<ProjectName, Timestamp>, RegistryError> {
        Ok(self.metadata.unfit().await?)
    }
}
