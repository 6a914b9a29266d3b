//! The words of the field, as types: whatever a peer, a disk or a container says is parsed here
//! once, into values that cannot be wrong, and never checked again further in.
//!
//! Nothing in this crate does I/O, and every parser is total and bounded.

mod config;
mod control;
mod digest;
mod error_code;
mod manifest;
mod media_type;
mod name;
mod person;
mod platform;
mod reference;
mod run_id;
mod spelling;
mod upload_id;
mod wishes;

pub use config::{ConfigError, MAX_CONFIG_SIZE, RunConfig};
pub use control::{Capacity, Priority, PriorityError};
pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use error_code::ErrorCode;
pub use manifest::{Child, Descriptor, MAX_MANIFEST_SIZE, Manifest, ManifestError, ManifestKind};
pub use media_type::{MediaType, MediaTypeError, media_types};
pub use name::{MAX_NAME_LENGTH, NameError, Namespace, RepositoryName};
pub use person::{DatasetName, PersonError, ProjectName, UserName};
pub use platform::Platform;
pub use reference::{Reference, ReferenceError, Tag, TagError};
pub use run_id::{RunId, RunIdError};
pub use upload_id::{UploadId, UploadIdError};
pub use wishes::{WishError, Wishes};
