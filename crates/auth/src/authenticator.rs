//! Passwords checked against the file, at a bounded cost.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::{Htpasswd, HtpasswdError, Identity, MAX_PASSWORD_LENGTH, UserName};

/// How long a correct password is remembered. A push of many layers then costs one bcrypt.
const REMEMBERED: Duration = Duration::from_mins(5);

/// How often the file's path is looked at. In between, the file that was read is asked whether it has been written to
/// or replaced, which costs a tenth; only a link that was turned to another file is seen by its path alone.
const LOOK: Duration = Duration::from_secs(1);

/// How many people's passwords are remembered at once; past it the memory is emptied.
const MAX_REMEMBERED: usize = 10_000;

/// bcrypt runs at a time: it burns a core for a twentieth of a second, and honest requests need cores too.
const MAX_CHECKS: usize = 2;

/// A hash that no password has, checked for unknown users so that they take as long as known ones.
const NOBODY: &str = "$2y$10$abcdefghijklmnopqrstuu...............................";

/// Why someone could not log in.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// No such user, or not their password; which of both is not told.
    #[error("the user name or the password is wrong")]
    Wrong,
    /// The password file could not be read.
    #[error(transparent)]
    Htpasswd(#[from] HtpasswdError),
    /// The check itself could not run.
    #[error("the password check did not finish")]
    Unfinished,
}

/// Checks passwords against an htpasswd file, which is read again whenever it changes.
#[derive(Debug)]
pub struct Authenticator {
    path: PathBuf,
    /// Makes the remembered digests useless outside this process.
    key: [u8; 32],
    checks: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Arc<Htpasswd>,
    version: Option<Version>,
    /// The file that was read, which tells by itself when it changes or goes, and when its path was looked at.
    open: Option<(File, Instant)>,
    remembered: HashMap<UserName, ([u8; 32], Instant)>,
}

/// What changes when the file does.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Authenticator {
    /// Checks against this file from now on.
    pub fn new(path: &Path) -> Result<Self, HtpasswdError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|source| HtpasswdError::Io {
            path: PathBuf::from("/dev/urandom"),
            source: source.into(),
        })?;
        let this = Self {
            path: path.to_owned(),
            key,
            checks: Semaphore::new(MAX_CHECKS),
            state: Mutex::new(State::default()),
        };
        for problem in this.current()?.problems() {
            tracing::warn!(file = %this.path.display(), "{problem}");
        }
        Ok(this)
    }

    /// Who this is. Cancelling it is harmless.
    pub async fn authenticate(&self, user: &str, password: &str) -> Result<Identity, AuthenticationError> {
        let file = self.current()?;
        let user: UserName = user.parse().map_err(|_| AuthenticationError::Wrong)?;
        if password.len() > MAX_PASSWORD_LENGTH {
            return Err(AuthenticationError::Wrong);
        }
        let digest = self.digest(&user, password);
        if self.remembers(&user, &digest) {
            return Ok(Identity::of(user));
        }
        let hash = file.hash_of(&user).unwrap_or(NOBODY).to_owned();
        let password = password.to_owned();
        let turn = self.checks.acquire().await.map_err(|_| AuthenticationError::Unfinished)?;
        // Many requests of one login arrive together; the first one to check serves the rest.
        if self.remembers(&user, &digest) {
            return Ok(Identity::of(user));
        }
        let right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false))
            .await
            .map_err(|_| AuthenticationError::Unfinished)?;
        drop(turn);
        if !right {
            return Err(AuthenticationError::Wrong);
        }
        self.remember(&file, user.clone(), digest);
        Ok(Identity::of(user))
    }

    /// The file as it is now.
    fn current(&self) -> Result<Arc<Htpasswd>, HtpasswdError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some((file, looked)), Some(version)) = (&state.open, &state.version)
            && looked.elapsed() < LOOK
            && file
                .metadata()
                .is_ok_and(|found| found.nlink() > 0 && Version::of(&found).as_ref() == Some(version))
        {
            return Ok(Arc::clone(&state.file));
        }
        // Opened before it is looked at: one that is replaced in between is seen to be gone.
        let open = File::open(&self.path).ok();
        let version = fs::metadata(&self.path).ok().and_then(|found| Version::of(&found));
        state.open = open.map(|file| (file, Instant::now()));
        if state.version != version || version.is_none() {
            state.file = Arc::new(Htpasswd::read(&self.path)?);
            state.version = version;
            state.remembered.clear();
        }
        Ok(Arc::clone(&state.file))
    }

    fn digest(&self, user: &UserName, password: &str) -> [u8; 32] {
        // The lengths are fixed or known (the name has no NUL), so no two inputs run together.
        let mut hasher = Sha256::new();
        hasher.update(self.key);
        hasher.update(user.as_str());
        hasher.update([0]);
        hasher.update(password);
        hasher.finalize().into()
    }

    fn remembers(&self, user: &UserName, digest: &[u8; 32]) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.remembered.get(user).is_some_and(|(known, since)| {
            since.elapsed() < REMEMBERED && bool::from(known.as_slice().ct_eq(digest.as_slice()))
        })
    }

    fn remember(&self, checked_against: &Arc<Htpasswd>, user: UserName, digest: [u8; 32]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // The file may have changed while bcrypt ran; then this password may be the old one.
        if !Arc::ptr_eq(&state.file, checked_against) {
            return;
        }
        if state.remembered.len() >= MAX_REMEMBERED {
            state.remembered.clear();
        }
        state.remembered.insert(user, (digest, Instant::now()));
    }
}

impl Version {
    fn of(found: &fs::Metadata) -> Option<Self> {
        Some(Self { modified: found.modified().ok()?, length: found.len(), inode: found.ino() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn right_and_wrong_and_changed_passwords() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("htpasswd");
        let ada: UserName = "ada".parse().expect("name");
        Htpasswd::add(&path, &ada, "first").expect("add");
        let authenticator = Authenticator::new(&path).expect("authenticator");
        for _ in 0..2 {
            assert_eq!(authenticator.authenticate("ada", "first").await.expect("right").name(), &ada);
        }
        for (name, password) in [("ada", "wrong"), ("eve", "first"), ("", "first"), ("ada", "")] {
            let refused = authenticator.authenticate(name, password).await;
            assert!(matches!(refused, Err(AuthenticationError::Wrong)), "{name}:{password}");
        }
        Htpasswd::set_password(&path, &ada, "second").expect("passwd");
        assert!(authenticator.authenticate("ada", "first").await.is_err(), "the old password is forgotten");
        assert!(authenticator.authenticate("ada", "second").await.is_ok());
        Htpasswd::remove(&path, &ada).expect("remove");
        assert!(authenticator.authenticate("ada", "second").await.is_err());
    }

    #[test]
    fn nobody_has_a_well_formed_hash() {
        assert!(!bcrypt::verify("", NOBODY).expect("a hash that bcrypt can check"));
    }

    #[tokio::test]
    async fn a_remembered_password_costs_no_bcrypt() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("htpasswd");
        Htpasswd::add(&path, &"ada".parse().expect("name"), "first").expect("add");
        let authenticator = Authenticator::new(&path).expect("authenticator");
        authenticator.authenticate("ada", "first").await.expect("right");
        authenticator.checks.close();
        assert!(authenticator.authenticate("ada", "first").await.is_ok(), "remembered");
        assert!(authenticator.authenticate("ada", "wrong").await.is_err());
    }
}
