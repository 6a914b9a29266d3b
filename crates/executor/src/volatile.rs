//! What runs need for as long as they last and no disk may ever hold: the secrets they are given, and the sockets at which
//! their relays find the executor. A folder in memory, which only this user can enter.
//!
//! What is inside can be read by everybody, since a run's user is nobody of this host; the way there is closed.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use torno_oci::RunId;

use crate::{ExecutorError, instance::Instance};

/// What `statfs` says of file systems that are memory (Linux: `TMPFS_MAGIC`, `RAMFS_MAGIC`).
const MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// The largest secret: a key or a chain of certificates, never data.
pub(crate) const MAX_SECRET: ByteSize = ByteSize::kib(64);

/// The folder of one instance.
#[derive(Clone, Debug)]
pub(crate) struct Volatile {
    memory: PathBuf,
    folder: PathBuf,
}

/// Why a secret cannot be given to a run. Never with what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A folder, a device, a pipe.
    #[error("it is not a file")]
    Kind,
    /// More than a secret has.
    #[error("it has more than {MAX_SECRET}")]
    TooLarge,
    /// It belongs to somebody who could change it.
    #[error("it belongs to user {0}; it must be root's or that of the user Torno runs as")]
    Owner(u32),
    /// Others may read or change it.
    #[error(
        "others on this machine may read or change it (mode {0:04o}); take that away: chmod 0640, or 0600"
    )]
    Mode(u32),
}

impl Volatile {
    /// Where an instance's folder is, below a folder in memory. Nothing is made yet.
    pub(crate) fn new(memory: &Path, instance: &Instance) -> Self {
        let folder = memory.join(format!("torno-{}", instance.as_str()));
        Self { memory: memory.to_owned(), folder }
    }

    /// Where the relay of a run finds the executor's sockets.
    pub(crate) fn sockets(&self, run: RunId) -> PathBuf {
        self.run(run).join("relay")
    }

    /// Where the secrets of a run are.
    pub(crate) fn secrets(&self, run: RunId) -> PathBuf {
        self.run(run).join("secrets")
    }

    fn run(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("run-{run}"))
    }

    /// Makes a run's folders anew. Blocks.
    pub(crate) fn make(&self, run: RunId) -> Result<(), ExecutorError> {
        let at = ExecutorError::io(&self.folder);
        self.enclose().map_err(at)?;
        self.remove(run)?;
        for folder in [self.run(run), self.sockets(run), self.secrets(run)] {
            open_folder(&folder).map_err(ExecutorError::io(&folder))?;
        }
        Ok(())
    }

    /// The folder that nobody else can enter: somebody may have made it before.
    fn enclose(&self) -> io::Result<()> {
        let memory = File::open(&self.memory)?;
        let kind = rustix::fs::fstatfs(&memory)?.f_type;
        if !u64::try_from(kind).is_ok_and(|kind| MEMORY.contains(&kind)) {
            return Err(io::Error::other(format!(
                "{} is not in memory (tmpfs); name another folder as [executor] volatile",
                self.memory.display()
            )));
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let found = fs::symlink_metadata(&self.folder)?;
        let mine = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
        if mine && found.mode() & 0o777 == 0o700 {
            Ok(())
        } else {
            Err(io::Error::other("somebody else has made this folder; remove it"))
        }
    }

    /// Copies a secret for a run. Blocks.
    pub(crate) fn give(&self, run: RunId, name: &str, from: &Path) -> Result<(), SecretError> {
        let bytes = secret(from)?;
        let path = self.secrets(run).join(name);
        let mut file = File::options().write(true).create_new(true).mode(0o400).open(&path)?;
        file.write_all(&bytes)?;
        // The umask of this process may have taken more away.
        file.set_permissions(Permissions::from_mode(0o444))?;
        Ok(())
    }

    /// Removes what a run had. Blocks.
    pub(crate) fn remove(&self, run: RunId) -> Result<(), ExecutorError> {
        let folder = self.run(run);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ExecutorError::io(&folder)(error)),
            _ => Ok(()),
        }
    }

    /// The runs that have something here. Blocks.
    pub(crate) fn runs(&self) -> Vec<RunId> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix("run-")?.parse().ok()).collect()
    }
}

fn open_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// The bytes of a secret that only whoever may know it can read.
fn secret(path: &Path) -> Result<Vec<u8>, SecretError> {
    // Opening a pipe would otherwise wait for somebody to write.
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(SecretError::Kind);
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&found.uid()) {
        return Err(SecretError::Owner(found.uid()));
    }
    if found.mode() & 0o027 != 0 {
        return Err(SecretError::Mode(found.mode() & 0o7777));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SECRET.as_u64() + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SECRET.as_u64() { Err(SecretError::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volatile(memory: &Path) -> Volatile {
        Volatile::new(memory, &"0123456789abcdef".parse().expect("instance"))
    }

    fn memory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").expect("a folder in memory")
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o7777
    }

    #[test]
    fn what_a_run_is_given_is_there_and_goes() {
        let memory = memory();
        let volatile = volatile(memory.path());
        let run = RunId::new(7).expect("number");
        volatile.make(run).expect("folders");
        assert_eq!(mode(&volatile.folder), 0o700);
        assert_eq!(mode(&volatile.secrets(run)), 0o755);
        let file = memory.path().join("password");
        fs::write(&file, "pw").expect("write");
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("mode");
        volatile.give(run, "db", &file).expect("a secret");
        assert_eq!(mode(&volatile.secrets(run).join("db")), 0o444);
        assert_eq!(fs::read(volatile.secrets(run).join("db")).expect("read"), b"pw");
        assert_eq!(volatile.runs(), [run]);
        volatile.remove(run).expect("removed");
        volatile.remove(run).expect("gone is well");
        assert!(volatile.runs().is_empty());
    }

    #[test]
    fn a_secret_others_can_read_is_none() {
        let memory = memory();
        let path = memory.path().join("secret");
        let with = |length: u64, mode: u32| {
            fs::write(&path, vec![0; usize::try_from(length).expect("small")]).expect("write");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
            secret(&path)
        };
        for allowed in [0o400, 0o600, 0o440, 0o640] {
            assert_eq!(with(1, allowed).expect("allowed"), [0], "{allowed:o}");
        }
        for refused in [0o644, 0o604, 0o620, 0o602, 0o601] {
            assert!(matches!(with(1, refused), Err(SecretError::Mode(_))), "{refused:o}");
            fs::remove_file(&path).expect("removed");
        }
        assert_eq!(with(MAX_SECRET.as_u64(), 0o600).expect("at the limit").len(), 64 << 10);
        assert!(matches!(with(MAX_SECRET.as_u64() + 1, 0o600), Err(SecretError::TooLarge)));
        assert!(matches!(secret(memory.path()), Err(SecretError::Kind)));
        let pipe = memory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("pipe");
        assert!(matches!(secret(&pipe), Err(SecretError::Kind)));
    }

    #[test]
    fn a_folder_that_somebody_else_has_made_is_not_used() {
        let memory = memory();
        let volatile = volatile(memory.path());
        DirBuilder::new().mode(0o755).create(&volatile.folder).expect("folder");
        fs::set_permissions(&volatile.folder, Permissions::from_mode(0o755)).expect("mode");
        volatile.enclose().expect_err("others can enter");
        fs::remove_dir(&volatile.folder).expect("removed");
        let elsewhere = memory.path().join("elsewhere");
        DirBuilder::new().mode(0o700).create(&elsewhere).expect("folder");
        std::os::unix::fs::symlink(&elsewhere, &volatile.folder).expect("link");
        volatile.enclose().expect_err("a link");
    }

    #[test]
    fn a_disk_is_not_memory() {
        let refused = volatile(Path::new("/proc")).enclose().expect_err("no memory");
        assert!(refused.to_string().contains("[executor] volatile"), "{refused}");
    }
}
