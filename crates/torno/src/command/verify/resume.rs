//! Where a look was stopped, in a file of the data directory that is there only then.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use torno_registry::Position;

use super::super::Failure;

/// Below the data directory.
pub(super) const FILE: &str = "verify.stopped";

/// Where a look was stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stopped {
    /// A [`Position`]; empty for the beginning.
    pub(super) at: String,
    /// Findings left so far.
    pub(super) left: u64,
    /// Which blobs a sample takes.
    pub(super) seed: u32,
}

impl Stopped {
    pub(super) fn position(&self) -> Result<Position, Failure> {
        if self.at.is_empty() {
            return Ok(Position::default());
        }
        self.at.parse().map_err(|()| Failure::Notes(invalid("it names no place to go on at")))
    }
}

/// What the last look has left, if it was stopped.
pub(super) fn read(path: &Path) -> Result<Option<Stopped>, Failure> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| Failure::Notes(error.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Notes(error)),
    }
}

/// Whole, or not at all.
pub(super) fn write(path: &Path, stopped: &Stopped) -> Result<(), Failure> {
    let beside = path.with_extension("new");
    let written = serde_json::to_vec(stopped).map_err(io::Error::from);
    let written = written.and_then(|bytes| fs::write(&beside, bytes));
    written.and_then(|()| fs::rename(&beside, path)).map_err(Failure::Notes)
}

/// Of a look that has been ended.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::Notes(error)),
        _ => Ok(()),
    }
}

fn invalid(words: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stopped_is_read_as_it_was_written_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(FILE);
        assert_eq!(read(&path).expect("nothing"), None);
        let stopped = Stopped { at: "blobs sha256:ab".into(), left: 3, seed: 7 };
        write(&path, &stopped).expect("written");
        assert_eq!(read(&path).expect("read"), Some(stopped.clone()));
        assert_eq!(stopped.position().expect("a position").after, "sha256:ab");
        fs::write(&path, b"{").expect("write");
        assert!(read(&path).is_err());
        assert!(Stopped { at: "nowhere".into(), ..stopped }.position().is_err());
        remove(&path).expect("removed");
        remove(&path).expect("none");
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
    }
}
