//! What can go wrong with the database.

use std::path::PathBuf;

use torno_oci::{Capacity, Digest};

/// What can go wrong with the database. None of it is the fault of whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// SQLite failed; the source says how.
    #[error("the database failed: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no room to write anything.
    #[error("the disk is full: make some room")]
    Full,
    /// The disk takes no writes, or fails.
    #[error("the database's disk cannot be written: {0}")]
    Disk(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another process has been writing for longer than anybody waits.
    #[error("another process has been writing to the database for too long")]
    Busy,
    /// A row holds what no code of ours writes.
    #[error("the database holds an invalid {0}")]
    Corrupt(&'static str),
    /// The bytes of a manifest are not its own.
    #[error("the bytes of manifest {0} are damaged")]
    Damaged(Digest),
    /// The database was written by a newer Torno.
    #[error(
        "{path} was written by a newer Torno (schema {found}, this one knows {known}); run that one, or restore a backup"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema known here.
        known: i64,
    },
    /// The repository has become somebody else's since it was asked whose it is.
    #[error("the repository is somebody else's")]
    Taken,
    /// Somebody wants the run to end, so it does not go on.
    #[error("the run is cancelled by {0}")]
    Cancelled(Capacity),
    /// The writing thread has ended.
    #[error("the database is closed")]
    Closed,
    /// A group of writes could not be committed.
    #[error("the database could not commit: {0}")]
    Commit(String),
}

impl From<rusqlite::Error> for MetadataError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        // The memory that processes share is a file too, and has no room on a full disk.
        if error
            .sqlite_error()
            .is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
        {
            return Self::Full;
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::ReadOnly | ErrorCode::SystemIoFailure) => Self::Disk(Box::new(error)),
            _ => Self::Database(Box::new(error)),
        }
    }
}

impl MetadataError {
    /// A failure to begin or to commit, as each of those is told of it whose writes were to be committed together.
    pub(crate) fn for_each(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Busy => Self::Busy,
            Self::Disk(source) => Self::Disk(source.to_string().into()),
            other => Self::Commit(other.to_string()),
        }
    }
}
