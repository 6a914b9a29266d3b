//! Passwords checked against the file, or by a directory for those who are not in it, at a bounded cost.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    net::IpAddr,
    ops::RangeInclusive,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::{
    Directory, DirectoryError, GroupName, Htpasswd, HtpasswdError, Identity, MAX_PASSWORD_LENGTH, UserName,
    throttle::{Known, Throttle},
};

/// How long a correct password is remembered. A push of many layers then costs one bcrypt.
const REMEMBERED: Duration = Duration::from_mins(5);

/// How often the file's path is looked at. In between, the file that was read is asked whether it has been written to
/// or replaced, which costs a tenth; only a link that was turned to another file is seen by its path alone.
const LOOK: Duration = Duration::from_secs(1);

/// How many passwords are remembered at once.
const MAX_REMEMBERED: usize = 10_000;

/// Strangers whose passwords wait to be checked: a course that logs in at once. bcrypt takes a twentieth of a second, so the
/// last of them waits for some ten seconds; whoever comes then is asked to come again.
const MAX_WAITING: usize = 256;

/// The longest password that a directory is asked about, in bytes.
const MAX_DIRECTORY_PASSWORD: usize = 1024;

/// Conversations with a directory about the passwords of strangers, and about those of others.
const CONVERSATIONS: usize = 4;

/// What those are told who find too many waiting.
const COME_AGAIN: Duration = Duration::from_secs(2);

/// A hash that no password has, behind its cost: checked so that every wrong password takes as long as one can.
const NOBODY: &str = "$abcdefghijklmnopqrstuu...............................";

/// What bcrypt costs for unknown users of a file that has none.
const COST: u32 = 10;

/// The costs that there are; a hash that says another cannot be checked.
const COSTS: RangeInclusive<u32> = 4..=31;

/// Why someone could not log in.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// No such user, or not their password; which of both is not told.
    #[error("the user name or the password is wrong")]
    Wrong,
    /// Too many were wrong, or too many wait.
    #[error("too many logins have failed; wait {} seconds and try again", .0.as_secs().max(1))]
    TooMany(
        /// How long to wait.
        Duration,
    ),
    /// The password file could not be read.
    #[error(transparent)]
    Htpasswd(#[from] HtpasswdError),
    /// The directory could not be asked.
    #[error("the directory of users cannot be asked at the moment; try again in a minute")]
    Directory(#[from] DirectoryError),
    /// The check itself could not run.
    #[error("the password check did not finish")]
    Unfinished,
}

/// What stands behind a login, to tell later whether it still does. It tells nothing of the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voucher([u8; 16]);

/// Where somebody is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The password file.
    File,
    /// The directory.
    Directory,
}

/// Where to look for somebody who is not in the password file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// In the directory, if there is one.
    All,
    /// Nowhere.
    FileOnly,
}

/// Somebody who has logged in with a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Who, by the name that is theirs; a directory may know them by another spelling.
    pub who: Identity,
    /// Where they are known from.
    pub source: Source,
}

/// Checks passwords against an htpasswd file, which is read again whenever it changes. Whoever is not in it is looked
/// for in a directory, if there is one; whoever is in it is never.
#[derive(Debug)]
pub struct Authenticator {
    path: PathBuf,
    directory: Option<Directory>,
    /// Makes the remembered digests useless outside this process.
    key: [u8; 32],
    throttle: Throttle,
    checks: Checks,
    /// Apart, so that a directory that is slow keeps nobody waiting who is in the file.
    conversations: Checks,
    /// The file as it was when it was last looked at.
    seen: ArcSwapOption<Seen>,
    /// By the keyed digest of name and password.
    remembered: Cache<[u8; 32], (Admitted, Instant)>,
    state: Mutex<State>,
}

/// What is in the file.
#[derive(Debug, Default)]
struct Users {
    file: Htpasswd,
    /// What stands behind each login, to be asked with every request of a token.
    vouchers: HashMap<UserName, Voucher>,
    /// What the dearest hash costs.
    dearest: u32,
}

/// The file that was read, which tells by itself when it changes or goes, and when its path was looked at.
#[derive(Debug)]
struct Seen {
    users: Arc<Users>,
    version: Version,
    open: File,
    looked: Instant,
}

/// Whoever has logged in from the same address before never waits behind strangers: each have a core for bcrypt, and
/// conversations of their own with a directory.
#[derive(Debug)]
struct Checks {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    users: Arc<Users>,
    version: Option<Version>,
    /// Checks under way. Many requests of one login arrive together, and one check serves them all.
    checking: HashMap<[u8; 32], Awaited>,
}

/// A check under way, and how many wait for it.
#[derive(Debug, Default)]
struct Awaited {
    cell: Arc<OnceCell<Answer>>,
    by: usize,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Right(Admitted),
    Wrong,
}

/// What changes when the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

impl Authenticator {
    /// Checks against this file, and by this directory, from now on.
    pub fn new(path: &Path, directory: Option<Directory>) -> Result<Self, HtpasswdError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|source| HtpasswdError::Io {
            path: PathBuf::from("/dev/urandom"),
            source: source.into(),
        })?;
        let this = Self {
            path: path.to_owned(),
            directory,
            key,
            throttle: Throttle::new(Instant::now()),
            checks: Checks::of(1),
            conversations: Checks::of(CONVERSATIONS),
            seen: ArcSwapOption::empty(),
            remembered: Cache::new(MAX_REMEMBERED),
            state: Mutex::new(State::default()),
        };
        for problem in this.current()?.file.problems() {
            tracing::warn!(file = %this.path.display(), "{problem}");
        }
        Ok(this)
    }

    /// Who this is, who asks from an address. Cancelling it is harmless.
    pub async fn authenticate(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
        accounts: Accounts,
    ) -> Result<Admitted, AuthenticationError> {
        let users = self.current()?;
        let digest = self.digest(user, password);
        if let Some(admitted) = self.remembered(&digest) {
            return Ok(admitted);
        }
        let user: UserName = user.parse().map_err(|_| AuthenticationError::Wrong)?;
        let directory = match accounts {
            Accounts::All if users.file.hash_of(&user).is_none() => self.directory.as_ref(),
            Accounts::All | Accounts::FileOnly => None,
        };
        let longest = if directory.is_some() { MAX_DIRECTORY_PASSWORD } else { MAX_PASSWORD_LENGTH };
        // A directory takes an empty one for nobody in particular, and lets them in.
        if password.is_empty() || password.len() > longest {
            return Err(AuthenticationError::Wrong);
        }
        let checking = Checking::of(self, digest);
        // Cancelled, the next of those who wait goes on with it.
        let check = || self.check(&users, directory, &user, password, from);
        let answer = checking.cell.get_or_try_init(check).await.cloned();
        // Whoever comes now finds it remembered, or is counted anew.
        checking.is_over();
        match answer? {
            Answer::Right(admitted) => {
                self.remember(&users, &admitted, digest);
                Ok(admitted)
            }
            Answer::Wrong => Err(AuthenticationError::Wrong),
        }
    }

    /// What stands behind somebody's login by the password file now; `None` if nothing does.
    pub fn voucher(&self, user: &UserName) -> Result<Option<Voucher>, AuthenticationError> {
        Ok(self.current()?.vouchers.get(user).cloned())
    }

    /// The groups of somebody whom the directory knows and the password file does not; `None`: there is no such person,
    /// or no directory. Cancelling it is harmless.
    pub async fn directory_groups(
        &self,
        user: &UserName,
    ) -> Result<Option<BTreeSet<GroupName>>, AuthenticationError> {
        match &self.directory {
            Some(directory) if self.voucher(user)?.is_none() => Ok(directory.groups(user).await?),
            _ => Ok(None),
        }
    }

    /// One attempt, counted. By the file, a wrong one takes as long as a right one, whether there is such a user or not.
    async fn check(
        &self,
        users: &Users,
        directory: Option<&Directory>,
        user: &UserName,
        password: &str,
        from: IpAddr,
    ) -> Result<Answer, AuthenticationError> {
        let too_many = AuthenticationError::TooMany;
        // Who is to be sent away does not wait for it; who waits is counted when it is their turn.
        self.throttle.look(user, from, Instant::now()).map_err(too_many)?;
        let lanes = if directory.is_some() { &self.conversations } else { &self.checks };
        let turn = lanes.turn(self.throttle.known(user, from)).await?;
        let attempt = self.throttle.admit(user, from, Instant::now()).map_err(too_many)?;
        let checked = match directory {
            Some(directory) => {
                let checked = self.by_directory(&users.file, directory, user, password).await;
                drop(turn);
                checked
            }
            None => self.by_file(users, user, password, turn).await,
        };
        match &checked {
            Ok(Answer::Right(_)) => self.throttle.right(attempt),
            Ok(Answer::Wrong) | Err(AuthenticationError::Unfinished) => {}
            // It came to nothing.
            Err(_) => self.throttle.unmade(&attempt),
        }
        checked
    }

    async fn by_file(
        &self,
        users: &Users,
        user: &UserName,
        password: &str,
        turn: OwnedSemaphorePermit,
    ) -> Result<Answer, AuthenticationError> {
        let hash = users.file.hash_of(user).map(str::to_owned);
        let (password, dearest) = (password.to_owned(), users.dearest);
        let right = tokio::task::spawn_blocking(move || {
            let right = is_right(&password, hash.as_deref(), dearest);
            // Not before, though whoever asked may have gone away: what runs has its turn.
            drop(turn);
            right
        })
        .await
        .map_err(|_| AuthenticationError::Unfinished)?;
        let admitted = || Admitted { who: Identity::of(user.clone()), source: Source::File };
        Ok(if right { Answer::Right(admitted()) } else { Answer::Wrong })
    }

    async fn by_directory(
        &self,
        file: &Htpasswd,
        directory: &Directory,
        user: &UserName,
        password: &str,
    ) -> Result<Answer, AuthenticationError> {
        let Some(person) = directory.login(user, password).await? else { return Ok(Answer::Wrong) };
        // Typed in another spelling, it may be somebody's whom the file knows: theirs is the password there.
        if file.hash_of(&person.name).is_some() {
            tracing::warn!(user = %person.name, "somebody of this name is in the directory and in the password file");
            return Ok(Answer::Wrong);
        }
        let who = Identity::of(person.name).in_groups(person.groups);
        Ok(Answer::Right(Admitted { who, source: Source::Directory }))
    }

    /// The file as it is now.
    fn current(&self) -> Result<Arc<Users>, HtpasswdError> {
        // Every request comes by here, and none waits for another.
        if let Some(seen) = &*self.seen.load()
            && seen.is_current()
        {
            return Ok(Arc::clone(&seen.users));
        }
        let mut state = self.state();
        // Opened before it is looked at: one that is replaced in between is seen to be gone.
        let open = File::open(&self.path).ok();
        let version = fs::metadata(&self.path).ok().and_then(|found| Version::of(&found));
        if state.version != version || version.is_none() {
            state.users = Arc::new(Users::of(Htpasswd::read(&self.path)?));
            state.version = version;
            self.remembered.clear();
        }
        let seen = open.zip(version).map(|(open, version)| {
            Arc::new(Seen { users: Arc::clone(&state.users), version, open, looked: Instant::now() })
        });
        self.seen.store(seen);
        Ok(Arc::clone(&state.users))
    }

    fn digest(&self, user: &str, password: &str) -> [u8; 32] {
        // The length of the name keeps two inputs from running together.
        let mut hasher = Sha256::new();
        hasher.update(self.key);
        hasher.update(user.len().to_le_bytes());
        hasher.update(user);
        hasher.update(password);
        hasher.finalize().into()
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Admitted> {
        let (admitted, since) = self.remembered.get(digest)?;
        let good_for = match (admitted.source, &self.directory) {
            // It does not say when a password changes.
            (Source::Directory, Some(directory)) => directory.recheck().min(REMEMBERED),
            _ => REMEMBERED,
        };
        (since.elapsed() < good_for).then_some(admitted)
    }

    fn remember(&self, checked_against: &Arc<Users>, admitted: &Admitted, digest: [u8; 32]) {
        let state = self.state();
        // The file may have changed while the password was checked; then it may be the old one.
        if Arc::ptr_eq(&state.users, checked_against) {
            self.remembered.insert(digest, (admitted.clone(), Instant::now()));
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A check under way that somebody waits for.
struct Checking<'a> {
    authenticator: &'a Authenticator,
    digest: [u8; 32],
    cell: Arc<OnceCell<Answer>>,
}

impl<'a> Checking<'a> {
    fn of(authenticator: &'a Authenticator, digest: [u8; 32]) -> Self {
        let mut state = authenticator.state();
        let awaited = state.checking.entry(digest).or_default();
        awaited.by += 1;
        Self { authenticator, digest, cell: Arc::clone(&awaited.cell) }
    }

    /// Nobody else joins it.
    fn is_over(&self) {
        self.end_if(|_| true);
    }

    /// What somebody else has begun since, under the same digest, stays.
    fn end_if(&self, over: impl FnOnce(&mut Awaited) -> bool) {
        let mut state = self.authenticator.state();
        let this = state.checking.get_mut(&self.digest);
        if this.filter(|known| Arc::ptr_eq(&known.cell, &self.cell)).is_some_and(over) {
            state.checking.remove(&self.digest);
        }
    }
}

impl Drop for Checking<'_> {
    /// Whoever goes away leaves nothing behind, unless others wait. They are counted under the lock, so that of two who
    /// go at one moment the second one knows.
    fn drop(&mut self) {
        self.end_if(|awaited| {
            awaited.by = awaited.by.saturating_sub(1);
            awaited.by == 0
        });
    }
}

impl Users {
    fn of(file: Htpasswd) -> Self {
        // The last line wins, as in `Htpasswd::hash_of`.
        let vouchers = file.entries().map(|(name, hash)| (name.clone(), Voucher::of(hash))).collect();
        let dearest = file.entries().filter_map(|(_, hash)| cost(hash)).max().unwrap_or(COST);
        Self { file, vouchers, dearest }
    }
}

/// Whether this is the password behind a hash. Whoever knows it waits for their own hash only; whatever is wrong takes as
/// long as the dearest hash, whether there is such a user or not and whatever theirs costs.
fn is_right(password: &str, hash: Option<&str>, dearest: u32) -> bool {
    let checked = hash.map(|hash| (cost(hash), bcrypt::verify(password, hash)));
    let spent = match checked {
        Some((_, Ok(true))) => return true,
        Some((cost, Ok(false))) => cost,
        // It is no hash, which shows at once.
        Some((_, Err(_))) | None => None,
    };
    for cost in left_to_spend(spent, dearest) {
        let _ = bcrypt::verify(password, &format!("$2y${cost:02}{NOBODY}"));
    }
    false
}

/// The costs of what is still to be checked, when a check of one cost has been, to make a wrong password as dear as the
/// dearest. Each cost is twice the one before: 2⁴ + 2⁴ + 2⁵ + 2⁶ = 2⁷.
fn left_to_spend(spent: Option<u32>, dearest: u32) -> impl Iterator<Item = u32> {
    match spent {
        Some(spent) => spent..dearest,
        None => dearest..dearest.saturating_add(1),
    }
}

/// What a hash costs to check: `$2y$10$…`.
fn cost(hash: &str) -> Option<u32> {
    hash.split('$').nth(2)?.parse().ok().filter(|cost| COSTS.contains(cost))
}

impl Seen {
    fn is_current(&self) -> bool {
        let is_same = |found: fs::Metadata| found.nlink() > 0 && Version::of(&found) == Some(self.version);
        self.looked.elapsed() < LOOK && self.open.metadata().is_ok_and(is_same)
    }
}

impl Checks {
    /// So many at once of those who are known, and so many of strangers.
    fn of(count: usize) -> Self {
        let lane = || Arc::new(Semaphore::new(count));
        Self { known: lane(), strangers: lane(), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a turn; too many strangers do not wait.
    async fn turn(&self, known: Known) -> Result<OwnedSemaphorePermit, AuthenticationError> {
        let lane = match known {
            Known::Yes => &self.known,
            Known::No => &self.strangers,
        };
        let _waiting = match known {
            Known::Yes => None,
            Known::No => Some(Waiting::among(&self.waiting)?),
        };
        Arc::clone(lane).acquire_owned().await.map_err(|_| AuthenticationError::Unfinished)
    }
}

/// One of those who wait, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(count: &'a AtomicUsize) -> Result<Self, AuthenticationError> {
        let waiting = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING {
            Ok(waiting)
        } else {
            Err(AuthenticationError::TooMany(COME_AGAIN))
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Voucher {
    /// For a line of the password file: it changes when the password does.
    fn of(hash: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update("torno voucher\0");
        hasher.update(hash);
        let digest: [u8; 32] = hasher.finalize().into();
        let mut voucher = [0; 16];
        voucher.copy_from_slice(&digest[..16]);
        Self(voucher)
    }
}

impl std::fmt::Display for Voucher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::str::FromStr for Voucher {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut voucher = [0; 16];
        hex::decode_to_slice(text, &mut voucher)?;
        Ok(Self(voucher))
    }
}

impl Version {
    fn of(found: &fs::Metadata) -> Option<Self> {
        Some(Self { modified: found.modified().ok()?, length: found.len(), inode: found.ino() })
    }
}

#[cfg(test)]
mod tests;
