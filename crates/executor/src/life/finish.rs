//! After the container has ended: reading what it left, publishing it, and removing every trace from the engine.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::{sync::mpsc, task::spawn_blocking, time::Instant};
use torno_auth::ProjectName;
use torno_oci::media_types;
use torno_registry::{Outcome, Publication, RegistryError, RunLog};

use crate::{
    ExecutorError, LogPolicy, cache,
    collect::{CollectError, Collected, collect},
    engine::start_reason,
    executor::Wait,
    log,
    pack::{Attachment, Package},
    provenance::{self, Origin},
    report::Report,
};

use super::{Ended, Life, TRIES, lost::Loss};

/// The name of the crate, which RO-Crate gives it.
const RO_CRATE: &str = "ro-crate-metadata.json";

/// Pieces of the archive that may wait to be read.
const WAITING: usize = 8;

/// How the init process begins to say that it could not start the image's command.
const INIT_FAILED: &[u8] = b"[FATAL tini (";

impl Life {
    /// Collects, publishes and ends a run whose container has ended.
    pub(super) async fn conclude(&self, ended: Ended) {
        let run = self.run.id;
        let (mut wait, mut failed) = (Wait::default(), 0);
        let late = Instant::now() + self.site.patience;
        loop {
            let Err(error) = self.try_to_conclude(&ended).await else { return };
            // A container that was removed by hand has taken its output along.
            if error.is_gone() {
                tracing::warn!(%run, %error, "what a run left is gone");
                return self.lost(Loss::Container).await;
            }
            // What it left is there as long as its container is: it is collected again, and not run again.
            if error.is_full() {
                if Instant::now() >= late {
                    tracing::error!(%run, %error, "there was no room for what a run left");
                    return self.end(Outcome::NoRoom, RunLog::default(), None).await;
                }
                tracing::error!(%run, %error, "there is no room for what a run left; make some: it is tried again");
            } else if error.is_away() {
                if Instant::now() >= late {
                    tracing::error!(%run, %error, "what a run left cannot be had");
                    return self.lost(Loss::Engine).await;
                }
            } else {
                failed += 1;
                if failed >= TRIES {
                    tracing::error!(%run, %error, "what a run left could not be collected");
                    let log = self.printed().await.unwrap_or_default();
                    return self.end(self.unfit(), log, None).await;
                }
                tracing::warn!(%run, %error, "what a run left could not be collected; trying again");
            }
            wait.next().await;
            if let Err(error) = self.insist_until(late, || self.site.engine.reach()).await {
                tracing::error!(%run, %error, "what a run left cannot be had");
                return self.lost(Loss::Engine).await;
            }
        }
    }

    async fn try_to_conclude(&self, ended: &Ended) -> Result<(), ExecutorError> {
        self.site.registry.collecting(self.run.id, self.measured()).await?;
        self.compare_data().await?;
        let policy = self.policy();
        let log = self.printed().await?;
        let mut outcome = match self.site.registry.cancellation(self.run.id).await? {
            Some(cancelled) => cancelled,
            None => not_started(&ended.outcome, &log).unwrap_or_else(|| ended.outcome.clone()),
        };
        let mut output = None;
        // An engine cannot read what is nested too deeply.
        if outcome == Outcome::Succeeded
            && let Some(excess) = self.excess().await
        {
            outcome = excess;
        }
        if outcome == Outcome::Succeeded {
            let collected = tokio::select! {
                collected = self.collect() => Some(collected),
                // What has been read of it is in a file without a name, which goes with its reader.
                cancelled = self.site.registry.cancelled(self.run.id) => {
                    outcome = cancelled;
                    None
                }
            };
            match collected {
                Some(Ok(collected)) => output = Some(Arc::new(collected)),
                Some(Err(ExecutorError::Collect(CollectError::TooLarge(bytes)))) => {
                    outcome = Outcome::OutputTooLarge { bytes };
                }
                Some(Err(ExecutorError::Collect(CollectError::TooMany(entries)))) => {
                    outcome = Outcome::OutputTooManyFiles { entries };
                }
                Some(Err(ExecutorError::Collect(CollectError::TooDeep(depth)))) => {
                    outcome = Outcome::OutputTooDeep { depth };
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        let failed = outcome != Outcome::Succeeded;
        let publication = if failed && policy.logs == LogPolicy::Never {
            None
        } else {
            Some(self.publication(ended, &outcome, output, &log).await?)
        };
        match self.finish(&outcome, &log, publication).await {
            // Somebody wanted it to end while it was packed: what is packed says otherwise, and is left to gc.
            Err(cancelled @ RegistryError::Cancelled(_)) => Err(cancelled.into()),
            ended => {
                self.ended(&outcome, ended).await;
                Ok(())
            }
        }
    }

    /// The end of what it printed.
    pub(super) async fn printed(&self) -> Result<RunLog, crate::EngineError> {
        self.site.engine.logs(&self.name(), self.policy().limits.log.as_u64()).await
    }

    /// Reads the output folder. The engine's bytes go to a thread that may block, a few pieces at a time.
    async fn collect(&self) -> Result<Collected, ExecutorError> {
        let bounds = self.policy().limits.output();
        let mut archive = Box::pin(self.site.engine.archive(&self.name()).await?);
        let (sender, receiver) = mpsc::channel(WAITING);
        let spool = self.site.spool.clone();
        let reading = spawn_blocking(move || collect(Pieces::new(receiver), &spool, bounds));
        let mut broken = None;
        while let Some(piece) = archive.next().await {
            let taken = match piece {
                Ok(piece) => sender.send(piece).await,
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            };
            // Nobody reads any more when the archive has ended or a limit is passed.
            if taken.is_err() {
                break;
            }
        }
        drop(sender);
        let collected = reading.await.map_err(ExecutorError::pack)?;
        match (collected, broken) {
            // A connection that broke makes an archive that ends too early; the cause is the one to act upon.
            (Err(CollectError::Malformed(_)), Some(error)) => Err(error.into()),
            (collected, _) => Ok(collected?),
        }
    }

    async fn publication(
        &self,
        ended: &Ended,
        outcome: &Outcome,
        output: Option<Arc<Collected>>,
        printed: &RunLog,
    ) -> Result<Publication, ExecutorError> {
        let registry = &self.site.registry;
        // As it is known now: what it was given, and what any process has seen of it.
        let mut run = registry.run(self.run.id).await?.ok_or(ExecutorError::Run("it is not known"))?;
        let data = registry.run_data(run.id).await?;
        for dataset in run.given.iter_mut().flat_map(|given| &mut given.datasets) {
            // Of data that changed meanwhile nobody can say what the run saw.
            let seen = data.iter().find(|data| data.dataset == dataset.name && !data.changed);
            dataset.digest = seen.and_then(|data| data.fingerprint.clone());
        }
        let run = &run;
        let image = registry.claimed_image(run).await?;
        let image = image.ok_or(ExecutorError::Run("its image is not in the registry"))?;
        let policy = self.policy();
        let finished = ended.container.finished.unwrap_or_else(Timestamp::now);
        let report = Report {
            run,
            project: self.project.as_ref().map_or("", ProjectName::as_str),
            outcome,
            started: ended.container.started,
            finished,
            output: output.as_deref(),
            traffic: &registry.traffic(run.id).await?,
        };
        let ro_crate = report.ro_crate();
        let mut files = vec![(RO_CRATE, ro_crate.clone()), ("run.json", report.run_json())];
        if policy.logs == LogPolicy::Always
            || (policy.logs == LogPolicy::OnFailure && *outcome != Outcome::Succeeded)
        {
            files.push(("log.jsonl", log::timed(printed, report.started, finished)));
            files.push(("stderr.log", log::file(&printed.stderr)));
            files.push(("stdout.log", log::file(&printed.stdout)));
        }
        let permit = registry.publish_permit(run)?;
        let package = Package { run, image: &image, outcome, finished, output: output.clone(), files };
        let packed = package.push(registry, &permit).await?;
        let origin = Origin { image: &image, instance: &self.site.instance, key: &self.site.key };
        let signed = provenance::attachment(&report, &origin, &packed).map_err(ExecutorError::pack)?;
        let mut publication = Publication::new(packed.manifest.clone())?;
        let described = Attachment {
            artifact_type: media_types::TORNO_RO_CRATE,
            media_type: "application/ld+json",
            title: RO_CRATE,
            annotations: Vec::new(),
            bytes: ro_crate,
        };
        for attachment in [signed, described] {
            publication = publication.with(packed.attach(registry, &permit, attachment).await?)?;
        }
        Ok(publication)
    }

    /// Ends the run, then removes it from the engine.
    pub(super) async fn end(&self, outcome: Outcome, log: RunLog, publish: Option<Publication>) {
        // It ends as that, whatever else has come over it.
        let cancelled = self.site.registry.cancellation(self.run.id).await.ok().flatten();
        let outcome = cancelled.unwrap_or(outcome);
        let ended = self.finish(&outcome, &log, publish).await;
        self.ended(&outcome, ended).await;
    }

    /// Notes how the run ended and publishes what it leaves, or notes that this failed, if it is not cancelled.
    async fn finish(
        &self,
        outcome: &Outcome,
        log: &RunLog,
        publish: Option<Publication>,
    ) -> Result<(), RegistryError> {
        let (run, registry) = (self.run.id, &self.site.registry);
        let published = publish.is_some();
        let step = || registry.finish(run, outcome.clone(), log.clone(), publish.clone());
        match self.registered(step).await {
            Err(cancelled @ RegistryError::Cancelled(_)) => Err(cancelled),
            Err(error) if published => {
                tracing::error!(%run, %error, "what a run left could not be published");
                let step = || registry.finish(run, self.unfit(), log.clone(), None);
                self.registered(step).await
            }
            ended => ended,
        }
    }

    /// Removes from the engine what it holds of a run that has ended.
    async fn ended(&self, outcome: &Outcome, ended: Result<(), RegistryError>) {
        let run = self.run.id;
        match ended {
            Ok(()) => tracing::info!(%run, outcome = crate::report::kind(outcome), "a run is over"),
            // It is in nobody's hands then, and is taken up as such.
            Err(error) => {
                tracing::error!(%run, %error, "a run could not be ended");
                return;
            }
        }
        self.tidy().await;
    }

    /// Removes what the engine holds of a run that is over.
    pub(crate) async fn tidy(&self) {
        let run = self.run.id;
        let mut wait = Wait::default();
        for attempt in 1..=TRIES {
            match self.try_to_tidy().await {
                Ok(()) => return,
                Err(error) if attempt == TRIES => {
                    tracing::error!(%run, %error, "the engine still holds something of a run; it is tried again later");
                }
                Err(error) => {
                    tracing::debug!(%run, %error, "the engine still holds something of a run; trying again");
                    wait.next().await;
                }
            }
        }
    }

    /// The same, once.
    pub(crate) async fn try_to_tidy(&self) -> Result<(), ExecutorError> {
        self.clear().await?;
        cache::trim(&self.site, Some(self.run.id)).await?;
        Ok(self.site.registry.tidied(self.run.id).await?)
    }

    /// Removes the container and the volume of a run, what prepared them, its relay and what it was given.
    pub(crate) async fn clear(&self) -> Result<(), ExecutorError> {
        let (engine, name) = (&self.site.engine, self.name());
        engine.remove_container(&crate::engine::preparation_name(&name)).await?;
        engine.remove_container(&name).await?;
        engine.remove_container(&self.relay()).await?;
        engine.remove_volume(&name).await?;
        self.take_back().await
    }
}

/// What the init process says when it could not start the image's command, as an outcome. A program may say the
/// same; it fails either way.
fn not_started(outcome: &Outcome, log: &RunLog) -> Option<Outcome> {
    let Outcome::ExitStatus { status: 126 | 127 } = outcome else { return None };
    log.stderr
        .starts_with(INIT_FAILED)
        .then(|| Outcome::CannotStart { reason: start_reason(&String::from_utf8_lossy(&log.stderr)) })
}

/// The pieces of a channel as bytes to read. Blocks.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Pieces {
    fn new(receiver: mpsc::Receiver<Bytes>) -> Self {
        Self { receiver, piece: Bytes::new() }
    }
}

impl io::Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(into.len());
        let taken = self.piece.split_to(length);
        into.get_mut(..length).unwrap_or_default().copy_from_slice(&taken);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_command_that_is_not_there_is_told_from_a_program_that_failed() {
        let log = |stderr: &str| RunLog { stderr: stderr.into(), ..RunLog::default() };
        let missing = log("[FATAL tini (7)] exec /nope failed: No such file or directory\n");
        let status = |status| Outcome::ExitStatus { status };
        let reason = "no such file or directory".to_owned();
        assert_eq!(not_started(&status(127), &missing), Some(Outcome::CannotStart { reason }));
        assert_eq!(not_started(&status(1), &missing), None);
        assert_eq!(not_started(&status(127), &log("sh: nope: not found")), None);
    }

    #[test]
    fn pieces_are_read_as_one() {
        let (sender, receiver) = mpsc::channel(3);
        for piece in ["ab", "", "cde"] {
            sender.blocking_send(Bytes::from(piece)).expect("open");
        }
        drop(sender);
        let mut whole = String::new();
        Pieces::new(receiver).read_to_string(&mut whole).expect("no error");
        assert_eq!(whole, "abcde");
    }
}
