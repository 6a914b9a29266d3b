//! One moment of the whole database, to be copied while it is in use.

use std::path::Path;

use rusqlite::{Connection, backup::Backup};
use torno_oci::Digest;

use crate::{
    Metadata, MetadataError,
    row::{all, number, parsed},
};

/// A blob that a moment of the database speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub blob: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Whether the database itself has its bytes.
    pub journaled: bool,
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
        let sql = "SELECT b.digest, b.size, j.id IS NOT NULL AS journaled FROM blobs AS b
            LEFT JOIN journal AS j ON j.id = b.journal WHERE b.state = 'present'";
        all(&self.connection, sql, [], |row| {
            let (blob, size) = (parsed(row, "digest")?, number(row, "size")?);
            Ok(Kept { blob, size, journaled: row.get("journaled")? })
        })
    }

    /// Writes a copy of the database to a file, which must not be there.
    pub fn copy(&self, to: &Path) -> Result<(), MetadataError> {
        /// At a time: all, since nobody who writes waits for a reader.
        const ALL: i32 = -1;
        let mut copy = Connection::open(to)?;
        let backup = Backup::new(&self.connection, &mut copy)?;
        backup.step(ALL)?;
        drop(backup);
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
            Kept { blob: first, size: 5, journaled: false },
            Kept { blob: second.clone(), size: 6, journaled: true },
        ];
        expected.sort_by(|one, other| one.blob.cmp(&other.blob));
        assert_eq!(snapshot.blobs().expect("blobs"), expected);
        let copy = Metadata::open(&to).expect("open");
        assert_eq!(copy.snapshot().and_then(|copy| copy.blobs()).expect("blobs"), expected);
        assert_eq!(copy.journaled(&second).await.expect("journaled").as_deref(), Some(&b"second"[..]));
    }
}
