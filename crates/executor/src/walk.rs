//! Going through a folder of a dataset: every entry once, in the order of its bytes, whatever is in it.
//!
//! Nothing is followed: a folder is opened beneath the one that it was found in and never through a link, and only
//! regular files are ever opened to be read, so that no pipe is waited for. Blocks.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};

/// How deep folders may lie in each other: each takes an open file.
const MAX_DEPTH: usize = 128;

/// Entries of one folder: their names are held in memory to be sorted, a hundred bytes or so each.
const MAX_ENTRIES: usize = 1_000_000;

/// Why a folder cannot be gone through. Paths are relative to it.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Something cannot be read.
    #[error("`{path}` cannot be read: {source}")]
    Unreadable {
        /// What.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Folders lie too deep.
    #[error("`{0}` lies more than {MAX_DEPTH} folders deep")]
    Deep(String),
    /// A folder has too many entries.
    #[error("`{0}` has more than {MAX_ENTRIES} entries; spread them over folders")]
    Wide(String),
    /// Something is not any more what it was a moment ago.
    #[error("`{0}` was changed while it was read")]
    Changed(String),
    /// Nobody wants to know any more.
    #[error("stopped")]
    Stopped,
    /// Whoever was told failed.
    #[error(transparent)]
    Told(io::Error),
}

/// What a look at a file tells without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Its length.
    pub size: u64,
    /// When its content was last changed, in nanoseconds since 1970.
    pub modified: i64,
    /// When it was last changed in any way, which nobody can set.
    pub changed: i64,
    /// Which file of the file system it is.
    pub inode: u64,
    /// Whether anybody may execute it.
    pub executable: bool,
}

/// What was met.
pub(crate) enum Entry<'w> {
    /// A folder, whose entries come next.
    Folder,
    /// The end of the folder that was entered last and not left yet.
    Left,
    /// A file.
    File(Seen, Opener<'w>),
    /// A symbolic link with its target.
    Link(Vec<u8>),
    /// A pipe, a socket or a device.
    Other,
}

/// Opens the file that was met.
pub(crate) struct Opener<'w> {
    folder: BorrowedFd<'w>,
    name: &'w CString,
    seen: Seen,
    path: &'w [u8],
}

impl Opener<'_> {
    /// The file, if it is still the one that was seen.
    pub(crate) fn open(&self) -> Result<File, WalkError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(self.folder, self.name, flags, Mode::empty()).map_err(unreadable(self.path))?;
        let found = rustix::fs::fstat(&file).map_err(unreadable(self.path))?;
        if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && seen(&found) == self.seen {
            Ok(File::from(file))
        } else {
            Err(WalkError::Changed(shown(self.path)))
        }
    }

    /// Whether the file is still as it was seen, for whoever has read it.
    pub(crate) fn is_unchanged(&self, file: &File) -> bool {
        rustix::fs::fstat(file).is_ok_and(|found| seen(&found) == self.seen)
    }

    /// That it is not.
    pub(crate) fn changed(&self) -> WalkError {
        WalkError::Changed(shown(self.path))
    }
}

/// One folder on the way.
struct Level {
    folder: OwnedFd,
    /// The names that are left, the first one last.
    names: Vec<CString>,
    /// How long the path of the folder is.
    length: usize,
}

/// Goes through everything below `root`, which is opened as the path says, and tells of each entry with its path
/// relative to `root`.
pub(crate) fn walk(
    root: &Path,
    mut tell: impl FnMut(&[u8], Entry<'_>) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // The root may be a link no more: it was followed when the configuration was read.
    let folder = openat(CWD, root, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(unreadable(b"."))?;
    let mut path: Vec<u8> = Vec::new();
    let names = names(&folder, &path)?;
    let mut levels = vec![Level { folder, names, length: 0 }];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else { return Ok(()) };
        path.truncate(level.length);
        let Some(name) = level.names.pop() else {
            levels.pop();
            if depth > 1 {
                tell(&path, Entry::Left)?;
            }
            continue;
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let found = statat(&level.folder, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable(&path))?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => {
                if depth >= MAX_DEPTH {
                    return Err(WalkError::Deep(shown(&path)));
                }
                let flags = flags | OFlags::NOFOLLOW;
                let folder = openat(&level.folder, &name, flags, Mode::empty()).map_err(unreadable(&path))?;
                let names = self::names(&folder, &path)?;
                tell(&path, Entry::Folder)?;
                levels.push(Level { folder, names, length: path.len() });
            }
            FileType::RegularFile => {
                let seen = seen(&found);
                let opener = Opener { folder: level.folder.as_fd(), name: &name, seen, path: &path };
                tell(&path, Entry::File(seen, opener))?;
            }
            FileType::Symlink => {
                let target = readlinkat(&level.folder, &name, Vec::new()).map_err(unreadable(&path))?;
                tell(&path, Entry::Link(target.into_bytes()))?;
            }
            _ => tell(&path, Entry::Other)?,
        }
    }
}

/// The names in a folder, the first one last.
fn names(folder: &OwnedFd, path: &[u8]) -> Result<Vec<CString>, WalkError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(unreadable(path))? {
        let name = entry.map_err(unreadable(path))?.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        if names.len() == MAX_ENTRIES {
            return Err(WalkError::Wide(shown(path)));
        }
        names.push(name);
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

fn seen(found: &rustix::fs::Stat) -> Seen {
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    #[expect(clippy::useless_conversion, reason = "the types of these fields differ between architectures")]
    Seen {
        size: u64::try_from(found.st_size).unwrap_or_default(),
        modified: nanos(found.st_mtime.into(), i64::try_from(found.st_mtime_nsec).unwrap_or_default()),
        changed: nanos(found.st_ctime.into(), i64::try_from(found.st_ctime_nsec).unwrap_or_default()),
        inode: found.st_ino.into(),
        executable: found.st_mode & 0o111 != 0,
    }
}

fn unreadable(path: &[u8]) -> impl FnOnce(rustix::io::Errno) -> WalkError {
    let path = shown(path);
    move |error| match error {
        // It was there when the folder was listed.
        rustix::io::Errno::NOENT if path != "." => WalkError::Changed(path),
        error => WalkError::Unreadable { path, source: error.into() },
    }
}

/// A path for a message: names may hold anything.
pub(crate) fn shown(path: &[u8]) -> String {
    /// Enough to find it by.
    const SHOWN: usize = 200;
    path.escape_ascii().map(char::from).take(SHOWN).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        ffi::OsStr,
        fs,
        os::unix::{ffi::OsStrExt as _, fs::symlink},
    };

    use super::*;

    /// Paths and kinds, as they are told.
    fn told(root: &Path) -> Result<Vec<(Vec<u8>, String)>, WalkError> {
        let mut told = Vec::new();
        walk(root, |path, entry| {
            let what = match entry {
                Entry::Folder => "folder".into(),
                Entry::Left => "left".into(),
                Entry::File(seen, _) => format!("file {}", seen.size),
                Entry::Link(target) => format!("link {}", shown(&target)),
                Entry::Other => "other".into(),
            };
            told.push((path.to_vec(), what));
            Ok(())
        })?;
        Ok(told)
    }

    pub(crate) fn pipe(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
    }

    #[test]
    fn whatever_is_there_is_told_in_order_and_nothing_is_followed() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/c")).expect("folder");
        fs::write(at("b/c/file"), "12345").expect("file");
        fs::write(at("b.txt"), "").expect("file");
        fs::write(folder.path().join(OsStr::from_bytes(b"\xff\n")), "x").expect("file");
        symlink("..", at("b/loop")).expect("link");
        symlink("/etc", at("a")).expect("link");
        pipe(&at("b/pipe"));
        let expected = [
            (&b"a"[..], "link /etc"),
            (b"b", "folder"),
            (b"b/c", "folder"),
            (b"b/c/file", "file 5"),
            (b"b/c", "left"),
            (b"b/loop", "link .."),
            (b"b/pipe", "other"),
            (b"b", "left"),
            (b"b.txt", "file 0"),
            (b"\xff\n", "file 1"),
        ];
        let found = told(folder.path()).expect("walked");
        assert_eq!(found, expected.map(|(path, what)| (path.to_vec(), what.to_owned())));
        symlink(folder.path(), at("root")).expect("link");
        assert!(matches!(told(&at("root")), Err(WalkError::Unreadable { .. })), "the root is no link");
    }

    #[test]
    fn folders_may_lie_so_deep_and_no_deeper() {
        let folder = tempfile::tempdir().expect("folder");
        let deep = |levels: usize| folder.path().join(vec!["d"; levels].join("/"));
        fs::create_dir_all(deep(MAX_DEPTH - 1)).expect("folders");
        assert_eq!(told(folder.path()).expect("walked").len(), 2 * (MAX_DEPTH - 1));
        fs::create_dir(deep(MAX_DEPTH)).expect("folder");
        assert!(matches!(told(folder.path()), Err(WalkError::Deep(_))));
    }

    #[test]
    fn a_file_that_is_another_by_now_is_not_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        fs::write(&path, "one").expect("file");
        let opened = walk(folder.path(), |_, entry| {
            let Entry::File(_, opener) = entry else { return Ok(()) };
            opener.open()?;
            fs::remove_file(&path).expect("removed");
            pipe(&path);
            opener.open().map(drop)
        });
        assert!(matches!(opened, Err(WalkError::Changed(_))), "{opened:?}");
    }
}
