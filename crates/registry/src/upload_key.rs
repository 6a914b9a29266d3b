//! Whose an upload session is.
//!
//! The name of a session proves who began it and where: it is a nonce and the nonce's authentication code over the
//! repository and the person. So nothing need be stored, and made durable, before the first byte arrives, and
//! asking whether a request may use a session reads nothing.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::Sha256;
use torno_blob::BlobError;
use torno_oci::{RepositoryName, UploadId, UserName};

use crate::RegistryError;

/// Bytes of the nonce that say when the session began, as [`UploadId::began`] reads them.
const BEGAN: usize = 6;

/// Bytes of the nonce; the code has as many. Whoever would guess a code can only ask the server, a few thousand times a
/// second, and must know the nonce of a session that is under way.
const NONCE: usize = 8;

/// What the names of upload sessions are made and checked with, as long as a block of SHA-256. Kept in a file, so that
/// sessions outlive the process.
pub(crate) struct UploadKey([u8; 64]);

impl std::fmt::Debug for UploadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadKey")
    }
}

impl UploadKey {
    /// The key in `file`, made if there is none; readable by its owner only, and by the group if the umask lets it. Blocks.
    pub(crate) fn open(file: &Path) -> Result<Self, RegistryError> {
        let io = |source| RegistryError::Blob(BlobError::Io { path: file.to_owned(), source });
        match fs::read(file) {
            Ok(bytes) => {
                let key = bytes.try_into().map_err(|_| io(io::ErrorKind::InvalidData.into()))?;
                Ok(Self(key))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut key = [0; 64];
                getrandom::fill(&mut key).map_err(RegistryError::Random)?;
                match write(file, &key) {
                    // A server and an executor that start together for the first time have one key.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::open(file),
                    written => written.map(|()| Self(key)).map_err(io),
                }
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The name of a new session.
    pub(crate) fn issue(
        &self,
        repository: &RepositoryName,
        by: &UserName,
    ) -> Result<UploadId, RegistryError> {
        let mut bytes = [0; 2 * NONCE];
        let (nonce, code) = bytes.split_at_mut(NONCE);
        let (began, random) = nonce.split_at_mut(BEGAN);
        // The two bytes that are left out are needed in some thousand years.
        let millis = Timestamp::now().as_millisecond().to_be_bytes();
        began.copy_from_slice(millis.split_at(millis.len() - BEGAN).1);
        getrandom::fill(random).map_err(RegistryError::Random)?;
        let full = self.code(nonce, repository, by).finalize().into_bytes();
        code.copy_from_slice(full.split_at(NONCE).0);
        Ok(UploadId::from_bytes(bytes))
    }

    /// Whether a session was begun in this repository by this person.
    pub(crate) fn fits(&self, id: &UploadId, repository: &RepositoryName, by: &UserName) -> bool {
        let bytes = id.bytes();
        let (nonce, code) = bytes.split_at(NONCE);
        self.code(nonce, repository, by).verify_truncated_left(code).is_ok()
    }

    fn code(&self, nonce: &[u8], repository: &RepositoryName, by: &UserName) -> Hmac<Sha256> {
        let mut code = Hmac::new(&self.0.into());
        code.update(nonce);
        code.update(repository.as_str().as_bytes());
        // No name holds it, so no two pairs run together.
        code.update(&[0]);
        code.update(by.as_str().as_bytes());
        code
    }
}

/// Writes a file that is there whole or not at all, and is not there yet.
fn write(file: &Path, key: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Of its own: another process may be writing one.
    let new = file.with_extension(format!("new-{}", std::process::id()));
    let mut options = File::options();
    let mut written = options.write(true).create(true).truncate(true).mode(0o660).open(&new)?;
    written.write_all(key)?;
    written.sync_all()?;
    if let Err(error) = renameat_with(CWD, &new, CWD, file, RenameFlags::NOREPLACE) {
        fs::remove_file(&new)?;
        return Err(error.into());
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_session_is_for_one_person_in_one_repository() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("keys/upload");
        let key = UploadKey::open(&file).expect("key");
        let name = |name: &str| name.parse::<RepositoryName>().expect("name");
        let user = |name: &str| name.parse::<UserName>().expect("user");
        let id = key.issue(&name("tools/x"), &user("ada")).expect("id");
        assert!(key.fits(&id, &name("tools/x"), &user("ada")));
        assert!(!key.fits(&id, &name("tools/x"), &user("bob")));
        assert!(!key.fits(&id, &name("tools/y"), &user("ada")));
        for place in [0, NONCE] {
            let mut bytes = id.bytes();
            bytes[place] ^= 1;
            assert!(!key.fits(&UploadId::from_bytes(bytes), &name("tools/x"), &user("ada")), "byte {place}");
        }
        let again = UploadKey::open(&file).expect("the same key");
        assert!(again.fits(&id, &name("tools/x"), &user("ada")));
        // Whether the group may read it is said by the umask, since it may share the data directory.
        assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o117, 0);
        // As another process that made one meanwhile finds it.
        assert_eq!(write(&file, &[0; 64]).expect_err("it is there").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(file.parent().expect("a folder")).expect("folder").count(), 1);
        fs::write(&file, "short").expect("damage");
        assert!(UploadKey::open(&file).is_err(), "a damaged key is no key");
    }
}
