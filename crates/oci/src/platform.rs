//! Platforms (image-spec, Image Index: `platform`).

use std::fmt;

/// An operating system and a processor architecture, in Go's words (`linux`, `amd64`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The operating system, `GOOS`.
    pub os: String,
    /// The architecture, `GOARCH`.
    pub architecture: String,
}

impl Platform {
    /// Linux on the processor this program runs on. The engine is reached over a local socket, so it is the
    /// engine's platform as well.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into() }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}
