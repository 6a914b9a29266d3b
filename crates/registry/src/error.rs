//! Why something could not be done.

use torno_audit::AuditError;
use torno_auth::Refusal;
use torno_blob::BlobError;
use torno_metadata::{MetadataError, WrongSize};
use torno_oci::{Capacity, Digest, ManifestError, Reference, Tag};

use crate::{AdmissionError, Crowded, LeftAsIs, NoResult, OverQuota};

/// Why something could not be done. What a client may be told of each is decided by whoever speaks its protocol.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The policy says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The repository has no such blob.
    #[error("this repository has no blob {0}")]
    BlobUnknown(Digest),
    /// The bytes that are stored of a blob or a manifest are not its own.
    #[error(
        "the stored bytes of {0} are damaged and were put aside; push the image again to mend it, or tell the admin"
    )]
    Damaged(Digest),
    /// The repository has no such manifest.
    #[error("this repository has no manifest `{0}`")]
    ManifestUnknown(Reference),
    /// The repository has no such upload session, or it is somebody else's.
    #[error("there is no such upload; start again")]
    UploadUnknown,
    /// There is no result to pull yet, or there will be none.
    #[error("there is no result")]
    NoResult(Box<NoResult>),
    /// The bytes are no manifest.
    #[error(transparent)]
    ManifestInvalid(#[from] ManifestError),
    /// A manifest pushed by digest has another one.
    #[error("the manifest has digest {found}, not {expected}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What was computed.
        found: Digest,
    },
    /// A manifest names blobs or manifests that the repository lacks.
    #[error("the manifest names content that is not in this repository: {}", list(.0))]
    Missing(Vec<Digest>),
    /// A descriptor tells a size that its content does not have.
    #[error(
        "the manifest says that {digest} has {announced} bytes, and it has {found}; nobody could pull that, so \
         correct the descriptor's size",
        digest = .0.digest, announced = .0.announced, found = .0.found
    )]
    WrongSize(WrongSize),
    /// The condition of a push or deletion does not hold: somebody else has pushed, or deleted, meanwhile.
    #[error("{}", changed(.0.as_ref()))]
    Changed(Option<Digest>),
    /// A tag that Torno gives out itself.
    #[error("`{0}` is kept for results (`run-<number>` and `….log` are); push under another tag")]
    ReservedTag(Tag),
    /// The image cannot run here.
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    /// The very blob that a push brings is being deleted, and that does not end.
    #[error("gc has not ended deleting the blob that is pushed")]
    Collecting,
    /// The bytes could not be stored or read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// There is no room left for whoever is charged.
    #[error("{0}")]
    Quota(Box<OverQuota>),
    /// Somebody has as many runs as they may.
    #[error("{0}")]
    Crowded(Box<Crowded>),
    /// A run is left as it is.
    #[error("{0}")]
    Left(Box<LeftAsIs>),
    /// Somebody wants the run to end, so it does not go on.
    #[error("the run is cancelled by {0}")]
    Cancelled(Capacity),
    /// It could not be recorded, and so it was not done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Somebody else was the first to push to this name, a moment ago.
    #[error("this name has just been taken by somebody else; choose another")]
    Taken,
    /// The database failed.
    #[error(transparent)]
    Metadata(MetadataError),
    /// The operating system gave no random bytes.
    #[error("no random bytes could be had: {0}")]
    Random(getrandom::Error),
    /// Other processes of the same registry cannot be heard.
    #[error("what other processes of this registry do cannot be heard: {0}")]
    News(#[source] std::io::Error),
}

impl RegistryError {
    /// Whether there was no room on a disk.
    pub fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Blob(BlobError::Full) | Self::Metadata(MetadataError::Full) | Self::Audit(AuditError::Full)
        )
    }
}

impl From<OverQuota> for RegistryError {
    fn from(over: OverQuota) -> Self {
        Self::Quota(Box::new(over))
    }
}

impl From<MetadataError> for RegistryError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Taken => Self::Taken,
            MetadataError::Cancelled(by) => Self::Cancelled(by),
            MetadataError::Damaged(manifest) => Self::Damaged(manifest),
            other => Self::Metadata(other),
        }
    }
}

fn changed(current: Option<&Digest>) -> String {
    let found = current.map_or_else(|| "there is nothing here".into(), |digest| format!("this is {digest}"));
    format!("{found} now, and the request's condition asks for something else; look at it, and try again")
}

fn list(digests: &[Digest]) -> String {
    /// Enough to see what is wrong; an index of thousands would make a message nobody reads.
    const SHOWN: usize = 5;
    let mut text = digests.iter().take(SHOWN).map(Digest::as_str).collect::<Vec<_>>().join(", ");
    if digests.len() > SHOWN {
        text.push_str(", …");
    }
    text
}
