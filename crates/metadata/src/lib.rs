//! The only SQL in the project: repositories, blobs and what holds them, manifests, tags, runs.
//!
//! [`Metadata`] is an async handle to one SQLite database in WAL mode. Writes go to one thread that commits many
//! of them at once; reads run beside it on connections of their own. Several processes may hold the same database.
//! No SQL type shows in a signature, so another database can stand in.
//!
//! Every write is one transaction. It is durable when its future resolves; when the future is dropped earlier the
//! write still happens, whole.

mod backup;
mod blob;
mod cache;
mod collect;
mod condition;
mod control;
mod database;
mod error;
mod fingerprint;
mod foresight;
mod given;
mod gpu;
mod journal;
mod manifest;
mod named;
mod outage;
mod outcome;
mod quarantine;
mod queue;
mod quota;
mod referrer;
mod repository;
mod retention;
mod row;
mod run;
mod run_log;
mod scrub;
mod token;
mod traffic;
mod usage;
mod verify;

pub use backup::{Kept, Place, Snapshot};
pub use blob::{Hold, HoldId};
pub use collect::{Garbage, Sweep, Swept};
pub use condition::{Condition, Versions};
pub use control::{Cancelled, Left, Pause, Retried, Wanted};
pub use database::Metadata;
pub use error::MetadataError;
pub use fingerprint::{DataFile, Fingerprint, RunData};
pub use given::{Given, GivenDataset, GivenLimits, Measured};
pub use gpu::Gpu;
pub use journal::{JournalId, JournalReader, Journaled, Unsettled};
pub use manifest::{Deleted, NewManifest, NewRun, PutManifest, StoredManifest};
pub use named::{Named, NamedKind, Presence, WrongSize};
pub use outcome::Outcome;
pub use quarantine::{Quarantining, Use};
pub use queue::{Admission, Claim, Counted, Rerun, Resources, RunQuota, TooManyRuns};
pub use quota::{Account, Charge};
pub use referrer::{Referrer, Referrers, Refers};
pub use repository::{Among, Owned};
pub use retention::{Expiring, LatestRun, TagUse};
pub use run::{FinishedRun, Run, RunState, Selection};
pub use run_log::{Line, Printed, RunLog, Stream};
pub use scrub::{ScrubPass, Scrubbable};
pub use token::{Account as TokenAccount, TokenKind, TokenRecord};
pub use traffic::ServiceTraffic;
pub use usage::{Usage, Usages, Waiting};
pub use verify::{BlobRow, Correction, Dangling, ManifestRow, Quarantined, RepositoryId};
