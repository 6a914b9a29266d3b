//! Bytes by digest.
//!
//! A [`BlobStore`] keeps each blob in one file that is written once, named after its digest and never changed.
//! Bytes arrive in an upload session ([`BlobStore::append`]), are hashed while they are written, compared
//! ([`BlobStore::seal`]), synced ([`BlobStore::sync`]) and then moved into place ([`BlobStore::place`]). Whoever keeps a
//! small blob's bytes safe elsewhere may sync it later with others ([`BlobStore::finish`], [`BlobStore::put`],
//! [`BlobStore::settle`]). What repositories link them, and what keeps them from being
//! deleted meanwhile, is not known here. A [`Shelf`] has blobs in the same places and no sessions: a backup.
//!
//! ```text
//! blobs/sha256/ab/<hex>   whole blobs
//! uploads/<id>            partial uploads; they survive a restart
//! quarantine/<name>      files whose bytes are not theirs any more
//! alive/<name>            locked by each process that holds blobs
//! files.lock              held by whoever removes files, or puts them in place unsynced
//! reserve                 room on the disk for those who make room
//! ```

mod adopt;
mod alive;
mod batch;
mod check;
mod durable;
mod error;
mod flow;
mod folder;
mod gather;
mod listing;
mod map;
mod maps;
mod quarantine;
mod read;
mod reserve;
mod session;
mod shelf;
mod store;
mod write;

pub use adopt::{Adopter, Prepared, Sharing, Verified};
pub use alive::Alive;
pub use check::{CheckError, Damage, WhichFile};
pub use error::BlobError;
pub use gather::Gatherer;
pub use listing::Listing;
pub use read::{Blob, Reading};
pub use reserve::Reserve;
pub use session::{SMALL, Sealed, Synced, Uploads};
pub use shelf::{Shelf, Taken};
pub use store::{BlobStore, FilesLock};
