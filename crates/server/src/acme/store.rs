//! The folder that keeps what authorities have given: the account and the certificate, each authority's apart.
//!
//! ```text
//! <folder>/acme/<address of the directory>/
//!   account.json      the account and its key
//!   certificate.pem   the private key, then the certificate and those that lead to a root: one file, so that they
//!                     always belong together
//! ```
//!
//! Folders have mode 0700 and files 0600. A file is replaced at once or not at all.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use super::{
    DirectoryUrl,
    issued::{Issued, IssuedError},
};

/// An account or a chain with its key has some KiB; what is larger is something else.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// What one authority has given.
#[derive(Clone, Debug)]
pub(super) struct Store(PathBuf);

/// Why something cannot be kept, or read again.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is larger than {MAX_FILE_SIZE} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{}: {source}", path.display())]
    Certificate { path: PathBuf, source: IssuedError },
}

impl Store {
    /// Nothing is made yet.
    pub(super) fn new(folder: &Path, directory: &DirectoryUrl) -> Self {
        Self(folder.join("acme").join(directory.folder()))
    }

    /// The account as it was kept.
    pub(super) fn account(&self) -> Result<Option<Vec<u8>>, StoreError> {
        read(&self.account_path())
    }

    /// Keeps an account.
    pub(super) fn keep_account(&self, account: &[u8]) -> Result<(), StoreError> {
        self.write(&self.account_path(), &[account])
    }

    /// The certificate that was issued last.
    pub(super) fn certificate(&self) -> Result<Option<Issued>, StoreError> {
        let path = self.certificate_path();
        let Some(text) = read(&path)? else { return Ok(None) };
        Issued::parse(&text, &text).map(Some).map_err(|source| StoreError::Certificate { path, source })
    }

    /// Keeps a certificate; both are PEM.
    pub(super) fn keep_certificate(&self, key: &str, chain: &str) -> Result<(), StoreError> {
        self.write(&self.certificate_path(), &[key.as_bytes(), b"\n", chain.as_bytes()])
    }

    fn account_path(&self) -> PathBuf {
        self.0.join("account.json")
    }

    fn certificate_path(&self) -> PathBuf {
        self.0.join("certificate.pem")
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
        let written = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
            // Made with mode 0600.
            let mut file = NamedTempFile::new_in(&self.0)?;
            for part in parts {
                file.write_all(part)?;
            }
            file.as_file().sync_all()?;
            file.persist(path)?;
            File::open(&self.0)?.sync_all()
        };
        written().map_err(|source| StoreError::Io { path: path.to_owned(), source })
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let mut bytes = Vec::new();
    let found = fs::File::open(path).and_then(|file| file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes));
    match found {
        Ok(_) if bytes.len() as u64 > MAX_FILE_SIZE => Err(StoreError::TooLarge(path.to_owned())),
        Ok(_) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_is_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::new(folder.path(), &DirectoryUrl::lets_encrypt());
        assert!(store.account().expect("none").is_none() && store.certificate().expect("none").is_none());
        store.keep_account(b"one").expect("kept");
        store.keep_account(b"two").expect("kept");
        assert_eq!(store.account().expect("read").as_deref(), Some(&b"two"[..]));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path().join("acme")), mode(&store.0)), (0o700, 0o700));
        assert_eq!(mode(&store.account_path()), 0o600);
        assert_eq!(fs::read_dir(&store.0).expect("folder").count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_too_large_or_damaged_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::new(folder.path(), &DirectoryUrl::lets_encrypt());
        let limit = usize::try_from(MAX_FILE_SIZE).expect("small");
        store.keep_account(&vec![b'x'; limit]).expect("kept");
        assert!(store.account().is_ok());
        store.keep_account(&vec![b'x'; limit + 1]).expect("kept");
        assert!(matches!(store.account(), Err(StoreError::TooLarge(_))));
        store.keep_certificate("", "-----BEGIN CERTIFICATE-----\nAAAA").expect("kept");
        assert!(matches!(store.certificate(), Err(StoreError::Certificate { .. })));
    }
}
