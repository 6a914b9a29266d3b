//! What people say about runs after the push: that one ends, runs again or goes first, and that a project waits.
//!
//! A run whose cancellation was taken ends as cancelled and in no other way: every step that would move it on looks for
//! that in its own transaction.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use torno_oci::{Capacity, Priority, ProjectName, RepositoryName, RunId, Tag, UserName};

use crate::{
    Account, Metadata, MetadataError, NewRun, Outcome, Run, RunQuota, RunState, TooManyRuns, named, queue,
    row::{all, execute, exists, first, integer, parsed, repository_id},
    run::{changed, run, run_id, settled},
};

#[cfg(test)]
mod tests;

/// Who wanted something, as what, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// As what.
    #[serde(rename = "as")]
    pub capacity: Capacity,
    /// Their name; `None` for a command on the machine.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "name")]
    pub by: Option<UserName>,
    /// When.
    #[serde(with = "moment")]
    pub at: Timestamp,
}

impl Wanted {
    /// How a run ends that this was wanted of.
    pub fn outcome(&self) -> Outcome {
        Outcome::Cancelled { by: self.capacity }
    }
}

/// Names of people in JSON are parsed like any others.
mod name {
    use serde::{Deserialize as _, Deserializer, Serializer, de};
    use torno_oci::UserName;

    #[expect(clippy::ref_option, reason = "serde gives it so")]
    pub(super) fn serialize<S: Serializer>(name: &Option<UserName>, to: S) -> Result<S::Ok, S::Error> {
        match name {
            Some(name) => to.serialize_some(name.as_str()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<UserName>, D::Error> {
        let name = Option::<String>::deserialize(from)?;
        name.map(|name| name.parse().map_err(|_| de::Error::custom("no user name"))).transpose()
    }
}

/// Moments in JSON are milliseconds, as in columns.
mod moment {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(at.as_millisecond())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::from_millisecond(i64::deserialize(from)?).map_err(de::Error::custom)
    }
}

/// What became of a wish that a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It had not begun, and is over.
    AtOnce,
    /// Whoever takes care of it has been told, now or before.
    Asked,
}

/// Why a run is left as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// There is no such run.
    Unknown,
    /// It is over.
    Over(Outcome),
    /// It is not over.
    NotOver(RunState),
    /// It does not wait any more.
    Begun(RunState),
    /// Its image, or a part of it, is not in the repository any more.
    ImageGone,
    /// Another image has been pushed under its tag since, by which this run exists.
    Superseded(RunId),
    /// Somebody would have too many runs.
    TooMany(TooManyRuns),
}

/// A run that repeats another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retried {
    /// Its number.
    pub run: RunId,
    /// The repository of the image.
    pub repository: RepositoryName,
    /// Its tag.
    pub tag: Tag,
}

/// A project of which nothing new is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Which; `None` is the whole site.
    pub project: Option<ProjectName>,
    /// Who wants it.
    pub wanted: Wanted,
}

impl Metadata {
    /// Ends a run that waits; of one that is under way, whoever takes care of it finds the wish and ends it.
    pub async fn cancel_run(
        &self,
        id: RunId,
        wanted: Wanted,
    ) -> Result<Result<Cancelled, Left>, MetadataError> {
        self.write(move |connection| {
            let Some(run) = by_number(connection, id)? else { return Ok(Err(Left::Unknown)) };
            match run.state {
                RunState::Finished(outcome) => Ok(Err(Left::Over(outcome))),
                RunState::Queued => {
                    note(connection, id, &wanted)?;
                    end_cancelled(connection, &run, &wanted)?;
                    Ok(Ok(Cancelled::AtOnce))
                }
                RunState::Pulling | RunState::Starting | RunState::Running | RunState::Collecting => {
                    note(connection, id, &wanted)?;
                    Ok(Ok(Cancelled::Asked))
                }
            }
        })
        .await
    }

    /// Who wants a run to end that is not over.
    pub async fn cancellation(&self, id: RunId) -> Result<Option<Wanted>, MetadataError> {
        self.read(move |connection| wish(connection, id)).await
    }

    /// Queues the image of a run that is over again, as a run of its own, in the same person's name. `quotas` holds for it
    /// as for a push.
    pub async fn retry_run(
        &self,
        id: RunId,
        quotas: Vec<(Account, RunQuota)>,
        now: Timestamp,
    ) -> Result<Result<Retried, Left>, MetadataError> {
        self.write(move |connection| {
            let Some(run) = by_number(connection, id)? else { return Ok(Err(Left::Unknown)) };
            if !matches!(run.state, RunState::Finished(_)) {
                return Ok(Err(Left::NotOver(run.state)));
            }
            let sql = "SELECT id FROM runs WHERE repository = ?1 AND tag = ?2 AND id > ?3 AND image <> ?4
                ORDER BY id DESC LIMIT 1";
            let (name, tag) = (run.repository.as_str(), run.tag.as_str());
            let later = params![name, tag, integer(id.number()), run.image.as_str()];
            if let Some(other) = first(connection, sql, later, |row| run_id(row.get("id")?))? {
                return Ok(Err(Left::Superseded(other)));
            }
            let Some(new) = image(connection, &run)? else { return Ok(Err(Left::ImageGone)) };
            if let Some(too_many) = queue::too_many(connection, &quotas, 1, now)? {
                return Ok(Err(Left::TooMany(too_many)));
            }
            let again = queue::queue(connection, &run.repository, &run.tag, &run.owner, &new, now)?;
            let sql = "UPDATE runs SET retry_of = ?2 WHERE id = ?1";
            execute(connection, sql, [integer(again.number()), integer(id.number())])?;
            Ok(Ok(Retried { run: again, repository: run.repository, tag: run.tag }))
        })
        .await
    }

    /// Says whether a run that waits goes before others of its project.
    pub async fn prioritize_run(
        &self,
        id: RunId,
        priority: Priority,
    ) -> Result<Result<(), Left>, MetadataError> {
        self.write(move |connection| {
            let Some(run) = by_number(connection, id)? else { return Ok(Err(Left::Unknown)) };
            match run.state {
                RunState::Finished(outcome) => Ok(Err(Left::Over(outcome))),
                RunState::Queued => {
                    let sql = "UPDATE runs SET priority = ?2 WHERE id = ?1";
                    execute(connection, sql, [integer(id.number()), column(priority)])?;
                    Ok(Ok(()))
                }
                begun => Ok(Err(Left::Begun(begun))),
            }
        })
        .await
    }

    /// Starts nothing new of a project, or at all. What was wanted before stands; it is told then.
    pub async fn pause(&self, pause: Pause) -> Result<Option<Pause>, MetadataError> {
        self.write(move |connection| {
            let before = paused(connection, pause.project.as_ref())?;
            let wanted = json(&pause.wanted)?;
            let sql = "INSERT INTO pauses (project, pause) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            execute(connection, sql, params![key(pause.project.as_ref()), wanted])?;
            Ok(before)
        })
        .await
    }

    /// Lets a project, or everything, go on; what had been wanted, if anything.
    pub async fn resume(&self, project: Option<ProjectName>) -> Result<Option<Pause>, MetadataError> {
        self.write(move |connection| {
            let before = paused(connection, project.as_ref())?;
            execute(connection, "DELETE FROM pauses WHERE project = ?1", [key(project.as_ref())])?;
            Ok(before)
        })
        .await
    }

    /// What is paused: the whole site first, then projects by their names.
    pub async fn pauses(&self) -> Result<Vec<Pause>, MetadataError> {
        self.read(|connection| all(connection, "SELECT * FROM pauses ORDER BY project", [], pause)).await
    }

    /// What keeps a run from being started: the whole site's pause, or its project's.
    pub async fn pause_of(&self, id: RunId) -> Result<Option<Pause>, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT p.* FROM pauses AS p JOIN runs AS r ON p.project IN ('', r.project)
                WHERE r.id = ?1 ORDER BY p.project LIMIT 1";
            first(connection, sql, [integer(id.number())], pause)
        })
        .await
    }
}

/// Who wants a run to end that is not over.
pub(crate) fn wish(connection: &Connection, id: RunId) -> Result<Option<Wanted>, MetadataError> {
    let sql = "SELECT cancel FROM runs WHERE id = ?1 AND finished_at IS NULL AND cancel IS NOT NULL";
    first(connection, sql, [integer(id.number())], wanted).map(Option::flatten)
}

/// The column of a row that says who wants the run to end.
pub(crate) fn wanted(row: &Row<'_>) -> Result<Option<Wanted>, MetadataError> {
    let text: Option<String> = row.get("cancel")?;
    text.map(|text| serde_json::from_str(&text).map_err(|_| MetadataError::Corrupt("cancel"))).transpose()
}

/// Refuses to go on with a run that somebody wants to end.
pub(crate) fn goes_on(connection: &Connection, id: RunId) -> Result<(), MetadataError> {
    match wish(connection, id)? {
        Some(wanted) => Err(MetadataError::Cancelled(wanted.capacity)),
        None => Ok(()),
    }
}

/// Ends a run of which nothing runs as cancelled.
pub(crate) fn end_cancelled(
    connection: &Connection,
    run: &Run,
    wanted: &Wanted,
) -> Result<(), MetadataError> {
    // One that was claimed before may have left something in the engine.
    let sql =
        "UPDATE runs SET state = 'finished', token_hash = NULL, cpus = NULL, memory = NULL, not_before = NULL,
        outcome = ?2, finished_at = ?3, tidy = attempt = 0 WHERE id = ?1 AND finished_at IS NULL";
    let outcome = serde_json::to_string(&wanted.outcome()).map_err(|_| MetadataError::Corrupt("outcome"))?;
    let parameters = params![integer(run.id.number()), outcome, wanted.at.as_millisecond()];
    changed(execute(connection, sql, parameters)?)?;
    settled(connection, run)
}

/// A priority in its column: more is earlier.
fn column(priority: Priority) -> i64 {
    match priority {
        Priority::Low => -1,
        Priority::Normal => 0,
        Priority::High => 1,
    }
}

/// A priority from its column.
pub(crate) fn priority(column: i64) -> Priority {
    match column {
        ..0 => Priority::Low,
        0 => Priority::Normal,
        1.. => Priority::High,
    }
}

/// Notes who wants a run to end, unless somebody did before.
fn note(connection: &Connection, id: RunId, wanted: &Wanted) -> Result<(), MetadataError> {
    let sql = "UPDATE runs SET cancel = coalesce(cancel, ?2) WHERE id = ?1 AND finished_at IS NULL";
    changed(execute(connection, sql, params![integer(id.number()), json(wanted)?])?)
}

fn json(wanted: &Wanted) -> Result<String, MetadataError> {
    serde_json::to_string(wanted).map_err(|_| MetadataError::Corrupt("wish"))
}

fn by_number(connection: &Connection, id: RunId) -> Result<Option<Run>, MetadataError> {
    first(connection, "SELECT * FROM runs WHERE id = ?1", [integer(id.number())], run)
}

/// What a run ran, if all of it is still in its repository, and that still its owner's.
fn image(connection: &Connection, run: &Run) -> Result<Option<NewRun>, MetadataError> {
    let Some(repository) = repository_id(connection, &run.repository)? else { return Ok(None) };
    let sql = "SELECT 1 FROM repositories WHERE id = ?1 AND owner = ?2";
    if !exists(connection, sql, params![repository, run.owner.as_str()])?
        || !named::is_whole(connection, repository, &run.image)?
    {
        return Ok(None);
    }
    let sql = "SELECT image_type FROM runs WHERE id = ?1";
    let media_type = first(connection, sql, [integer(run.id.number())], |row| parsed(row, "image_type"))?;
    Ok(media_type.map(|media_type| NewRun { image: run.image.clone(), media_type }))
}

fn key(project: Option<&ProjectName>) -> &str {
    project.map_or("", ProjectName::as_str)
}

fn paused(connection: &Connection, project: Option<&ProjectName>) -> Result<Option<Pause>, MetadataError> {
    first(connection, "SELECT * FROM pauses WHERE project = ?1", [key(project)], pause)
}

fn pause(row: &Row<'_>) -> Result<Pause, MetadataError> {
    let project: String = row.get("project")?;
    let wanted: String = row.get("pause")?;
    let project = (!project.is_empty()).then(|| parsed(row, "project")).transpose()?;
    let wanted = serde_json::from_str(&wanted).map_err(|_| MetadataError::Corrupt("pause"))?;
    Ok(Pause { project, wanted })
}
