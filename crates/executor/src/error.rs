//! Why runs cannot be executed at all. What ends one run is its [`torno_registry::Outcome`].

use std::{
    io,
    path::{Path, PathBuf},
};

use torno_registry::RegistryError;

use crate::{DataPlace, collect::CollectError, engine::EngineError, provenance::KeyError, walk::WalkError};

/// Why runs cannot be executed.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// Another process holds the lock of the data directory.
    #[error("another torno executes the runs of this data directory")]
    Taken,
    /// A file of the data directory cannot be used.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The id of the data directory is not one.
    #[error("{path} must hold 16 hexadecimal digits; restore it from a backup: containers are found by it", path = .0.display())]
    Instance(PathBuf),
    /// A path the engine's client cannot take.
    #[error("the engine's socket `{path}` has a name that is not UTF-8", path = .0.display())]
    Socket(PathBuf),
    /// The operating system gave no random bytes.
    #[error("no random bytes could be had: {0}")]
    Random(getrandom::Error),
    /// There is nothing to sign results with.
    #[error("results cannot be signed: {0}")]
    Key(#[from] KeyError),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What a run left could not be read.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The data of a project is not where the configuration says.
    #[error("the data of dataset `{dataset}` is not at {place}: {reason}")]
    Dataset {
        /// Its name.
        dataset: String,
        /// Where it should be.
        place: DataPlace,
        /// What the engine says.
        reason: String,
    },
    /// The engine starts something else under the name of gVisor's runtime.
    #[error(
        "what the engine starts as the runtime `runsc` is not gVisor; look at `runtimes` in its daemon.json"
    )]
    NoGvisor,
    /// A folder of data could not be gone through.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// What a project gives its runs cannot be given.
    #[error("the secret `{secret}` cannot be given to runs; {path}: {source}", path = .path.display())]
    Secret {
        /// Its name.
        secret: String,
        /// The file it is kept in.
        path: PathBuf,
        /// Why.
        source: crate::SecretError,
    },
    /// A run is not what a run can be.
    #[error("{0}")]
    Run(&'static str),
    /// A result could not be written down.
    #[error("the result could not be packed: {0}")]
    Pack(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ExecutorError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn pack(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Pack(error.into())
    }

    /// Whether the engine has lost what it was asked about, so that trying again brings nothing.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Engine(EngineError::NotFound(_)))
    }

    /// Whether the engine cannot be reached or does not answer, so that trying again later is all there is to do.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_away())
    }

    /// Whether a disk of the site is full.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_full(),
            Self::Collect(CollectError::Io(error)) => full(error),
            other => {
                let mut cause = std::error::Error::source(other);
                while let Some(error) = cause {
                    if error.downcast_ref().is_some_and(RegistryError::is_full)
                        || error.downcast_ref().is_some_and(full)
                    {
                        return true;
                    }
                    cause = error.source();
                }
                false
            }
        }
    }
}

fn full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
