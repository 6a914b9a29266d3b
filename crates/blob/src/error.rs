//! What can go wrong with bytes.

use std::{io, path::PathBuf};

use rustix::io::Errno;
use torno_oci::{Digest, UploadId};

/// What can go wrong with bytes.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such upload session.
    #[error("there is no upload {0}")]
    UnknownUpload(UploadId),
    /// Another request is writing to this session.
    #[error("another request is writing to upload {0}")]
    Busy(UploadId),
    /// The bytes do not start where the ones before them ended.
    #[error("the upload has {has} bytes, so the next ones start there and not at {got}")]
    OutOfOrder {
        /// How many bytes there are.
        has: u64,
        /// Where the new ones claim to start.
        got: u64,
    },
    /// There are fewer or more bytes than announced.
    #[error("{announced} bytes were announced and {got} came")]
    Length {
        /// How many were announced.
        announced: u64,
        /// How many came.
        got: u64,
    },
    /// The bytes do not have the digest they were pushed under.
    #[error("the bytes have digest {found}, not {expected}")]
    DigestMismatch {
        /// What was promised.
        expected: Digest,
        /// What was computed.
        found: Digest,
    },
    /// More bytes than a blob may have.
    #[error("a blob has at most {0} bytes")]
    TooLarge(u64),
    /// Whoever sent the bytes stopped in the middle.
    #[error("the bytes stopped coming")]
    Interrupted(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no file of this digest.
    #[error("the bytes of {0} are missing")]
    Missing(Digest),
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The disk takes no writes, as after an error that its file system has found.
    #[error("{path}: the disk can only be read")]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// The process, or the machine, has as many files and connections open as it may.
    #[error("{path}: too many files are open")]
    Descriptors {
        /// The file.
        path: PathBuf,
    },
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The task that does the file's work ended early.
    #[error("the work on a file did not finish")]
    Unfinished,
}

impl BlobError {
    /// A file system's answer about a path.
    pub(crate) fn io(path: &std::path::Path) -> impl Fn(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path: path.to_owned() },
            _ if is_out_of_descriptors(&source) => Self::Descriptors { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}
