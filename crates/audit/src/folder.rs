//! The folder of the record: segments, one after the other, and the lock that whoever writes holds.
//!
//! ```text
//! lock                  held by whoever writes, and shared by whoever looks how far the record is
//! 000000000001.jsonl    named after the number of its first line; ends with a line that names the next
//! 000000004711.jsonl    the one that is written to
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::AuditError;

const LOCK: &str = "lock";

const SUFFIX: &str = ".jsonl";

/// Digits of a segment's number, so that listings sort.
const DIGITS: usize = 12;

/// A file of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first line.
    pub first: u64,
    /// Where it is.
    pub path: PathBuf,
    /// How many bytes of it are written.
    pub length: u64,
}

/// The files of the record at one moment, the oldest first. What is written later is in none of them.
#[derive(Clone, Debug)]
pub struct Segments(pub(crate) Vec<Segment>);

/// The right to write the record, or to keep others from it.
#[derive(Debug)]
pub struct Locked {
    _file: File,
}

impl Segments {
    /// How far the record in a folder is now. Blocks while somebody writes a line.
    pub fn of(folder: &Path) -> Result<Self, AuditError> {
        let _lock = Locked::shared(folder)?;
        list(folder).map(Self)
    }

    /// Each of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Segment> {
        self.0.iter()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Segments {
    type Item = &'a Segment;
    type IntoIter = std::slice::Iter<'a, Segment>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Locked {
    /// Waits until nobody writes; nobody does as long as this lives. `None`: nobody ever has.
    pub fn shared(folder: &Path) -> Result<Option<Self>, AuditError> {
        let path = folder.join(LOCK);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(AuditError::of(&path))?,
        };
        file.lock_shared().map_err(AuditError::of(&path))?;
        Ok(Some(Self { _file: file }))
    }

    /// Waits for the right to write, in a folder that is made as needed.
    pub(crate) fn exclusive(folder: &Path) -> Result<Self, AuditError> {
        let path = folder.join(LOCK);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(folder)?;
                let mut options = File::options();
                options.write(true).create(true).truncate(false).mode(0o660);
                let file = options.open(&path).map_err(AuditError::of(&path))?;
                give_to_owner_of(folder, &path)?;
                file
            }
            opened => opened.map_err(AuditError::of(&path))?,
        };
        file.lock().map_err(AuditError::of(&path))?;
        Ok(Self { _file: file })
    }
}

/// The segments in a folder, the oldest first; none if there is no folder.
pub(crate) fn list(folder: &Path) -> Result<Vec<Segment>, AuditError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(AuditError::of(folder))?,
    };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry.map_err(AuditError::of(folder))?;
        let Some(first) = entry.file_name().to_str().and_then(number) else { continue };
        let path = entry.path();
        let found = fs::symlink_metadata(&path).map_err(AuditError::of(&path))?;
        if found.is_file() {
            segments.push(Segment { first, path, length: found.len() });
        }
    }
    segments.sort_by_key(|segment| segment.first);
    Ok(segments)
}

/// The name of the segment whose first line has this number.
pub(crate) fn name(first: u64) -> String {
    format!("{first:0DIGITS$}{SUFFIX}")
}

fn number(file: &str) -> Option<u64> {
    let first = file.strip_suffix(SUFFIX)?.parse().ok()?;
    (name(first) == file).then_some(first)
}

/// Makes a segment, which only its owner may read, and opens it for adding to.
pub(crate) fn make(folder: &Path, first: u64) -> Result<(File, PathBuf), AuditError> {
    let path = folder.join(name(first));
    let made = File::options().append(true).create_new(true).mode(0o660).open(&path);
    let file = made.map_err(AuditError::of(&path))?;
    give_to_owner_of(folder, &path)?;
    sync(folder)?;
    Ok((file, path))
}

/// Makes names that were given in a folder last.
pub(crate) fn sync(folder: &Path) -> Result<(), AuditError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(AuditError::of(folder))
}

fn make_folder(folder: &Path) -> Result<(), AuditError> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o770).create(folder);
    made.map_err(AuditError::of(folder))?;
    let Some(parent) = folder.parent() else { return Ok(()) };
    give_to_owner_of(parent, folder)?;
    sync(parent)
}

/// What root makes with a command, the server must be able to write to under its own name.
fn give_to_owner_of(folder: &Path, path: &Path) -> Result<(), AuditError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(folder).map_err(AuditError::of(folder))?;
    std::os::unix::fs::lchown(path, Some(owner.uid()), Some(owner.gid())).map_err(AuditError::of(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_segments_are_segments() {
        assert_eq!(name(1), "000000000001.jsonl");
        assert_eq!(number("000000000042.jsonl"), Some(42));
        assert_eq!(number(&name(u64::MAX)), Some(u64::MAX));
        for bad in ["1.jsonl", "00000000004x.jsonl", "000000000042", "+00000000042.jsonl", "lock"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
