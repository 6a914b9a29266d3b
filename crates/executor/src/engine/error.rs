//! What can go wrong with an engine, told apart by what is to be done about it.

use bollard::errors::Error;

/// What can go wrong with an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no connection, or it broke. Whether a call took effect is not known.
    #[error("the engine cannot be reached: {0}")]
    Unreachable(String),
    /// The engine has no such container, volume or image.
    #[error("the engine has nothing of that name: {0}")]
    NotFound(String),
    /// The engine is connected and did not answer in time. Whether the call took effect is not known.
    #[error("the engine did not answer within {0:?}")]
    Timeout(std::time::Duration),
    /// What the engine reads from a file of the data directory could not be written there.
    #[error("a file that the engine reads could not be written into the data directory: {0}")]
    File(std::io::Error),
    /// The engine does not give a run its GPUs.
    #[error("the engine gives no GPU: {0}")]
    NoGpus(&'static str),
    /// The engine answered, and the answer is no.
    #[error("the engine refused: {reason} (status {status})")]
    Refused {
        /// The HTTP status; 0 for an error inside a stream that began well.
        status: u16,
        /// What it says. It may hold paths of the host.
        reason: String,
    },
}

impl EngineError {
    /// What an answer says that is no success.
    pub(super) fn of_status(status: u16, reason: String) -> Self {
        match status {
            404 => Self::NotFound(reason),
            _ => Self::Refused { status, reason },
        }
    }

    /// Whether the engine has no such thing: what was to be removed is gone.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Whether there was no answer: the same call may go well later.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_))
    }

    /// Whether the engine could not unpack a layer, and not because of its host.
    pub(crate) fn is_broken_layer(&self) -> bool {
        /// How engines with a store of their own, with containerd's, and Podman say it.
        const SAID: [&str; 4] = [
            "failed to register layer",
            "failed to extract layer",
            "archive/tar",
            "error processing tar file",
        ];
        /// What is wrong with the host then.
        const OF_THE_HOST: [&str; 5] = [
            "no space left",
            "quota",
            "input/output error",
            "read-only file system",
            "cannot allocate memory",
        ];
        let Self::Refused { reason, .. } = self else { return false };
        let reason = reason.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|words| reason.contains(words));
        says(&SAID) && !says(&OF_THE_HOST)
    }

    /// Whether the engine could not give a container the GPUs it was told to.
    pub(crate) fn denies_gpus(&self) -> bool {
        /// How engines without a way to GPUs, NVIDIA's runtime, and engines that know GPUs as CDI devices say it.
        const SAID: [&str; 3] = ["could not select device driver", "nvidia-container", "cdi device"];
        match self {
            Self::NoGpus(_) => true,
            Self::Refused { reason, .. } => {
                let reason = reason.to_lowercase();
                SAID.iter().any(|words| reason.contains(words))
            }
            Self::Unreachable(_) | Self::NotFound(_) | Self::Timeout(_) | Self::File(_) => false,
        }
    }

    /// Whether the thing is in another state than the call needs, or in use elsewhere.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                Self::of_status(status_code, message)
            }
            Error::DockerStreamError { error } => Self::Refused { status: 0, reason: error },
            Error::RequestTimeoutError => Self::Timeout(super::limit::LONGEST),
            Error::JsonDataError { message, .. } => Self::Refused { status: 0, reason: message },
            other => Self::Unreachable(causes(&other)),
        }
    }
}

/// An error and what is behind it: hyper's own text says little.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The engine's reason why a command cannot be started, in words that say nothing of the host.
pub(crate) fn start_reason(text: &str) -> String {
    /// What runc, the kernel and the init process say, in lower case, and what to call it.
    const KNOWN: [(&str, &str); 9] = [
        ("exec format error", "exec format error"),
        ("executable file not found", "no such file or directory"),
        ("no such file or directory", "no such file or directory"),
        ("permission denied", "permission denied"),
        ("is a directory", "is a directory"),
        ("not a directory", "not a directory"),
        ("argument list too long", "argument list too long"),
        ("too many levels of symbolic links", "too many levels of symbolic links"),
        ("read-only file system", "read-only file system"),
    ];
    let text = text.to_lowercase();
    let known = KNOWN.iter().find(|(phrase, _)| text.contains(phrase));
    known.map_or("the engine refused it", |(_, words)| words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_broken_is_told_from_a_host_that_is_full() {
        let broken =
            |reason: &str| EngineError::Refused { status: 0, reason: reason.into() }.is_broken_layer();
        assert!(broken("failed to register layer: archive/tar: invalid tar header"));
        assert!(broken("failed to extract layer sha256:00 to overlayfs: unexpected EOF"));
        assert!(!broken("failed to register layer: write /x: no space left on device"));
        assert!(!broken("manifest unknown"));
    }

    #[test]
    fn a_gpu_that_is_not_given_is_told_from_a_command_that_is_not_there() {
        let denied = |reason: &str| EngineError::Refused { status: 500, reason: reason.into() }.denies_gpus();
        assert!(denied("could not select device driver \"\" with capabilities: [[gpu compute utility]]"));
        assert!(denied(
            "OCI runtime create failed: error running prestart hook #0: exit status 1, stderr: nvidia-container-cli: \
             device error: 3: unknown device: unknown"
        ));
        assert!(denied("CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=3: unknown"));
        assert!(!denied("exec: \"nvidia-smi\": executable file not found in $PATH: unknown"));
    }

    #[test]
    fn reasons_say_nothing_of_the_host() {
        let text = "failed to create shim task: OCI runtime create failed: exec: \"/srv/secret\": stat /srv/secret: \
                    no such file or directory: unknown";
        assert_eq!(start_reason(text), "no such file or directory");
        assert_eq!(start_reason("exec /x failed: Exec format error"), "exec format error");
        assert_eq!(start_reason("mounting /srv/secret"), "the engine refused it");
    }
}
