//! What a registry is told at start.

use std::time::Duration;

use torno_metadata::Presence;

use crate::Check;

/// How long an upload session may rest when nobody says: a push that breaks off in the evening can go on the next
/// morning.
pub const DEFAULT_UPLOAD_LIFETIME: Duration = Duration::from_hours(24);

/// What a registry is told at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether the manifests that an index names must be in its repository when it is pushed (distribution-spec:
    /// Push; an index without some of them is called sparse). What is run must be there in any case.
    pub children: Presence,
    /// The same for the config and the layers of an image.
    pub blobs: Presence,
    /// How long an upload session lives without a request that uses it or bytes that arrive for it
    /// (distribution-spec: Cancel a blob upload).
    pub upload_lifetime: Duration,
    /// How blobs are checked when they are pulled.
    pub check: Check,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            children: Presence::Required,
            blobs: Presence::Required,
            upload_lifetime: DEFAULT_UPLOAD_LIFETIME,
            check: Check::default(),
        }
    }
}
