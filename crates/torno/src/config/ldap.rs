//! `[auth.ldap]`: people whom a directory knows.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use torno_auth::{
    Authorities, DirectorySettings, DirectoryUrl, Filter, GroupName, GroupSearch, Groups, People, Service,
    ServicePassword, Transport,
};

use super::{
    A_PATH, limits,
    reader::{Environment, Item, TableReader},
    value,
};

/// The largest file with a password that is read, in bytes.
const MAX_PASSWORD_FILE: u64 = 4096;

/// The attribute with somebody's name when the file does not say (RFC 4519).
const NAME: &str = "uid";

/// The attribute with a group's name when the file does not say.
const GROUP_NAME: &str = "cn";

/// Which entries are somebody's and whose groups they are in, when the file does not say.
const USER_FILTER: &str = "(uid={user})";
const GROUP_FILTER: &str = "(member={dn})";

/// How long what a directory says is taken for true: shorter, and it is asked with every layer; longer, and somebody who
/// has left stays.
const RECHECK: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(15);

/// The same when the file does not say.
const DEFAULT_RECHECK: Duration = Duration::from_mins(2);

const A_DN: &str = "a DN in quotes, such as \"ou=people,dc=example,dc=org\"";
const AN_ATTRIBUTE: &str = "the name of an attribute in quotes";

/// Reads the table. `files` is told which files it names.
pub(super) fn read(
    mut table: TableReader<'_>,
    base: &Path,
    environment: &Environment,
    variables: &mut Vec<String>,
    files: &mut Vec<(&'static str, PathBuf)>,
) -> Option<DirectorySettings> {
    let url = table.take_or_variable("url", environment);
    if url.is_none() {
        table.miss("url", "say where it is: url = \"ldaps://ldap.example.org\"");
    }
    let starttls = table.take_or_variable("starttls", environment).and_then(|item| item.boolean());
    let url = url.and_then(|item| {
        let url: DirectoryUrl = item.parse("an address in quotes", str::parse)?;
        transport(&item, &url, starttls).map(|transport| (url, transport))
    });
    let path = |item: &Item<'_>| item.parse(A_PATH, |text| value::path(text, base));
    let authorities = match table.take_or_variable("ca", environment) {
        None => Some(Authorities::of_this_machine()),
        Some(item) => path(&item).and_then(|path| {
            let read = Authorities::read(&path);
            read.map_err(|error| item.refuse(format_args!("{}: {error}", path.display()))).ok()
        }),
    };
    let service = service(&mut table, environment, &path, files);
    let people = people(&mut table, environment);
    let name = attribute(&mut table, "name_attribute", environment).unwrap_or_else(|| NAME.into());
    let groups = groups(&mut table, environment);
    let recheck = table
        .take_or_variable("recheck", environment)
        .and_then(|item| limits::time_within(&item, &RECHECK))
        .unwrap_or(DEFAULT_RECHECK);
    variables.extend(table.finish());
    let (url, transport) = url?;
    Some(DirectorySettings {
        url,
        transport,
        authorities: authorities?,
        service: service.ok()?,
        people: people?,
        name,
        groups,
        recheck,
    })
}

/// Passwords are sent to this machine alone in clear.
fn transport(item: &Item<'_>, url: &DirectoryUrl, starttls: Option<bool>) -> Option<Transport> {
    match starttls {
        Some(false) if url.speaks_tls() => Some(Transport::Encrypted),
        Some(false) if url.is_this_machine() => Some(Transport::Clear),
        Some(false) => {
            item.refuse(
                "passwords would travel there in clear; write ldaps://, or leave `starttls` away, or name a directory \
                 on this machine",
            );
            None
        }
        Some(true) | None => Some(Transport::Encrypted),
    }
}

/// What Torno logs in with, if with anything. An error has been reported.
fn service(
    table: &mut TableReader<'_>,
    environment: &Environment,
    path: &impl Fn(&Item<'_>) -> Option<PathBuf>,
    files: &mut Vec<(&'static str, PathBuf)>,
) -> Result<Option<Service>, ()> {
    let dn = table.take_or_variable("bind_dn", environment);
    let file = table.take_or_variable("bind_password_file", environment);
    match (dn, file) {
        (None, None) => Ok(None),
        (Some(dn), Some(item)) => {
            let dn = dn.parse(A_DN, filled).ok_or(())?;
            let path = path(&item).ok_or(())?;
            files.push(("password for the directory", path.clone()));
            let password = ServicePassword::new(&secret_file(&item, &path).ok_or(())?);
            if password.is_none() {
                let path = path.display();
                item.refuse(format_args!("{path} is empty; write the password of `bind_dn` into it"));
            }
            Ok(Some(Service { dn, password: password.ok_or(())? }))
        }
        (Some(_), None) => {
            table.miss("bind_password_file", "say in which file the password of `bind_dn` is");
            Err(())
        }
        (None, Some(_)) => {
            table.miss("bind_dn", "say whose password is in `bind_password_file`");
            Err(())
        }
    }
}

/// What is in a file that nobody else should read. It is never repeated.
pub(super) fn secret_file(item: &Item<'_>, path: &Path) -> Option<String> {
    let shown = path.display();
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MAX_PASSWORD_FILE + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| item.refuse(format_args!("{shown}: {error}"))).ok()?;
    if text.len() as u64 > MAX_PASSWORD_FILE {
        item.refuse(format_args!("{shown} is larger than a file with a password can be"));
        return None;
    }
    if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
        item.warning()(&format!("other users of this machine can read {shown}; chmod 600 {shown}"));
    }
    Some(text)
}

fn people(table: &mut TableReader<'_>, environment: &Environment) -> Option<People> {
    let base = table.take_or_variable("user_base", environment);
    let filter = table.take_or_variable("user_filter", environment);
    let template = table.take_or_variable("user_dn", environment);
    let filter = match filter {
        None => Filter::of_people(USER_FILTER).ok(),
        Some(item) if template.is_some() => {
            item.refuse("`user_dn` names the entry of each user already; keep one of the two");
            None
        }
        Some(item) => item.parse("a filter in quotes", Filter::of_people),
    };
    match (base, template) {
        (Some(base), None) => Some(People::Below(base.parse(A_DN, filled)?, filter?)),
        (None, Some(template)) => Some(People::At(template.parse("a DN in quotes", str::parse)?)),
        (None, None) => {
            table.miss(
                "user_base",
                "say below which entry people are: user_base = \"ou=people,dc=example,dc=org\"",
            );
            None
        }
        (Some(base), Some(_)) => {
            base.refuse("`user_dn` names the entry of each user already; keep one of the two");
            None
        }
    }
}

fn groups(table: &mut TableReader<'_>, environment: &Environment) -> Groups {
    let base = table.take_or_variable("group_base", environment);
    let filter = table.take_or_variable("group_filter", environment);
    let name = attribute(table, "group_attribute", environment);
    if let (Some(item), None) = (&filter, &base) {
        item.warning()("without `group_base` no groups are looked for");
    }
    let filter = match filter {
        None => Filter::of_groups(GROUP_FILTER).ok(),
        Some(item) => item.parse("a filter in quotes", Filter::of_groups),
    };
    let base = base.and_then(|item| item.parse(A_DN, filled));
    let search = base.zip(filter).map(|(base, filter)| GroupSearch {
        base,
        filter,
        name: name.unwrap_or_else(|| GROUP_NAME.into()),
    });
    let member_of = attribute(table, "member_of", environment);
    let names = table.take("groups").map(names).unwrap_or_default();
    Groups { search, member_of, names }
}

/// Which groups of the directory count, and what they are called here.
fn names(item: Item<'_>) -> BTreeMap<String, GroupName> {
    let entries = item.into_table().into_iter().flat_map(TableReader::into_entries);
    let name = |(there, item): (String, Item<'_>)| {
        let here = item.parse("the name of a group in quotes", str::parse)?;
        Some((there.to_lowercase(), here))
    };
    entries.filter_map(name).collect()
}

fn attribute(table: &mut TableReader<'_>, key: &'static str, environment: &Environment) -> Option<String> {
    table.take_or_variable(key, environment)?.parse(AN_ATTRIBUTE, |text| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let fits = !text.is_empty() && text.bytes().all(known);
        if fits { Ok(text.to_owned()) } else { Err("an attribute's name has letters, digits and `-`") }
    })
}

fn filled(text: &str) -> Result<String, &'static str> {
    if text.contains('=') {
        Ok(text.to_owned())
    } else {
        Err("this is not a DN, such as \"dc=example,dc=org\"")
    }
}
