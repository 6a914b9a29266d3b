//! Why something could not be recorded.

use std::{io, path::Path, sync::Arc};

/// Why something could not be recorded, or the record not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// There is no room.
    #[error("there is no room for the record of what is done")]
    Full,
    /// The file system takes nothing.
    #[error("the record of what is done can only be read")]
    ReadOnly,
    /// More is done than can be remembered until it is written.
    #[error("the record of what is done is behind")]
    Behind,
    /// The file system failed.
    #[error("{path}: {source}", path = .0.0, source = .0.1)]
    Io(Arc<(String, io::Error)>),
    /// The record is being closed.
    #[error("the record is closed")]
    Closed,
}

impl AuditError {
    pub(crate) fn of(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.display().to_string();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io(Arc::new((path, error))),
        }
    }
}
