//! Every role in every namespace, as the table that `docs/SECURITY.md` shows.

use std::{fmt::Write as _, fs, path::Path};

use super::*;

/// What stands around the table in the page.
const BEGIN: &str = "<!-- permissions: written by the test of crates/auth/src/policy/table.rs -->\n";
const END: &str = "<!-- end of permissions -->\n";

/// Set to write the page instead of comparing with it.
const WRITE: &str = "TORNO_WRITE_DOCS";

fn user(name: &str) -> UserName {
    name.parse().expect("user name")
}

fn patterns(pattern: &str) -> Patterns {
    Patterns::parse(vec![pattern.into()]).expect("pattern")
}

/// Two projects that differ in what their researchers see of each other, and rules for two families of names.
fn policy() -> Policy {
    let project = |visibility| Project {
        researchers: Members {
            groups: ["team".parse().expect("group")].into(),
            ..Members::from(["ada", "bob"].map(user))
        },
        robots: ["ci"].map(user).into(),
        custodians: ["cora"].map(user).into(),
        visibility,
        quota: Quota::default(),
        datasets: [("eyes".parse().expect("dataset"), Sample::Given)].into(),
        rerun: Rerun::default(),
    };
    let rule = |pattern, pull| Access {
        repositories: patterns(pattern),
        pull,
        push: ["ada", "ci"].map(user).into(),
        delete: ["bob"].map(user).into(),
    };
    let anyone = Members { others: crate::Others::Anyone, ..Members::default() };
    let users = Members { others: crate::Others::Users, ..Members::default() };
    Policy {
        admins: ["root"].map(user).into(),
        robots: ["ci"].map(user).into(),
        projects: [
            ("heart".parse().expect("project"), project(Visibility::Owner)),
            ("open".parse().expect("project"), project(Visibility::Project)),
        ]
        .into(),
        access: vec![rule("tools/**", users), rule("public/**", anyone)],
        quota: Quota::default(),
    }
}

/// Everybody there is, as the rows of the table call them.
fn people() -> Vec<(&'static str, Identity)> {
    let named = |name: &str| Identity::of(user(name));
    vec![
        ("admin", named("root")),
        ("custodian of the project", named("cora")),
        ("researcher: the owner, by name", named("ada")),
        ("researcher: another, by name", named("bob")),
        ("researcher: another, by group", named("gus").in_groups(["team".parse().expect("group")].into())),
        ("robot of the project", named("ci")),
        ("somebody else who has logged in", named("eve")),
        ("whoever has not", Identity::anonymous()),
    ]
}

/// Every kind of place: what the columns of the table call it, a name, and whose it is.
const PLACES: [(&str, &str, Option<&str>); 16] = [
    ("`run/…`, ada's", "run/heart/x", Some("ada")),
    ("`run/…`, new", "run/heart/y", None),
    ("`run/…`, ada's, shared", "run/open/x", Some("ada")),
    ("`run/…`, the robot's", "run/heart/z", Some("ci")),
    ("`run/…`, no such project", "run/none/x", None),
    ("`results/…`, ada's", "results/heart/x", Some("ada")),
    ("`results/…`, ada's, shared", "results/open/x", Some("ada")),
    ("`try/…`, ada's", "try/heart/x", Some("ada")),
    ("`try/…`, new", "try/heart/y", None),
    ("`try-results/…`, ada's", "try-results/heart/x", Some("ada")),
    ("`try-results/…`, ada's, shared", "try-results/open/x", Some("ada")),
    ("`samples/…` of a dataset of the project", "samples/eyes", None),
    ("elsewhere, ada's", "misc/x", Some("ada")),
    ("elsewhere, new", "misc/y", None),
    ("by rule, for users", "tools/x", Some("eve")),
    ("by rule, for anyone", "public/x", Some("eve")),
];

fn table() -> String {
    let policy = policy();
    let mut text = String::from("| |");
    for (role, _) in people() {
        let _ = write!(text, " {role} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(people().len()));
    for (place, name, owner) in PLACES {
        let _ = write!(text, "\n| {place} |");
        let (name, owner) = (name.parse().expect("name"), owner.map(user));
        for (_, who) in people() {
            let may = |action: &Action| policy.decide(&who, *action, &name, owner.as_ref()).is_ok();
            let may: Vec<&str> =
                Action::ALL.iter().filter(|a| may(a)).map(|action| action.as_str()).collect();
            let _ = write!(text, " {} |", if may.is_empty() { "–".into() } else { may.join(", ") });
        }
    }
    text.push('\n');
    text
}

#[test]
fn the_table_in_the_page_is_what_the_policy_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/SECURITY.md");
    let text = fs::read_to_string(&page).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (shown, after) = rest.split_once(END).expect("where the table ends");
    let table = table();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&page, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
    } else {
        assert_eq!(shown, table, "if this is meant: {WRITE}=1 cargo test -p torno-auth the_table");
    }
}

/// The cells that must never change, whatever the table comes to be.
#[test]
fn nobody_passes_the_hatch() {
    let policy = policy();
    let decide = |who: &str, action, name: &str, owner: Option<&str>| {
        let (_, who) = people().into_iter().find(|(_, known)| known.is(&user(who))).expect("somebody");
        policy.decide(&who, action, &name.parse().expect("name"), owner.map(user).as_ref())
    };
    for (_, who) in people() {
        for name in ["results/heart/x", "results/open/x", "try-results/heart/x", "samples/eyes", "try/heart"]
        {
            let pushed = policy.decide(&who, Action::Push, &name.parse().expect("name"), None);
            assert!(pushed.is_err(), "{who} pushes to {name}");
        }
    }
    for who in ["root", "bob", "eve", "ci", "gus"] {
        assert!(
            decide(who, Action::Pull, "results/heart/x", Some("ada")).is_err(),
            "{who} reads ada's result"
        );
        assert!(decide(who, Action::Pull, "run/heart/x", Some("ada")).is_err(), "{who} reads ada's image");
    }
    assert!(decide("cora", Action::Push, "run/heart/y", None).is_err(), "who reads all runs nothing");
}

/// A token is never good for more than its owner, nor than it says.
#[test]
fn tokens_only_take_away() {
    let policy = policy();
    let scopes = ["pull:run/**", "push:run/heart/*", "pull,push,delete:**", "delete:tools/*"];
    for (role, who) in people() {
        for (place, name, owner) in PLACES {
            let (name, owner) = (name.parse().expect("name"), owner.map(user));
            for (action, scope) in Action::ALL.into_iter().flat_map(|a| scopes.map(|scope| (a, scope))) {
                let scope: crate::Scope = scope.parse().expect("scope");
                let whole = policy.decide(&who, action, &name, owner.as_ref());
                let limited =
                    policy.decide(&who.clone().limited_to(scope.clone()), action, &name, owner.as_ref());
                let expected = whole.is_ok() && scope.allows(action, &name);
                assert_eq!(limited.is_ok(), expected, "{role} at {place}: {action} with {scope}");
                let bearer =
                    policy.decide(&who.clone().with_access(scope.clone()), action, &name, owner.as_ref());
                assert_eq!(bearer.is_ok(), expected, "{role} at {place}: {action} with a bearer token");
                if let Err(refusal) = whole {
                    assert_eq!(bearer, Err(refusal), "what the policy says is said first");
                }
                if !scope.allows(action, &name) {
                    assert!(matches!(limited, Err(Refusal::Denied(_))), "and of a token's limit before all");
                }
            }
        }
    }
}
