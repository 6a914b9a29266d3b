//! The queue of runs: who may add to it, and whose turn it is (`choice.rs`). Which GPUs it gets then is in `gpu.rs`.

mod choice;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::{Namespace, ProjectName, RepositoryName, RunId, Tag, UserName};

use crate::{
    Account, Gpu, Metadata, MetadataError, NewRun, Run, gpu,
    row::{all, execute, exists, first, integer, number, repository_id, time},
    run::{run, run_id},
};

use choice::{Candidate, Choice, UnderWay, choose};

/// What runs take of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Billionths of a processor.
    pub nano_cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// GPUs. Of a host's, those numbered from 0 up to this.
    pub gpus: u32,
}

impl Resources {
    /// More processors and memory than any host has, and no GPU.
    pub const UNBOUNDED: Self = Self { nano_cpus: u64::MAX, memory: u64::MAX, gpus: 0 };

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            nano_cpus: self.nano_cpus.saturating_add(other.nano_cpus),
            memory: self.memory.saturating_add(other.memory),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    /// Whether there is enough of everything in `total`.
    pub fn within(self, total: Self) -> bool {
        self.nano_cpus <= total.nano_cpus && self.memory <= total.memory && self.gpus <= total.gpus
    }
}

/// A run that was claimed, and what is its alone.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The run.
    pub run: Run,
    /// The GPUs it has until nothing of it is left in the engine.
    pub gpus: Vec<Gpu>,
}

/// How many runs somebody may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunQuota {
    /// Waiting in the queue; `None`: as many as they like.
    pub queued: Option<u64>,
    /// Queued within [`RunQuota::DAY`]; `None`: as many as they like.
    pub daily: Option<u64>,
}

impl RunQuota {
    /// What a daily quota is counted over, up to now: no midnight at which everybody comes at once.
    pub const DAY: Duration = Duration::from_hours(24);
}

/// What becomes of an image that is pushed again under the same tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rerun {
    /// It runs again.
    #[default]
    Always,
    /// It does not while its run is queued or under way, or has succeeded and its result is there.
    Changed,
}

/// Runs that a push queues, one for each tag, and what must hold for it.
#[derive(Clone, Debug)]
pub struct Admission {
    /// What runs.
    pub run: NewRun,
    /// Whether it runs again.
    pub rerun: Rerun,
    /// How many runs they may have whom these are charged to.
    pub quotas: Vec<(Account, RunQuota)>,
}

/// Why no more runs are queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooManyRuns {
    /// Who has too many.
    pub account: Account,
    /// How they are counted.
    pub counted: Counted,
    /// How many there are.
    pub present: u64,
    /// How many there may be.
    pub allowed: u64,
    /// How many the push would add.
    pub added: u64,
    /// From when on there is room for what was pushed, when only time makes room and ever will.
    pub room: Option<Timestamp>,
}

/// Which runs a quota counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Those that wait.
    Queued,
    /// Those that were queued within [`RunQuota::DAY`].
    Daily,
}

/// What a push has queued.
#[derive(Debug, Default)]
pub(crate) struct Queued {
    pub(crate) runs: Vec<(Tag, RunId)>,
    pub(crate) unchanged: Vec<RunId>,
}

impl Metadata {
    /// Claims the run whose turn it is, if what it needs is left of `total`. `token_hash` is the SHA-256 of what the
    /// engine will pull with.
    ///
    /// `needs` says what a run of each project takes; one of a project that is not there takes nothing, since it is ended
    /// as soon as it is claimed. A run that is next and does not fit stays next until it does; meanwhile nothing is
    /// claimed, but for runs without GPUs while that is all it waits for.
    pub async fn claim_run(
        &self,
        token_hash: [u8; 32],
        needs: BTreeMap<ProjectName, Resources>,
        held: BTreeSet<ProjectName>,
        total: Resources,
    ) -> Result<Option<Claim>, MetadataError> {
        self.write(move |connection| {
            let gpus = gpu::taken(connection)?;
            let mut candidates = candidates(connection, &needs, &gpus, total)?;
            candidates.retain(|run| !held.iter().any(|project| project.as_str() == run.project));
            let Choice { waits, starts } =
                choose(&candidates, &under_way(connection)?, gpu::free(&gpus, total.gpus), total);
            for id in waits {
                let sql = "UPDATE runs SET reserved = 1 WHERE id = ?1 AND reserved = 0";
                execute(connection, sql, [id])?;
            }
            let Some(Candidate { id, needs, .. }) = starts else { return Ok(None) };
            let sql = "UPDATE runs SET state = 'pulling', attempt = attempt + 1, token_hash = ?2,
                reserved = 0, not_before = NULL, cpus = ?3, memory = ?4 WHERE id = ?1 RETURNING *";
            let takes = (integer(needs.nano_cpus), integer(needs.memory));
            let claimed = first(connection, sql, params![id, token_hash.as_slice(), takes.0, takes.1], run)?;
            let Some(run) = claimed else { return Ok(None) };
            // What needs more than there is at all is ended, and needs none for that.
            let wanted = if needs.within(total) { needs.gpus } else { 0 };
            let gpus = gpu::give(connection, *id, wanted, total.gpus)?;
            Ok(Some(Claim { run, gpus }))
        })
        .await
    }

    /// How many runs of its project stand before a queued one: those under way, and those whose turn comes first if
    /// all are the same person's.
    pub async fn runs_before(&self, id: RunId) -> Result<u64, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT count(*) AS n FROM runs AS me JOIN runs AS other ON other.project = me.project
                WHERE me.id = ?1 AND other.finished_at IS NULL AND other.id <> me.id
                    AND (other.state <> 'queued' OR other.priority > me.priority
                        OR (other.priority = me.priority AND other.id < me.id))";
            Ok(first(connection, sql, [integer(id.number())], |row| number(row, "n"))?.unwrap_or(0))
        })
        .await
    }
}

/// Of each project that is not paused, owner and priority the run that has waited longest, and whatever is reserved.
fn candidates(
    connection: &Connection,
    needs: &BTreeMap<ProjectName, Resources>,
    gpus: &BTreeMap<Gpu, i64>,
    total: Resources,
) -> Result<Vec<Candidate>, MetadataError> {
    let sql = "SELECT id, project, owner, priority, reserved FROM runs
        WHERE state = 'queued' AND finished_at IS NULL AND coalesce(not_before, 0) <= ?1 AND (reserved = 1 OR id IN (
            SELECT min(id) FROM runs WHERE state = 'queued' AND finished_at IS NULL
                AND coalesce(not_before, 0) <= ?1 GROUP BY project, owner, priority))
            AND NOT EXISTS (SELECT 1 FROM pauses AS p WHERE p.project IN ('', runs.project))";
    let by_name: BTreeMap<&str, Resources> =
        needs.iter().map(|(project, needs)| (project.as_str(), *needs)).collect();
    all(connection, sql, [Timestamp::now().as_millisecond()], |row| {
        let (id, project): (i64, String) = (row.get("id")?, row.get("project")?);
        Ok(Candidate {
            id,
            keeps: gpu::kept(gpus, id, total.gpus),
            needs: by_name.get(project.as_str()).copied().unwrap_or_default(),
            project,
            owner: row.get("owner")?,
            priority: row.get("priority")?,
            reserved: row.get("reserved")?,
        })
    })
}

fn under_way(connection: &Connection) -> Result<Vec<UnderWay>, MetadataError> {
    let sql = "SELECT project, owner, coalesce(cpus, 0) AS cpus, coalesce(memory, 0) AS memory FROM runs
        WHERE state IN ('pulling', 'starting', 'running', 'collecting') AND finished_at IS NULL";
    all(connection, sql, [], |row| {
        // Its GPUs are counted by their numbers, and longer.
        let takes = Resources { nano_cpus: number(row, "cpus")?, memory: number(row, "memory")?, gpus: 0 };
        Ok(UnderWay { project: row.get("project")?, owner: row.get("owner")?, takes })
    })
}

/// Queues a run for each tag, or says who has too many; nothing has changed then.
pub(crate) fn admit(
    connection: &Connection,
    name: &RepositoryName,
    tags: &[Tag],
    who: &UserName,
    admission: &Admission,
    now: Timestamp,
) -> Result<Result<Queued, TooManyRuns>, MetadataError> {
    let mut queued = Queued::default();
    let mut new = Vec::new();
    for tag in tags {
        match unchanged(connection, name, tag, admission)? {
            Some(run) => queued.unchanged.push(run),
            None => new.push(tag),
        }
    }
    if let Some(too_many) = too_many(connection, &admission.quotas, new.len() as u64, now)? {
        return Ok(Err(too_many));
    }
    for tag in new {
        let run = queue(connection, name, tag, who, &admission.run, now)?;
        queued.runs.push((tag.clone(), run));
    }
    Ok(Ok(queued))
}

/// The run because of which an image need not run again under a tag.
fn unchanged(
    connection: &Connection,
    name: &RepositoryName,
    tag: &Tag,
    admission: &Admission,
) -> Result<Option<RunId>, MetadataError> {
    if admission.rerun == Rerun::Always {
        return Ok(None);
    }
    let sql = "SELECT id, image, finished_at, result FROM runs WHERE repository = ?1 AND tag = ?2
        ORDER BY id DESC LIMIT 1";
    let latest = first(connection, sql, params![name.as_str(), tag.as_str()], |row| {
        let (id, image): (i64, String) = (row.get("id")?, row.get("image")?);
        let (finished, result): (Option<i64>, Option<String>) = (row.get("finished_at")?, row.get("result")?);
        Ok((run_id(id)?, image, finished, result))
    })?;
    let Some((id, image, finished, result)) = latest else { return Ok(None) };
    if image != admission.run.image.as_str() {
        return Ok(None);
    }
    if finished.is_none() {
        return Ok(Some(id));
    }
    // Only what has succeeded is under the tag itself.
    let (Some(results), Some(result)) = (name.results(), result) else { return Ok(None) };
    let sql = "SELECT 1 FROM tags AS t JOIN repositories AS r ON r.id = t.repository
        WHERE r.name = ?1 AND t.tag = ?2 AND t.manifest = ?3";
    let there = exists(connection, sql, params![results.as_str(), tag.as_str(), result])?;
    Ok(there.then_some(id))
}

/// The first of these that so many more runs would be too many for.
pub(crate) fn too_many(
    connection: &Connection,
    quotas: &[(Account, RunQuota)],
    added: u64,
    now: Timestamp,
) -> Result<Option<TooManyRuns>, MetadataError> {
    for (account, quota) in quotas {
        if let Some(too_many) = exceeded(connection, account, *quota, added, now)? {
            return Ok(Some(too_many));
        }
    }
    Ok(None)
}

/// Whether somebody would have more runs than they may.
fn exceeded(
    connection: &Connection,
    account: &Account,
    quota: RunQuota,
    added: u64,
    now: Timestamp,
) -> Result<Option<TooManyRuns>, MetadataError> {
    if added == 0 {
        return Ok(None);
    }
    let (column, whose) = match account {
        Account::Owner(owner) => ("owner", owner.as_str()),
        Account::Project(project) => ("project", project.as_str()),
    };
    let too_many = |counted, present, allowed, room| TooManyRuns {
        account: account.clone(),
        counted,
        present,
        allowed,
        added,
        room,
    };
    let count = |row: &Row<'_>| number(row, "n");
    if let Some(allowed) = quota.queued {
        let sql = format!(
            "SELECT count(*) AS n FROM runs WHERE state = 'queued' AND finished_at IS NULL AND {column} = ?1"
        );
        let present = first(connection, &sql, [whose], count)?.unwrap_or(0);
        if present.saturating_add(added) > allowed {
            return Ok(Some(too_many(Counted::Queued, present, allowed, None)));
        }
    }
    if let Some(allowed) = quota.daily {
        let since = now.as_millisecond().saturating_sub(crate::row::millis(RunQuota::DAY));
        let sql = format!("SELECT count(*) AS n FROM runs WHERE {column} = ?1 AND queued_at > ?2");
        let present = first(connection, &sql, params![whose, since], count)?.unwrap_or(0);
        if present.saturating_add(added) > allowed {
            // There is room once so many of the oldest are more than a day old.
            let surplus = present.saturating_add(added).saturating_sub(allowed);
            let sql = format!(
                "SELECT queued_at FROM runs WHERE {column} = ?1 AND queued_at > ?2
                    ORDER BY queued_at LIMIT 1 OFFSET ?3"
            );
            let parameters = params![whose, since, integer(surplus.saturating_sub(1))];
            let last = first(connection, &sql, parameters, |row| time(row, "queued_at"))?;
            let ever = last.filter(|_| added <= allowed);
            let room = ever.and_then(|last| last.checked_add(RunQuota::DAY).ok());
            return Ok(Some(too_many(Counted::Daily, present, allowed, room)));
        }
    }
    Ok(None)
}

/// Puts a run into the queue and takes away what its result tags said of earlier runs.
pub(crate) fn queue(
    connection: &Connection,
    name: &RepositoryName,
    tag: &Tag,
    who: &UserName,
    new: &NewRun,
    now: Timestamp,
) -> Result<RunId, MetadataError> {
    let (Namespace::Run { project, .. } | Namespace::Try { project, .. }) = name.namespace() else {
        return Err(MetadataError::Corrupt("run: its repository"));
    };
    let sql = "INSERT INTO runs (repository, project, tag, owner, image, image_type, state, queued_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'queued', ?7)";
    let parameters = params![
        name.as_str(),
        project,
        tag.as_str(),
        who.as_str(),
        new.image.as_str(),
        new.media_type.as_str(),
        now.as_millisecond()
    ];
    execute(connection, sql, parameters)?;
    let id = run_id(connection.last_insert_rowid())?;
    if let Some(repository) =
        name.results().map(|results| repository_id(connection, &results)).transpose()?.flatten()
    {
        for suffix in ["", ".log"] {
            let stale = format!("{tag}{suffix}");
            execute(
                connection,
                "DELETE FROM tags WHERE repository = ?1 AND tag = ?2",
                params![repository, stale],
            )?;
        }
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
