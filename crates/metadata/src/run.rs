//! Runs: the queue, and how far each has come.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::{Digest, Priority, RepositoryName, RunId, Tag, UserName};

use crate::{
    Given, Measured, Metadata, MetadataError, NewManifest, Outcome, RunLog, StoredManifest, Wanted,
    collect::suspect_manifest,
    control::{goes_on, priority, wanted},
    gpu, manifest, named, repository,
    row::{all, execute, exists, first, integer, millis, number, parsed, parsed_option, time, time_option},
};

/// How far a run has come. Each state comes after the one before it, but for [`RunState::Finished`], which may
/// come after any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// The push was accepted; nothing has happened yet. A run whose preparation was cut off comes back here.
    Queued,
    /// Claimed: the engine pulls the image and makes the container. Nothing of the image has run.
    Pulling,
    /// The engine is told to start the container: something of the image may have run.
    Starting,
    /// The container has started.
    Running,
    /// The container has ended; what it left in `/output` is being read.
    Collecting,
    /// It is over.
    Finished(Outcome),
}

impl RunState {
    fn column(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Pulling => "pulling",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Collecting => "collecting",
            Self::Finished(_) => "finished",
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished(outcome) => outcome.fmt(f),
            other => f.write_str(other.column()),
        }
    }
}

/// A run as it stands now.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// `run/<project>/<name>` or `try/<project>/<name>`.
    pub repository: RepositoryName,
    /// The tag that was pushed.
    pub tag: Tag,
    /// Who pushed.
    pub owner: UserName,
    /// The image manifest that runs.
    pub image: Digest,
    /// How far it has come.
    pub state: RunState,
    /// How often it was claimed.
    pub attempt: u64,
    /// Whether it goes before others of its project.
    pub priority: Priority,
    /// Who wants it to end, or wanted that before it was over.
    pub cancel: Option<Wanted>,
    /// The run whose image it runs again.
    pub retry_of: Option<RunId>,
    /// The wall-clock limit it was started with.
    pub time_limit: Option<Duration>,
    /// When the push was accepted.
    pub queued_at: Timestamp,
    /// From when on it may be claimed again, after a failure of the site.
    pub not_before: Option<Timestamp>,
    /// When its container started.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
    /// The manifest it published.
    pub result: Option<Digest>,
    /// What it was given when it started.
    pub given: Option<Given>,
    /// What it was seen to use.
    pub measured: Measured,
}

/// What is known of a run when it is over.
#[derive(Clone, Debug)]
pub struct FinishedRun {
    /// How it ended.
    pub outcome: Outcome,
    /// What it printed.
    pub log: RunLog,
    /// The manifest to publish in the results repository: the result, or the log of a failure.
    pub publish: Option<NewManifest>,
    /// What speaks of that manifest and is published with it.
    pub attachments: Vec<NewManifest>,
    /// When it was over.
    pub at: Timestamp,
}

/// Which runs to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All, the newest first.
    All,
    /// Those not finished, the oldest first.
    Unfinished,
    /// Those finished of which the engine may still hold something, the oldest first.
    Untidy,
}

impl Metadata {
    /// Puts a claimed run back into the queue, at its old place. Only for one of which nothing has run, and that nobody
    /// wants to end.
    pub async fn requeue_run(&self, id: RunId) -> Result<(), MetadataError> {
        self.write(move |connection| {
            goes_on(connection, id)?;
            let sql = "UPDATE runs SET state = 'queued', token_hash = NULL, cpus = NULL, memory = NULL
                WHERE id = ?1 AND state = 'pulling'";
            changed(execute(connection, sql, [integer(id.number())])?)
        })
        .await
    }

    /// Notes that the engine is about to be told to start a claimed run, and what that is given. One that somebody wants
    /// to end does not start.
    pub async fn starting_run(&self, id: RunId, given: Given) -> Result<(), MetadataError> {
        self.write(move |connection| {
            goes_on(connection, id)?;
            let sql = "UPDATE runs SET state = 'starting', token_hash = NULL, time_limit = ?2, given = ?3
                WHERE id = ?1 AND state = 'pulling'";
            let limit = millis(given.limits.time());
            let given = serde_json::to_string(&given).map_err(|_| MetadataError::Corrupt("given"))?;
            changed(execute(connection, sql, params![integer(id.number()), limit, given])?)
        })
        .await
    }

    /// Notes that a run's container has started.
    pub async fn started_run(&self, id: RunId, at: Timestamp) -> Result<(), MetadataError> {
        self.write(move |connection| {
            let sql = "UPDATE runs SET state = 'running', started_at = ?2
                WHERE id = ?1 AND state IN ('pulling', 'starting', 'running')";
            changed(execute(connection, sql, params![integer(id.number()), at.as_millisecond()])?)
        })
        .await
    }

    /// Notes that a run's container has ended, and what it was seen to use; what was seen before stays where nothing
    /// was seen since.
    pub async fn collecting_run(&self, id: RunId, measured: Measured) -> Result<(), MetadataError> {
        self.write(move |connection| {
            let sql = "UPDATE runs SET state = 'collecting', peak_memory = coalesce(?2, peak_memory),
                cpu_time = coalesce(?3, cpu_time) WHERE id = ?1 AND finished_at IS NULL";
            let parameters =
                params![integer(id.number()), measured.peak_memory.map(integer), measured.cpu.map(millis)];
            changed(execute(connection, sql, parameters)?)
        })
        .await
    }

    /// Ends a run: publishes what it leaves and notes how it ended, all or nothing.
    ///
    /// The published manifest gets the tag `run-<n>` for good and the run's own tag unless that has been pushed
    /// again since; the log of a failure gets both with `.log` behind them. One that somebody wants to end ends as
    /// cancelled only.
    pub async fn finish_run(&self, id: RunId, finished: FinishedRun) -> Result<(), MetadataError> {
        self.write(move |connection| {
            if !matches!(finished.outcome, Outcome::Cancelled { .. }) {
                goes_on(connection, id)?;
            }
            let sql = "SELECT * FROM runs WHERE id = ?1 AND finished_at IS NULL";
            let found = first(connection, sql, [integer(id.number())], run)?;
            let run = found.ok_or(MetadataError::Corrupt("run: it is finished already"))?;
            if let Some(publish) = &finished.publish {
                publish_result(connection, &run, publish, &finished)?;
            }
            let outcome =
                serde_json::to_string(&finished.outcome).map_err(|_| MetadataError::Corrupt("outcome"))?;
            let result = finished.publish.as_ref().map(|manifest| manifest.digest.as_str());
            let sql = "UPDATE runs SET state = 'finished', token_hash = NULL, outcome = ?2, finished_at = ?3,
                result = ?4, stdout = ?5, stderr = ?6, log_times = ?7 WHERE id = ?1";
            let parameters = params![
                integer(id.number()),
                outcome,
                finished.at.as_millisecond(),
                result,
                finished.log.stdout,
                finished.log.stderr,
                finished.log.times()?
            ];
            changed(execute(connection, sql, parameters)?)?;
            settled(connection, &run)
        })
        .await
    }

    /// Notes that the engine holds nothing of a finished run any more: its GPUs are free. How many it had.
    pub async fn tidied_run(&self, id: RunId) -> Result<usize, MetadataError> {
        self.write(move |connection| {
            let sql = "UPDATE runs SET tidy = 1 WHERE id = ?1 AND finished_at IS NOT NULL";
            changed(execute(connection, sql, [integer(id.number())])?)?;
            gpu::take_back(connection, id)
        })
        .await
    }

    /// A run by its number.
    pub async fn run(&self, id: RunId) -> Result<Option<Run>, MetadataError> {
        self.read(move |connection| {
            first(connection, "SELECT * FROM runs WHERE id = ?1", [integer(id.number())], run)
        })
        .await
    }

    /// The latest run of a tag of `run/<project>/<name>` or `try/<project>/<name>`.
    pub async fn latest_run(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Run>, MetadataError> {
        let (repository, tag) = (repository.clone(), tag.clone());
        self.read(move |connection| {
            let sql = "SELECT * FROM runs WHERE repository = ?1 AND tag = ?2 ORDER BY id DESC LIMIT 1";
            first(connection, sql, params![repository.as_str(), tag.as_str()], run)
        })
        .await
    }

    /// Runs, at most `limit`.
    pub async fn runs(&self, which: Selection, limit: usize) -> Result<Vec<Run>, MetadataError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            let sql = match which {
                Selection::All => "SELECT * FROM runs ORDER BY id DESC LIMIT ?1",
                Selection::Unfinished => "SELECT * FROM runs WHERE finished_at IS NULL ORDER BY id LIMIT ?1",
                Selection::Untidy => {
                    "SELECT * FROM runs WHERE finished_at IS NOT NULL AND tidy = 0 ORDER BY id LIMIT ?1"
                }
            };
            all(connection, sql, [limit], run)
        })
        .await
    }

    /// What a run's container printed, kept when it ended.
    pub async fn run_log(&self, id: RunId) -> Result<Option<RunLog>, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT stdout, stderr, log_times FROM runs WHERE id = ?1 AND stdout IS NOT NULL";
            first(connection, sql, [integer(id.number())], |row| {
                let times: Option<String> = row.get("log_times")?;
                let (stdout, stderr) = (row.get("stdout")?, row.get("stderr")?);
                RunLog { stdout, stderr, pieces: Vec::new() }.with_times(times.as_deref())
            })
        })
        .await
    }

    /// The SHA-256 of what the engine pulls a claimed run's image with; `None` when it has no business pulling.
    pub async fn run_token_hash(&self, id: RunId) -> Result<Option<[u8; 32]>, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT token_hash FROM runs WHERE id = ?1 AND state = 'pulling'";
            let found = first(connection, sql, [integer(id.number())], |row| {
                Ok(row.get::<_, Option<Vec<u8>>>("token_hash")?)
            })?;
            Ok(found.flatten().and_then(|hash| hash.try_into().ok()))
        })
        .await
    }

    /// The image manifest of a run, wherever its repository has gone since the push.
    pub async fn run_image(&self, id: RunId) -> Result<Option<StoredManifest>, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT m.digest, m.bytes, r.image_type AS media_type FROM runs AS r
                JOIN manifests AS m ON m.digest = r.image WHERE r.id = ?1
                    AND NOT EXISTS (SELECT 1 FROM quarantined_manifests AS q WHERE q.manifest = m.digest)";
            first(connection, sql, [integer(id.number())], manifest::stored)
        })
        .await
    }

    /// The size of a blob that a run's image names.
    pub async fn run_blob(&self, id: RunId, blob: &Digest) -> Result<Option<u64>, MetadataError> {
        let blob = blob.clone();
        self.read(move |connection| {
            let sql = "SELECT b.size FROM runs AS r JOIN manifest_blobs AS m ON m.manifest = r.image
                JOIN blobs AS b ON b.digest = m.blob
                WHERE r.id = ?1 AND m.blob = ?2 AND b.state = 'present'
                    AND NOT EXISTS (SELECT 1 FROM quarantined_blobs AS q WHERE q.blob = m.blob)";
            first(connection, sql, params![integer(id.number()), blob.as_str()], |row| number(row, "size"))
        })
        .await
    }
}

/// A step that changed no row was taken from a state that does not lead there.
pub(crate) fn changed(rows: usize) -> Result<(), MetadataError> {
    if rows == 1 { Ok(()) } else { Err(MetadataError::Corrupt("run: it is not in the state for this step")) }
}

/// A run needs its image no longer, which may have been deleted while only the run needed it.
pub(crate) fn settled(connection: &Connection, run: &Run) -> Result<(), MetadataError> {
    suspect_manifest(connection, &run.image)?;
    let sql = "INSERT INTO suspects (blob) SELECT blob FROM manifest_blobs WHERE manifest = ?1";
    execute(connection, sql, [run.image.as_str()])?;
    Ok(())
}

fn publish_result(
    connection: &Connection,
    run: &Run,
    publish: &NewManifest,
    finished: &FinishedRun,
) -> Result<(), MetadataError> {
    let results = run.repository.results().ok_or(MetadataError::Corrupt("run: its repository"))?;
    let repository = repository::ensure(connection, &results, &run.owner, finished.at)?;
    for manifest in std::iter::once(publish).chain(&finished.attachments) {
        if !named::compare(connection, repository, &results, manifest)?.missing.is_empty() {
            return Err(MetadataError::Corrupt("result: what it names is not there"));
        }
        manifest::insert(connection, repository, manifest, finished.at)?;
    }
    let suffix = if finished.outcome == Outcome::Succeeded { "" } else { ".log" };
    let sql = "SELECT 1 FROM runs WHERE repository = ?1 AND tag = ?2 AND id > ?3";
    let later = params![run.repository.as_str(), run.tag.as_str(), integer(run.id.number())];
    let superseded = exists(connection, sql, later)?;
    let moving = (!superseded).then(|| format!("{}{suffix}", run.tag));
    for text in [Some(format!("run-{}{suffix}", run.id)), moving].into_iter().flatten() {
        // A tag of the greatest length has no room for `.log`; its log is under `run-<n>.log` alone.
        if let Ok(tag) = text.parse::<Tag>() {
            manifest::point(connection, repository, &tag, &publish.digest, finished.at)?;
        }
    }
    Ok(())
}

pub(crate) fn run_id(number: i64) -> Result<RunId, MetadataError> {
    u64::try_from(number).ok().and_then(RunId::new).ok_or(MetadataError::Corrupt("run id"))
}

pub(crate) fn run(row: &Row<'_>) -> Result<Run, MetadataError> {
    let state: String = row.get("state")?;
    let state = match state.as_str() {
        "queued" => RunState::Queued,
        "pulling" => RunState::Pulling,
        "starting" => RunState::Starting,
        "running" => RunState::Running,
        "collecting" => RunState::Collecting,
        "finished" => {
            let outcome: String = row.get("outcome")?;
            RunState::Finished(serde_json::from_str(&outcome).map_err(|_| MetadataError::Corrupt("outcome"))?)
        }
        _ => return Err(MetadataError::Corrupt("state")),
    };
    let span = |column: &str| -> Result<Option<Duration>, MetadataError> {
        let millis: Option<i64> = row.get(column)?;
        Ok(millis.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis))
    };
    let given: Option<String> = row.get("given")?;
    let given = given.map(|given| serde_json::from_str(&given)).transpose();
    let memory: Option<i64> = row.get("peak_memory")?;
    Ok(Run {
        id: run_id(row.get("id")?)?,
        repository: parsed(row, "repository")?,
        tag: parsed(row, "tag")?,
        owner: parsed(row, "owner")?,
        image: parsed(row, "image")?,
        state,
        attempt: number(row, "attempt")?,
        priority: priority(row.get("priority")?),
        cancel: wanted(row)?,
        retry_of: row.get::<_, Option<i64>>("retry_of")?.map(run_id).transpose()?,
        time_limit: span("time_limit")?,
        queued_at: time(row, "queued_at")?,
        not_before: time_option(row, "not_before")?,
        started_at: time_option(row, "started_at")?,
        finished_at: time_option(row, "finished_at")?,
        result: parsed_option(row, "result")?,
        given: given.map_err(|_| MetadataError::Corrupt("given"))?,
        measured: Measured {
            peak_memory: memory.and_then(|memory| u64::try_from(memory).ok()),
            cpu: span("cpu_time")?,
        },
    })
}
