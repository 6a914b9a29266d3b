//! Which processes that share a store are alive.
//!
//! Each has a file of its own, locked for as long as it lives: the kernel lets go of the lock however it ends.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::{
    BlobError,
    folder::{make_folder, remove_file},
};

/// A process that is alive. The sign goes with the value, and with the process.
#[derive(Debug)]
pub struct Alive {
    name: String,
    path: PathBuf,
    _file: File,
}

impl Alive {
    /// Signs in under a name that nobody else has used or will use. Blocks.
    pub(crate) fn sign(folder: &Path, name: String) -> Result<Self, BlobError> {
        make_folder(folder)?;
        // Locked before it stands under its name, where others look.
        let beside = folder.join(format!(".{name}"));
        let path = folder.join(&name);
        loop {
            let file = File::create_new(&beside).map_err(BlobError::io(&beside))?;
            file.lock().map_err(BlobError::io(&beside))?;
            match fs::rename(&beside, &path) {
                // Somebody has buried it before it was locked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => {
                    renamed.map_err(BlobError::io(&path))?;
                    return Ok(Self { name, path, _file: file });
                }
            }
        }
    }

    /// The name it is known by.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        // One that stays is taken for dead, and removed.
        let _ = remove_file(&self.path);
    }
}

/// Removes the signs of the dead. Blocks.
pub(crate) fn bury(folder: &Path) -> Result<(), BlobError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(BlobError::io(folder))?,
    };
    for entry in entries {
        let path = entry.map_err(BlobError::io(folder))?.path();
        if !is_locked(&path)? {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether the process of that name is alive. Blocks.
pub(crate) fn is_alive(folder: &Path, name: &str) -> Result<bool, BlobError> {
    // What a row says is a name in this folder, or nobody's.
    if name.contains(['/', '.']) {
        return Ok(false);
    }
    is_locked(&folder.join(name))
}

fn is_locked(path: &Path) -> Result<bool, BlobError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(BlobError::io(path))?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(BlobError::io(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_signed_is_alive_until_the_end() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("alive");
        assert!(!is_alive(&path, "one").expect("asked"), "there is no folder yet");
        let (one, two) = (Alive::sign(&path, "one".into()), Alive::sign(&path, "two".into()));
        let (one, two) = (one.expect("signed"), two.expect("signed"));
        assert!(is_alive(&path, one.name()).expect("asked"));
        assert!(!is_alive(&path, "../alive/one").expect("asked"), "no path is a name");
        // As a process leaves it that is killed.
        fs::write(path.join("dead"), "").expect("file");
        bury(&path).expect("buried");
        assert!(!path.join("dead").exists());
        drop(one);
        assert!(!is_alive(&path, "one").expect("asked"));
        assert!(is_alive(&path, two.name()).expect("asked"));
    }
}
