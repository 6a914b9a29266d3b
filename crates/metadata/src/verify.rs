//! What the rows say of files and of each other, for whoever compares them, and how they are put right.
//!
//! What may be damaged is given out as text where it need not be a digest any more.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::{Digest, MediaType, RepositoryName};

use crate::{
    Metadata, MetadataError, NamedKind, Refers,
    cache::Stale,
    collect::suspect_blob,
    referrer,
    row::{all, execute, exists, first, integer, number, parsed, parsed_option, time},
};

/// The row of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRow {
    /// Its digest, as it stands there.
    pub digest: String,
    /// How many bytes it has.
    pub size: u64,
    /// Whether its file must be there: it is neither coming nor going nor in quarantine.
    pub kept: bool,
}

/// A manifest and all that is kept of what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestRow {
    /// Its digest, as it stands there.
    pub digest: String,
    /// Its bytes, as they stand there.
    pub bytes: Vec<u8>,
    /// The repositories that have it, each with what it was pushed as.
    pub links: Vec<(RepositoryId, MediaType)>,
    /// Blobs that it is said to name.
    pub blobs: BTreeSet<String>,
    /// Manifests that it is said to name.
    pub children: BTreeSet<String>,
    /// Where it is listed, and as speaking of what.
    pub referrers: BTreeSet<(RepositoryId, String)>,
}

/// A repository, as rows call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryId(i64);

/// How rows are put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Correction {
    /// The manifest names this.
    Name(NamedKind, Digest),
    /// The manifest does not name this.
    Unname(NamedKind, String),
    /// It is listed in a repository.
    List(RepositoryId, Refers),
    /// It is not listed in a repository as speaking of this.
    Unlist(RepositoryId, String),
}

/// A row that speaks of one that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dangling {
    /// What it says, in words.
    pub what: String,
    /// What is not there.
    pub target: Option<Digest>,
    /// The repository it stands in, if it is a tag whose manifest is there and only not in it.
    pub relinkable: Option<RepositoryId>,
}

/// Something in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// What.
    pub digest: Digest,
    /// A blob's size; `None` for a manifest.
    pub blob_size: Option<u64>,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
}

impl Metadata {
    /// How many blobs must be there, and their bytes.
    pub async fn kept_in_all(&self) -> Result<(u64, u64), MetadataError> {
        self.read(|connection| {
            let sql = "SELECT count(*) AS blobs, coalesce(sum(size), 0) AS bytes FROM blobs WHERE state = 'present'";
            let found = first(connection, sql, [], |row| Ok((number(row, "blobs")?, number(row, "bytes")?)))?;
            Ok(found.unwrap_or_default())
        })
        .await
    }

    /// The rows of all blobs whose digests begin like this, in their order.
    pub async fn blob_rows(&self, prefix: &str) -> Result<Vec<BlobRow>, MetadataError> {
        let prefix = prefix.to_owned();
        self.read(move |connection| {
            // `g` comes behind every hexadecimal digit.
            let sql = "SELECT digest, size, state = 'present' AND NOT EXISTS (
                    SELECT 1 FROM quarantined_blobs WHERE blob = b.digest) AS kept
                FROM blobs AS b WHERE digest >= ?1 AND digest < ?1 || 'g' ORDER BY digest";
            all(connection, sql, [prefix], |row| {
                let size = u64::try_from(row.get::<_, i64>("size")?).unwrap_or(u64::MAX);
                Ok(BlobRow { digest: row.get("digest")?, size, kept: row.get("kept")? })
            })
        })
        .await
    }

    /// Whether a blob's file must be there now, and no push is replacing it.
    pub async fn is_kept(&self, blob: &Digest, now: Timestamp) -> Result<bool, MetadataError> {
        let blob = blob.clone();
        self.read(move |connection| {
            let sql = "SELECT 1 FROM blobs WHERE digest = ?1 AND state = 'present'
                AND NOT EXISTS (SELECT 1 FROM quarantined_blobs WHERE blob = ?1)
                AND NOT EXISTS (SELECT 1 FROM holds WHERE blob = ?1 AND expires_at >= ?2)";
            exists(connection, sql, params![blob.as_str(), now.as_millisecond()])
        })
        .await
    }

    /// Whether there is a row of a blob, whatever it says.
    pub async fn has_row(&self, blob: &Digest) -> Result<bool, MetadataError> {
        let blob = blob.clone();
        self.read(move |connection| {
            exists(connection, "SELECT 1 FROM blobs WHERE digest = ?1", [blob.as_str()])
        })
        .await
    }

    /// Makes a row for a blob whose file is there and right. gc looks at it the next time.
    pub async fn adopt(&self, blob: &Digest, size: u64) -> Result<(), MetadataError> {
        let blob = blob.clone();
        self.write_making(Stale::None, move |connection| {
            let sql =
                "INSERT INTO blobs (digest, size, state) VALUES (?1, ?2, 'present') ON CONFLICT DO NOTHING";
            execute(connection, sql, params![blob.as_str(), integer(size)])?;
            suspect_blob(connection, &blob)
        })
        .await
    }

    /// Corrects the size of a blob whose file is right.
    pub async fn correct_size(&self, blob: &Digest, size: u64) -> Result<(), MetadataError> {
        let blob = blob.clone();
        self.write(move |connection| {
            let sql = "UPDATE blobs SET size = ?2 WHERE digest = ?1 AND state = 'present'";
            execute(connection, sql, params![blob.as_str(), integer(size)])?;
            Ok(())
        })
        .await
    }

    /// The next manifests in the order of their digests, at most `limit`, each with what is kept of it at one moment.
    /// What is in quarantine is left out.
    pub async fn manifest_rows(&self, after: &str, limit: usize) -> Result<Vec<ManifestRow>, MetadataError> {
        let after = after.to_owned();
        self.read(move |connection| {
            let moment = connection.unchecked_transaction()?;
            let sql = "SELECT digest, bytes FROM manifests AS m WHERE digest > ?1
                AND NOT EXISTS (SELECT 1 FROM quarantined_manifests WHERE manifest = m.digest)
                ORDER BY digest LIMIT ?2";
            let found = all(&moment, sql, params![after, integer(limit as u64)], |row| {
                Ok((row.get("digest")?, row.get("bytes")?))
            })?;
            found.into_iter().map(|(digest, bytes)| manifest_row(&moment, digest, bytes)).collect()
        })
        .await
    }

    /// Puts right what is kept of a manifest.
    pub async fn correct(
        &self,
        manifest: &Digest,
        corrections: Vec<Correction>,
    ) -> Result<(), MetadataError> {
        let manifest = manifest.clone();
        self.write(move |connection| {
            for correction in corrections {
                correct(connection, &manifest, &correction)?;
            }
            Ok(())
        })
        .await
    }

    /// Rows that speak of others that are not there, and what SQLite itself finds wrong with the database.
    pub async fn dangling(&self) -> Result<Vec<Dangling>, MetadataError> {
        self.read(dangling).await
    }

    /// Takes a manifest into a repository that has a tag for it.
    pub async fn relink_manifest(
        &self,
        repository: RepositoryId,
        manifest: &Digest,
        media_type: &MediaType,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let (manifest, media_type) = (manifest.clone(), media_type.clone());
        self.write(move |connection| {
            let sql = "INSERT INTO manifest_links (repository, manifest, media_type, pushed_at)
                SELECT ?1, digest, ?3, ?4 FROM manifests WHERE digest = ?2 ON CONFLICT DO NOTHING";
            let now = now.as_millisecond();
            execute(connection, sql, params![repository.0, manifest.as_str(), media_type.as_str(), now])?;
            Ok(())
        })
        .await
    }

    /// The bytes of a manifest, whatever they are, and what some repository was told that it is.
    pub async fn manifest_bytes(
        &self,
        manifest: &Digest,
    ) -> Result<Option<(Vec<u8>, Option<MediaType>)>, MetadataError> {
        let manifest = manifest.clone();
        self.read(move |connection| {
            let sql = "SELECT bytes, (SELECT media_type FROM manifest_links WHERE manifest = digest LIMIT 1) AS media_type
                FROM manifests WHERE digest = ?1";
            first(connection, sql, [manifest.as_str()], |row| {
                Ok((row.get("bytes")?, parsed_option(row, "media_type")?))
            })
        })
        .await
    }

    /// All that is in quarantine, blobs first.
    pub async fn quarantined(&self) -> Result<Vec<Quarantined>, MetadataError> {
        self.read(|connection| {
            let sql = "SELECT blob AS digest, size, since, reason FROM quarantined_blobs
                    JOIN blobs ON digest = blob
                UNION ALL SELECT manifest, NULL, since, reason FROM quarantined_manifests";
            all(connection, sql, [], |row| {
                let size: Option<i64> = row.get("size")?;
                Ok(Quarantined {
                    digest: parsed(row, "digest")?,
                    blob_size: size.map(|size| u64::try_from(size).unwrap_or(u64::MAX)),
                    since: time(row, "since")?,
                    reason: row.get("reason")?,
                })
            })
        })
        .await
    }
}

fn manifest_row(
    connection: &Connection,
    digest: String,
    bytes: Vec<u8>,
) -> Result<ManifestRow, MetadataError> {
    let texts = |sql: &str| -> Result<BTreeSet<String>, MetadataError> {
        Ok(all(connection, sql, [&digest], |row| Ok(row.get(0)?))?.into_iter().collect())
    };
    // A run may keep an image that no repository has any more.
    let links = "SELECT repository, media_type FROM manifest_links WHERE manifest = ?1
        UNION SELECT 0, image_type FROM runs WHERE image = ?1";
    let link = |row: &Row<'_>| Ok((RepositoryId(row.get(0)?), parsed(row, "media_type")?));
    let referrers = "SELECT repository, subject FROM referrers WHERE manifest = ?1";
    let referrer = |row: &Row<'_>| Ok((RepositoryId(row.get(0)?), row.get("subject")?));
    Ok(ManifestRow {
        links: all(connection, links, [&digest], link)?,
        blobs: texts("SELECT blob FROM manifest_blobs WHERE manifest = ?1")?,
        children: texts("SELECT child FROM manifest_children WHERE manifest = ?1")?,
        referrers: all(connection, referrers, [&digest], referrer)?.into_iter().collect(),
        digest,
        bytes,
    })
}

impl RepositoryId {
    /// Whether it is one, and not a run that keeps its image.
    pub fn is_repository(self) -> bool {
        self.0 != 0
    }
}

fn correct(connection: &Connection, manifest: &Digest, correction: &Correction) -> Result<(), MetadataError> {
    let there = "SELECT 1 FROM manifests WHERE digest = ?1";
    if !exists(connection, there, [manifest.as_str()])? {
        return Ok(());
    }
    match correction {
        Correction::Name(kind, named) => {
            let sql = match kind {
                NamedKind::Blob => {
                    "INSERT INTO manifest_blobs (manifest, blob) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
                }
                NamedKind::Manifest => {
                    "INSERT INTO manifest_children (manifest, child) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
                }
            };
            execute(connection, sql, params![manifest.as_str(), named.as_str()])?;
        }
        Correction::Unname(kind, named) => {
            let sql = match kind {
                NamedKind::Blob => "DELETE FROM manifest_blobs WHERE manifest = ?1 AND blob = ?2",
                NamedKind::Manifest => "DELETE FROM manifest_children WHERE manifest = ?1 AND child = ?2",
            };
            execute(connection, sql, params![manifest.as_str(), named])?;
            // It may have been kept by that alone.
            if let (NamedKind::Blob, Ok(blob)) = (kind, named.parse()) {
                suspect_blob(connection, &blob)?;
            }
        }
        Correction::List(repository, refers) => {
            let sql = "SELECT 1 FROM manifest_links WHERE repository = ?1 AND manifest = ?2";
            if exists(connection, sql, params![repository.0, manifest.as_str()])? {
                referrer::insert(connection, repository.0, manifest, refers)?;
            }
        }
        Correction::Unlist(repository, subject) => {
            let sql = "DELETE FROM referrers WHERE repository = ?1 AND subject = ?2 AND manifest = ?3";
            execute(connection, sql, params![repository.0, subject, manifest.as_str()])?;
        }
    }
    Ok(())
}

fn dangling(connection: &Connection) -> Result<Vec<Dangling>, MetadataError> {
    let mut found = Vec::new();
    let sql = "SELECT r.name, t.repository, t.tag, t.manifest, m.digest IS NOT NULL AS kept FROM tags AS t
        JOIN repositories AS r ON r.id = t.repository LEFT JOIN manifests AS m ON m.digest = t.manifest
        WHERE NOT EXISTS (SELECT 1 FROM manifest_links AS l
            WHERE l.repository = t.repository AND l.manifest = t.manifest)";
    found.extend(all(connection, sql, [], |row| {
        let (name, tag): (RepositoryName, String) = (parsed(row, "name")?, row.get("tag")?);
        let manifest: String = row.get("manifest")?;
        let relinkable = if row.get("kept")? { Some(RepositoryId(row.get("repository")?)) } else { None };
        let what = format!("the tag {name}:{tag} is of {manifest}, which its repository does not have");
        Ok(Dangling { what, target: manifest.parse().ok(), relinkable })
    })?);
    let sql = "SELECT r.name, l.manifest AS target, 'a manifest' AS kind FROM manifest_links AS l
            JOIN repositories AS r ON r.id = l.repository
            WHERE NOT EXISTS (SELECT 1 FROM manifests WHERE digest = l.manifest)
        UNION ALL SELECT r.name, l.blob, 'a blob' FROM blob_links AS l
            JOIN repositories AS r ON r.id = l.repository
            WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE digest = l.blob)";
    found.extend(all(connection, sql, [], |row| {
        let name: RepositoryName = parsed(row, "name")?;
        let (target, kind): (String, String) = (row.get("target")?, row.get("kind")?);
        let what = format!("{name} is said to have {kind} of which nothing is known, {target}");
        Ok(Dangling { what, target: target.parse().ok(), relinkable: None })
    })?);
    // What is left, by tables: those of the rows above are told already.
    let sql = "SELECT \"table\" AS rows, \"parent\" AS missing, count(*) AS n FROM pragma_foreign_key_check
        WHERE NOT (\"table\" = 'tags' AND \"parent\" = 'manifest_links')
            AND NOT (\"table\" = 'manifest_links' AND \"parent\" = 'manifests')
            AND NOT (\"table\" = 'blob_links' AND \"parent\" = 'blobs') GROUP BY 1, 2";
    found.extend(all(connection, sql, [], |row| {
        let (rows, missing): (String, String) = (row.get("rows")?, row.get("missing")?);
        let what = format!("{} rows of {rows} speak of {missing} that are not there", number(row, "n")?);
        Ok(Dangling { what, target: None, relinkable: None })
    })?);
    let said = all(connection, "PRAGMA quick_check(20)", [], |row| {
        let text: String = row.get(0)?;
        Ok(Dangling { what: format!("the database: {text}"), target: None, relinkable: None })
    })?;
    found.extend(said.into_iter().filter(|one| one.what != "the database: ok"));
    Ok(found)
}
