//! The journal: bytes of small blobs that are acknowledged before their files are synced.
//!
//! Syncing a file and its folder makes a small push wait for the disk three times; a row that is committed with the
//! link needs one. What is in the journal is written to its file at once and synced with many others later.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::{Digest, RepositoryName, UserName};

use crate::{
    HoldId, Metadata, MetadataError,
    blob::{HOLD, hold_in, insert_link},
    cache::Stale,
    repository,
    row::{all, execute, exists, first, millis, number, parsed},
};

/// What became of a small blob that was to be linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journaled {
    /// It is safe and linked. Its file may be put in place now; gc keeps away until [`Metadata::placed`], or until it
    /// must have been.
    Linked(JournalId),
    /// Somebody else is putting a file of the same bytes in place: nothing changed, and this one must be synced.
    Busy,
    /// gc is deleting this very blob: wait until it is gone, then ask again.
    Deleting,
}

/// A row of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalId(i64);

/// What the journal can do without once its file is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// Which blob.
    pub blob: Digest,
    /// What is to be done for that.
    pub todo: Todo,
    id: JournalId,
    /// Somebody is about to put the file in place, so the row stays.
    kept: bool,
    /// What keeps gc away while the file is written.
    hold: Option<HoldId>,
}

/// What is to be done with the file of a blob in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    /// It is in place, and is to be synced.
    Sync,
    /// It may not be in place or not have its bytes: it is to be written first.
    Write,
    /// Nothing: gc has taken the blob.
    Nothing,
}

/// How far files are trusted that were put in place and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// As much as others: nothing happened to them since.
    Trusted,
    /// Not at all: the power may have failed, or the disk.
    Distrusted,
}

impl Unsettled {
    /// Whether it stays in the journal whatever is done, since somebody is about to put its file in place.
    pub fn stays(&self) -> bool {
        self.kept
    }
}

impl Metadata {
    /// Links a small blob to `owner`'s repository and keeps its bytes, until [`Metadata::settled`].
    pub async fn link_journaled(
        &self,
        name: &RepositoryName,
        owner: &UserName,
        blob: &Digest,
        bytes: Vec<u8>,
        now: Timestamp,
    ) -> Result<Journaled, MetadataError> {
        let (name, owner, blob) = (name.clone(), owner.clone(), blob.clone());
        self.write_making(Stale::None, move |connection| {
            let sql = "SELECT b.state = 'deleting' AS deleting, j.placing >= ?2 AS busy
                FROM blobs AS b LEFT JOIN journal AS j ON j.id = b.journal WHERE b.digest = ?1";
            let found = first(connection, sql, params![blob.as_str(), now.as_millisecond()], |row| {
                Ok((row.get::<_, bool>("deleting")?, row.get::<_, Option<bool>>("busy")?))
            })?;
            match found {
                Some((true, _)) => return Ok(Journaled::Deleting),
                Some((_, Some(true))) => return Ok(Journaled::Busy),
                _ => {}
            }
            let placing = now.as_millisecond() + millis(HOLD);
            let sql = "INSERT INTO journal (blob, bytes, placing) VALUES (?1, ?2, ?3)";
            execute(connection, sql, params![blob.as_str(), bytes, placing])?;
            let id = connection.last_insert_rowid();
            let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
            let sql = "INSERT INTO blobs (digest, size, state, journal) VALUES (?1, ?2, 'present', ?3)
                ON CONFLICT DO UPDATE SET state = 'present', journal = excluded.journal";
            execute(connection, sql, params![blob.as_str(), size, id])?;
            let repository = repository::ensure(connection, &name, &owner, now)?;
            insert_link(connection, repository, &blob, now)?;
            Ok(Journaled::Linked(JournalId(id)))
        })
        .await
    }

    /// Notes that a blob's file is in place, or that nobody is about to put it there any more: with whatever is
    /// written next, and by itself a moment later.
    pub fn placed(&self, id: JournalId, file: Placed) -> Result<(), MetadataError> {
        let placing = match file {
            Placed::There => 0,
            // Long over.
            Placed::Failed => 1,
        };
        self.write_later(move |connection| {
            execute(connection, "UPDATE journal SET placing = ?2 WHERE id = ?1", params![id.0, placing])?;
            Ok(())
        })
    }

    /// Whether somebody is putting a file in place.
    pub async fn is_placing(&self, now: Timestamp) -> Result<bool, MetadataError> {
        self.read(move |connection| {
            exists(connection, "SELECT 1 FROM journal WHERE placing >= ?1", [now.as_millisecond()])
        })
        .await
    }

    /// The bytes of a blob, if the journal has them.
    pub async fn journaled(&self, blob: &Digest) -> Result<Option<Vec<u8>>, MetadataError> {
        let blob = blob.clone();
        self.read(move |connection| {
            let sql =
                "SELECT j.bytes FROM blobs AS b JOIN journal AS j ON j.id = b.journal WHERE b.digest = ?1";
            first(connection, sql, [blob.as_str()], |row| Ok(row.get("bytes")?))
        })
        .await
    }

    /// The bytes of a blob that is to be written; `None` if somebody else has settled it.
    pub async fn bytes_of(&self, one: &Unsettled) -> Result<Option<Vec<u8>>, MetadataError> {
        let id = one.id.0;
        self.read(move |connection| {
            first(connection, "SELECT bytes FROM journal WHERE id = ?1", [id], |row| Ok(row.get("bytes")?))
        })
        .await
    }

    /// The oldest blobs in the journal, at most `limit`. Those that are to be written are held, so that gc keeps away
    /// meanwhile, until [`Metadata::settled`].
    ///
    /// Trusting, it leaves out what somebody is about to put in place; otherwise nothing counts as in place.
    pub async fn unsettled(
        &self,
        unsynced: Unsynced,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Unsettled>, MetadataError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // What has been placed is written by now.
        self.write_making(Stale::None, |_| Ok(())).await?;
        let look = move |connection: &Connection| oldest(connection, unsynced, limit, now);
        let found = self.read(look).await?;
        if found.iter().all(|one| one.todo != Todo::Write) {
            return Ok(found);
        }
        self.write_making(Stale::None, move |connection| {
            // Looked at again, since gc may have come by.
            let mut found = oldest(connection, unsynced, limit, now)?;
            for one in found.iter_mut().filter(|one| one.todo == Todo::Write) {
                one.hold = Some(hold_in(connection, &one.blob, now)?);
            }
            Ok(found)
        })
        .await
    }

    /// Forgets what has been synced, and what keeps gc away from it.
    pub async fn settled(&self, synced: Vec<Unsettled>) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection| {
            for one in synced.iter().filter(|one| !one.kept) {
                execute(connection, "DELETE FROM journal WHERE id = ?1", [one.id.0])?;
            }
            release_all(connection, &synced)
        })
        .await
    }

    /// Leaves in the journal what could not be synced, and gives up what keeps gc away from it.
    pub async fn not_settled(&self, found: Vec<Unsettled>) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection| release_all(connection, &found)).await
    }
}

/// What became of the file of a blob in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is where it belongs.
    There,
    /// It is not; whoever settles the journal writes it.
    Failed,
}

/// The oldest rows that are to be settled.
fn oldest(
    connection: &Connection,
    unsynced: Unsynced,
    limit: i64,
    now: Timestamp,
) -> Result<Vec<Unsettled>, MetadataError> {
    let sql = "SELECT id, blob, placing FROM journal ORDER BY id LIMIT ?1";
    let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
    let mut found = all(connection, sql, [limit], |row| {
        let placing = number(row, "placing")?;
        Ok(Unsettled {
            blob: parsed(row, "blob")?,
            todo: if placing == 0 && unsynced == Unsynced::Trusted { Todo::Sync } else { Todo::Write },
            id: JournalId(row.get("id")?),
            kept: placing >= now,
            hold: None,
        })
    })?;
    found.retain(|one| unsynced == Unsynced::Distrusted || !one.kept);
    for one in found.iter_mut().filter(|one| one.todo == Todo::Write) {
        // gc takes the row that a blob speaks of, and leaves older ones.
        let present = "SELECT 1 FROM blobs WHERE digest = ?1 AND state = 'present'";
        if !exists(connection, present, [one.blob.as_str()])? {
            one.todo = Todo::Nothing;
        }
    }
    Ok(found)
}

fn release_all(connection: &Connection, found: &[Unsettled]) -> Result<(), MetadataError> {
    for hold in found.iter().filter_map(|one| one.hold) {
        execute(connection, "DELETE FROM holds WHERE id = ?1", [hold.0])?;
    }
    Ok(())
}
