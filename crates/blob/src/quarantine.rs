//! Files whose bytes are not theirs any more, and where they go.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use torno_oci::Digest;

use crate::{
    BlobError, BlobStore, Damage, FilesLock,
    folder::{make_folder, sync_folder},
    maps::FileId,
    session::blocking,
};

/// Where they go, below the store's root.
const FOLDER: &str = "quarantine";

impl BlobStore {
    /// Whether a blob's file is still damaged as it was found to be: a push may have replaced it since.
    pub async fn is_still(&self, digest: &Digest, damage: &Damage) -> Result<bool, BlobError> {
        let (path, damage) = (self.path(digest), damage.clone());
        blocking(move || {
            let found = match fs::metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(damage == Damage::Missing);
                }
                Err(error) => return Err(BlobError::io(&path)(error)),
            };
            Ok(match damage {
                Damage::Missing => false,
                Damage::Length { expected, .. } => found.len() != expected,
                Damage::Digest { file, .. } | Damage::Unreadable { file, .. } => {
                    file.0.is_none_or(|file| FileId::of(&found) == file)
                }
            })
        })
        .await
    }

    /// Moves a blob's file to the quarantine, where nothing that is there is replaced; where it is then, if there was
    /// one. Durable when it resolves.
    pub async fn put_aside(&self, digest: &Digest, _right: &FilesLock) -> Result<Option<PathBuf>, BlobError> {
        self.maps.forget(digest);
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        self.move_aside(self.path(digest), name).await
    }

    /// Moves a file that is no blob's to the quarantine, under a name of `name`'s kind.
    pub(crate) async fn move_aside(&self, path: PathBuf, name: String) -> Result<Option<PathBuf>, BlobError> {
        let folder = self.root.join(FOLDER);
        blocking(move || {
            make_folder(&folder)?;
            let aside = free(&folder, &name)?;
            match fs::rename(&path, &aside) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                moved => moved.map_err(BlobError::io(&path))?,
            }
            sync_folder(&folder)?;
            sync_folder(path.parent().unwrap_or(Path::new(".")))?;
            Ok(Some(aside))
        })
        .await
    }
}

/// A path that nothing has yet. Whoever has the [`FilesLock`] is alone here.
fn free(folder: &Path, name: &str) -> Result<PathBuf, BlobError> {
    let mut path = folder.join(name);
    let mut number = 1;
    loop {
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(BlobError::io(&path)(error)),
            Ok(_) => path = folder.join(format!("{name}.{number}")),
        }
        number += 1;
    }
}
