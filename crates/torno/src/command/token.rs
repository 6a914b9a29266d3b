//! `torno token`: what people and machines log in with in place of a password.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write},
    time::Duration,
};

use torno_auth::{Directory, Grant, GroupName, Htpasswd, Scope, TokenId, UserName};
use torno_registry::{NewToken, TokenAccount, TokenKind, TokenRecord};

use super::{ConfigFile, Failure};
use crate::config::Config;

/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 200;

const EXAMPLES: &str = "\
Examples:
  torno token create --user ada                                       for all that ada may do
  torno token create --user ada --scope 'pull:results/retina/**' --expires 90d
  torno token create --user ci --scope 'pull,push:run/retina/*'       for the robot ci
  docker login -u ada HOST                                            and the token as the password
  torno token list
  torno token revoke 0123456789ab                                     at once

A token is shown once, when it is made, alone on standard output; what is kept of it is a hash. It is never good for \
more than its user may do at the time. Robots are the names in `robots` of [auth] and of the projects.";

/// Make, list and revoke the tokens that people and machines log in with
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Token {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token and print it, once
    Create(Create),
    /// List tokens, without what is secret of them
    List {
        /// Of this user only
        #[arg(long)]
        user: Option<UserName>,
    },
    /// Make a token good for nothing, at once
    Revoke {
        /// Its name, as `torno token list` prints it
        token: TokenId,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Whose it is: a user, or a robot of the configuration
    #[arg(long)]
    user: UserName,
    /// What it is good for: actions (pull, push, delete, control) and a pattern of repositories; may be given several
    /// times. `control` is stopping and repeating runs. Without one: for all that its user may do
    #[arg(long, value_name = "ACTIONS:PATTERN")]
    scope: Vec<Grant>,
    /// How long it is good, such as 90d; without it: until it is revoked
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires: Option<Duration>,
    /// What it is for, in your words
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = description)]
    description: String,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|_| "write it as 12h, 90d or 1y".to_owned())?;
    if time.is_zero() { Err("it would never be good".into()) } else { Ok(time) }
}

fn description(text: &str) -> Result<String, String> {
    if text.len() > MAX_DESCRIPTION || text.contains(char::is_control) {
        return Err(format!("at most {MAX_DESCRIPTION} bytes on one line"));
    }
    Ok(text.to_owned())
}

impl Token {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        match &self.action {
            Action::Create(create) => create.run(&config),
            Action::List { user } => super::with_registry(&config, async |registry| {
                let tokens = registry.tokens(user.as_ref()).await?;
                io::stdout().write_all(table(&tokens).as_bytes()).map_err(Failure::Output)
            }),
            Action::Revoke { token } => super::with_registry(&config, async |registry| {
                if registry.revoke_token(registry.itself(), token).await? {
                    eprintln!("token {token} is good for nothing from now on");
                    Ok(())
                } else {
                    Err(Failure::NoToken(token.clone()))
                }
            }),
        }
    }
}

impl Create {
    fn run(&self, config: &Config) -> Result<(), Failure> {
        let scope = match &self.scope[..] {
            [] => None,
            grants => Some(Scope::of_grants(grants.to_vec())?),
        };
        let robot = config.policy.robots.contains(&self.user);
        if robot && scope.is_none() {
            return Err(Failure::NoScope(self.user.clone()));
        }
        let file = !robot && is_user(config, &self.user)?;
        super::with_new_registry(config, async |registry| {
            let (account, groups) = match (robot, file) {
                (true, _) => (TokenAccount::Robot, BTreeSet::new()),
                (false, true) => (TokenAccount::File, BTreeSet::new()),
                (false, false) => (TokenAccount::Directory, look_up(config, &self.user).await?),
            };
            let token = NewToken {
                user: self.user.clone(),
                kind: TokenKind::Personal,
                account,
                scope,
                groups,
                voucher: None,
                description: self.description.clone(),
                lifetime: self.expires,
            };
            let secret = registry.make_token(registry.itself(), token).await?;
            let id = secret.id();
            eprintln!("Token {id} of `{}`, shown only now; it stands for a password:", self.user);
            writeln!(io::stdout(), "{}", secret.expose()).map_err(Failure::Output)
        })
    }
}

/// The groups of somebody whom the directory knows.
async fn look_up(config: &Config, name: &UserName) -> Result<BTreeSet<GroupName>, Failure> {
    let nobody = || Failure::Nobody(name.clone());
    let settings = config.auth.directory.clone().ok_or_else(nobody)?;
    let directory = Directory::new(settings).map_err(Failure::Directory)?;
    let groups = directory.groups(name).await.map_err(|error| Failure::LookUp(name.clone(), error))?;
    groups.ok_or_else(nobody)
}

fn is_user(config: &Config, name: &UserName) -> Result<bool, Failure> {
    let file = Htpasswd::read(&config.auth.htpasswd).map_err(Failure::Users)?;
    Ok(file.users().any(|user| user == name))
}

fn table(tokens: &[TokenRecord]) -> String {
    let heads = ["TOKEN", "USER", "MADE", "EXPIRES", "LAST USED", "GOOD FOR", "WHAT FOR"].map(str::to_owned);
    let day = |time: jiff::Timestamp| time.strftime("%Y-%m-%d").to_string();
    let rows = tokens.iter().map(|token| {
        let state = match (token.revoked, token.expires) {
            (Some(revoked), _) => format!("revoked {}", day(revoked)),
            (None, Some(expires)) => day(expires),
            (None, None) => "never".into(),
        };
        let kind = match token.kind {
            TokenKind::Personal => token.description.clone(),
            TokenKind::Login => format!("({})", token.description),
        };
        [
            token.id.clone(),
            token.user.to_string(),
            day(token.created),
            state,
            token.used.map_or_else(|| "never".into(), day),
            token.scope.clone().unwrap_or_else(|| "all".into()),
            kind,
        ]
    });
    let rows: Vec<[String; 7]> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}
