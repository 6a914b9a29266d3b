//! Where things stand in a store, and what is done to its folders. All of it blocks.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use torno_oci::Digest;

use crate::BlobError;

/// Where the file of a blob stands.
pub(crate) fn place_of(root: &Path, digest: &Digest) -> PathBuf {
    folder_of(root, digest).join(digest.hex())
}

/// The folder it stands in.
pub(crate) fn folder_of(root: &Path, digest: &Digest) -> PathBuf {
    let shard = digest.hex().get(..2).unwrap_or("xx");
    root.join("blobs").join(digest.algorithm().name()).join(shard)
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove_file(path: &Path) -> Result<(), BlobError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BlobError::io(path)(error)),
        _ => Ok(()),
    }
}

/// Moves a file to `path`; if it is the first of its folder, that is made.
pub(crate) fn into_folder(path: &Path, rename: impl Fn() -> io::Result<()>) -> Result<(), BlobError> {
    let moved = match rename() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(path.parent().unwrap_or(path))?;
            rename()
        }
        moved => moved,
    };
    moved.map_err(BlobError::io(path))
}

/// Makes a folder and its parents; each new one is durable in its parent when this returns.
pub(crate) fn make_folder(path: &Path) -> Result<(), BlobError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !parent.as_os_str().is_empty() {
        make_folder(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(BlobError::io(path)(error)),
        _ if parent.as_os_str().is_empty() => sync_folder(Path::new(".")),
        _ => sync_folder(parent),
    }
}

/// Makes the folders that blobs are spread over, durable when this returns: a push then finds its own.
pub(crate) fn make_shards(parent: &Path) -> Result<(), BlobError> {
    let mut made = false;
    for shard in 0..=u8::MAX {
        let path = parent.join(format!("{shard:02x}"));
        match fs::create_dir(&path) {
            Ok(()) => made = true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(BlobError::io(&path)(error)),
        }
    }
    if made { sync_folder(parent) } else { Ok(()) }
}

pub(crate) fn sync_folder(path: &Path) -> Result<(), BlobError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(BlobError::io(path))
}
