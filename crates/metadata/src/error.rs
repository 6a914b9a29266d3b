//! What can go wrong with the database.

use std::path::PathBuf;

use torno_oci::Digest;

/// What can go wrong with the database. None of it is the fault of whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// SQLite failed; the source says how.
    #[error("the database failed: {0}")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
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
    /// The writing thread has ended.
    #[error("the database is closed")]
    Closed,
    /// A group of writes could not be committed.
    #[error("the database could not commit: {0}")]
    Commit(String),
}

impl From<rusqlite::Error> for MetadataError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Box::new(error))
    }
}
