//! Media types (image-spec: Media Types; Docker image manifest v2, schema 2).

use std::{fmt, str::FromStr};

/// The names of the media types Torno tells apart.
pub mod media_types {
    /// An OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// An OCI layer, gzip-compressed.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// The artifact type of what a run gives back.
    pub const TORNO_RESULT: &str = "application/vnd.torno.result.v1";
    /// The artifact type of the RO-Crate that describes a result.
    pub const TORNO_RO_CRATE: &str = "application/vnd.torno.ro-crate.v1+json";
    /// The artifact type of a sample of a dataset.
    pub const TORNO_SAMPLE: &str = "application/vnd.torno.sample.v1";
}

/// The longest media type, in bytes: type and subtype of at most 127 each (RFC 6838, section 4.2).
const MAX_LENGTH: usize = 255;

/// A media type: `type/subtype`, without parameters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Box<str>);

impl MediaType {
    /// The media type as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is not a media type.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a media type is written `type/subtype`")]
pub struct MediaTypeError;

impl FromStr for MediaType {
    type Err = MediaTypeError;

    /// Parameters behind a `;`, as a `Content-Type` header may carry, are left out.
    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        let essence = text.split(';').next().unwrap_or_default().trim();
        let (kind, subtype) = essence.split_once('/').ok_or(MediaTypeError)?;
        let name = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
        };
        if essence.len() <= MAX_LENGTH && name(kind) && name(subtype) {
            Ok(Self(essence.into()))
        } else {
            Err(MediaTypeError)
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
