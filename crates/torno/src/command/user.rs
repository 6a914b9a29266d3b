//! `torno user`: who may log in.

use std::io::{self, IsTerminal as _, Read, Write as _};

use torno_audit::Event;
use torno_auth::{Htpasswd, HtpasswdError, Identity, MAX_PASSWORD_LENGTH, UserName};

use super::{ConfigFile, Failure};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  torno user add ada                                    asks for the password twice
  torno user add ada --password-stdin < password.txt    reads it from a file or a pipe
  torno user passwd ada
  torno user remove ada
  torno user list

A password is never an argument: other users of the machine could read it. Changes take effect at once, with no \
restart. What a user may do is in the configuration: `auth.admins` and the `researchers` and `custodians` of the \
projects.";

/// Add, change, remove and list the people who may log in
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct User {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Let somebody log in
    Add(WithPassword),
    /// Change somebody's password
    Passwd(WithPassword),
    /// Let somebody log in no longer; their images and results stay
    Remove {
        /// The user's name
        name: UserName,
    },
    /// Print the names of all users, one on a line; who is an admin, and what is wrong, is said on stderr
    List,
}

#[derive(Debug, clap::Args)]
struct WithPassword {
    /// The user's name: 1 to 64 letters, digits, `.`, `_`, `-` and `@`
    name: UserName,
    /// Read the password from standard input instead of asking; one newline at its end is dropped
    #[arg(long)]
    password_stdin: bool,
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Nobody can be asked.
    #[error("standard input is no terminal; pipe the password in and add --password-stdin")]
    NoTerminal,
    /// The second was not the first.
    #[error("the two passwords differ")]
    Differ,
    /// Not text.
    #[error("it is not UTF-8")]
    NotText,
    /// More came than a password can have.
    #[error("it has more than {MAX_PASSWORD_LENGTH} bytes")]
    TooLong,
    /// The terminal or the pipe failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl User {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        if let Some(folder) = config.auth.htpasswd.parent() {
            super::make_private_folder(folder)?;
        }
        // Nobody types a password twice to be told that the name is wrong.
        let known = |name| {
            Htpasswd::read(&config.auth.htpasswd).is_ok_and(|file| file.users().any(|user| user == name))
        };
        match &self.action {
            Action::Add(who) if config.policy.robots.contains(&who.name) => {
                Err(Failure::Robot(who.name.clone()))
            }
            Action::Add(who) if known(&who.name) => {
                Err(failed("added", &who.name)(HtpasswdError::Exists(who.name.clone())))
            }
            Action::Add(who) => {
                let password = who.password()?;
                let add = || Htpasswd::add(&config.auth.htpasswd, &who.name, &password);
                recorded(&config, "add", &who.name, || add().map_err(failed("added", &who.name)))?;
                eprintln!("`{}` can log in now", who.name);
                if !has_a_role(&config, &who.name) {
                    eprintln!(
                        "note: `{}` is in no project yet; add the name to the `researchers` or `custodians` of one",
                        who.name
                    );
                }
                Ok(())
            }
            Action::Passwd(who) => {
                let password = who.password()?;
                let set = || Htpasswd::set_password(&config.auth.htpasswd, &who.name, &password);
                recorded(&config, "passwd", &who.name, || set().map_err(failed("changed", &who.name)))?;
                eprintln!("`{}` has a new password", who.name);
                Ok(())
            }
            Action::Remove { name } => {
                let remove = || Htpasswd::remove(&config.auth.htpasswd, name);
                recorded(&config, "remove", name, || remove().map_err(failed("removed", name)))?;
                eprintln!("`{name}` can log in no longer");
                if has_a_role(&config, name) {
                    eprintln!(
                        "note: `{name}` still stands in the configuration; whoever is added by that name has those rights"
                    );
                }
                Ok(())
            }
            Action::List => list(&config),
        }
    }
}

/// Records what is about to be done to a user, and does it.
fn recorded(
    config: &Config,
    action: &'static str,
    name: &UserName,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    super::recorded(config, Event::User { action, name: name.clone() }, work)
}

fn failed<'n>(action: &'static str, user: &'n UserName) -> impl FnOnce(HtpasswdError) -> Failure + use<'n> {
    move |source| Failure::User { user: user.clone(), action, source }
}

fn has_a_role(config: &Config, user: &UserName) -> bool {
    let standing = config.policy.standing(&Identity::of(user.clone()));
    standing.admin
        || !standing.researcher.is_empty()
        || !standing.custodian.is_empty()
        || !standing.push.is_empty()
}

fn list(config: &Config) -> Result<(), Failure> {
    let file = Htpasswd::read(&config.auth.htpasswd).map_err(Failure::Users)?;
    let mut out = io::stdout().lock();
    for name in file.users() {
        writeln!(out, "{name}").map_err(Failure::Output)?;
    }
    for admin in &config.policy.admins.users {
        let absent = if file.users().any(|name| name == admin) { "" } else { " and cannot log in yet" };
        eprintln!("admin: `{admin}` is an admin{absent}");
    }
    for problem in file.problems() {
        eprintln!("warning: {}: {problem}", config.auth.htpasswd.display());
    }
    Ok(())
}

impl WithPassword {
    fn password(&self) -> Result<String, PasswordError> {
        if self.password_stdin {
            return piped(io::stdin().lock());
        }
        if !io::stdin().is_terminal() {
            return Err(PasswordError::NoTerminal);
        }
        let password = rpassword::prompt_password(format!("Password for {}: ", self.name))?;
        let again = rpassword::prompt_password("The same again: ")?;
        if password == again { Ok(password) } else { Err(PasswordError::Differ) }
    }
}

/// A password from a pipe, less one newline at its end. No more is read than a password can have.
fn piped(input: impl Read) -> Result<String, PasswordError> {
    const NEWLINE: usize = "\r\n".len();
    let mut bytes = Vec::new();
    // One byte more than fits, to know that there is more.
    input.take((MAX_PASSWORD_LENGTH + NEWLINE + 1) as u64).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| PasswordError::NotText)?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.len() > MAX_PASSWORD_LENGTH { Err(PasswordError::TooLong) } else { Ok(line.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_newline_is_dropped_and_no_more() {
        for (input, password) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("", "")] {
            assert_eq!(piped(input.as_bytes()).expect("password"), password, "{input:?}");
        }
    }

    #[test]
    fn the_longest_password_and_one_byte_more() {
        let longest = "x".repeat(MAX_PASSWORD_LENGTH);
        for end in ["", "\n", "\r\n"] {
            assert_eq!(piped(format!("{longest}{end}").as_bytes()).expect("fits"), longest);
            let more = piped(format!("{longest}x{end}").as_bytes());
            assert!(matches!(more, Err(PasswordError::TooLong)), "{more:?}");
        }
    }

    #[test]
    fn an_endless_pipe_ends() {
        assert!(matches!(piped(io::repeat(b'x')), Err(PasswordError::TooLong)));
        assert!(matches!(piped(io::repeat(0xff)), Err(PasswordError::NotText)));
    }
}
