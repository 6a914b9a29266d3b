//! What a manifest names, compared with what its repository has.

use rusqlite::{Connection, params};
use torno_oci::{Digest, RepositoryName};

use crate::{
    MetadataError, NewManifest, NewRun, blob,
    row::{all, first, number, parsed},
};

/// Content that a manifest names by a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Its digest.
    pub digest: Digest,
    /// How many bytes the descriptor says it has.
    pub size: u64,
    /// Where it is kept.
    pub kind: NamedKind,
    /// Whether it must be there already.
    pub presence: Presence,
}

/// Where named content is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamedKind {
    /// A config or a layer.
    Blob,
    /// A manifest that an index names.
    Manifest,
}

/// Whether what a manifest names must be in its repository when it is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Without it the manifest is refused.
    #[default]
    Required,
    /// It may come later, or never.
    Optional,
}

/// A descriptor and its content disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongSize {
    /// The content.
    pub digest: Digest,
    /// How many bytes the descriptor says it has.
    pub announced: u64,
    /// How many it has.
    pub found: u64,
}

/// What a comparison found. Each digest stands in one list, once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compared {
    /// Required, and not there.
    pub(crate) missing: Vec<Digest>,
    /// Optional, and not there.
    pub(crate) absent: Vec<Digest>,
    /// The first that is there and has another size.
    pub(crate) wrong: Option<WrongSize>,
}

/// Compares what a manifest names with what the repository has.
pub(crate) fn compare(
    connection: &Connection,
    repository: i64,
    name: &RepositoryName,
    manifest: &NewManifest,
) -> Result<Compared, MetadataError> {
    let mut compared = Compared::default();
    for named in &manifest.names {
        let found = match named.kind {
            NamedKind::Blob => blob::size_in(connection, name, &named.digest)?,
            NamedKind::Manifest => manifest_size(connection, repository, &named.digest)?,
        };
        match (found, named.presence) {
            (Some(found), _) if found != named.size => {
                compared.wrong.get_or_insert_with(|| WrongSize {
                    digest: named.digest.clone(),
                    announced: named.size,
                    found,
                });
            }
            (Some(_), _) => {}
            (None, Presence::Required) => compared.missing.push(named.digest.clone()),
            (None, Presence::Optional) => compared.absent.push(named.digest.clone()),
        }
    }
    for list in [&mut compared.missing, &mut compared.absent] {
        list.sort();
        list.dedup();
    }
    compared.absent.retain(|digest| compared.missing.binary_search(digest).is_err());
    Ok(compared)
}

/// What the repository lacks of the image that a push of `pushed` would run, whatever else may be missing: an index
/// may name images that are not there, and those may lack layers, but what runs is whole.
pub(crate) fn missing_of_run(
    connection: &Connection,
    repository: i64,
    pushed: &Digest,
    run: &NewRun,
) -> Result<Vec<Digest>, MetadataError> {
    if run.image == *pushed {
        // Its blobs were required of it itself.
        return Ok(Vec::new());
    }
    missing_of_image(connection, repository, &run.image)
}

/// Whether a repository has an image and all that it is made of.
pub(crate) fn is_whole(
    connection: &Connection,
    repository: i64,
    image: &Digest,
) -> Result<bool, MetadataError> {
    Ok(missing_of_image(connection, repository, image)?.is_empty())
}

fn missing_of_image(
    connection: &Connection,
    repository: i64,
    image: &Digest,
) -> Result<Vec<Digest>, MetadataError> {
    if manifest_size(connection, repository, image)?.is_none() {
        return Ok(vec![image.clone()]);
    }
    let sql = "SELECT m.blob FROM manifest_blobs AS m WHERE m.manifest = ?1 AND NOT EXISTS (
            SELECT 1 FROM blob_links AS l JOIN blobs AS b ON b.digest = l.blob
            WHERE l.repository = ?2 AND l.blob = m.blob AND b.state = 'present'
                AND NOT EXISTS (SELECT 1 FROM quarantined_blobs AS q WHERE q.blob = m.blob))";
    all(connection, sql, params![image.as_str(), repository], |row| parsed(row, "blob"))
}

/// How many indexes of a repository name a manifest, and how many manifests of it name a blob.
pub(crate) fn count_names(
    connection: &Connection,
    repository: i64,
    kind: NamedKind,
    digest: &Digest,
) -> Result<u64, MetadataError> {
    let sql = match kind {
        NamedKind::Blob => {
            "SELECT COUNT(*) AS names FROM manifest_blobs AS m
                JOIN manifest_links AS l ON l.manifest = m.manifest AND l.repository = ?1 WHERE m.blob = ?2"
        }
        NamedKind::Manifest => {
            "SELECT COUNT(*) AS names FROM manifest_children AS m
                JOIN manifest_links AS l ON l.manifest = m.manifest AND l.repository = ?1 WHERE m.child = ?2"
        }
    };
    let count = first(connection, sql, params![repository, digest.as_str()], |row| number(row, "names"))?;
    Ok(count.unwrap_or(0))
}

fn manifest_size(
    connection: &Connection,
    repository: i64,
    digest: &Digest,
) -> Result<Option<u64>, MetadataError> {
    let sql =
        "SELECT length(m.bytes) AS size FROM manifest_links AS l JOIN manifests AS m ON m.digest = l.manifest
        WHERE l.repository = ?1 AND l.manifest = ?2
            AND NOT EXISTS (SELECT 1 FROM quarantined_manifests AS q WHERE q.manifest = l.manifest)";
    first(connection, sql, params![repository, digest.as_str()], |row| number(row, "size"))
}
