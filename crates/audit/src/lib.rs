//! What was done, and by whom: a record that shows where it was cut or changed.
//!
//! An [`Audit`] writes what an [`Actor`] did, an [`Event`], as lines of JSON into files, each line with the hash of the
//! one before. [`verify`] looks whether the chain is whole, [`read`] gives its lines back. What it says of people and
//! things comes from whoever knows them: nothing here knows of HTTP, SQL or Docker.

mod actor;
mod batch;
mod error;
mod event;
mod folder;
mod line;
mod log;
mod read;
mod tail;
mod verify;
mod writer;

pub use actor::{Actor, By, Text};
pub use error::AuditError;
pub use event::{Event, Exchanged};
pub use folder::{Locked, Segment, Segments};
pub use line::{Hash, HashError};
pub use log::{Audit, Rotation};
pub use read::{Entry, Span, head, read};
pub use verify::{Finding, Verified, verify};
