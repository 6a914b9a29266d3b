//! What is said of a directory in the configuration.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, time::Duration};

use ldap3::{dn_escape, ldap_escape};
use url::Url;

use crate::{Authorities, GroupName, UserName};

/// Where somebody's name is put into a filter or a DN.
const USER: &str = "{user}";

/// Where somebody's DN is put into a filter.
const DN: &str = "{dn}";

/// A directory and what to look for in it.
#[derive(Clone, Debug)]
pub struct DirectorySettings {
    /// Where it is.
    pub url: DirectoryUrl,
    /// How words travel there.
    pub transport: Transport,
    /// Who vouches for its certificate.
    pub authorities: Authorities,
    /// As whom Torno looks people up; `None`: as nobody.
    pub service: Option<Service>,
    /// Where people are.
    pub people: People,
    /// The attribute that holds somebody's name.
    pub name: String,
    /// Where their groups are found.
    pub groups: Groups,
    /// How long an answer is taken for true. So long somebody who was removed can still use a login that is kept.
    pub recheck: Duration,
}

/// How words travel to a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over TLS, as the URL says or after a word in clear.
    Encrypted,
    /// In clear, which only this machine should hear.
    Clear,
}

/// What Torno logs in to a directory with.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its DN.
    pub dn: String,
    /// Its password.
    pub password: ServicePassword,
}

/// A password of Torno's own. It never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct ServicePassword(Box<str>);

/// Where people are.
#[derive(Clone, Debug)]
pub enum People {
    /// The one entry below a base that a filter fits.
    Below(String, Filter),
    /// The entry with this DN.
    At(DnTemplate),
}

/// Where the groups of somebody are found.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// The entries below a base that a filter fits, and the attribute that holds their names.
    pub search: Option<GroupSearch>,
    /// The attribute of somebody's own entry that holds the DNs of their groups.
    pub member_of: Option<String>,
    /// What groups are called here, by their names or DNs there in lower case. If there are any, others do not count.
    pub names: BTreeMap<String, GroupName>,
}

/// Where to look for groups.
#[derive(Clone, Debug)]
pub struct GroupSearch {
    /// Below what.
    pub base: String,
    /// Which entries.
    pub filter: Filter,
    /// The attribute that holds a group's name.
    pub name: String,
}

/// The address of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUrl(Url);

/// A filter with a place for a name or a DN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

/// A DN with a place for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnTemplate(String);

/// A value that says nothing of a directory.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DirectorySettingsError {
    /// Not an address.
    #[error(
        "this is not the address of a directory; write \"ldaps://ldap.example.org\", or ldap:// for StartTLS, with no path behind it"
    )]
    Url,
    /// Not a filter.
    #[error("this is not an LDAP filter in brackets, such as \"(uid={USER})\"")]
    Filter,
    /// Not a DN.
    #[error("this is not a DN with {USER} in it, such as \"uid={USER},ou=people,dc=example,dc=org\"")]
    Dn,
    /// Nobody in particular is looked for.
    #[error("{0} must stand in it, where the name or DN of whom is looked for is put")]
    Nobody(&'static str),
}

impl DirectoryUrl {
    /// Whether TLS is spoken from the first byte.
    pub fn speaks_tls(&self) -> bool {
        self.0.scheme() == "ldaps"
    }

    /// Whether what is said to it in clear stays on this machine.
    pub fn is_this_machine(&self) -> bool {
        // Of schemes that browsers do not know, an IPv4 address is a name like others.
        let host = self.0.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    }

    pub(super) fn url(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for DirectoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DirectoryUrl {
    type Err = DirectorySettingsError;

    fn from_str(text: &str) -> Result<Self, DirectorySettingsError> {
        let url = Url::parse(text).map_err(|_| DirectorySettingsError::Url)?;
        let bare = matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let known = matches!(url.scheme(), "ldap" | "ldaps");
        let hosted = url.host_str().is_some_and(|host| !host.is_empty());
        if bare && known && hosted { Ok(Self(url)) } else { Err(DirectorySettingsError::Url) }
    }
}

impl ServicePassword {
    /// A password, without the end of its line. `None` if it is empty: a directory would take that for nobody.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The password itself, to be sent to whom it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ServicePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServicePassword")
    }
}

impl Filter {
    /// A filter for people, which must have a place for a name.
    pub fn of_people(text: &str) -> Result<Self, DirectorySettingsError> {
        if !text.contains(USER) {
            return Err(DirectorySettingsError::Nobody(USER));
        }
        Self::checked(text)
    }

    /// A filter for groups, which must have a place for a name or a DN.
    pub fn of_groups(text: &str) -> Result<Self, DirectorySettingsError> {
        if !text.contains(USER) && !text.contains(DN) {
            return Err(DirectorySettingsError::Nobody(DN));
        }
        Self::checked(text)
    }

    fn checked(text: &str) -> Result<Self, DirectorySettingsError> {
        let filter = Self(text.to_owned());
        match ldap3::parse_filter(filter.filled("x", "x")) {
            Ok(_) if text.starts_with('(') => Ok(filter),
            _ => Err(DirectorySettingsError::Filter),
        }
    }

    /// The filter for somebody. What is put in is a value and nothing else, whatever it holds (RFC 4515, section 3).
    pub(super) fn filled(&self, user: &str, dn: &str) -> String {
        put(&self.0, &ldap_escape(user), &ldap_escape(dn))
    }
}

impl DnTemplate {
    /// The DN of somebody (RFC 4514, section 2.4).
    pub(super) fn filled(&self, user: &UserName) -> String {
        put(&self.0, &dn_escape(user.as_str()), "")
    }
}

impl FromStr for DnTemplate {
    type Err = DirectorySettingsError;

    fn from_str(text: &str) -> Result<Self, DirectorySettingsError> {
        let first = text.split(',').next().unwrap_or_default();
        // The name must be that of the entry: elsewhere it would choose the branch.
        if first.contains(USER) && first.contains('=') && text.matches(USER).count() == 1 {
            Ok(Self(text.to_owned()))
        } else {
            Err(DirectorySettingsError::Dn)
        }
    }
}

/// Puts both in, in one pass: what one puts in is no place for the other.
fn put(template: &str, user: &str, dn: &str) -> String {
    let mut filled = String::with_capacity(template.len() + user.len() + dn.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let (before, from) = rest.split_at(start);
        filled.push_str(before);
        if let Some(after) = from.strip_prefix(USER) {
            filled.push_str(user);
            rest = after;
        } else if let Some(after) = from.strip_prefix(DN) {
            filled.push_str(dn);
            rest = after;
        } else {
            filled.push('{');
            rest = from.get(1..).unwrap_or_default();
        }
    }
    filled.push_str(rest);
    filled
}

impl Groups {
    /// What a group is called here; `None` if it does not count. `dn` is its DN, `name` its name there.
    pub(super) fn name(&self, dn: &str, name: Option<&str>) -> Option<GroupName> {
        let name = name.map(str::to_lowercase);
        if self.names.is_empty() {
            return name?.parse().ok();
        }
        let by_name = || self.names.get(&name?);
        self.names.get(&dn.to_lowercase()).or_else(by_name).cloned()
    }
}

/// The name in the first part of a DN; `None` if it is not a plain one.
pub(super) fn first_name(dn: &str) -> Option<&str> {
    let first = dn.split(',').next()?;
    let (_, name) = first.split_once('=')?;
    // Escapes and parts with several attributes belong to names that are none here.
    (!name.contains(['\\', '+', '"'])).then(|| name.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses() {
        for (text, tls, here) in [
            ("ldaps://ldap.example.org", true, false),
            ("ldap://ldap.example.org:3890/", false, false),
            ("ldap://127.0.0.1:389", false, true),
            ("ldap://[::1]", false, true),
            ("ldap://localhost", false, true),
            ("ldap://localhost.example.org", false, false),
        ] {
            let url: DirectoryUrl = text.parse().expect(text);
            assert_eq!((url.speaks_tls(), url.is_this_machine()), (tls, here), "{text}");
        }
        for bad in [
            "",
            "ldap.example.org",
            "http://x",
            "ldapi:///x",
            "ldap://",
            "ldap://u:p@x",
            "ldap://x/dc=org",
            "ldap://x?y",
        ] {
            assert_eq!(bad.parse::<DirectoryUrl>(), Err(DirectorySettingsError::Url), "{bad}");
        }
    }

    #[test]
    fn filters_and_dns() {
        assert!(Filter::of_people("(&(objectClass=person)(uid={user}))").is_ok());
        assert_eq!(Filter::of_people("(uid=x)"), Err(DirectorySettingsError::Nobody(USER)));
        assert!(
            Filter::of_groups("(member={dn})").is_ok() && Filter::of_groups("(memberUid={user})").is_ok()
        );
        assert_eq!(Filter::of_groups("(cn=*)"), Err(DirectorySettingsError::Nobody(DN)));
        for bad in ["uid={user}", "(uid={user}", "(uid={user}))", "({user})"] {
            assert_eq!(Filter::of_people(bad), Err(DirectorySettingsError::Filter), "{bad}");
        }
        assert!("uid={user},ou=people,dc=x".parse::<DnTemplate>().is_ok());
        for bad in ["", "{user}", "uid=x,ou={user}", "ou=people", "uid={user},ou={user}"] {
            assert_eq!(bad.parse::<DnTemplate>(), Err(DirectorySettingsError::Dn), "{bad}");
        }
    }

    #[test]
    fn what_is_put_in_is_a_value() {
        let filter = Filter::of_groups("(|(a={user})(b={dn}))").expect("filter");
        assert_eq!(filter.filled("*)(uid=*", "{user}"), "(|(a=\\2a\\29\\28uid=\\2a)(b={user}))");
    }

    #[test]
    fn groups_are_known_by_name_or_dn() {
        let all = Groups::default();
        assert_eq!(all.name("cn=Team-A,dc=x", Some("Team-A")).expect("a group").as_str(), "team-a");
        assert_eq!(all.name("cn=Team A,dc=x", Some("Team A")), None);
        assert_eq!(all.name("cn=a,dc=x", None), None);
        let team: GroupName = "team".parse().expect("name");
        let names = ["team a", "cn=b,dc=x"].map(|name| (name.to_owned(), team.clone()));
        let some = Groups { names: names.into(), ..Groups::default() };
        assert_eq!(some.name("cn=Team A,dc=x", Some("Team A")), Some(team.clone()));
        assert_eq!(some.name("CN=B,dc=x", Some("B")), Some(team));
        assert_eq!(some.name("cn=b,dc=elsewhere", Some("b")), None, "another of the same name");
    }

    #[test]
    fn names_in_dns() {
        assert_eq!(first_name("CN=Team A,OU=x"), Some("Team A"));
        for none in ["", "x", "cn=a\\,b,dc=x", "cn=a+uid=b,dc=x"] {
            assert_eq!(first_name(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn nothing_leaves_its_place(user: String, dn: String) {
            let filter = Filter::of_groups("(&(a={user})(b={dn}))").expect("filter");
            let filled = filter.filled(&user, &dn);
            prop_assert!(ldap3::parse_filter(&filled).is_ok());
            prop_assert_eq!(filled.matches(['(', ')']).count(), 6);
            prop_assert!(!filled.contains('*'));
        }
    }
}
