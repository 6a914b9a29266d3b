//! Manifests: their bytes once, their links to repositories, their tags, and the run that a push may queue.

use std::ops::ControlFlow;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::{Digest, MediaType, Reference, RepositoryName, RunId, Tag, UserName};

use crate::{
    Admission, Condition, Metadata, MetadataError, Named, NamedKind, Refers, TooManyRuns, WrongSize,
    cache::{Answer, Question, Stale},
    collect::suspect_manifest,
    condition, named, quarantine,
    queue::{self, Queued},
    referrer, repository,
    row::{all, execute, exists, first, parsed, parsed_option, repository_id},
};

/// A manifest on its way in.
#[derive(Clone, Debug)]
pub struct NewManifest {
    /// The digest of the bytes.
    pub digest: Digest,
    /// The exact bytes.
    pub bytes: Vec<u8>,
    /// What they were pushed as.
    pub media_type: MediaType,
    /// The blobs and manifests it names, each with what is asked of it.
    pub names: Vec<Named>,
    /// What it speaks of, if it does.
    pub refers: Option<Refers>,
    /// What must hold for it to be stored.
    pub only_if: Option<Condition>,
}

/// The run that a push queues.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// The image manifest to run: the one pushed, or of a pushed index the one for the site's platform.
    pub image: Digest,
    /// What it was pushed as.
    pub media_type: MediaType,
}

/// What became of a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutManifest {
    /// It is there, and durable.
    Stored {
        /// The runs that were queued, each with its tag.
        runs: Vec<(Tag, RunId)>,
        /// The runs of the same image under the same tags because of which none was queued.
        unchanged: Vec<RunId>,
        /// What it names and need not, and does not, have in its repository.
        absent: Vec<Digest>,
    },
    /// Nothing changed: the repository lacks these blobs or manifests.
    Missing(Vec<Digest>),
    /// Nothing changed: a descriptor tells a size that its content does not have.
    WrongSize(WrongSize),
    /// Nothing changed: somebody has as many runs as they may.
    TooManyRuns(TooManyRuns),
    /// Nothing changed: the condition does not hold of what is there, a manifest or nothing.
    Changed(Option<Digest>),
}

/// What became of a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It was not in the repository.
    Unknown,
    /// Nothing changed: the condition does not hold of what is there, a manifest or nothing.
    Changed(Option<Digest>),
    /// It is gone.
    Gone {
        /// How many manifests of the repository still name it, and can no longer be pulled whole.
        named_by: u64,
    },
}

/// A manifest as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredManifest {
    /// The digest of the bytes.
    pub digest: Digest,
    /// What they were pushed as.
    pub media_type: MediaType,
    /// The exact bytes.
    pub bytes: Bytes,
}

impl Metadata {
    /// Stores a manifest in `owner`'s repository, moves `tags` to it and queues a run for each of them, all or nothing.
    ///
    /// With a run, the result tag of its tag is taken away: from now on it speaks of that run only.
    pub async fn put_manifest(
        &self,
        name: &RepositoryName,
        owner: &UserName,
        manifest: NewManifest,
        tags: Vec<Tag>,
        admission: Option<Admission>,
        now: Timestamp,
    ) -> Result<PutManifest, MetadataError> {
        let (name, owner) = (name.clone(), owner.clone());
        // A run takes result tags away.
        let stale = Stale::Of(name.results().into_iter().chain([name.clone()]).collect());
        self.write_making(stale, move |connection| {
            let repository = repository::ensure(connection, &name, &owner, now)?;
            let only_if = manifest.only_if.as_ref();
            if let ControlFlow::Break(current) = condition::check(connection, repository, only_if)? {
                return Ok(PutManifest::Changed(current));
            }
            let named::Compared { mut missing, absent, wrong } =
                named::compare(connection, repository, &name, &manifest)?;
            if let Some(Admission { run, .. }) = &admission {
                missing.extend(named::missing_of_run(connection, repository, &manifest.digest, run)?);
            }
            if !missing.is_empty() {
                return Ok(PutManifest::Missing(missing));
            }
            if let Some(wrong) = wrong {
                return Ok(PutManifest::WrongSize(wrong));
            }
            // Before the tags move: an unchanged one is one that stays where it is.
            let queued = match &admission {
                Some(admission) => queue::admit(connection, &name, &tags, &owner, admission, now)?,
                None => Ok(Queued::default()),
            };
            let queued = match queued {
                Ok(queued) => queued,
                Err(too_many) => return Ok(PutManifest::TooManyRuns(too_many)),
            };
            insert(connection, repository, &manifest, now)?;
            for tag in &tags {
                point(connection, repository, tag, &manifest.digest, now)?;
            }
            let Queued { runs, unchanged } = queued;
            Ok(PutManifest::Stored { runs, unchanged, absent })
        })
        .await
    }

    /// A manifest of a repository, by tag or by digest.
    pub async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<StoredManifest>, MetadataError> {
        let question = Question::Manifest(name.clone(), reference.clone());
        let (name, reference) = (name.clone(), reference.clone());
        let found = |row: &Row<'_>| Ok(Answer::Manifest(stored(row)?));
        let read = move |connection: &Connection| match reference {
            Reference::Digest(digest) => {
                let sql = "SELECT m.digest, l.media_type, m.bytes FROM manifest_links AS l
                    JOIN repositories AS r ON r.id = l.repository JOIN manifests AS m ON m.digest = l.manifest
                    WHERE r.name = ?1 AND l.manifest = ?2
                        AND NOT EXISTS (SELECT 1 FROM quarantined_manifests AS q WHERE q.manifest = m.digest)";
                first(connection, sql, params![name.as_str(), digest.as_str()], found)
            }
            Reference::Tag(tag) => {
                let sql = "SELECT m.digest, l.media_type, m.bytes FROM tags AS t
                    JOIN repositories AS r ON r.id = t.repository
                    JOIN manifest_links AS l ON l.repository = t.repository AND l.manifest = t.manifest
                    JOIN manifests AS m ON m.digest = t.manifest WHERE r.name = ?1 AND t.tag = ?2
                        AND NOT EXISTS (SELECT 1 FROM quarantined_manifests AS q WHERE q.manifest = m.digest)";
                first(connection, sql, params![name.as_str(), tag.as_str()], found)
            }
        };
        match self.answer(question, read).await? {
            Some(Answer::Manifest(manifest)) => Ok(Some(manifest)),
            _ => Ok(None),
        }
    }

    /// Takes a tag away (distribution-spec: Deleting tags). The manifest is left to gc unless something else names
    /// it.
    pub async fn delete_tag(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        only_if: Option<Condition>,
    ) -> Result<Deleted, MetadataError> {
        let (name, tag) = (name.clone(), tag.clone());
        let stale = Stale::Of(vec![name.clone()]);
        self.write_making(stale, move |connection| {
            let Some(repository) = repository_id(connection, &name)? else { return Ok(Deleted::Unknown) };
            if let ControlFlow::Break(current) = condition::check(connection, repository, only_if.as_ref())? {
                return Ok(Deleted::Changed(current));
            }
            let sql = "DELETE FROM tags WHERE repository = ?1 AND tag = ?2 RETURNING manifest";
            let parameters = params![repository, tag.as_str()];
            let manifest: Option<Digest> = first(connection, sql, parameters, |row| parsed(row, "manifest"))?;
            let Some(manifest) = manifest else { return Ok(Deleted::Unknown) };
            orphan(connection, repository, &manifest)?;
            Ok(Deleted::Gone { named_by: 0 })
        })
        .await
    }

    /// Takes a manifest and its tags out of a repository (distribution-spec: Deleting manifests).
    pub async fn delete_manifest(
        &self,
        name: &RepositoryName,
        manifest: &Digest,
        only_if: Option<Condition>,
    ) -> Result<Deleted, MetadataError> {
        let (name, manifest) = (name.clone(), manifest.clone());
        let stale = Stale::Of(vec![name.clone()]);
        self.write_making(stale, move |connection| {
            let Some(repository) = repository_id(connection, &name)? else { return Ok(Deleted::Unknown) };
            if let ControlFlow::Break(current) = condition::check(connection, repository, only_if.as_ref())? {
                return Ok(Deleted::Changed(current));
            }
            if !unlink(connection, repository, &manifest)? {
                return Ok(Deleted::Unknown);
            }
            let named_by = named::count_names(connection, repository, NamedKind::Manifest, &manifest)?;
            Ok(Deleted::Gone { named_by })
        })
        .await
    }
}

/// Stores the bytes and edges, links the manifest to the repository and lists it there with what it speaks of. Edges are
/// kept to what is not there too: if it comes, the manifest keeps it.
pub(crate) fn insert(
    connection: &Connection,
    repository: i64,
    manifest: &NewManifest,
    now: Timestamp,
) -> Result<(), MetadataError> {
    let digest = manifest.digest.as_str();
    // Bytes that are not these are damaged.
    let sql = "INSERT INTO manifests (digest, bytes) VALUES (?1, ?2)
        ON CONFLICT DO UPDATE SET bytes = excluded.bytes WHERE bytes <> excluded.bytes";
    execute(connection, sql, params![digest, manifest.bytes])?;
    quarantine::heal_manifest(connection, &manifest.digest)?;
    for Named { digest: named, kind, .. } in &manifest.names {
        let edge = match kind {
            NamedKind::Blob => {
                let arrived = "DELETE FROM arrivals WHERE repository = ?1 AND blob = ?2";
                execute(connection, arrived, params![repository, named.as_str()])?;
                "INSERT INTO manifest_blobs (manifest, blob) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
            }
            NamedKind::Manifest => {
                let keep = "UPDATE manifest_links SET orphaned = 0
                    WHERE repository = ?1 AND manifest = ?2 AND orphaned = 1";
                execute(connection, keep, params![repository, named.as_str()])?;
                "INSERT INTO manifest_children (manifest, child) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
            }
        };
        execute(connection, edge, params![digest, named.as_str()])?;
    }
    let sql = "INSERT INTO manifest_links (repository, manifest, media_type, pushed_at) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET media_type = excluded.media_type, orphaned = 0, pushed_at = excluded.pushed_at";
    execute(
        connection,
        sql,
        params![repository, digest, manifest.media_type.as_str(), now.as_millisecond()],
    )?;
    match &manifest.refers {
        Some(refers) => referrer::insert(connection, repository, &manifest.digest, refers),
        None => Ok(()),
    }
}

/// Moves a tag to a manifest of the same repository.
pub(crate) fn point(
    connection: &Connection,
    repository: i64,
    tag: &Tag,
    manifest: &Digest,
    now: Timestamp,
) -> Result<(), MetadataError> {
    let sql = "UPDATE manifest_links SET untagged_at = ?4 WHERE repository = ?1 AND manifest =
        (SELECT manifest FROM tags WHERE repository = ?1 AND tag = ?2 AND manifest <> ?3)";
    execute(connection, sql, params![repository, tag.as_str(), manifest.as_str(), now.as_millisecond()])?;
    let sql = "INSERT INTO tags (repository, tag, manifest, moved_at) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET manifest = excluded.manifest, moved_at = excluded.moved_at";
    execute(connection, sql, params![repository, tag.as_str(), manifest.as_str(), now.as_millisecond()])?;
    Ok(())
}

/// Takes a manifest, its tags and its hold on other manifests out of a repository; whether it was in it.
pub(crate) fn unlink(
    connection: &Connection,
    repository: i64,
    manifest: &Digest,
) -> Result<bool, MetadataError> {
    let parameters = params![repository, manifest.as_str()];
    execute(connection, "DELETE FROM tags WHERE repository = ?1 AND manifest = ?2", parameters)?;
    // Asked for the row, since of a view SQLite does not count what was changed (`foresight`).
    let sql = "DELETE FROM manifest_links WHERE repository = ?1 AND manifest = ?2 RETURNING 1";
    if !exists(connection, sql, parameters)? {
        return Ok(false);
    }
    // What came for this manifest is free at once; what has come since waits for another.
    let sql =
        "INSERT INTO suspects (repository, blob) SELECT ?1, blob FROM manifest_blobs WHERE manifest = ?2";
    execute(connection, sql, parameters)?;
    suspect_manifest(connection, manifest)?;
    for attachment in attachments(connection, repository, manifest)? {
        unlink(connection, repository, &attachment)?;
    }
    let sql = "SELECT child FROM manifest_children WHERE manifest = ?1";
    let children: Vec<Digest> = all(connection, sql, [manifest.as_str()], |row| parsed(row, "child"))?;
    for child in children {
        orphan(connection, repository, &child)?;
    }
    Ok(true)
}

/// What speaks of a result: it was published with it and goes with it. Elsewhere whoever pushed such a manifest takes it
/// away.
fn attachments(
    connection: &Connection,
    repository: i64,
    manifest: &Digest,
) -> Result<Vec<Digest>, MetadataError> {
    let sql = "SELECT name FROM repositories WHERE id = ?1";
    let name: Option<RepositoryName> = first(connection, sql, [repository], |row| parsed(row, "name"))?;
    if name.is_none_or(|name| name.source().is_none()) {
        return Ok(Vec::new());
    }
    let sql = "SELECT manifest FROM referrers WHERE repository = ?1 AND subject = ?2";
    all(connection, sql, params![repository, manifest.as_str()], |row| parsed(row, "manifest"))
}

/// Leaves a manifest to gc, unless a tag or an index of its repository still names it.
pub(crate) fn orphan(
    connection: &Connection,
    repository: i64,
    manifest: &Digest,
) -> Result<(), MetadataError> {
    let sql = "UPDATE manifest_links SET orphaned = 1 WHERE repository = ?1 AND manifest = ?2
        AND NOT EXISTS (SELECT 1 FROM tags WHERE repository = ?1 AND manifest = ?2)
        AND NOT EXISTS (SELECT 1 FROM manifest_children AS c
            JOIN manifest_links AS parent ON parent.manifest = c.manifest AND parent.repository = ?1
            WHERE c.child = ?2) RETURNING 1";
    let parameters = params![repository, manifest.as_str()];
    if exists(connection, sql, parameters)? {
        let sql = "INSERT INTO suspects (repository, manifest) VALUES (?1, ?2)";
        execute(connection, sql, parameters)?;
    }
    Ok(())
}

/// A row with `digest`, `media_type` and `bytes`, which have that digest.
pub(crate) fn stored(row: &Row<'_>) -> Result<StoredManifest, MetadataError> {
    let (digest, bytes): (Digest, Vec<u8>) = (parsed(row, "digest")?, row.get("bytes")?);
    if Digest::of(digest.algorithm(), &bytes) != digest {
        return Err(MetadataError::Damaged(digest));
    }
    Ok(StoredManifest {
        digest,
        media_type: parsed_option(row, "media_type")?.ok_or(MetadataError::Corrupt("media_type"))?,
        bytes: bytes.into(),
    })
}
