//! Reading a backup again, and comparing it with its digests.

use std::{
    fs::{File, TryLockError},
    num::NonZeroUsize,
    path::Path,
};

use futures_util::{StreamExt as _, stream};
use tokio::task::spawn_blocking;
use torno_blob::{BlobError, Shelf};
use torno_metadata::{Place, Snapshot};

use super::{BackupError, blocking, complete_state, io_error};
use crate::{Finding, Problem, RegistryError, Remedy, Verified, VerifyEvent};

/// Looks at everything that would be restored from a backup: blobs, manifests and what the journal has. Nothing changes,
/// and no backup is made meanwhile.
pub async fn verify_backup(
    backup: &Path,
    threads: NonZeroUsize,
    mut tell: impl FnMut(VerifyEvent<'_>),
) -> Result<Verified, BackupError> {
    let state = complete_state(backup)?;
    let lock = lock(backup)?;
    let snapshot = blocking(move || {
        let snapshot = Snapshot::of_copy(&state.join("torno.db")).map_err(RegistryError::from)?;
        let blobs = snapshot.blobs().map_err(RegistryError::from)?;
        let manifests = snapshot.damaged_manifests().map_err(RegistryError::from)?;
        let journal = snapshot.damaged_journal().map_err(RegistryError::from)?;
        Ok((blobs, manifests, journal))
    });
    let (mut blobs, (manifests, damaged), (_, in_journal)) = snapshot.await?;
    // What is in quarantine is served by nobody, and is not in a backup.
    blobs.retain(|kept| kept.place == Place::File);
    tell(VerifyEvent::All { blobs: blobs.len() as u64, bytes: blobs.iter().map(|kept| kept.size).sum() });
    let mut verified = Verified { manifests, ..Verified::default() };
    let mut found = Vec::new();
    found.extend(damaged.into_iter().map(|manifest| Problem::Manifest { manifest }));
    found.extend(in_journal.into_iter().map(|blob| Problem::Journal { blob }));
    let shelf = Shelf::new(backup);
    let looks = blobs.into_iter().map(|kept| {
        let shelf = shelf.clone();
        spawn_blocking(move || {
            let damage = shelf.check(&kept.blob, kept.size);
            (kept, damage)
        })
    });
    let mut looks = std::pin::pin!(stream::iter(looks).buffered(threads.get()));
    while let Some(look) = looks.next().await {
        let (kept, damage) = look.map_err(|_| RegistryError::from(BlobError::Unfinished))?;
        verified.blobs += 1;
        verified.bytes += kept.size;
        tell(VerifyEvent::Read(kept.size));
        match damage {
            Ok(None) => {}
            Ok(Some(damage)) => found.push(Problem::Blob { blob: kept.blob, damage }),
            Err(error) => found.push(Problem::NotRead { blob: kept.blob, error: error.to_string() }),
        }
    }
    drop(lock);
    verified.findings = found.len() as u64;
    verified.left = verified.findings;
    for problem in found {
        tell(VerifyEvent::Found(&Finding { problem, used_by: Vec::new(), remedy: Remedy::None }));
    }
    Ok(verified)
}

/// Keeps others from making a backup there. Several may look.
fn lock(backup: &Path) -> Result<File, BackupError> {
    let path = backup.join("lock");
    let lock = File::open(&path).map_err(io_error(&path))?;
    match lock.try_lock_shared() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(BackupError::Busy(backup.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(&path)(error)),
    }
}
