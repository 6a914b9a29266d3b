//! Every role in every namespace, as the table that `docs/SECURITY.md` shows.

use std::{fmt::Write as _, fs, path::Path};

use torno_oci::{Capacity, Priority};

use crate::{RunControl, RunPermit};

use super::*;

/// What stands around the table in the page.
const BEGIN: &str = "<!-- permissions: written by the test of crates/auth/src/policy/table.rs -->\n";
const END: &str = "<!-- end of permissions -->\n";
/// The same around that of runs.
const RUNS_BEGIN: &str = "<!-- control: written by the test of crates/auth/src/policy/table.rs -->\n";
const RUNS_END: &str = "<!-- end of control -->\n";

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

fn heads() -> String {
    let mut text = String::from("| |");
    for (role, _) in people() {
        let _ = write!(text, " {role} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(people().len()));
    text
}

fn table() -> String {
    let policy = policy();
    let mut text = heads();
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

/// Every kind of run: what the rows of the table call it, the repository of its image, and whose it is.
const RUNS: [(&str, Option<(&str, &str)>); 6] = [
    ("a run of ada's", Some(("run/heart/x", "ada"))),
    ("a run of ada's, shared", Some(("run/open/x", "ada"))),
    ("a try of ada's", Some(("try/heart/x", "ada"))),
    ("a run of the robot's", Some(("run/heart/z", "ci"))),
    ("a run of a project that is gone", Some(("run/none/x", "ada"))),
    ("no run", None),
];

/// A run that is not there, or as good as not there, and what can be done to one.
const RUN: RunId = RunId::FIRST;
const CONTROLS: [(&str, RunControl); 3] = [
    ("cancel", RunControl::Cancel),
    ("retry", RunControl::Retry),
    ("priority", RunControl::Prioritize(Priority::High)),
];

fn control(who: &Identity, control: RunControl, of: Option<(&str, &str)>) -> Result<RunPermit, Refusal> {
    let of = of.map(|(name, owner)| (name.parse().expect("name"), user(owner)));
    policy().control(who, control, RUN, of.as_ref().map(|(name, owner)| (name, owner)))
}

fn table_of_runs() -> String {
    let mut text = heads();
    for (kind, of) in RUNS {
        let _ = write!(text, "\n| {kind} |");
        for (_, who) in people() {
            let may = CONTROLS.iter().filter(|(_, wish)| control(&who, *wish, of).is_ok());
            let may: Vec<&str> = may.map(|(name, _)| *name).collect();
            let _ = write!(text, " {} |", if may.is_empty() { "–".into() } else { may.join(", ") });
        }
    }
    for (kind, name) in [("a project", "heart"), ("no project", "none")] {
        let _ = write!(text, "\n| {kind} |");
        for (_, who) in people() {
            let may = policy().pause(&who, &name.parse().expect("name")).is_ok();
            let _ = write!(text, " {} |", if may { "pause, resume" } else { "–" });
        }
    }
    text.push('\n');
    text
}

/// Whoever may do nothing to a run is told what they would be told if there were none.
#[test]
fn a_run_of_others_is_like_none() {
    for (role, who) in people() {
        for (kind, of) in RUNS {
            for (name, wish) in CONTROLS {
                let other = control(&who, RunControl::Cancel, of).is_ok();
                match control(&who, wish, of) {
                    Err(refusal) if !other => {
                        assert_eq!(refusal, Refusal::UnknownRun(RUN), "{role}: {name} of {kind}");
                    }
                    Err(refusal) => {
                        assert!(matches!(refusal, Refusal::Denied(_)), "{role}: {name} of {kind}");
                    }
                    Ok(permit) => assert_eq!((permit.run(), permit.control()), (RUN, wish)),
                }
            }
        }
    }
}

/// A token for some runs says nothing of others, and one for none says so of all alike.
#[test]
fn tokens_control_what_they_say() {
    let ada = Identity::of(user("ada"));
    let mine = Some(("run/heart/x", "ada"));
    let limited = |scope: &str, of| {
        let who = ada.clone().limited_to(scope.parse().expect("scope"));
        control(&who, RunControl::Cancel, of)
    };
    for of in [mine, None, Some(("run/heart/y", "bob"))] {
        assert!(matches!(limited("pull,push,delete:**", of), Err(Refusal::Denied(_))), "{of:?}");
        assert_eq!(limited("control:run/open/**", of), Err(Refusal::UnknownRun(RUN)), "{of:?}");
    }
    assert!(limited("control:run/heart/*", mine).is_ok());
    let bearer = |scope: &str| {
        control(&ada.clone().with_access(scope.parse().expect("scope")), RunControl::Retry, mine)
    };
    assert!(matches!(bearer("pull,push:run/heart/x"), Err(Refusal::OutOfScope(Action::Control, _))));
    assert!(bearer("control:run/heart/x").is_ok());

    let cora = Identity::of(user("cora"));
    let heart = "heart".parse().expect("name");
    let pause = |who: Identity| policy().pause(&who, &heart);
    let limited = |scope: &str| pause(cora.clone().limited_to(scope.parse().expect("scope")));
    assert!(limited("control:**").is_ok());
    assert!(limited("control:run/heart/** control:try/heart/**").is_ok());
    assert_eq!(limited("control:run/heart/**"), Err(Refusal::UnknownProject(heart.clone())));
    assert!(matches!(limited("pull:**"), Err(Refusal::Denied(_))));
    let asked = |name: &str, action| {
        let repositories = [(name.parse().expect("name"), [action].into())].into();
        let wish = crate::Wish { repositories, catalog: false };
        pause(cora.clone().with_access(crate::Scope::of_wish(wish)))
    };
    assert!(asked("run/heart/x", Action::Control).is_ok());
    for (name, action) in [("run/open/x", Action::Control), ("run/heart/x", Action::Pull)] {
        assert!(matches!(asked(name, action), Err(Refusal::OutOfScope(Action::Control, _))), "{name}");
    }
    assert!(matches!(pause(ada), Err(Refusal::Denied(_))), "who belongs to a project may know of it");
    assert!(matches!(pause(Identity::of(user("eve"))), Err(Refusal::UnknownProject(_))));
}

/// What is told of who did something: their own name for what is theirs, whatever else they are.
#[test]
fn people_act_as_what_they_are() {
    let mut policy = policy();
    let both = user("ada");
    policy.projects.values_mut().for_each(|project| project.custodians = [both.clone()].into());
    let who = Identity::of(both.clone());
    let name = "run/heart/x".parse().expect("name");
    let of = |owner| {
        policy.control(&who, RunControl::Cancel, RUN, Some((&name, owner))).expect("a right").capacity()
    };
    assert_eq!((of(&both), of(&user("bob"))), (Capacity::Owner, Capacity::Custodian));
    let raised = policy.control(&who, RunControl::Prioritize(Priority::Low), RUN, Some((&name, &both)));
    assert_eq!(raised.expect("a right").capacity(), Capacity::Custodian);
}

#[test]
fn the_table_in_the_page_is_what_the_policy_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/SECURITY.md");
    let text = fs::read_to_string(&page).expect("the page");
    let mut written = text.clone();
    for (begin, end, table) in [(BEGIN, END, table()), (RUNS_BEGIN, RUNS_END, table_of_runs())] {
        let (before, rest) = written.split_once(begin).expect("where the table begins");
        let (shown, after) = rest.split_once(end).expect("where the table ends");
        if std::env::var_os(WRITE).is_none() {
            assert_eq!(shown, table, "if this is meant: {WRITE}=1 cargo test -p torno-auth the_table");
        }
        written = format!("{before}{begin}{table}{end}{after}");
    }
    if written != text {
        fs::write(&page, written).expect("written");
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
