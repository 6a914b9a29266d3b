//! What can be done with a registry that runs what is pushed to it, without HTTP and without Docker.
//!
//! Every operation takes a permit from [`torno_auth`]; [`Registry::pull_permit`] and its siblings get one by asking
//! who owns the repository and then the policy. The server calls the operations for people; the executor claims
//! runs here ([`Registry::claim`]) and publishes what they leave.

mod admit;
mod backup;
mod blob;
mod check;
mod content;
mod control;
mod error;
mod fingerprint;
mod gc;
mod import;
mod journal;
mod manifest;
mod news;
mod outage;
mod placer;
mod quarantine;
mod queue;
mod quota;
mod record;
mod registry;
mod result;
mod retention;
mod room;
mod run;
mod sample;
mod scrub;
mod settings;
mod token;
mod upload;
mod upload_key;
mod usage;
mod verify;

pub use admit::{AdmissionError, Ceiling};
pub use backup::{BackedUp, Backup, BackupError, Lost, Superfluous, restore, verify_backup};
pub use content::{Check, Content};
pub use control::{Controlled, LeftAsIs};
pub use error::RegistryError;
pub use gc::{Collected, CollectionProgress, DEFAULT_GRACE};
pub use import::{Advance, Exported, Fault, ImportError, ImportSettings, Imported, LeftOut};
pub use manifest::Pushed;
pub use news::Ear;
pub use queue::Crowded;
pub use quota::OverQuota;
pub use registry::Registry;
pub use result::{NoResult, Progress};
pub use retention::{Expired, KeepImages, Reason, Retention, Rule};
pub use run::{ClaimedRun, ImagePermit, Publication, PullToken};
pub use scrub::Scrubbed;
pub use settings::{DEFAULT_UPLOAD_LIFETIME, Settings};
pub use token::{Holder, NewToken};
pub use upload::CompleteUpload;
pub use usage::DiskUsage;
pub use verify::{
    Finding, Mode, Phase, Position, Problem, Remedy, Sample, Verification, Verified, VerifyEvent,
};

pub use torno_blob::{Blob, BlobError, Damage, Reading, Sharing, Uploads};
pub use torno_metadata::{
    Condition, DataFile, Fingerprint, FinishedRun, Garbage, Given, GivenDataset, GivenLimits, Gpu, Left,
    Line, Measured, MetadataError, Outcome, Owned, Pause, Presence, Printed, Referrer, Referrers, Resources,
    Run, RunData, RunLog, RunState, Selection, ServiceTraffic, StoredManifest, Stream, Swept, TokenAccount,
    TokenKind, TokenRecord, Usage, Usages, Use, Versions, Waiting, Wanted, WrongSize,
};
