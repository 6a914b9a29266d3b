//! A stranger's folder: nothing in it is trusted, no link in it is followed, and nothing is read without a bound.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat2};
use torno_oci::{Digest, DigestError, ManifestError, NameError};

use crate::RegistryError;

/// Entries read of one folder at most: more than any registry has tags or manifests in one repository.
const MAX_ENTRIES: usize = 10_000_000;

/// Why something was left out.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its folders make no name of a repository.
    #[error("no repository can be named so: {0}")]
    Name(#[from] NameError),
    /// What is pushed there would be run, or is Torno's own.
    #[error("run/, results/, try/ and samples/ are not imported into; --prefix puts it elsewhere")]
    Namespace,
    /// Its name is no tag.
    #[error("it is no tag")]
    Tag,
    /// Neither a file nor a folder; what links lead to is not looked at.
    #[error("it is neither a file nor a folder, and links are not followed")]
    Strange,
    /// Nothing is there.
    #[error("it is not there")]
    Missing,
    /// It should hold a digest and does not.
    #[error("it holds no digest: {0}")]
    Link(#[from] DigestError),
    /// It names another digest than it stands for.
    #[error("it leads to {0}")]
    OtherLink(Digest),
    /// There is more than there should be.
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    /// The bytes are others.
    #[error("its bytes have digest {0}")]
    Digest(Digest),
    /// Not a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// What it names was left out.
    #[error("{0}: {1}")]
    Named(Digest, String),
    /// The tag leads to a manifest that was left out or is not there.
    #[error("it names {0}, which is not there or was left out")]
    Dangling(Digest),
    /// The registry refuses it.
    #[error(transparent)]
    Refused(RegistryError),
    /// It could not be read.
    #[error("it cannot be read: {0}")]
    Io(io::Error),
}

impl From<rustix::io::Errno> for Fault {
    fn from(error: rustix::io::Errno) -> Self {
        match error {
            rustix::io::Errno::NOENT => Self::Missing,
            rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR | rustix::io::Errno::XDEV => Self::Strange,
            other => Self::Io(other.into()),
        }
    }
}

/// What an entry of a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
    Strange,
}

/// A folder whose content is a stranger's. Blocks.
#[derive(Debug)]
pub(crate) struct Source(OwnedFd);

impl Source {
    /// The folder at a path, which is the caller's own and may be a link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::empty())?))
    }

    /// A file of it.
    pub(crate) fn file(&self, path: &str) -> Result<File, Fault> {
        // Whoever opens a pipe would wait for a writer.
        let file = File::from(self.descriptor(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        if file.metadata().map_err(Fault::Io)?.is_file() { Ok(file) } else { Err(Fault::Strange) }
    }

    /// All bytes of a file of it, at most `limit`.
    pub(crate) fn bytes(&self, path: &str, limit: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        let read = self.file(path)?.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(Fault::Io)?;
        if read > limit { Err(Fault::TooLarge(limit)) } else { Ok(bytes) }
    }

    /// The digest that a file of it holds.
    pub(crate) fn digest(&self, path: &str) -> Result<Digest, Fault> {
        /// The longest digest, with a newline and some room.
        const LIMIT: usize = 256;
        let bytes = self.bytes(path, LIMIT)?;
        Ok(String::from_utf8_lossy(&bytes).trim().parse()?)
    }

    /// What a folder of it holds, in the order of the names. Names that are no text are shown as well as they can be.
    pub(crate) fn entries(&self, path: &str) -> Result<Vec<(String, Kind)>, Fault> {
        let folder = self.descriptor(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut entries = Vec::new();
        for entry in Dir::new(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err(Fault::TooLarge(MAX_ENTRIES));
            }
            let kind = match entry.file_type() {
                FileType::Directory => Kind::Folder,
                FileType::RegularFile => Kind::File,
                // Some file systems do not say; then opening it does.
                FileType::Unknown => self.kind(&format!("{path}/{name}")),
                _ => Kind::Strange,
            };
            entries.push((name, kind));
        }
        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(entries)
    }

    fn kind(&self, path: &str) -> Kind {
        if self.descriptor(path, OFlags::RDONLY | OFlags::DIRECTORY).is_ok() {
            return Kind::Folder;
        }
        if self.file(path).is_ok() { Kind::File } else { Kind::Strange }
    }

    fn descriptor(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Fault> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn nothing_outside_is_reached_and_nothing_unbounded_is_read() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("secret"), "secret").expect("write");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("inside")).expect("folder");
        fs::write(root.join("inside/file"), "12345").expect("write");
        symlink("inside/file", root.join("link")).expect("link");
        symlink("inside", root.join("folder-link")).expect("link");
        symlink("../secret", root.join("out")).expect("link");
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("pipe");
        let source = Source::open(&root).expect("source");
        assert_eq!(source.bytes("inside/file", 5).expect("bytes"), b"12345");
        assert!(matches!(source.bytes("inside/file", 4), Err(Fault::TooLarge(4))));
        assert!(matches!(source.bytes("inside/none", 4), Err(Fault::Missing)));
        for strange in ["link", "folder-link/file", "out", "../secret", "/etc/passwd", "pipe", "inside"] {
            assert!(matches!(source.bytes(strange, 100), Err(Fault::Strange)), "{strange}");
        }
        let found = source.entries(".").expect("entries");
        let expected = [
            ("folder-link", Kind::Strange),
            ("inside", Kind::Folder),
            ("link", Kind::Strange),
            ("out", Kind::Strange),
            ("pipe", Kind::Strange),
        ];
        assert_eq!(found, expected.map(|(name, kind)| (name.to_owned(), kind)));
        fs::write(root.join("digest"), format!("{}\n", Digest::sha256(b""))).expect("write");
        assert_eq!(source.digest("digest").expect("digest"), Digest::sha256(b""));
        assert!(matches!(source.digest("inside/file"), Err(Fault::Link(_))));
    }
}
