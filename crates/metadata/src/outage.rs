//! What failures of the site do to runs: attempts that are lost and begin again, an engine that does not answer, and a host
//! that is not fit.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::{ProjectName, RunId};

use crate::{
    Metadata, MetadataError,
    control::goes_on,
    row::{all, execute, first, integer, parsed, time, time_option},
    run::changed,
};

impl Metadata {
    /// Puts a run that is under way back into the queue, at its old place, to begin anew: nothing is known any more of the
    /// attempt that was lost but that there was one. It is not claimed before `not_before`. Not for one that somebody wants to end.
    pub async fn lost_run(&self, id: RunId, not_before: Timestamp) -> Result<(), MetadataError> {
        self.write(move |connection| {
            goes_on(connection, id)?;
            let sql = "UPDATE runs SET state = 'queued', not_before = ?2, token_hash = NULL, cpus = NULL, memory = NULL,
                started_at = NULL, time_limit = NULL, given = NULL, peak_memory = NULL, cpu_time = NULL
                WHERE id = ?1 AND finished_at IS NULL AND state <> 'queued'";
            let changed_rows =
                execute(connection, sql, params![integer(id.number()), not_before.as_millisecond()])?;
            execute(connection, "DELETE FROM run_data WHERE run = ?1", [integer(id.number())])?;
            changed(changed_rows)
        })
        .await
    }

    /// When the first of the runs that wait for a time may be claimed, if there are such.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, MetadataError> {
        self.read(|connection| {
            let sql = "SELECT min(not_before) AS due FROM runs WHERE state = 'queued' AND finished_at IS NULL
                AND not_before > ?1";
            let due =
                first(connection, sql, [Timestamp::now().as_millisecond()], |row| time_option(row, "due"))?;
            Ok(due.flatten())
        })
        .await
    }

    /// Notes since when the engine has not answered; `None`: it does.
    pub async fn note_outage(&self, since: Option<Timestamp>) -> Result<(), MetadataError> {
        self.write(move |connection| {
            execute(connection, "DELETE FROM outage", [])?;
            if let Some(since) = since {
                let sql = "INSERT INTO outage (one, since) VALUES (1, ?1)";
                execute(connection, sql, [since.as_millisecond()])?;
            }
            Ok(())
        })
        .await
    }

    /// Since when the engine has not answered, as was noted last.
    pub async fn outage(&self) -> Result<Option<Timestamp>, MetadataError> {
        self.read(|connection| first(connection, "SELECT since FROM outage", [], |row| time(row, "since")))
            .await
    }

    /// Notes the projects of which nothing is started, since the host does not keep what their runs are promised, in place of
    /// those that were noted before. What was noted before and still is, is so since then.
    pub async fn note_unfit(
        &self,
        projects: BTreeSet<ProjectName>,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        self.write(move |connection| {
            for project in unfit(connection)?.keys().filter(|project| !projects.contains(*project)) {
                execute(connection, "DELETE FROM unfit WHERE project = ?1", [project.as_str()])?;
            }
            for project in &projects {
                let sql = "INSERT INTO unfit (project, since) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
                execute(connection, sql, params![project.as_str(), now.as_millisecond()])?;
            }
            Ok(())
        })
        .await
    }

    /// The projects that were noted last, and since when.
    pub async fn unfit(&self) -> Result<BTreeMap<ProjectName, Timestamp>, MetadataError> {
        self.read(unfit).await
    }

    /// Since when nothing of a run's project is started, if it was noted last.
    pub async fn unfit_of(&self, id: RunId) -> Result<Option<Timestamp>, MetadataError> {
        self.read(move |connection| {
            let sql =
                "SELECT u.since FROM unfit AS u JOIN runs AS r ON u.project = r.project WHERE r.id = ?1";
            first(connection, sql, [integer(id.number())], |row| time(row, "since"))
        })
        .await
    }
}

fn unfit(connection: &Connection) -> Result<BTreeMap<ProjectName, Timestamp>, MetadataError> {
    let row = |row: &Row<'_>| Ok((parsed(row, "project")?, time(row, "since")?));
    Ok(all(connection, "SELECT project, since FROM unfit", [], row)?.into_iter().collect())
}
