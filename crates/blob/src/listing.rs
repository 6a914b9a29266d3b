//! Which files there are, whatever anybody knows of them.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use torno_oci::{Algorithm, Digest, UploadId};

use crate::{BlobError, BlobStore, FilesLock, session::blocking};

/// What is in one of the folders that blobs are spread over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Blobs, in the order of their digests.
    pub blobs: Vec<Digest>,
    /// What is not called like a blob of this folder, below the store's root.
    pub strays: Vec<PathBuf>,
}

impl BlobStore {
    /// What is in the folder of blobs whose digests begin with `shard`.
    pub async fn list(&self, algorithm: Algorithm, shard: u8) -> Result<Listing, BlobError> {
        let root = self.root.clone();
        blocking(move || blobs_in(&root, algorithm, shard)).await
    }

    /// What is among the folders of blobs and among the upload sessions, and is neither, below the store's root. What
    /// a process is just putting in place may be among it.
    pub async fn strays(&self) -> Result<Vec<PathBuf>, BlobError> {
        let root = self.root.clone();
        blocking(move || {
            let mut strays = Vec::new();
            let mut look = |folder: &Path, belongs: &dyn Fn(&OsStr, bool) -> bool| -> Result<(), BlobError> {
                for entry in entries(&root.join(folder))? {
                    let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    if !belongs(&entry.file_name(), is_folder) {
                        strays.push(folder.join(entry.file_name()));
                    }
                }
                Ok(())
            };
            let blobs = Path::new("blobs");
            let is_algorithm = |name: &OsStr, is_folder: bool| {
                is_folder && Algorithm::ALL.iter().any(|algorithm| *name == *algorithm.name())
            };
            look(blobs, &is_algorithm)?;
            for algorithm in Algorithm::ALL {
                look(&blobs.join(algorithm.name()), &|name, is_folder| is_folder && is_shard(name))?;
            }
            let is_upload = |name: &OsStr, is_folder: bool| {
                !is_folder && name.to_str().is_some_and(|name| name.parse::<UploadId>().is_ok())
            };
            look(Path::new("uploads"), &is_upload)?;
            Ok(strays)
        })
        .await
    }

    /// How many bytes a blob's file has, if there is one.
    pub async fn file_size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let path = self.path(digest);
        blocking(move || match fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BlobError::io(&path)(error)),
        })
        .await
    }

    /// Whether something is at a path below the store's root. With the [`FilesLock`] nothing is being put in place.
    pub fn is_there(&self, relative: &Path, _right: &FilesLock) -> bool {
        fs::symlink_metadata(self.root.join(relative)).is_ok()
    }

    /// Moves what is at a path below the store's root to the quarantine; where it is then, if it was there.
    pub async fn put_stray_aside(
        &self,
        relative: &Path,
        _right: &FilesLock,
    ) -> Result<Option<PathBuf>, BlobError> {
        let name = format!("stray-{}", relative.display().to_string().replace('/', "-"));
        // Names have at most 255 bytes, and there may be a number behind this one.
        let name = name.chars().take(100).collect();
        self.move_aside(self.root.join(relative), name).await
    }
}

/// The folder of blobs whose digests begin with `shard`, below a root.
pub(crate) fn folder(algorithm: Algorithm, shard: u8) -> PathBuf {
    Path::new("blobs").join(algorithm.name()).join(format!("{shard:02x}"))
}

/// What is in the folder of blobs whose digests begin with `shard`. Blocks.
pub(crate) fn blobs_in(root: &Path, algorithm: Algorithm, shard: u8) -> Result<Listing, BlobError> {
    let relative = folder(algorithm, shard);
    let mut listing = Listing::default();
    for entry in entries(&root.join(&relative))? {
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| format!("{}:{name}", algorithm.name()).parse().ok());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        match digest {
            Some(digest) if is_file && is_in(&digest, shard) => listing.blobs.push(digest),
            _ => listing.strays.push(relative.join(&name)),
        }
    }
    listing.blobs.sort();
    Ok(listing)
}

/// The entries of a folder; none if it is not there.
fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, BlobError> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.and_then(Iterator::collect),
    };
    listed.map_err(BlobError::io(folder))
}

fn is_shard(name: &OsStr) -> bool {
    let digits =
        |name: &str| name.len() == 2 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    name.to_str().is_some_and(digits)
}

fn is_in(digest: &Digest, shard: u8) -> bool {
    digest.hex().get(..2) == Some(format!("{shard:02x}").as_str())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_is_not_called_like_a_blob_or_an_upload_is_a_stray() {
        let folder = tempfile::tempdir().expect("folder");
        let store = BlobStore::open(folder.path(), Duration::from_hours(1)).expect("store");
        assert!(store.strays().await.expect("none").is_empty());
        let digest = Digest::sha256(b"blob");
        let shard = u8::from_str_radix(&digest.hex()[..2], 16).expect("hexadecimal");
        assert_eq!(store.list(Algorithm::Sha256, shard).await.expect("none"), Listing::default());
        let own = format!("blobs/sha256/{shard:02x}");
        let other = format!("blobs/sha256/{:02x}", shard ^ 1);
        for name in [
            format!("{own}/{}", digest.hex()),
            format!("{own}/{}.tmp", digest.hex()),
            format!("{other}/{}", digest.hex()),
            "blobs/x".into(),
            "blobs/sha256/xx".into(),
            "uploads/placing".into(),
            format!("uploads/{}", UploadId::from_bytes([1; 16])),
        ] {
            fs::write(folder.path().join(name), b"").expect("write");
        }
        let listed = store.list(Algorithm::Sha256, shard).await.expect("listed");
        assert_eq!(listed.blobs, std::slice::from_ref(&digest));
        assert_eq!(listed.strays, [PathBuf::from(format!("{own}/{}.tmp", digest.hex()))]);
        let listed = store.list(Algorithm::Sha256, shard ^ 1).await.expect("listed");
        assert_eq!((listed.blobs.len(), listed.strays.len()), (0, 1));
        let mut strays = store.strays().await.expect("strays");
        strays.sort();
        assert_eq!(strays, ["blobs/sha256/xx", "blobs/x", "uploads/placing"].map(PathBuf::from));
        let right = store.lock_files().await.expect("lock");
        for stray in &strays {
            assert!(store.is_there(stray, &right));
            let kept = store.put_stray_aside(stray, &right).await.expect("moved").expect("it was there");
            assert!(kept.exists() && !store.is_there(stray, &right));
        }
    }
}
