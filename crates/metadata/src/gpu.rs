//! Which run has which of the host's GPUs.
//!
//! Told a number of GPUs only, an engine gives everybody the first ones, so the numbers are chosen here, in the transaction
//! that claims a run. The run keeps them until it is known that nothing of it is left in the engine, also beyond its end and
//! while it waits to begin anew: a container that could not be removed yet may still compute on them.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, params};
use torno_oci::RunId;

use crate::{
    Metadata, MetadataError,
    row::{all, execute, exists, integer},
};

/// A GPU of the host, by the number that NVIDIA's runtime gives it: the first is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gpu(u32);

impl Gpu {
    /// The one of a number.
    #[must_use]
    pub fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Metadata {
    /// The runs in the queue that still have GPUs of an attempt that was lost.
    pub async fn runs_keeping_gpus(&self) -> Result<BTreeSet<RunId>, MetadataError> {
        self.read(|connection| {
            let sql =
                "SELECT DISTINCT run FROM gpus JOIN runs ON runs.id = gpus.run WHERE runs.state = 'queued'";
            let found = all(connection, sql, [], |row| crate::run::run_id(row.get("run")?))?;
            Ok(found.into_iter().collect())
        })
        .await
    }

    /// Notes that the engine holds nothing any more of the attempts of a run that waits in the queue: its GPUs are free.
    /// One that has been claimed meanwhile keeps them. How many it had.
    pub async fn free_gpus(&self, id: RunId) -> Result<usize, MetadataError> {
        self.write(move |connection| {
            let sql = "SELECT 1 FROM runs WHERE id = ?1 AND state = 'queued'";
            if exists(connection, sql, [integer(id.number())])? { take_back(connection, id) } else { Ok(0) }
        })
        .await
    }
}

/// The GPUs that runs have, and whose they are.
pub(crate) fn taken(connection: &Connection) -> Result<BTreeMap<Gpu, i64>, MetadataError> {
    let taken = all(connection, "SELECT number, run FROM gpus", [], |row| {
        let number = row.get::<_, i64>("number")?;
        let number = u32::try_from(number).map_err(|_| MetadataError::Corrupt("gpu"))?;
        Ok((Gpu(number), row.get("run")?))
    })?;
    Ok(taken.into_iter().collect())
}

/// How many of the first `total` nobody has. Those beyond may have been given when there were more.
pub(crate) fn free(taken: &BTreeMap<Gpu, i64>, total: u32) -> u32 {
    total.saturating_sub(count(taken.range(..Gpu(total))))
}

/// How many of the first `total` a run has already.
pub(crate) fn kept(taken: &BTreeMap<Gpu, i64>, run: i64, total: u32) -> u32 {
    count(taken.range(..Gpu(total)).filter(|(_, whose)| **whose == run))
}

fn count(of: impl Iterator) -> u32 {
    u32::try_from(of.count()).unwrap_or(u32::MAX)
}

/// Gives a run so many of the first `total`, if there are as many: those that it has already, and the lowest ones that
/// nobody has. It is not told of more than it is to have.
pub(crate) fn give(
    connection: &Connection,
    run: i64,
    wanted: u32,
    total: u32,
) -> Result<Vec<Gpu>, MetadataError> {
    let taken = taken(connection)?;
    let kept = taken.range(..Gpu(total)).filter(|(_, whose)| **whose == run).map(|(gpu, _)| *gpu);
    let fresh = (0..total).map(Gpu).filter(|gpu| !taken.contains_key(gpu));
    let mut given: Vec<Gpu> = kept.chain(fresh).take(usize::try_from(wanted).unwrap_or(usize::MAX)).collect();
    given.sort_unstable();
    for gpu in given.iter().filter(|gpu| !taken.contains_key(gpu)) {
        let sql = "INSERT INTO gpus (number, run) VALUES (?1, ?2)";
        execute(connection, sql, params![gpu.0, run])?;
    }
    Ok(given)
}

/// Takes all its GPUs from a run. How many it had.
pub(crate) fn take_back(connection: &Connection, id: RunId) -> Result<usize, MetadataError> {
    execute(connection, "DELETE FROM gpus WHERE run = ?1", [integer(id.number())])
}
