//! What a verification finds, and what became of it.

use std::path::PathBuf;

use jiff::Timestamp;
use torno_blob::Damage;
use torno_metadata::Use;
use torno_oci::Digest;

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    /// A blob's file.
    #[error("blob {blob}: {damage}")]
    Blob {
        /// Whose.
        blob: Digest,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A blob's row.
    #[error("blob {blob}: its row says {row} bytes, and its file, which is right, has {file}")]
    Size {
        /// Whose.
        blob: Digest,
        /// What the row says.
        row: u64,
        /// What is true.
        file: u64,
    },
    /// What the journal has of a blob.
    #[error("blob {blob}: the journal has other bytes than its own")]
    Journal {
        /// Whose.
        blob: Digest,
    },
    /// A blob's file could not be read, which says nothing of its bytes.
    #[error("blob {blob}: it could not be looked at: {error}")]
    NotRead {
        /// Whose.
        blob: Digest,
        /// Why.
        error: String,
    },
    /// A file that is called like a blob, and has its bytes, and no row speaks of it.
    #[error("blob {blob}: nothing is known of its file, which is right")]
    StrayBlob {
        /// Which.
        blob: Digest,
    },
    /// The same with other bytes.
    #[error("blob {blob}: nothing is known of it, and {damage}")]
    StrayDamaged {
        /// Which.
        blob: Digest,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A file or folder that is neither a blob's nor an upload's.
    #[error("{}: this is neither a blob nor an upload", .path.display())]
    Stray {
        /// Below the data directory.
        path: PathBuf,
    },
    /// A manifest's bytes.
    #[error("manifest {manifest}: its bytes have another digest")]
    Manifest {
        /// Whose.
        manifest: Digest,
    },
    /// What is kept of what a manifest names.
    #[error("manifest {manifest}: {what}")]
    Edge {
        /// Whose.
        manifest: Digest,
        /// What is missing or too much.
        what: String,
    },
    /// A row that cannot be, or speaks of one that is not there.
    #[error("{what}")]
    Row {
        /// In words.
        what: String,
        /// What it is about.
        about: Option<Digest>,
    },
    /// Something that was found before, and has not been pushed since.
    #[error("{digest}: in quarantine since {since}: {reason}")]
    Quarantined {
        /// What.
        digest: Digest,
        /// Since when.
        since: Timestamp,
        /// Why.
        reason: String,
    },
    /// A blob in quarantine whose file is there again and right.
    #[error("blob {blob}: in quarantine, and its file is there again and right")]
    Back {
        /// Which.
        blob: Digest,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing.
    None,
    /// It is in quarantine.
    PutAside,
    /// The rows have been put right.
    Corrected,
    /// It has a row now; gc removes it unless something names it.
    Adopted,
    /// It is served again.
    Restored,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// What is wrong, or was.
    pub problem: Problem,
    /// What uses it.
    pub used_by: Vec<Use>,
    /// What became of it.
    pub remedy: Remedy,
}

impl Finding {
    /// Whether somebody still has to do something: nothing was done, or what was put aside is needed and so lost until
    /// it is pushed again.
    pub fn is_left(&self) -> bool {
        match self.remedy {
            Remedy::None => true,
            Remedy::PutAside => !self.used_by.is_empty(),
            Remedy::Corrected | Remedy::Adopted | Remedy::Restored => false,
        }
    }
}

impl Problem {
    /// What it is about.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Blob { blob, .. }
            | Self::Size { blob, .. }
            | Self::Journal { blob }
            | Self::NotRead { blob, .. }
            | Self::StrayBlob { blob }
            | Self::StrayDamaged { blob, .. }
            | Self::Back { blob } => Some(blob),
            Self::Manifest { manifest } | Self::Edge { manifest, .. } => Some(manifest),
            Self::Quarantined { digest, .. } => Some(digest),
            Self::Row { about, .. } => about.as_ref(),
            Self::Stray { .. } => None,
        }
    }

    /// One word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Blob { damage: Damage::Missing, .. } => "missing",
            Self::Blob { damage: Damage::Length { .. }, .. } => "length",
            Self::Blob { damage: Damage::Digest { .. }, .. } => "digest",
            Self::Blob { damage: Damage::Unreadable { .. }, .. } | Self::NotRead { .. } => "unreadable",
            Self::Size { .. } => "size",
            Self::Journal { .. } => "journal",
            Self::StrayBlob { .. } => "stray-blob",
            Self::StrayDamaged { .. } => "stray-damaged",
            Self::Stray { .. } => "stray",
            Self::Manifest { .. } => "manifest",
            Self::Edge { .. } => "edge",
            Self::Row { .. } => "row",
            Self::Quarantined { .. } => "quarantined",
            Self::Back { .. } => "back",
        }
    }
}
