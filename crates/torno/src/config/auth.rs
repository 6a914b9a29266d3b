//! `[auth]` and `[[access]]`: who logs in how, and who may do what outside the projects.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use torno_auth::{Access, DirectorySettings, MAX_LIFETIME, Members, ProviderSettings, UserName};

use super::{
    A_PATH, ldap, limits, oidc,
    project::{self, Elsewhere, Known},
    reader::{Environment, Item, TableReader},
    retention, value,
};

/// Clients take every token to be good for a minute at least (Token Authentication Specification: Token Response
/// Fields).
const TOKEN_LIFETIME: RangeInclusive<Duration> = Duration::from_mins(1)..=MAX_LIFETIME;

/// How long a bearer token is good when the file does not say.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(5);

/// Shorter, and people would be asked for a password several times a day; longer, and a lost laptop is a key for ever.
const LOGIN_LIFETIME: RangeInclusive<Duration> = Duration::from_hours(1)..=Duration::from_hours(365 * 24);

/// How long clients stay logged in when the file does not say.
const DEFAULT_LOGIN_LIFETIME: Duration = Duration::from_hours(90 * 24);

/// How people log in.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// The password file, absolute. It may not exist yet.
    pub(crate) htpasswd: PathBuf,
    /// How long a bearer token is good.
    pub(crate) token_lifetime: Duration,
    /// How long a login is good that a client keeps.
    pub(crate) login_lifetime: Duration,
    /// Where people are who are not in the password file.
    pub(crate) directory: Option<DirectorySettings>,
    /// Where people log in with a browser.
    pub(crate) provider: Option<ProviderSettings>,
    /// The files that are named here beside it, with names for them.
    pub(super) files: Vec<(&'static str, PathBuf)>,
}

/// Lists of people, which can be read when the groups are known.
#[derive(Debug)]
pub(super) struct People<'a> {
    admins: Option<Item<'a>>,
    pub(super) robots: BTreeSet<UserName>,
    access: Option<Item<'a>>,
    /// Whether groups may be known elsewhere.
    pub(super) elsewhere: Elsewhere,
}

impl People<'_> {
    /// The admins.
    pub(super) fn admins(&mut self, known: &Known<'_>) -> Members {
        self.admins.take().map(|item| known.people(item, project::Everybody::No)).unwrap_or_default()
    }

    /// The rules, in their order.
    pub(super) fn access(&mut self, known: &Known<'_>) -> Vec<Access> {
        let Some(item) = self.access.take() else { return Vec::new() };
        let tables = item.into_list("tables that begin with [[access]]");
        tables.into_iter().filter_map(Item::into_table).filter_map(|table| rule(table, known)).collect()
    }
}

/// Reads what needs no groups, and keeps the rest for later.
pub(super) fn read<'a>(
    root: &mut TableReader<'a>,
    base: &Path,
    data: &Path,
    environment: &Environment,
    variables: &mut Vec<String>,
) -> (Auth, People<'a>) {
    let mut table = root.table("auth");
    let htpasswd = table
        .take_or_variable("htpasswd", environment)
        .and_then(|item| item.parse(A_PATH, |text| value::path(text, base)))
        .unwrap_or_else(|| data.join("htpasswd"));
    let mut time = |key, bounds, default| {
        let item = table.take_or_variable(key, environment);
        item.and_then(|item| limits::time_within(&item, bounds)).unwrap_or(default)
    };
    let token_lifetime = time("token_lifetime", &TOKEN_LIFETIME, DEFAULT_TOKEN_LIFETIME);
    let login_lifetime = time("login_lifetime", &LOGIN_LIFETIME, DEFAULT_LOGIN_LIFETIME);
    let admins = table.take("admins");
    let robots = table.take("robots").map(project::users).unwrap_or_default();
    let mut files = Vec::new();
    // A table that is wrong is there too: what it would say of groups is not known.
    let mut elsewhere = Elsewhere::No;
    let directory = table.take("ldap").and_then(Item::into_table).and_then(|ldap| {
        elsewhere = Elsewhere::Yes;
        ldap::read(ldap, base, environment, variables, &mut files)
    });
    let provider = table.take("oidc").and_then(|item| {
        if elsewhere == Elsewhere::Yes {
            item.refuse(
                "there is [auth.ldap] as well, and a name could be somebody's in both; keep one of the two",
            );
        }
        elsewhere = Elsewhere::Yes;
        oidc::read(item.into_table()?, base, environment, variables, &mut files)
    });
    variables.extend(table.finish());
    let access = root.take("access");
    let auth = Auth { htpasswd, token_lifetime, login_lifetime, directory, provider, files };
    (auth, People { admins, robots, access, elsewhere })
}

fn rule(mut table: TableReader<'_>, known: &Known<'_>) -> Option<Access> {
    let repositories = table
        .require("repositories", "say which repositories, such as [\"tools/**\"]")
        .and_then(|item| retention::patterns(item, "a list of patterns, such as [\"tools/**\"]"));
    let mut people = |key| {
        let item = table.take(key);
        item.map(|item| known.people(item, project::Everybody::Allowed)).unwrap_or_default()
    };
    let (pull, push, delete) = (people("pull"), people("push"), people("delete"));
    if pull.is_empty() && push.is_empty() && delete.is_empty() {
        table.miss("pull", "this rule lets nobody in but admins; give it a `pull`, `push` or `delete`");
    }
    for (key, list) in [("push", &push), ("delete", &delete)] {
        if list.others == torno_auth::Others::Anyone {
            table.miss(key, "who has not logged in can only pull; write \"@users\" for whoever has");
        }
    }
    table.finish();
    Some(Access { repositories: repositories?, pull, push, delete })
}
