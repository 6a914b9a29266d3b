//! Whether a result is what was signed, and what was signed of it.

use std::{io, time::Duration};

use futures_util::TryStreamExt as _;
use torno_auth::PullPermit;
use torno_oci::{Descriptor, Digest, Hasher, Manifest, ManifestKind, Reference};
use torno_registry::{Reading, Registry, RegistryError};

use super::{
    ENVELOPE, STATEMENTS,
    envelope::{self, EnvelopeError},
    key::PublicKey,
    statement::Statement,
};

/// The largest envelope that is read: a statement names a few things.
const MAX_ENVELOPE: u64 = 4 << 20;

/// What is known of a result for certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// Its manifest.
    pub result: Digest,
    /// The number of the run it came from.
    pub run: String,
    /// How that ended, in one word.
    pub outcome: String,
    /// What was pushed, as `run/<project>/<name>:<tag>`.
    pub reference: String,
    /// The image that ran.
    pub image: String,
    /// The project.
    pub project: String,
    /// Who pushed.
    pub owner: String,
    /// The data it was computed from, with fingerprints where the site kept them.
    pub datasets: Vec<(String, Option<String>)>,
    /// When it started, if that is known.
    pub started: Option<String>,
    /// When it ended.
    pub finished: String,
    /// Whose signature it is.
    pub key: String,
    /// How many blobs of the result were read and compared.
    pub blobs: usize,
    /// How many bytes they have.
    pub bytes: u64,
}

/// Why a result is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum ProvenanceError {
    /// There is no such result, or it cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Bytes that are stored are others than those that were published.
    #[error("{what} was changed: its bytes have digest {found}, and the manifest names {expected}")]
    Changed {
        /// What.
        what: String,
        /// What was published.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// A blob could not be read.
    #[error("{what} cannot be read: {source}")]
    Read {
        /// What.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// No image manifest.
    #[error("{0} is no result: it is no image manifest")]
    NoResult(Digest),
    /// Nothing signed.
    #[error(
        "nothing signed speaks of {0}: it was published by an earlier Torno, or its statement was deleted"
    )]
    Unsigned(Digest),
    /// What is signed is not believed.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Signed, and about something else.
    #[error("what is signed speaks of another result than {0}")]
    Other(Digest),
    /// Signed, and no statement of Torno's.
    #[error("what is signed is no statement of where a result comes from")]
    NoStatement,
}

/// Checks all bytes of a result and what is signed of it.
pub async fn verify(
    registry: &Registry,
    permit: &PullPermit,
    reference: &Reference,
    trusted: &[PublicKey],
) -> Result<Provenance, ProvenanceError> {
    let found = registry.manifest(permit, reference, Duration::ZERO).await?;
    let result = found.digest;
    let (config, layers) = parts(&found.bytes).ok_or_else(|| ProvenanceError::NoResult(result.clone()))?;
    let (mut blobs, mut bytes) = (0, 0);
    for (number, part) in std::iter::once(&config).chain(&layers).enumerate() {
        let what = if number == 0 { "the configuration".to_owned() } else { format!("layer {number}") };
        compare(registry, permit, part, what, |_| {}).await?;
        blobs += 1;
        bytes += part.size;
    }
    let signed = registry.referrers(permit, &result, Some(STATEMENTS), None).await?;
    let mut refused = ProvenanceError::Unsigned(result.clone());
    for referrer in signed.page {
        match believed(registry, permit, &referrer.digest, &result, trusted).await {
            Ok((statement, key)) => return Ok(provenance(result, &statement, key, blobs, bytes)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// The statement in a manifest, if it is about the result and somebody who is trusted has signed it.
async fn believed<'k>(
    registry: &Registry,
    permit: &PullPermit,
    manifest: &Digest,
    result: &Digest,
    trusted: &'k [PublicKey],
) -> Result<(Statement, &'k PublicKey), ProvenanceError> {
    let found = registry.manifest(permit, &Reference::Digest(manifest.clone()), Duration::ZERO).await?;
    let (_, layers) = parts(&found.bytes).ok_or(ProvenanceError::NoStatement)?;
    let signed = layers.into_iter().find(|layer| layer.media_type.as_str() == ENVELOPE);
    let signed = signed.filter(|layer| layer.size <= MAX_ENVELOPE).ok_or(ProvenanceError::NoStatement)?;
    let mut bytes = Vec::new();
    let what = "the signed statement".to_owned();
    compare(registry, permit, &signed, what, |piece| bytes.extend_from_slice(piece)).await?;
    let (statement, key) = envelope::open(&bytes, trusted)?;
    let statement = Statement::read(&statement).ok_or(ProvenanceError::NoStatement)?;
    if !statement.is_about(result) {
        return Err(ProvenanceError::Other(result.clone()));
    }
    Ok((statement, key))
}

fn parts(manifest: &[u8]) -> Option<(Descriptor, Vec<Descriptor>)> {
    match Manifest::parse(None, manifest).ok()?.kind {
        ManifestKind::Image { config, layers } => Some((config, layers)),
        ManifestKind::Index { .. } => None,
    }
}

/// Reads a blob and compares it with its digest.
async fn compare(
    registry: &Registry,
    permit: &PullPermit,
    part: &Descriptor,
    what: String,
    mut take: impl FnMut(&[u8]),
) -> Result<(), ProvenanceError> {
    let content = registry.blob(permit, &part.digest, Reading::Copied).await?;
    let whole = 0..content.size();
    let mut hasher = Hasher::new(part.digest.algorithm());
    let mut pieces = std::pin::pin!(content.stream(whole));
    let mut failed = None;
    loop {
        match pieces.try_next().await {
            Ok(Some(piece)) => {
                hasher.update(&piece);
                take(&piece);
            }
            Ok(None) => break,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if let Some(source) = failed {
        return Err(ProvenanceError::Read { what, source });
    }
    let found = hasher.finish();
    if found == part.digest {
        Ok(())
    } else {
        Err(ProvenanceError::Changed { what, expected: part.digest.clone(), found })
    }
}

fn provenance(
    result: Digest,
    statement: &Statement,
    key: &PublicKey,
    blobs: usize,
    bytes: u64,
) -> Provenance {
    let external = statement.external();
    let (started, finished) = statement.times();
    Provenance {
        result,
        run: statement.run().to_owned(),
        outcome: statement.outcome().to_owned(),
        reference: external.reference.clone(),
        image: external.image.clone(),
        project: external.project.clone(),
        owner: external.owner.clone(),
        datasets: statement.datasets().map(|(name, digest)| (name.to_owned(), digest)).collect(),
        started: started.map(str::to_owned),
        finished: finished.to_owned(),
        key: key.id(),
        blobs,
        bytes,
    }
}
