//! One moment of the whole database, to be copied while it is in use.

use std::path::Path;

use rusqlite::{Connection, backup::Backup};
use torno_oci::Digest;

use crate::{
    Metadata, MetadataError, database,
    row::{all, number, parsed},
};

/// A blob that a moment of the database speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub blob: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub place: Place,
}

/// Where the bytes of a blob are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its file.
    File,
    /// In the database itself.
    Journal,
    /// Nowhere that they can be served from: it is in quarantine.
    Quarantine,
}

/// The database as it was when this was made, whatever is written since. Blocks.
#[derive(Debug)]
pub struct Snapshot {
    /// In a transaction that only reads.
    connection: Connection,
}

impl Metadata {
    /// The database as it is now. Blocks.
    pub fn snapshot(&self) -> Result<Snapshot, MetadataError> {
        let connection = self.connect()?;
        // A transaction sees the moment of its first read.
        connection.execute_batch("BEGIN; SELECT 1 FROM repositories LIMIT 1;")?;
        Ok(Snapshot { connection })
    }
}

impl Snapshot {
    /// The blobs that are there: neither on their way in, nor being deleted.
    pub fn blobs(&self) -> Result<Vec<Kept>, MetadataError> {
        let sql = "SELECT b.digest, b.size, j.id IS NOT NULL AS journaled, q.blob IS NOT NULL AS quarantined
            FROM blobs AS b LEFT JOIN journal AS j ON j.id = b.journal
            LEFT JOIN quarantined_blobs AS q ON q.blob = b.digest WHERE b.state = 'present'";
        all(&self.connection, sql, [], |row| {
            let (blob, size) = (parsed(row, "digest")?, number(row, "size")?);
            let place = match (row.get("journaled")?, row.get("quarantined")?) {
                (true, _) => Place::Journal,
                (false, true) => Place::Quarantine,
                (false, false) => Place::File,
            };
            Ok(Kept { blob, size, place })
        })
    }

    /// How many manifests there are, and which of them have other bytes than their own. Those in quarantine are known to.
    pub fn damaged_manifests(&self) -> Result<(u64, Vec<Digest>), MetadataError> {
        self.damaged(
            "SELECT digest, bytes FROM manifests AS m
                WHERE NOT EXISTS (SELECT 1 FROM quarantined_manifests WHERE manifest = m.digest)",
        )
    }

    /// How many blobs the journal has, and of which it has other bytes than theirs.
    pub fn damaged_journal(&self) -> Result<(u64, Vec<Digest>), MetadataError> {
        self.damaged("SELECT blob AS digest, bytes FROM journal")
    }

    fn damaged(&self, sql: &str) -> Result<(u64, Vec<Digest>), MetadataError> {
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let (mut all, mut damaged) = (0, Vec::new());
        while let Some(row) = rows.next()? {
            let (digest, bytes): (Digest, _) = (parsed(row, "digest")?, row.get_ref("bytes")?);
            all += 1;
            if !bytes.as_blob().is_ok_and(|bytes| Digest::of(digest.algorithm(), bytes) == digest) {
                damaged.push(digest);
            }
        }
        Ok((all, damaged))
    }

    /// A copy that [`Snapshot::copy`] has written, which nobody changes. Blocks.
    pub fn of_copy(path: &Path) -> Result<Self, MetadataError> {
        let connection = database::connect_to_copy(path)?;
        connection.execute_batch("BEGIN; SELECT 1 FROM repositories LIMIT 1;")?;
        Ok(Self { connection })
    }

    /// Writes a copy of the database to a file, which must not be there.
    pub fn copy(&self, to: &Path) -> Result<(), MetadataError> {
        /// At a time: all, since nobody who writes waits for a reader.
        const ALL: i32 = -1;
        let mut copy = Connection::open(to)?;
        let backup = Backup::new(&self.connection, &mut copy)?;
        backup.step(ALL)?;
        drop(backup);
        // One file, which is read without writing anything beside it.
        copy.pragma_update(None, "journal_mode", "DELETE")?;
        copy.close().map_err(|(_, error)| error.into())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;

    #[tokio::test]
    async fn what_is_written_later_is_not_in_it() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
        let push = async |bytes: &'static [u8]| {
            let (name, owner) = ("tools/x".parse().expect("name"), "ada".parse().expect("user"));
            let blob = Digest::sha256(bytes);
            let bytes = Bytes::from_static(bytes);
            metadata.link_journaled(&name, &owner, &blob, bytes, Timestamp::now()).await.expect("linked");
            blob
        };
        let first = push(b"first").await;
        let entries = metadata.unsettled(1).await.expect("unsettled");
        metadata.settled(entries.into_iter().map(|entry| entry.id).collect()).await.expect("settled");
        let second = push(b"second").await;
        let snapshot = metadata.snapshot().expect("snapshot");
        push(b"third").await;
        let to = folder.path().join("copy.db");
        snapshot.copy(&to).expect("copied");
        let mut expected = [
            Kept { blob: first, size: 5, place: Place::File },
            Kept { blob: second.clone(), size: 6, place: Place::Journal },
        ];
        expected.sort_by(|one, other| one.blob.cmp(&other.blob));
        assert_eq!(snapshot.blobs().expect("blobs"), expected);
        let alone = Snapshot::of_copy(&to).expect("open");
        assert_eq!(alone.blobs().expect("blobs"), expected);
        assert_eq!(alone.damaged_journal().expect("journal"), (1, Vec::new()));
        drop(alone);
        assert_eq!(
            std::fs::read_dir(folder.path())
                .expect("folder")
                .filter(|entry| {
                    entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("copy"))
                })
                .count(),
            1,
            "one file"
        );
        let copy = Metadata::open(&to).expect("open");
        assert_eq!(copy.snapshot().and_then(|copy| copy.blobs()).expect("blobs"), expected);
        assert_eq!(copy.journaled(&second).await.expect("journaled").as_deref(), Some(&b"second"[..]));
    }
}
