//! Finding garbage, and forgetting it.
//!
//! Whatever takes a need away from a blob or a manifest leaves a note in `suspects`, and each link that a push brings
//! one in `arrivals`, which the manifest that names it takes away. Only these are looked at, some in a transaction: so
//! finding garbage costs what there is of it.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::{Digest, RepositoryName};

use crate::{
    Metadata, MetadataError,
    cache::Stale,
    manifest,
    row::{all, execute, exists, first, integer, millis, number, parsed, parsed_option},
};

/// Changed in one transaction: pushes wait for some milliseconds at most.
const STEP: u64 = 500;

/// A blob that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Which.
    pub blob: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What a step of a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Manifests forgotten, over all repositories.
    pub manifests: u64,
    /// Blobs whose files are to be removed; each is `deleting` until [`Metadata::forget`].
    pub blobs: Vec<Garbage>,
    /// What was looked at.
    pub looked_at: u64,
    /// Where the next step goes on; `None` when there is nothing more to look at.
    pub next: Option<Sweep>,
}

/// How far a sweep has come. It can be given up anywhere: the next one begins with what this one has not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    suspects: i64,
}

impl Metadata {
    /// A step of a sweep: forgets manifests that deletions left without a name, and marks as `deleting` blobs that no
    /// manifest and no unfinished run needs, no hold protects, and no push has touched for `grace`.
    pub async fn sweep(&self, from: Sweep, grace: Duration, now: Timestamp) -> Result<Swept, MetadataError> {
        let ripe = self.read(move |connection| ripe(connection, grace, now)).await?;
        self.write_telling(move |connection| {
            let mut step = Step::new(connection, grace, now);
            let swept = step.take(from, &ripe)?;
            Ok((swept, step.stale()?))
        })
        .await
    }

    /// How much a sweep has to look at, before what it finds leads to more.
    pub async fn to_look_at(&self, grace: Duration, now: Timestamp) -> Result<u64, MetadataError> {
        let before = now.as_millisecond().saturating_sub(millis(grace));
        self.read(move |connection| {
            let sql =
                "SELECT (SELECT count(*) FROM suspects) + (SELECT count(*) FROM arrivals WHERE at < ?1) AS n";
            Ok(first(connection, sql, [before], |row| number(row, "n"))?.unwrap_or(0))
        })
        .await
    }

    /// Forgets `deleting` blobs whose files are gone.
    pub async fn forget(&self, blobs: Vec<Digest>) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection| {
            for blob in blobs {
                let sql = "DELETE FROM blobs WHERE digest = ?1 AND state = 'deleting'";
                execute(connection, sql, [blob.as_str()])?;
            }
            Ok(())
        })
        .await
    }

    /// Blobs that are `deleting`, at most as many as a step finds.
    pub async fn deleting(&self) -> Result<Vec<Garbage>, MetadataError> {
        self.read(|connection| {
            let sql = "SELECT digest, size FROM blobs WHERE state = 'deleting' LIMIT ?1";
            all(connection, sql, [integer(STEP)], garbage)
        })
        .await
    }

    /// The size of a blob that is `deleting`, if it is.
    pub async fn deleting_blob(&self, blob: &Digest) -> Result<Option<Garbage>, MetadataError> {
        let blob = blob.clone();
        self.read(move |connection| {
            let sql = "SELECT digest, size FROM blobs WHERE digest = ?1 AND state = 'deleting'";
            first(connection, sql, [blob.as_str()], garbage)
        })
        .await
    }
}

pub(crate) fn garbage(row: &Row<'_>) -> Result<Garbage, MetadataError> {
    Ok(Garbage { blob: parsed(row, "digest")?, size: number(row, "size")? })
}

/// Arrivals whose time of grace is over, as many as a step takes. What a run that is not over has brought to its results
/// waits for as long as the run takes: nobody would push it again.
pub(crate) fn ripe(
    connection: &Connection,
    grace: Duration,
    now: Timestamp,
) -> Result<Vec<(i64, Digest)>, MetadataError> {
    let before = now.as_millisecond().saturating_sub(millis(grace));
    let sql = "SELECT repository, blob FROM arrivals AS a WHERE at < ?1 AND NOT EXISTS (
            SELECT 1 FROM runs AS r JOIN repositories AS p ON p.name = 'results' || substr(r.repository, 4)
            WHERE r.finished_at IS NULL AND p.id = a.repository) LIMIT ?2";
    all(connection, sql, params![before, integer(STEP)], |row| {
        Ok((row.get("repository")?, parsed(row, "blob")?))
    })
}

/// Notes that gc must look at a blob.
pub(crate) fn suspect_blob(connection: &Connection, blob: &Digest) -> Result<(), MetadataError> {
    execute(connection, "INSERT INTO suspects (blob) VALUES (?1)", [blob.as_str()])?;
    Ok(())
}

/// Notes that gc must look at a manifest.
pub(crate) fn suspect_manifest(connection: &Connection, manifest: &Digest) -> Result<(), MetadataError> {
    execute(connection, "INSERT INTO suspects (manifest) VALUES (?1)", [manifest.as_str()])?;
    Ok(())
}

/// What is to be looked at.
struct Suspect {
    id: i64,
    repository: Option<i64>,
    what: What,
}

enum What {
    Blob(Digest),
    Manifest(Digest),
}

/// What a look at a suspect led to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It is needed, or gone; whatever changes that leaves a note again.
    Known,
    /// A push is bringing it: it must be looked at again.
    Held,
}

/// One step of a sweep.
pub(crate) struct Step<'a> {
    connection: &'a Connection,
    now: i64,
    /// Links that were touched earlier have no grace left.
    before: i64,
    swept: Swept,
    repositories: BTreeSet<i64>,
}

impl<'a> Step<'a> {
    pub(crate) fn new(connection: &'a Connection, grace: Duration, now: Timestamp) -> Self {
        let now = now.as_millisecond();
        let before = now.saturating_sub(millis(grace));
        Self { connection, now, before, swept: Swept::default(), repositories: BTreeSet::new() }
    }

    /// Looks at suspects first, since they may lead to others, then at arrivals.
    pub(crate) fn take(&mut self, from: Sweep, ripe: &[(i64, Digest)]) -> Result<Swept, MetadataError> {
        self.swept.next = match self.look_at_suspects(from)? {
            None => self.look_at_arrivals(from, ripe)?,
            next => next,
        };
        Ok(std::mem::take(&mut self.swept))
    }

    /// Whose answers are no longer true.
    fn stale(&self) -> Result<Stale, MetadataError> {
        let mut names = Vec::with_capacity(self.repositories.len());
        for id in &self.repositories {
            let sql = "SELECT name FROM repositories WHERE id = ?1";
            let name: Option<RepositoryName> = first(self.connection, sql, [id], |row| parsed(row, "name"))?;
            names.extend(name);
        }
        Ok(Stale::Of(names))
    }

    fn look_at_suspects(&mut self, from: Sweep) -> Result<Option<Sweep>, MetadataError> {
        let sql = "SELECT id, repository, blob, manifest FROM suspects WHERE id > ?1 ORDER BY id LIMIT ?2";
        let suspects = all(self.connection, sql, params![from.suspects, integer(STEP)], suspect)?;
        let Some(last) = suspects.last().map(|suspect| suspect.id) else { return Ok(None) };
        self.swept.looked_at += suspects.len() as u64;
        for Suspect { id, repository, what } in suspects {
            let verdict = match (repository, what) {
                (Some(repository), What::Blob(blob)) => self.look_at_link(repository, &blob)?,
                (None, What::Blob(blob)) => self.look_at_blob(&blob)?,
                (Some(repository), What::Manifest(manifest)) => {
                    self.look_at_manifest_link(repository, &manifest)?
                }
                (None, What::Manifest(manifest)) => self.look_at_manifest(&manifest)?,
            };
            if verdict == Verdict::Known {
                execute(self.connection, "DELETE FROM suspects WHERE id = ?1", [id])?;
            }
        }
        Ok(Some(Sweep { suspects: last }))
    }

    fn look_at_arrivals(
        &mut self,
        from: Sweep,
        ripe: &[(i64, Digest)],
    ) -> Result<Option<Sweep>, MetadataError> {
        for (repository, blob) in ripe {
            // Read again: it may have come once more, or got its manifest.
            let sql = "DELETE FROM arrivals WHERE repository = ?1 AND blob = ?2 AND at < ?3";
            let parameters = params![repository, blob.as_str(), self.before];
            if execute(self.connection, sql, parameters)? == 1
                && self.look_at_link(*repository, blob)? == Verdict::Held
            {
                suspect_blob(self.connection, blob)?;
            }
        }
        self.swept.looked_at += ripe.len() as u64;
        Ok((!ripe.is_empty()).then_some(from))
    }

    /// Takes a link away that no manifest needs and that does not wait for one.
    fn look_at_link(&mut self, repository: i64, blob: &Digest) -> Result<Verdict, MetadataError> {
        let parameters = params![repository, blob.as_str()];
        let waits = "SELECT 1 FROM arrivals WHERE repository = ?1 AND blob = ?2";
        if exists(self.connection, waits, parameters)? || self.is_named(repository, blob)? {
            return Ok(Verdict::Known);
        }
        let sql = "DELETE FROM blob_links WHERE repository = ?1 AND blob = ?2";
        if execute(self.connection, sql, parameters)? == 1 {
            self.repositories.insert(repository);
        }
        self.look_at_blob(blob)
    }

    /// Whether a manifest of a repository names a blob. Some blobs are named all over the house: of those the
    /// repository's own manifests are asked.
    fn is_named(&self, repository: i64, blob: &Digest) -> Result<bool, MetadataError> {
        const MANY: i64 = 16;
        let sql = "SELECT 1 FROM (SELECT manifest FROM manifest_blobs WHERE blob = ?2 LIMIT ?3) AS m
            CROSS JOIN manifest_links AS l ON l.repository = ?1 AND l.manifest = m.manifest";
        if exists(self.connection, sql, params![repository, blob.as_str(), MANY])? {
            return Ok(true);
        }
        let sql = "SELECT 1 FROM manifest_blobs WHERE blob = ?1 LIMIT 1 OFFSET ?2";
        if !exists(self.connection, sql, params![blob.as_str(), MANY])? {
            return Ok(false);
        }
        let sql = "SELECT 1 FROM manifest_links AS l CROSS JOIN manifest_blobs AS m
            ON m.manifest = l.manifest AND m.blob = ?2 WHERE l.repository = ?1";
        exists(self.connection, sql, params![repository, blob.as_str()])
    }

    /// Marks a blob that nothing needs.
    fn look_at_blob(&mut self, blob: &Digest) -> Result<Verdict, MetadataError> {
        let sql = "SELECT size FROM blobs WHERE digest = ?1 AND state <> 'deleting'
            AND NOT EXISTS (SELECT 1 FROM blob_links WHERE blob = ?1)";
        let size = first(self.connection, sql, [blob.as_str()], |row| number(row, "size"))?;
        let Some(size) = size else { return Ok(Verdict::Known) };
        let sql = "SELECT 1 FROM holds WHERE blob = ?1 AND expires_at >= ?2";
        if exists(self.connection, sql, params![blob.as_str(), self.now])? {
            return Ok(Verdict::Held);
        }
        let sql = "SELECT 1 FROM runs AS r CROSS JOIN manifest_blobs AS m
            ON m.manifest = r.image AND m.blob = ?1 WHERE r.finished_at IS NULL";
        if exists(self.connection, sql, [blob.as_str()])? {
            // The end of the run leaves a note.
            return Ok(Verdict::Known);
        }
        let sql = "DELETE FROM journal WHERE id = (SELECT journal FROM blobs WHERE digest = ?1)";
        execute(self.connection, sql, [blob.as_str()])?;
        execute(self.connection, "UPDATE blobs SET state = 'deleting' WHERE digest = ?1", [blob.as_str()])?;
        self.swept.blobs.push(Garbage { blob: blob.clone(), size });
        Ok(Verdict::Known)
    }

    /// Takes a manifest out of a repository where nothing names it any more.
    fn look_at_manifest_link(
        &mut self,
        repository: i64,
        manifest: &Digest,
    ) -> Result<Verdict, MetadataError> {
        let sql = "SELECT 1 FROM manifest_links AS l WHERE repository = ?1 AND manifest = ?2 AND orphaned = 1
            AND NOT EXISTS (SELECT 1 FROM tags AS t WHERE t.repository = ?1 AND t.manifest = ?2)";
        if exists(self.connection, sql, params![repository, manifest.as_str()])? {
            manifest::unlink(self.connection, repository, manifest)?;
            self.repositories.insert(repository);
        }
        Ok(Verdict::Known)
    }

    /// Forgets a manifest that no repository has and no unfinished run needs.
    fn look_at_manifest(&mut self, manifest: &Digest) -> Result<Verdict, MetadataError> {
        let sql = "SELECT 1 FROM manifests WHERE digest = ?1
            AND NOT EXISTS (SELECT 1 FROM manifest_links WHERE manifest = ?1)
            AND NOT EXISTS (SELECT 1 FROM runs WHERE finished_at IS NULL AND image = ?1)";
        if exists(self.connection, sql, [manifest.as_str()])? {
            // Those that only a run has kept have no link that would lead here.
            let sql = "INSERT INTO suspects (blob) SELECT blob FROM manifest_blobs WHERE manifest = ?1";
            execute(self.connection, sql, [manifest.as_str()])?;
            execute(self.connection, "DELETE FROM manifests WHERE digest = ?1", [manifest.as_str()])?;
            self.swept.manifests += 1;
        }
        Ok(Verdict::Known)
    }
}

fn suspect(row: &Row<'_>) -> Result<Suspect, MetadataError> {
    let what = match (parsed_option(row, "blob")?, parsed_option(row, "manifest")?) {
        (Some(blob), _) => What::Blob(blob),
        (None, Some(manifest)) => What::Manifest(manifest),
        (None, None) => return Err(MetadataError::Corrupt("suspects")),
    };
    Ok(Suspect { id: row.get("id")?, repository: row.get("repository")?, what })
}
