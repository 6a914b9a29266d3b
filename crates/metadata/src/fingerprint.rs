//! Fingerprints of data: what was found in each file, in each folder of data as a whole, and what each run was given.

use jiff::Timestamp;
use rusqlite::{Row, params};
use torno_oci::{Digest, RunId};

use crate::{
    Metadata, MetadataError,
    cache::Stale,
    row::{all, execute, first, integer, number, parsed, parsed_option, time},
};

/// A file of a folder of data as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Where it is in the folder, with a NUL between names: the order of these is the order of a walk.
    pub path: Vec<u8>,
    /// Its length.
    pub size: u64,
    /// When its content was last changed, in nanoseconds since 1970.
    pub modified: i64,
    /// When it was last changed in any way.
    pub changed: i64,
    /// Which file of the file system it is.
    pub inode: u64,
    /// The SHA-256 of its content.
    pub digest: Digest,
}

/// What a folder of data held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// How everything in it looked, without being read.
    pub stamp: Digest,
    /// The fingerprint: a digest of names, sizes and contents.
    pub digest: Digest,
    /// How many files.
    pub files: u64,
    /// How many bytes in them.
    pub bytes: u64,
    /// When it was known.
    pub at: Timestamp,
}

/// What a run was given of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunData {
    /// The name of the dataset.
    pub dataset: String,
    /// The fingerprint of what it saw; `None` while it is not known, or if it never will be.
    pub fingerprint: Option<Digest>,
    /// Whether the data had changed when the run was over.
    pub changed: bool,
}

impl Metadata {
    /// Known files of a folder of data, in their order, behind `after`, at most `limit`.
    pub async fn data_files(
        &self,
        source: &str,
        after: Vec<u8>,
        limit: usize,
    ) -> Result<Vec<DataFile>, MetadataError> {
        let source = source.to_owned();
        self.read(move |connection| {
            let sql = "SELECT * FROM data_files WHERE source = ?1 AND path > ?2 ORDER BY path LIMIT ?3";
            all(connection, sql, params![source, after, integer(limit as u64)], data_file)
        })
        .await
    }

    /// Notes what was found in files, and which are there no more.
    pub async fn note_data_files(
        &self,
        source: &str,
        found: Vec<DataFile>,
        gone: Vec<Vec<u8>>,
    ) -> Result<(), MetadataError> {
        let source = source.to_owned();
        self.write_making(Stale::Of(Vec::new()), move |connection| {
            for path in &gone {
                let sql = "DELETE FROM data_files WHERE source = ?1 AND path = ?2";
                execute(connection, sql, params![source, path])?;
            }
            for file in &found {
                let sql =
                    "INSERT OR REPLACE INTO data_files (source, path, size, modified, changed, inode, digest)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
                let (inode, digest) = (file.inode.cast_signed(), file.digest.as_str());
                let size = integer(file.size);
                let values = params![source, file.path, size, file.modified, file.changed, inode, digest];
                execute(connection, sql, values)?;
            }
            Ok(())
        })
        .await
    }

    /// Notes the fingerprint of a folder of data. Runs that were given it as it looked then have it from now on.
    pub async fn note_fingerprint(&self, source: &str, found: Fingerprint) -> Result<(), MetadataError> {
        let source = source.to_owned();
        self.write_making(Stale::Of(Vec::new()), move |connection| {
            let sql = "INSERT OR REPLACE INTO fingerprints (source, stamp, digest, files, bytes, at)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let (stamp, digest) = (found.stamp.as_str(), found.digest.as_str());
            let (files, bytes) = (integer(found.files), integer(found.bytes));
            let values = params![source, stamp, digest, files, bytes, found.at.as_millisecond()];
            execute(connection, sql, values)?;
            Ok(())
        })
        .await
    }

    /// The fingerprint of a folder of data that looks like this, if it is known.
    pub async fn fingerprint(
        &self,
        source: &str,
        stamp: &Digest,
    ) -> Result<Option<Fingerprint>, MetadataError> {
        let (source, stamp) = (source.to_owned(), stamp.clone());
        self.read(move |connection| {
            let sql = "SELECT * FROM fingerprints WHERE source = ?1 AND stamp = ?2";
            first(connection, sql, params![source, stamp.as_str()], fingerprint)
        })
        .await
    }

    /// The fingerprint of a folder of data that was known last.
    pub async fn last_fingerprint(&self, source: &str) -> Result<Option<Fingerprint>, MetadataError> {
        let source = source.to_owned();
        self.read(move |connection| {
            let sql = "SELECT * FROM fingerprints WHERE source = ?1 ORDER BY at DESC LIMIT 1";
            first(connection, sql, [source], fingerprint)
        })
        .await
    }

    /// Notes what a run is about to be given; `stamp` is how the data looks, if that could be seen.
    pub async fn note_run_data(
        &self,
        run: RunId,
        dataset: &str,
        source: &str,
        stamp: Option<Digest>,
    ) -> Result<(), MetadataError> {
        let (dataset, source) = (dataset.to_owned(), source.to_owned());
        self.write_making(Stale::Of(Vec::new()), move |connection| {
            let sql = "INSERT OR REPLACE INTO run_data (run, dataset, source, stamp) VALUES (?1, ?2, ?3, ?4)";
            let stamp = stamp.as_ref().map(Digest::as_str);
            execute(connection, sql, params![integer(run.number()), dataset, source, stamp])?;
            Ok(())
        })
        .await
    }

    /// Notes how a dataset looked when a run was over: whether that is how it looked before.
    pub async fn compare_run_data(
        &self,
        run: RunId,
        dataset: &str,
        stamp: &Digest,
    ) -> Result<(), MetadataError> {
        let (dataset, stamp) = (dataset.to_owned(), stamp.clone());
        self.write_making(Stale::Of(Vec::new()), move |connection| {
            let sql = "UPDATE run_data SET changed = 1 WHERE run = ?1 AND dataset = ?2 AND stamp <> ?3";
            execute(connection, sql, params![integer(run.number()), dataset, stamp.as_str()])?;
            Ok(())
        })
        .await
    }

    /// What a run was given.
    pub async fn run_data(&self, run: RunId) -> Result<Vec<RunData>, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT d.dataset, d.changed, f.digest FROM run_data AS d LEFT JOIN fingerprints AS f
                ON f.source = d.source AND f.stamp = d.stamp WHERE d.run = ?1 ORDER BY d.dataset";
            all(connection, sql, [integer(run.number())], |row| {
                Ok(RunData {
                    dataset: row.get("dataset")?,
                    fingerprint: parsed_option(row, "digest")?,
                    changed: row.get("changed")?,
                })
            })
        })
        .await
    }
}

fn data_file(row: &Row<'_>) -> Result<DataFile, MetadataError> {
    Ok(DataFile {
        path: row.get("path")?,
        size: number(row, "size")?,
        modified: row.get("modified")?,
        changed: row.get("changed")?,
        inode: row.get::<_, i64>("inode")?.cast_unsigned(),
        digest: parsed(row, "digest")?,
    })
}

fn fingerprint(row: &Row<'_>) -> Result<Fingerprint, MetadataError> {
    Ok(Fingerprint {
        stamp: parsed(row, "stamp")?,
        digest: parsed(row, "digest")?,
        files: number(row, "files")?,
        bytes: number(row, "bytes")?,
        at: time(row, "at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_has_the_fingerprint_of_what_it_was_given_once_that_is_known() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
        let run = RunId::new(7).expect("number");
        let (before, after) = (Digest::sha256(b"before"), Digest::sha256(b"after"));
        metadata.note_run_data(run, "eyes", "eyes", Some(before.clone())).await.expect("noted");
        metadata.note_run_data(run, "ears", "ears", None).await.expect("noted");
        let found = Fingerprint {
            stamp: before.clone(),
            digest: Digest::sha256(b"content"),
            files: 1,
            bytes: 2,
            at: Timestamp::UNIX_EPOCH,
        };
        for (known, stamp, changed) in
            [(None, &before, false), (Some(&found), &before, false), (Some(&found), &after, true)]
        {
            if let Some(known) = known {
                metadata.note_fingerprint("eyes", known.clone()).await.expect("noted");
            }
            metadata.compare_run_data(run, "eyes", stamp).await.expect("compared");
            let data = metadata.run_data(run).await.expect("data");
            let ears = RunData { dataset: "ears".into(), fingerprint: None, changed: false };
            let eyes = RunData {
                dataset: "eyes".into(),
                fingerprint: known.map(|found| found.digest.clone()),
                changed,
            };
            assert_eq!(data, [ears, eyes]);
        }
        assert_eq!(metadata.fingerprint("eyes", &before).await.expect("asked"), Some(found.clone()));
        assert_eq!(metadata.fingerprint("eyes", &after).await.expect("asked"), None);
        assert_eq!(metadata.last_fingerprint("eyes").await.expect("asked"), Some(found));
    }
}
