//! The password file, in the format of Apache's `htpasswd -B`: one `name:bcrypt-hash` on a line.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::UserName;

/// The longest password, in bytes: bcrypt looks at no more, so a longer one would be weaker than it seems.
pub const MAX_PASSWORD_LENGTH: usize = 72;

/// The bcrypt cost of new hashes. Each step doubles the time of a guess and of a first login; 10 is what
/// OWASP's password storage advice asks for at least.
const COST: u32 = 10;

/// The largest password file read, in bytes: some hundred thousand users.
const MAX_FILE_SIZE: u64 = 16 * 1024 * 1024;

/// A password file that cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum HtpasswdError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Larger than 16 MiB.
    #[error("{0} is larger than a password file can be")]
    TooLarge(PathBuf),
    /// There is already such a user.
    #[error("user `{0}` exists already; change the password with `torno user passwd {0}`")]
    Exists(UserName),
    /// There is no such user.
    #[error("there is no user `{0}`; see `torno user list`")]
    Missing(UserName),
    /// Empty, longer than [`MAX_PASSWORD_LENGTH`], or with a character no client can send.
    #[error("a password has 1 to {MAX_PASSWORD_LENGTH} bytes and no control characters")]
    Password,
    /// bcrypt failed.
    #[error("the password could not be hashed: {0}")]
    Hash(#[from] bcrypt::BcryptError),
}

/// A line of the file that lets nobody in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HtpasswdProblem {
    /// A hash that is not bcrypt.
    #[error(
        "line {line}: the password of `{user}` is stored as {scheme}, not as bcrypt; set it anew with `torno user passwd {user}`"
    )]
    Scheme {
        /// The line's number, from 1.
        line: usize,
        /// Whose.
        user: String,
        /// The scheme found.
        scheme: &'static str,
    },
    /// Not `name:hash`.
    #[error("line {0}: this is not `name:hash` with a valid name")]
    Line(usize),
}

/// The content of a password file.
#[derive(Clone, Debug, Default)]
pub struct Htpasswd {
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
enum Line {
    User { name: UserName, hash: String },
    Other { text: String, problem: Option<HtpasswdProblem> },
}

impl Htpasswd {
    /// Reads the file; one that does not exist has no users.
    pub fn read(path: &Path) -> Result<Self, HtpasswdError> {
        let io = |source| HtpasswdError::Io { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(found) if found.len() > MAX_FILE_SIZE => return Err(HtpasswdError::TooLarge(path.to_owned())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(io(error)),
        }
        let bytes = fs::read(path).map_err(io)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().enumerate().map(|(index, line)| Line::parse(index + 1, line)).collect();
        Self { lines }
    }

    /// The names in the file that can log in, in its order.
    pub fn users(&self) -> impl Iterator<Item = &UserName> {
        self.entries().map(|(name, _)| name)
    }

    /// The names and their bcrypt hashes, in the file's order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&UserName, &str)> {
        self.lines.iter().filter_map(|line| match line {
            Line::User { name, hash } => Some((name, hash.as_str())),
            Line::Other { .. } => None,
        })
    }

    /// The lines that let nobody in though they seem to be meant to.
    pub fn problems(&self) -> impl Iterator<Item = &HtpasswdProblem> {
        self.lines.iter().filter_map(|line| match line {
            Line::User { .. } => None,
            Line::Other { problem, .. } => problem.as_ref(),
        })
    }

    /// The bcrypt hash of someone's password. The last line wins, as with Apache's tool.
    pub(crate) fn hash_of(&self, user: &UserName) -> Option<&str> {
        self.lines.iter().rev().find_map(|line| match line {
            Line::User { name, hash } if name == user => Some(hash.as_str()),
            _ => None,
        })
    }

    /// Adds a user to the file.
    pub fn add(path: &Path, user: &UserName, password: &str) -> Result<(), HtpasswdError> {
        let hash = hash(password)?;
        change(path, |file| {
            if file.hash_of(user).is_some() {
                return Err(HtpasswdError::Exists(user.clone()));
            }
            file.lines.push(Line::User { name: user.clone(), hash });
            Ok(())
        })
    }

    /// Changes a user's password in the file.
    pub fn set_password(path: &Path, user: &UserName, password: &str) -> Result<(), HtpasswdError> {
        let hash = hash(password)?;
        change(path, |file| {
            let known = file.lines.iter().position(|line| line.is_about(user));
            let first = known.ok_or_else(|| HtpasswdError::Missing(user.clone()))?;
            file.lines.retain(|line| !line.is_about(user));
            file.lines.insert(first, Line::User { name: user.clone(), hash });
            Ok(())
        })
    }

    /// Removes a user from the file.
    pub fn remove(path: &Path, user: &UserName) -> Result<(), HtpasswdError> {
        change(path, |file| {
            let before = file.lines.len();
            file.lines.retain(|line| !line.is_about(user));
            if file.lines.len() == before { Err(HtpasswdError::Missing(user.clone())) } else { Ok(()) }
        })
    }
}

impl Line {
    fn parse(number: usize, text: &str) -> Self {
        let other = |problem| Self::Other { text: text.to_owned(), problem };
        if text.trim().is_empty() || text.starts_with('#') {
            return other(None);
        }
        let Some((name, hash)) = text.split_once(':') else {
            return other(Some(HtpasswdProblem::Line(number)));
        };
        let Ok(user) = name.parse::<UserName>() else {
            return other(Some(HtpasswdProblem::Line(number)));
        };
        let hash = hash.trim_end();
        match scheme(hash) {
            None => Self::User { name: user, hash: hash.to_owned() },
            Some(scheme) => {
                other(Some(HtpasswdProblem::Scheme { line: number, user: user.to_string(), scheme }))
            }
        }
    }

    fn is_about(&self, user: &UserName) -> bool {
        match self {
            Self::User { name, .. } => name == user,
            Self::Other { text, .. } => text.split_once(':').is_some_and(|(name, _)| name == user.as_str()),
        }
    }
}

/// The scheme of a hash, `None` for the one that is used.
fn scheme(hash: &str) -> Option<&'static str> {
    let bcrypt = ["$2y$", "$2b$", "$2a$"].iter().any(|prefix| hash.starts_with(prefix));
    match hash {
        _ if bcrypt && hash.len() == 60 => None,
        _ if hash.starts_with("$apr1$") => Some("Apache MD5"),
        _ if hash.starts_with("{SHA}") => Some("SHA-1"),
        _ if hash.starts_with("$5$") || hash.starts_with("$6$") => Some("SHA crypt"),
        _ => Some("something unknown"),
    }
}

fn hash(password: &str) -> Result<String, HtpasswdError> {
    let fits = (1..=MAX_PASSWORD_LENGTH).contains(&password.len());
    if !fits || password.chars().any(char::is_control) {
        return Err(HtpasswdError::Password);
    }
    Ok(bcrypt::hash_with_result(password, COST)?.format_for_version(bcrypt::Version::TwoY))
}

/// Reads, changes and replaces the file as one step: other writers wait, readers see the old or the new file whole.
fn change(
    path: &Path,
    edit: impl FnOnce(&mut Htpasswd) -> Result<(), HtpasswdError>,
) -> Result<(), HtpasswdError> {
    let io = |source| HtpasswdError::Io { path: path.to_owned(), source };
    // A bare file name has the empty path as its parent.
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // The lock is on a file of its own: the password file itself is replaced.
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(PathBuf::from(lock_path))
        .map_err(io)?;
    lock.lock().map_err(io)?;

    let mut file = Htpasswd::read(path)?;
    edit(&mut file)?;
    let mut temporary = tempfile::Builder::new().prefix(".htpasswd-").tempfile_in(folder).map_err(io)?;
    for line in &file.lines {
        match line {
            Line::User { name, hash } => writeln!(temporary, "{name}:{hash}"),
            Line::Other { text, .. } => writeln!(temporary, "{text}"),
        }
        .map_err(io)?;
    }
    let mode = fs::metadata(path).map_or(0o600, |found| found.permissions().mode());
    temporary.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(path).map_err(|error| io(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        name.parse().expect("user name")
    }

    #[test]
    fn users_come_and_go_and_comments_stay() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("htpasswd");
        fs::write(&path, "# ours\nold:$apr1$abc$def\n").expect("write");
        Htpasswd::add(&path, &user("ada"), "secret").expect("add");
        assert!(matches!(Htpasswd::add(&path, &user("ada"), "x"), Err(HtpasswdError::Exists(_))));
        Htpasswd::set_password(&path, &user("ada"), "other").expect("passwd");
        let file = Htpasswd::read(&path).expect("read");
        assert_eq!(file.users().map(UserName::as_str).collect::<Vec<_>>(), ["ada"]);
        assert!(file.hash_of(&user("ada")).expect("hash").starts_with("$2y$10$"));
        let problems: Vec<_> = file.problems().map(ToString::to_string).collect();
        assert!(problems[0].contains("line 2") && problems[0].contains("Apache MD5"), "{problems:?}");
        Htpasswd::remove(&path, &user("ada")).expect("remove");
        assert!(matches!(Htpasswd::remove(&path, &user("ada")), Err(HtpasswdError::Missing(_))));
        assert_eq!(fs::read_to_string(&path).expect("read"), "# ours\nold:$apr1$abc$def\n");
    }

    #[test]
    fn a_new_file_is_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("htpasswd");
        Htpasswd::add(&path, &user("ada"), "secret").expect("add");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_password_limits() {
        assert!(hash(&"x".repeat(MAX_PASSWORD_LENGTH)).is_ok());
        for bad in [String::new(), "x".repeat(MAX_PASSWORD_LENGTH + 1), "a\nb".into()] {
            assert!(matches!(hash(&bad), Err(HtpasswdError::Password)));
        }
    }

    #[test]
    fn what_lets_nobody_in_is_named() {
        let file = Htpasswd::parse("a:{SHA}x\nno colon\n:empty\nb:$2y$10$short\n");
        assert_eq!(file.users().count(), 0);
        assert_eq!(file.problems().count(), 4);
    }
}
