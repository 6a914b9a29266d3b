//! The journal: bytes of small blobs that are acknowledged before their files are synced.
//!
//! Syncing a file and its folder makes a small push wait for the disk three times; a row that is committed with the
//! link needs one. What is in the journal is written to its file at once and synced with many others later. What is
//! true of the files is not known here.

use std::collections::HashSet;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::{Digest, RepositoryName, UserName};

use crate::{
    Metadata, MetadataError,
    blob::{insert_link, is_deleting},
    cache::Stale,
    quarantine, repository,
    row::{all, execute, exists, first, parsed},
};

/// What became of a small blob that was to be linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journaled {
    /// It is safe and linked. Its file may be put in place.
    Linked(JournalId),
    /// gc is deleting this very blob: wait until it is gone, then ask again.
    Deleting,
}

/// A row of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JournalId(i64);

/// A row of the journal whose file may not have reached the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// Which.
    pub id: JournalId,
    /// Whose bytes it has.
    pub blob: Digest,
}

/// Whether a blob that is in the journal is needed still: gc takes the row that a blob speaks of, and leaves older ones.
const NEEDED: &str = "SELECT 1 FROM journal AS j JOIN blobs AS b ON b.digest = j.blob
    WHERE j.id = ?1 AND b.state = 'present'";

impl Metadata {
    /// Links a small blob to `owner`'s repository and keeps its bytes, until [`Metadata::settled`].
    pub async fn link_journaled(
        &self,
        name: &RepositoryName,
        owner: &UserName,
        blob: &Digest,
        bytes: Bytes,
        now: Timestamp,
    ) -> Result<Journaled, MetadataError> {
        let (name, owner, blob) = (name.clone(), owner.clone(), blob.clone());
        self.write_making(Stale::None, move |connection| {
            if is_deleting(connection, &blob)? {
                return Ok(Journaled::Deleting);
            }
            let sql = "INSERT INTO journal (blob, bytes) VALUES (?1, ?2)";
            execute(connection, sql, params![blob.as_str(), &bytes[..]])?;
            let id = connection.last_insert_rowid();
            let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
            let sql = "INSERT INTO blobs (digest, size, state, journal) VALUES (?1, ?2, 'present', ?3)
                ON CONFLICT DO UPDATE SET state = 'present', size = excluded.size, journal = excluded.journal";
            execute(connection, sql, params![blob.as_str(), size, id])?;
            quarantine::heal_blob(connection, &blob)?;
            let repository = repository::ensure(connection, &name, &owner, now)?;
            insert_link(connection, repository, &blob, now)?;
            Ok(Journaled::Linked(JournalId(id)))
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

    /// The oldest rows of the journal, at most `limit`.
    pub async fn unsettled(&self, limit: usize) -> Result<Vec<Unsettled>, MetadataError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            all(connection, "SELECT id, blob FROM journal ORDER BY id LIMIT ?1", [limit], |row| {
                Ok(Unsettled { id: JournalId(row.get("id")?), blob: parsed(row, "blob")? })
            })
        })
        .await
    }

    /// The bytes of those blobs that are needed still.
    pub async fn bytes_of(&self, rows: &[Unsettled]) -> Result<Vec<(Unsettled, Vec<u8>)>, MetadataError> {
        let rows = rows.to_vec();
        self.read(move |connection| {
            let mut found = Vec::with_capacity(rows.len());
            for row in rows {
                if exists(connection, NEEDED, [row.id.0])? {
                    let sql = "SELECT bytes FROM journal WHERE id = ?1";
                    let bytes = first(connection, sql, [row.id.0], |row| Ok(row.get("bytes")?))?;
                    found.extend(bytes.map(|bytes| (row, bytes)));
                }
            }
            Ok(found)
        })
        .await
    }

    /// Forgets what has been synced.
    pub async fn settled(&self, rows: Vec<JournalId>) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection| {
            for id in rows {
                execute(connection, "DELETE FROM journal WHERE id = ?1", [id.0])?;
            }
            Ok(())
        })
        .await
    }

    /// A reader of the journal for threads that wait for nothing else.
    pub fn journal_reader(&self) -> Result<JournalReader, MetadataError> {
        Ok(JournalReader { connection: self.connect()? })
    }
}

/// Reads the journal, on a connection of its own. Blocks.
#[derive(Debug)]
pub struct JournalReader {
    connection: Connection,
}

impl JournalReader {
    /// Those of `rows` whose blobs are needed still.
    pub fn needed(&self, rows: &[JournalId]) -> Result<HashSet<JournalId>, MetadataError> {
        let mut needed = HashSet::with_capacity(rows.len());
        let transaction = self.connection.unchecked_transaction()?;
        for row in rows {
            if exists(&transaction, NEEDED, [row.0])? {
                needed.insert(*row);
            }
        }
        Ok(needed)
    }
}
