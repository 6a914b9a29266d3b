//! What a run left in its output folder, read as the hostile bytes it may be.
//!
//! The engine hands the folder over as a tar archive. Nothing in it becomes a file of its own on the host: contents
//! go one after the other into a single file without a name, and an index in memory says where each lies. What is
//! neither a plain file nor a folder with a plain name stays out and is written down.

mod archive;
mod name;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write},
    path::Path,
};

use bytesize::ByteSize;
use tar::EntryType;
use torno_oci::{Algorithm, Digest, Hasher};

use archive::{Archive, Member};
use name::{Names, RelativePath};

/// How many of the entries that stayed out are written down one by one.
const MAX_LISTED: usize = 100;

/// Bytes copied at a time.
const CHUNK: usize = 64 * 1024;

/// What a run may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, folders and everything else.
    pub entries: u64,
    /// Names in a path: 1 is what lies in the output folder itself.
    pub depth: u32,
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Collected {
    /// The contents of all files, one after the other.
    spool: File,
    /// What there is, by path inside the output folder, in the order of the bytes of the paths: a folder stands
    /// before what is in it.
    pub entries: BTreeMap<String, Entry>,
    /// What stayed out.
    pub left_out: LeftOut,
}

/// Something a run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A folder.
    Folder,
    /// A file and where in the spool its bytes are.
    File {
        /// Where they begin.
        offset: u64,
        /// How many they are.
        size: u64,
        /// Their SHA-256.
        digest: Digest,
    },
}

/// What stayed out, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// The first of them.
    pub listed: Vec<(String, Reason)>,
    /// How many there were in all.
    pub count: u64,
}

/// Why an entry stayed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A symbolic link: it may point at anything.
    SymbolicLink,
    /// A second name of a file.
    HardLink,
    /// A device.
    Device,
    /// A named pipe.
    Pipe,
    /// A file with holes, in a form of its own.
    Sparse,
    /// A kind of entry that has no name here.
    Kind,
    /// A setuid, setgid or sticky file.
    Mode,
    /// A name that cannot be used everywhere the result goes.
    Name,
    /// A second entry of the same path.
    Duplicate,
    /// Its folder is not there, or is a file.
    NoFolder,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SymbolicLink => "a symbolic link",
            Self::HardLink => "a hard link",
            Self::Device => "a device",
            Self::Pipe => "a named pipe",
            Self::Sparse => "a sparse file",
            Self::Kind => "neither a file nor a folder",
            Self::Mode => "a setuid, setgid or sticky file",
            Self::Name => "its name",
            Self::Duplicate => "there already",
            Self::NoFolder => "not in a folder",
        })
    }
}

/// Why nothing could be collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The files are larger than allowed.
    #[error("the output is larger than {}", ByteSize::b(*.0))]
    TooLarge(u64),
    /// There are more entries than allowed.
    #[error("the output has more than {0} entries")]
    TooMany(u64),
    /// Folders lie in each other more deeply than allowed.
    #[error("the output has folders in more than {0} folders")]
    TooDeep(u32),
    /// The engine's archive is none, or ends too early.
    #[error("the engine's archive of the output cannot be read: {0}")]
    Malformed(&'static str),
    /// The host could not keep it.
    #[error("the output could not be kept: {0}")]
    Io(#[from] io::Error),
}

/// Reads an archive of the output folder into a file without a name in `folder`. Blocks.
pub(crate) fn collect(source: impl Read, folder: &Path, bounds: Bounds) -> Result<Collected, CollectError> {
    let mut archive = Archive::new(source, bounds);
    let mut collector = Collector {
        collected: Collected {
            spool: tempfile::tempfile_in(folder)?,
            entries: BTreeMap::new(),
            left_out: LeftOut::default(),
        },
        bounds,
        bytes: 0,
        seen: 0,
    };
    // The engine decides how the folder itself is called, by the name that it gives first.
    let mut names = None;
    while let Some(mut member) = archive.next()? {
        let names = *names.get_or_insert_with(|| Names::of_folder(&member.path));
        member.path = names.below_output(member.path);
        collector.take(&member, &mut archive)?;
    }
    collector.collected.spool.flush()?;
    Ok(collector.collected)
}

impl Collected {
    /// The contents of a file that was collected.
    pub(crate) fn open(&self, offset: u64, size: u64) -> io::Result<impl Read + '_> {
        let mut spool = &self.spool;
        spool.seek(SeekFrom::Start(offset))?;
        Ok(spool.take(size))
    }

    /// The files, with their sizes and digests.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, u64, &Digest)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::Folder => None,
            Entry::File { size, digest, .. } => Some((path.as_str(), *size, digest)),
        })
    }
}

struct Collector {
    collected: Collected,
    bounds: Bounds,
    /// Bytes of files seen, kept or not.
    bytes: u64,
    /// Entries seen, kept or not.
    seen: u64,
}

impl Collector {
    fn take<R: Read>(&mut self, member: &Member, archive: &mut Archive<R>) -> Result<(), CollectError> {
        let path = name::relative(&member.path);
        if matches!(path, Ok(RelativePath::Root)) && member.kind == EntryType::Directory {
            return Ok(());
        }
        self.seen += 1;
        if self.seen > self.bounds.entries {
            return Err(CollectError::TooMany(self.bounds.entries));
        }
        // What is left out counts as well: reading it costs as much.
        self.bytes = self.bytes.saturating_add(member.size);
        if self.bytes > self.bounds.bytes {
            return Err(CollectError::TooLarge(self.bounds.bytes));
        }
        if name::depth(&member.path) > self.bounds.depth {
            return Err(CollectError::TooDeep(self.bounds.depth));
        }
        match self.judge(member, path) {
            Err(reason) => {
                self.leave_out(&member.path, reason);
                archive.skip(member.size)
            }
            Ok((path, EntryType::Directory)) => {
                self.collected.entries.insert(path, Entry::Folder);
                Ok(())
            }
            Ok((path, _)) => {
                let entry = self.keep(member.size, archive)?;
                self.collected.entries.insert(path, entry);
                Ok(())
            }
        }
    }

    /// The path to keep it under, or why it stays out.
    fn judge(
        &self,
        member: &Member,
        path: Result<RelativePath, Reason>,
    ) -> Result<(String, EntryType), Reason> {
        match member.kind {
            EntryType::Regular if member.sparse => return Err(Reason::Sparse),
            EntryType::Regular | EntryType::Directory => {}
            EntryType::Symlink => return Err(Reason::SymbolicLink),
            EntryType::Link => return Err(Reason::HardLink),
            EntryType::Char | EntryType::Block => return Err(Reason::Device),
            EntryType::Fifo => return Err(Reason::Pipe),
            EntryType::GNUSparse => return Err(Reason::Sparse),
            _ => return Err(Reason::Kind),
        }
        let RelativePath::Inside { path, parent, folder } = path? else { return Err(Reason::Name) };
        if folder && member.kind != EntryType::Directory {
            return Err(Reason::Name);
        }
        if member.kind == EntryType::Regular && member.mode & 0o7000 != 0 {
            return Err(Reason::Mode);
        }
        if self.collected.entries.contains_key(&path) {
            return Err(Reason::Duplicate);
        }
        let entries = &self.collected.entries;
        if parent.is_some_and(|parent| entries.get(&parent) != Some(&Entry::Folder)) {
            return Err(Reason::NoFolder);
        }
        Ok((path, member.kind))
    }

    fn leave_out(&mut self, path: &[u8], reason: Reason) {
        let left_out = &mut self.collected.left_out;
        left_out.count += 1;
        if left_out.listed.len() < MAX_LISTED {
            left_out.listed.push((name::shown(path), reason));
        }
    }

    fn keep<R: Read>(&mut self, size: u64, archive: &mut Archive<R>) -> Result<Entry, CollectError> {
        let offset = self.collected.spool.stream_position()?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut chunk = vec![0; CHUNK];
        let mut left = size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let piece = chunk.get_mut(..room).unwrap_or_default();
            archive.read(piece)?;
            hasher.update(piece);
            self.collected.spool.write_all(piece)?;
            left -= room as u64;
        }
        archive.pad(size)?;
        Ok(Entry::File { offset, size, digest: hasher.finish() })
    }
}

#[cfg(test)]
mod tests;
