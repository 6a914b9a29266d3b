//! `[auth.ldap]`, good and bad.

use std::os::unix::fs::PermissionsExt as _;

use torno_auth::{GroupName, People, Transport};

use super::*;

const LEAST: &str = "url = \"ldaps://ldap.example.org\"\nuser_base = \"dc=example,dc=org\"\n";

fn ldap(text: &str) -> String {
    format!("[auth.ldap]\n{text}")
}

/// A site with a password in a file of this mode.
fn with_password(mode: u32) -> Site {
    let site = Site::new();
    let path = site.path("password");
    fs::write(&path, "very secret\n").expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    site
}

#[test]
fn the_least_there_can_be() {
    let directory = good(&ldap(LEAST)).auth.directory.expect("a directory");
    assert_eq!((directory.transport, directory.name.as_str()), (Transport::Encrypted, "uid"));
    assert!(matches!(directory.people, People::Below(base, _) if base == "dc=example,dc=org"));
    assert!(directory.service.is_none() && directory.groups.search.is_none());
    assert_eq!(directory.recheck, Duration::from_mins(2));
    assert!(good("").auth.directory.is_none());
}

#[test]
fn passwords_travel_in_clear_on_this_machine_only() {
    let transport = |text: &str| {
        let text = format!("{text}\nuser_dn = \"uid={{user}},dc=example\"");
        good(&ldap(&text)).auth.directory.expect("a directory").transport
    };
    assert_eq!(transport("url = \"ldap://ldap.example.org\""), Transport::Encrypted);
    assert_eq!(transport("url = \"ldaps://10.0.0.1\"\nstarttls = false"), Transport::Encrypted);
    assert_eq!(transport("url = \"ldap://127.0.0.1\"\nstarttls = false"), Transport::Clear);
    let text = "url = \"ldap://10.0.0.1\"\nstarttls = false\nuser_base = \"dc=example\"";
    assert_error(&ldap(text), "auth.ldap.url", "in clear");
}

#[test]
fn what_is_wrong_is_named() {
    for (text, place, words) in [
        ("url = \"http://x\"\nuser_base = \"dc=x\"", "url", "not the address of a directory"),
        ("user_base = \"dc=x\"", "url", "say where it is"),
        ("url = \"ldaps://x\"", "user_base", "say below which entry"),
        ("url = \"ldaps://x\"\nuser_base = \"people\"", "user_base", "not a DN"),
        ("url = \"ldaps://x\"\nuser_base = \"dc=x\"\nuser_dn = \"uid={user},dc=x\"", "user_base", "keep one"),
    ] {
        assert_error(&ldap(text), &format!("auth.ldap.{place}"), words);
    }
    for (text, place, words) in [
        ("user_filter = \"(uid=x)\"", "user_filter", "{user} must stand in it"),
        ("user_filter = \"uid={user}\"", "user_filter", "not an LDAP filter"),
        ("group_base = \"dc=x\"\ngroup_filter = \"(member=x)\"", "group_filter", "{dn} must stand in it"),
        ("name_attribute = \"a b\"", "name_attribute", "letters, digits"),
        ("bind_dn = \"cn=x\"", "bind_password_file", "in which file"),
        ("bind_password_file = \"password\"", "bind_dn", "whose password"),
        (
            "bind_dn = \"cn=x\"\nbind_password_file = \"nowhere\"",
            "bind_password_file",
            "nowhere: No such file",
        ),
        ("bind_password = \"very secret\"", "bind_password", "did you mean"),
        ("ca = \"nowhere\"", "ca", "cannot be read"),
        ("recheck = \"1h\"", "recheck", "15m"),
        ("groups = { \"cn=a\" = \"A B\" }", "groups.\"cn=a\"", "a group's name"),
    ] {
        let error = error(&ldap(&format!("{LEAST}{text}")));
        assert!(
            error.starts_with(&format!("auth.ldap.{place}: ")) && error.contains(words),
            "{text}\n{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_password_is_read_from_a_file_and_shown_nowhere() {
    let text = ldap(&format!("{LEAST}bind_dn = \"cn=torno\"\nbind_password_file = \"password\""));
    let config = with_password(0o600).good(&text);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert!(!format!("{config:?}").contains("very secret"));
    assert!(config.auth.directory.expect("a directory").service.is_some());
    let config = with_password(0o640).good(&text);
    assert!(config.warnings[0].contains("chmod 600"), "{:?}", config.warnings);
    let site = with_password(0o600);
    fs::write(site.path("password"), "\n").expect("write");
    let errors = site.errors(&text, &Environment::default());
    assert!(errors[0].contains("is empty"), "{errors:?}");
    // A dataset must not hold it.
    let inside = text.replace("\"password\"", "\"retina/password\"");
    fs::write(site.path("retina/password"), "very secret").expect("write");
    let errors = site.errors(&format!("{inside}\n{}", project("")), &Environment::default());
    assert!(errors[0].contains("password for the directory"), "{errors:?}");
}

#[test]
fn groups_may_be_known_to_the_directory() {
    let text = "[groups]\nlocal = [\"bob\"]\n[projects.p]\nresearchers = [\"@local\", \"@there\"]\n";
    assert_error(text, "projects.p.researchers[1]", "there is no group `there`");
    let config = good(&format!("{}{text}", ldap(LEAST)));
    let researchers = &config.policy.projects.values().next().expect("a project").researchers;
    assert_eq!(researchers.users.iter().map(UserName::as_str).collect::<Vec<_>>(), ["bob"]);
    assert_eq!(researchers.groups.iter().map(GroupName::as_str).collect::<Vec<_>>(), ["there"]);
    let wrong = format!("{}[projects.p]\nresearchers = [\"@Not One\"]\n", ldap(LEAST));
    assert_error(&wrong, "projects.p.researchers[0]", "a group's name");
}

#[test]
fn every_key_is_documented() {
    assert_documented(&error(&ldap(&format!("{LEAST}x = 1"))));
}
