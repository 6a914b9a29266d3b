//! Walking through everything that is stored, and how far the server has come with it.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::Digest;

use crate::{
    Metadata, MetadataError,
    cache::Stale,
    row::{all, execute, first, integer, number, parsed, parsed_option, time},
};

/// A blob whose file must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBlob {
    /// Which.
    pub blob: Digest,
    /// How many bytes it has.
    pub size: u64,
}

/// A pass over everything that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubPass {
    /// When it began.
    pub started: Timestamp,
    /// The last blob that was looked at, in the order of digests.
    pub after: Option<Digest>,
    /// Whether it is over.
    pub done: bool,
}

impl Metadata {
    /// The next blobs in the order of their digests, at most `limit`: those whose files must be there, whoever looks.
    /// What comes, goes or is in quarantine is left out.
    pub async fn kept_after(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<KeptBlob>, MetadataError> {
        let after = after.map(Digest::to_string).unwrap_or_default();
        self.read(move |connection| {
            let sql = "SELECT digest, size FROM blobs AS b WHERE digest > ?1 AND state = 'present'
                AND NOT EXISTS (SELECT 1 FROM quarantined_blobs WHERE blob = b.digest)
                ORDER BY digest LIMIT ?2";
            all(connection, sql, params![after, integer(limit as u64)], |row| {
                Ok(KeptBlob { blob: parsed(row, "digest")?, size: number(row, "size")? })
            })
        })
        .await
    }

    /// The next manifests in the order of their digests, at most `limit`, with their bytes, whatever these are. What is
    /// in quarantine is left out.
    pub async fn manifests_after(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, Vec<u8>)>, MetadataError> {
        let after = after.map(Digest::to_string).unwrap_or_default();
        self.read(move |connection| {
            let sql = "SELECT digest, bytes FROM manifests AS m WHERE digest > ?1
                AND NOT EXISTS (SELECT 1 FROM quarantined_manifests WHERE manifest = m.digest)
                ORDER BY digest LIMIT ?2";
            all(connection, sql, params![after, integer(limit as u64)], |row| {
                Ok((parsed(row, "digest")?, row.get("bytes")?))
            })
        })
        .await
    }

    /// The server's last pass over everything, if there was one.
    pub async fn scrub_pass(&self) -> Result<Option<ScrubPass>, MetadataError> {
        self.read(|connection| {
            first(connection, "SELECT nullif(after, '') AS after, started, done FROM scrub", [], |row| {
                Ok(ScrubPass {
                    started: time(row, "started")?,
                    after: parsed_option(row, "after")?,
                    done: row.get("done")?,
                })
            })
        })
        .await
    }

    /// Notes how far the server's pass has come.
    pub async fn note_scrub(&self, pass: &ScrubPass) -> Result<(), MetadataError> {
        let ScrubPass { started, after, done } = pass.clone();
        self.write_making(Stale::None, move |connection: &Connection| {
            let sql =
                "INSERT INTO scrub (id, after, started, done) VALUES (1, ?1, ?2, ?3) ON CONFLICT DO UPDATE
                SET after = excluded.after, started = excluded.started, done = excluded.done";
            let after = after.as_ref().map_or("", Digest::as_str);
            execute(connection, sql, params![after, started.as_millisecond(), done])?;
            Ok(())
        })
        .await
    }
}
