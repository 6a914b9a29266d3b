//! A copy of the registry that is made while it serves, and a registry made from it.
//!
//! ```text
//! lock                 held while a backup is made; also tells that the folder is for backups
//! blobs/sha256/ab/…    the blobs, as in the data directory
//! state-<number>/      the database, keys/, htpasswd, instance and audit/, all of one moment
//! complete             which of the states is whole: written last, at once
//! ```
//!
//! Blobs are only added, until a state is whole that does without them. So a backup that is stopped half way leaves the
//! one before it as it was.

mod check;

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use tokio::task::spawn_blocking;
use torno_audit::{Event, Segments};
use torno_blob::{BlobError, Shelf, Taken};
use torno_metadata::{Kept, Metadata, Place, Snapshot};
use torno_oci::Digest;

pub use check::verify_backup;

use crate::{Registry, RegistryError};

/// Blobs taken at a time, between two looks at the progress.
const BATCH: usize = 64;

/// What is copied of the state besides the database and the password file, if it is there. Not the locks.
const FILES: [&str; 3] = ["keys/upload", "keys/provenance/key.pk8", "instance"];

/// The largest of these files: they hold keys and names. A password file of so much has 100,000 users.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The folder holds something else.
    #[error("{0} holds something else; name a new or empty folder, or one with an earlier backup")]
    Strange(PathBuf),
    /// A backup in the folder that is backed up would hold itself.
    #[error("{0} lies in the data directory; name a folder outside")]
    Inside(PathBuf),
    /// Another process is at it.
    #[error("another backup to {0} is being made; try again when it is done")]
    Busy(PathBuf),
    /// There is no backup, or it was never completed.
    #[error("{0} holds no complete backup; `torno backup` makes one")]
    Incomplete(PathBuf),
    /// The data directory is in use.
    #[error("{0} is not empty; move it away, or name another data directory in the configuration")]
    NotEmpty(PathBuf),
    /// A file is none, or larger than what it should be.
    #[error("{0} is not what it should be")]
    Unusable(PathBuf),
    /// The file system failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// A blob that the database speaks of and whose bytes could not be had.
#[derive(Debug)]
pub struct Lost {
    /// Which.
    pub blob: Digest,
    /// Why.
    pub error: BlobError,
}

/// What a backup or a restore did.
#[derive(Debug, Default)]
pub struct BackedUp {
    /// Blobs that the database speaks of and does not have itself.
    pub blobs: u64,
    /// Of these, the new ones that are second names of the same files.
    pub linked: u64,
    /// Of these, the new ones that were copied.
    pub copied: u64,
    /// The bytes of the copied ones.
    pub copied_bytes: u64,
    /// What the copy lacks since the original does.
    pub lost: Vec<Lost>,
    /// Blobs that are in quarantine, and so not in the copy.
    pub quarantined: u64,
    /// Blobs in the folder that this backup does without.
    pub superfluous: u64,
    /// Their bytes.
    pub superfluous_bytes: u64,
}

/// What becomes of blobs in the folder that only earlier backups needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Superfluous {
    /// They stay.
    #[default]
    Keep,
    /// They are removed, once the new backup is whole.
    Prune,
}

/// A folder for backups that is locked by this process.
#[derive(Debug)]
pub struct Backup {
    root: PathBuf,
    _lock: File,
}

impl Backup {
    /// Opens a folder for the backups of a data directory, made if it does not exist. Blocks.
    pub fn open(root: &Path, data: &Path) -> Result<Self, BackupError> {
        let whole = std::path::absolute(root).map_err(io_error(root))?;
        let there = whole.ancestors().find_map(|folder| fs::canonicalize(folder).ok());
        if there.is_some_and(|folder| fs::canonicalize(data).is_ok_and(|data| folder.starts_with(data))) {
            return Err(BackupError::Inside(root.to_owned()));
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(root);
        made.map_err(io_error(root))?;
        let path = root.join("lock");
        if !path.exists() && fs::read_dir(root).map_err(io_error(root))?.next().is_some() {
            return Err(BackupError::Strange(root.to_owned()));
        }
        let open = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = open.map_err(io_error(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(BackupError::Busy(root.to_owned())),
            Err(TryLockError::Error(error)) => Err(io_error(&path)(error)),
        }
    }
}

impl Registry {
    /// Copies the registry in the directory `data` to a folder, beside pushes, pulls and gc. `progress` is told how many
    /// blobs there are, and how many are done.
    ///
    /// Every blob that the copied database speaks of is there when this resolves, but for what the original lacks.
    /// Stopped anywhere, it leaves the backup before it as it was.
    pub async fn back_up(
        &self,
        data: &Path,
        htpasswd: &Path,
        backup: &Backup,
        superfluous: Superfluous,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<BackedUp, BackupError> {
        let (from, to) = (Shelf::new(data), Shelf::new(&backup.root));
        let mut done = HashSet::new();
        let mut made = BackedUp::default();
        // Most of it while gc may work: what that removes meanwhile is looked for in vain, and is no loss.
        let snapshot = self.snapshot().await?;
        let (snapshot, blobs) = blobs_of(snapshot, &done).await?;
        drop(snapshot);
        self::take(&from, &to, blobs, &mut done, &mut made, &mut progress).await?;
        made.lost.clear();
        // The rest while it may not. The database speaks of no file from here on that is removed before it is taken.
        let right = self.blobs.lock_files().await.map_err(RegistryError::from)?;
        let snapshot = self.snapshot().await?;
        let (snapshot, blobs) = blobs_of(snapshot, &done).await?;
        self::take(&from, &to, blobs, &mut done, &mut made, &mut progress).await?;
        drop(right);
        // Durable, so that the copy tells of it too.
        let record = self.audit.record(&self.itself, Event::BackedUp);
        record.await.map_err(RegistryError::from)?;
        let (root, data, htpasswd) = (backup.root.clone(), data.to_owned(), htpasswd.to_owned());
        let record = self.audit.folder().to_owned();
        blocking(move || {
            keep_state(&snapshot, &to, &root, &data, &htpasswd, &record)?;
            look_for_superfluous(&snapshot, &to, superfluous, &mut made)?;
            Ok(made)
        })
        .await
    }

    async fn snapshot(&self) -> Result<Snapshot, BackupError> {
        let metadata = self.metadata.clone();
        blocking(move || Ok(metadata.snapshot().map_err(RegistryError::from)?)).await
    }
}

/// Makes a data directory from a backup; `htpasswd` is where its password file goes, and `audit` where the record of what
/// was done does, unless there is one. The directory must be empty, or have been left by a call that was stopped.
pub async fn restore(
    backup: &Path,
    data: &Path,
    htpasswd: &Path,
    audit: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<BackedUp, BackupError> {
    let state = complete_state(backup)?;
    let begun = begin_restore(data)?;
    let database = data.join("torno.db.new");
    remove(&database)?;
    copy(&state.join("torno.db"), &database)?;
    let opened = database.clone();
    let snapshot = blocking(move || {
        // Brought up to date on the way; that is refused if it is newer than this Torno.
        let metadata = Metadata::open(&opened).map_err(RegistryError::from)?;
        Ok(metadata.snapshot().map_err(RegistryError::from)?)
    });
    let (snapshot, blobs) = blobs_of(snapshot.await?, &HashSet::new()).await?;
    drop(snapshot);
    let (from, to) = (Shelf::new(backup), Shelf::new(data));
    let mut made = BackedUp::default();
    take(&from, &to, blobs, &mut HashSet::new(), &mut made, &mut progress).await?;
    for name in FILES {
        copy_private(&state.join(name), &data.join(name))?;
    }
    if fs::symlink_metadata(htpasswd).is_err() {
        copy_private(&state.join("htpasswd"), htpasswd)?;
    }
    // A record that is kept elsewhere goes on: it knows more than the backup.
    if Segments::of(audit).map_err(RegistryError::from)?.is_empty() {
        restore_record(&state.join("audit"), audit)?;
    }
    let folder = data.to_owned();
    blocking(move || {
        to.sync().map_err(RegistryError::from)?;
        // Whatever is in its log belongs to the old name.
        let log = folder.join("torno.db.new-wal");
        if fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
            return Err(BackupError::Unusable(log));
        }
        let path = folder.join("torno.db");
        fs::rename(&database, &path).map_err(io_error(&path))?;
        remove(&begun)?;
        sync_folder(&folder)
    })
    .await?;
    Ok(made)
}

/// The blobs of a moment that are not `done` and whose bytes are in files alone.
async fn blobs_of(snapshot: Snapshot, done: &HashSet<Digest>) -> Result<(Snapshot, Vec<Kept>), BackupError> {
    let (snapshot, mut blobs) = blocking(move || {
        let blobs = snapshot.blobs().map_err(RegistryError::from)?;
        Ok((snapshot, blobs))
    })
    .await?;
    // Of the others the database itself has the bytes, and their files are made from it at the next start; or nobody has.
    blobs.retain(|kept| kept.place == Place::File && !done.contains(&kept.blob));
    Ok((snapshot, blobs))
}

/// Takes blobs from one shelf to another.
async fn take(
    from: &Shelf,
    to: &Shelf,
    blobs: Vec<Kept>,
    done: &mut HashSet<Digest>,
    made: &mut BackedUp,
    progress: &mut impl FnMut(usize, usize),
) -> Result<(), BackupError> {
    let all = blobs.len();
    progress(all, 0);
    let mut rest = blobs.into_iter();
    loop {
        let batch: Vec<Kept> = rest.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(());
        }
        let (from, to) = (from.clone(), to.clone());
        let taken = blocking(move || {
            let take = |kept: Kept| {
                let taken = to.take(&kept.blob, kept.size, &from);
                (kept, taken)
            };
            Ok(batch.into_iter().map(take).collect::<Vec<_>>())
        });
        for (kept, taken) in taken.await? {
            match taken {
                Ok(Taken::Had) => {}
                Ok(Taken::Linked) => made.linked += 1,
                Ok(Taken::Copied) => {
                    made.copied += 1;
                    made.copied_bytes += kept.size;
                }
                // The copy is at fault, and not one blob of the original.
                Err(error @ (BlobError::Full | BlobError::Unfinished)) => {
                    return Err(RegistryError::from(error).into());
                }
                Err(error) => {
                    made.lost.push(Lost { blob: kept.blob, error });
                    continue;
                }
            }
            made.blobs += 1;
            done.insert(kept.blob);
        }
        progress(all, all - rest.len());
    }
}

/// Counts what this moment does without, and removes it if it is to be. What is in quarantine now may be good here: it
/// stays.
fn look_for_superfluous(
    snapshot: &Snapshot,
    blobs: &Shelf,
    superfluous: Superfluous,
    made: &mut BackedUp,
) -> Result<(), BackupError> {
    let kept = snapshot.blobs().map_err(RegistryError::from)?;
    made.quarantined = kept.iter().filter(|kept| kept.place == Place::Quarantine).count() as u64;
    let needed: HashSet<Digest> = kept.into_iter().map(|kept| kept.blob).collect();
    for (blob, size) in blobs.others(&needed).map_err(RegistryError::from)? {
        if superfluous == Superfluous::Prune {
            blobs.remove(&blob).map_err(RegistryError::from)?;
        }
        made.superfluous += 1;
        made.superfluous_bytes += size;
    }
    Ok(())
}

/// Makes a state whole, and only then the one that counts.
fn keep_state(
    snapshot: &Snapshot,
    blobs: &Shelf,
    root: &Path,
    data: &Path,
    htpasswd: &Path,
    record: &Path,
) -> Result<(), BackupError> {
    let name = format!("state-{}", Timestamp::now().as_millisecond());
    let state = root.join(&name);
    let made = DirBuilder::new().mode(0o700).create(&state);
    made.map_err(io_error(&state))?;
    snapshot.copy(&state.join("torno.db")).map_err(RegistryError::from)?;
    for file in FILES {
        copy_private(&data.join(file), &state.join(file))?;
    }
    copy_private(htpasswd, &state.join("htpasswd"))?;
    copy_record(record, &state.join("audit"))?;
    blobs.sync().map_err(RegistryError::from)?;

    let (new, complete) = (root.join("complete.new"), root.join("complete"));
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(name.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, &complete)).map_err(io_error(&complete))?;
    sync_folder(root)?;
    for entry in fs::read_dir(root).map_err(io_error(root))? {
        let entry = entry.map_err(io_error(root))?;
        let old = entry.file_name().to_str().is_some_and(|other| is_state(other) && other != name);
        if old {
            fs::remove_dir_all(entry.path()).map_err(io_error(&entry.path()))?;
        }
    }
    Ok(())
}

fn is_state(name: &str) -> bool {
    name.strip_prefix("state-").is_some_and(|number| {
        !number.is_empty() && number.len() < 20 && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The state of a backup that counts.
fn complete_state(backup: &Path) -> Result<PathBuf, BackupError> {
    let path = backup.join("complete");
    let name = match fs::metadata(&path) {
        Ok(found) if found.len() < 64 => fs::read_to_string(&path).map_err(io_error(&path))?,
        Ok(_) => return Err(BackupError::Unusable(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::Incomplete(backup.to_owned()));
        }
        Err(error) => return Err(io_error(&path)(error)),
    };
    if is_state(&name) { Ok(backup.join(name)) } else { Err(BackupError::Unusable(path)) }
}

/// Takes an empty data directory, and tells by which file it is known that this has begun.
fn begin_restore(data: &Path) -> Result<PathBuf, BackupError> {
    let begun = data.join("restoring");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(io_error(data))?;
    let empty = fs::read_dir(data).map_err(io_error(data))?.next().is_none();
    if data.join("torno.db").exists() || !(empty || begun.exists()) {
        return Err(BackupError::NotEmpty(data.to_owned()));
    }
    File::create(&begun).map_err(io_error(&begun))?;
    Ok(begun)
}

/// Copies a file of secrets, which only its owner may read; none if there is none.
fn copy_private(from: &Path, to: &Path) -> Result<(), BackupError> {
    match fs::symlink_metadata(from) {
        Ok(found) if found.len() <= MAX_FILE => {}
        Ok(_) => return Err(BackupError::Unusable(from.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(from)(error)),
    }
    copy(from, to)
}

/// Copies a record of what is done, as far as it is now.
fn copy_record(from: &Path, to: &Path) -> Result<(), BackupError> {
    for segment in &Segments::of(from).map_err(RegistryError::from)? {
        let name = segment.path.file_name().unwrap_or_default();
        copy_first(&segment.path, &to.join(name), segment.length)?;
    }
    Ok(())
}

/// The same, all of it or nothing, to where there is none.
fn restore_record(from: &Path, to: &Path) -> Result<(), BackupError> {
    if Segments::of(from).map_err(RegistryError::from)?.is_empty() {
        return Ok(());
    }
    let beside = to.with_extension("restoring");
    match fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&beside)(error)),
        _ => {}
    }
    copy_record(from, &beside)?;
    sync_folder(&beside)?;
    fs::rename(&beside, to).map_err(io_error(to))?;
    sync_folder(to.parent().unwrap_or(to))
}

fn copy(from: &Path, to: &Path) -> Result<(), BackupError> {
    copy_first(from, to, u64::MAX)
}

/// Copies so many bytes at most.
fn copy_first(from: &Path, to: &Path, most: u64) -> Result<(), BackupError> {
    let folder = to.parent().unwrap_or(to);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(io_error(folder))?;
    let mut input = File::open(from).map_err(io_error(from))?.take(most);
    let output = File::options().write(true).create(true).truncate(true).mode(0o600).open(to);
    let mut output = output.map_err(io_error(to))?;
    io::copy(&mut input, &mut output).and_then(|_| output.sync_all()).map_err(io_error(to))
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path)(error)),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    spawn_blocking(work).await.map_err(|_| RegistryError::from(BlobError::Unfinished))?
}
