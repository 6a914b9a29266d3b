//! What the policy says besides yes and no.

use super::*;

fn user(name: &str) -> UserName {
    name.parse().expect("user name")
}

fn policy(visibility: Visibility) -> Policy {
    let project = Project {
        researchers: ["ada", "bob"].map(user).into(),
        custodians: ["cora"].map(user).into(),
        visibility,
        ..Project::default()
    };
    let project = Project { datasets: [("eyes".parse().expect("dataset"), Sample::Given)].into(), ..project };
    Policy {
        admins: ["root"].map(user).into(),
        projects: [("heart".parse().expect("project"), project)].into(),
        ..Policy::default()
    }
}

#[test]
fn a_project_may_share_among_its_researchers() {
    let policy = policy(Visibility::Project);
    let name = "results/heart/x".parse().expect("name");
    let owner = user("ada");
    assert!(policy.pull(&Identity::of(user("bob")), &name, Some(&owner)).is_ok());
    assert!(policy.pull(&Identity::of(user("eve")), &name, Some(&owner)).is_err());
    assert!(policy.delete(&Identity::of(user("bob")), &name, Some(&owner)).is_err());
}

#[test]
fn whatever_may_be_read_is_within_reach() {
    let names = [
        "run/heart/x",
        "results/heart/x",
        "run/liver/x",
        "run/heart",
        "try/heart/x",
        "try-results/heart/x",
        "samples/eyes",
        "tools/x",
    ];
    for (visibility, expected) in [(Visibility::Owner, 36), (Visibility::Project, 44)] {
        let mut policy = policy(visibility);
        policy.access = vec![Access {
            repositories: Patterns::parse(vec!["tools/**".into()]).expect("pattern"),
            pull: ["eve"].map(user).into(),
            push: Members::default(),
            delete: Members::default(),
        }];
        let mut readable = 0;
        for (who, name, owner) in ["ada", "bob", "cora", "eve", "root"].iter().flat_map(|who| {
            let owners = names.iter().flat_map(|name| ["ada", "bob", "eve"].map(|owner| (*name, owner)));
            owners.map(|(name, owner)| (user(who), name, user(owner)))
        }) {
            let identity = Identity::of(who.clone());
            let name: RepositoryName = name.parse().expect("name");
            let within = match policy.reach(&identity) {
                Reach::Everywhere => true,
                Reach::Within { owner: own, projects, samples, plain } => {
                    let theirs = match name.namespace() {
                        Namespace::Sample { dataset } => samples.iter().any(|name| name.as_str() == dataset),
                        other => projects.iter().any(|known| Some(known.as_str()) == other.project()),
                    };
                    let all = plain == Plain::All && matches!(name.namespace(), Namespace::Plain);
                    own.as_ref() == Some(&owner) || theirs || all
                }
            };
            if policy.pull(&identity, &name, Some(&owner)).is_ok() {
                readable += 1;
                assert!(within, "{who} may read {name} of {owner}");
            }
        }
        assert!(readable >= expected, "{readable}");
    }
    let few = policy(Visibility::Owner).reach(&Identity::of(user("ada")));
    let samples = vec!["eyes".parse().expect("dataset")];
    let own = Reach::Within { owner: Some(user("ada")), projects: Vec::new(), samples, plain: Plain::Own };
    assert_eq!(few, own);
}

#[test]
fn whoever_has_a_quota_is_charged() {
    let mut policy = policy(Visibility::Owner);
    let charged = |policy: &Policy, repository: &str, owner: &str| {
        let quotas = policy.quotas(&repository.parse().expect("name"), &user(owner));
        quotas.into_iter().map(|(charged, _)| charged).collect::<Vec<_>>()
    };
    assert_eq!(charged(&policy, "run/heart/x", "ada"), [], "nobody has one");
    policy.quota.bytes = Some(1);
    policy.projects.values_mut().for_each(|project| project.quota.repositories = Some(1));
    let (ada, heart) = (Charged::User(user("ada")), Charged::Project("heart".parse().expect("project")));
    assert_eq!(charged(&policy, "tools/x", "ada"), std::slice::from_ref(&ada));
    assert_eq!(charged(&policy, "run/heart/x", "ada"), [ada, heart]);
    assert_eq!(charged(&policy, "results/heart/x", "ada"), []);
    assert_eq!(charged(&policy, "try/heart/x", "ada").len(), 2);
    assert_eq!(charged(&policy, "try-results/heart/x", "ada"), []);
    assert_eq!(charged(&policy, "tools/x", "root"), []);
}

#[test]
fn a_refusal_names_what_one_may_do_and_nothing_else() {
    let policy = policy(Visibility::Owner);
    let elsewhere = "run/liver/x".parse().expect("name");
    let refusal = policy.push(&Identity::of(user("ada")), &elsewhere, None).expect_err("refused");
    assert!(refusal.to_string().contains("run/heart/<name>:<tag>"), "{refusal}");
    let heart = "run/heart/x".parse().expect("name");
    let known = policy.push(&Identity::of(user("eve")), &heart, None).expect_err("refused").to_string();
    let unknown = policy.push(&Identity::of(user("eve")), &elsewhere, None).expect_err("refused").to_string();
    assert_eq!(known.replace("heart", "liver"), unknown, "known and unknown projects look alike");
}

#[test]
fn nothing_is_tried_where_a_dataset_has_no_sample() {
    let mut policy = policy(Visibility::Owner);
    let ada = Identity::of(user("ada"));
    let tried = "try/heart/x".parse().expect("name");
    policy.push(&ada, &tried, None).expect("a project without data has nothing to keep back");
    let datasets = [("a", Sample::Given), ("b", Sample::None)];
    let datasets = datasets.map(|(name, sample)| (name.parse().expect("dataset"), sample)).into();
    policy.projects.values_mut().for_each(|project| project.datasets = BTreeMap::clone(&datasets));
    let refusal = policy.push(&ada, &tried, None).expect_err("refused").to_string();
    assert!(refusal.contains("dataset `b` has no sample") && refusal.contains("run/heart/"), "{refusal}");
    assert_eq!(policy.standing(&ada).push, ["run/heart/<name>:<tag>"]);
    // Whoever is no member learns nothing of it.
    let outside = policy.push(&Identity::of(user("eve")), &tried, None).expect_err("refused").to_string();
    assert!(!outside.contains("sample"), "{outside}");
}

#[test]
fn a_project_is_known_to_its_people() {
    let policy = policy(Visibility::Owner);
    let heart = "heart".parse().expect("project");
    let knows = |who: Identity| policy.knows_project(&who, &heart);
    let named = |name: &str| Identity::of(user(name));
    for (who, expected) in [("ada", true), ("cora", true), ("eve", false), ("root", false)] {
        assert_eq!(knows(named(who)), expected, "{who}");
    }
    assert!(!knows(Identity::anonymous()));
    assert!(!policy.knows_project(&named("ada"), &"liver".parse().expect("project")));
    for (scope, expected) in
        [("push:run/heart/*", true), ("pull:try/**", true), ("pull:**", true), ("pull:tools/**", false)]
    {
        assert_eq!(knows(named("ada").limited_to(scope.parse().expect("scope"))), expected, "{scope}");
    }
}

#[test]
fn unknown_and_forbidden_look_alike() {
    let policy = policy(Visibility::Owner);
    let name = "run/heart/x".parse().expect("name");
    let bob = Identity::of(user("bob"));
    assert_eq!(policy.pull(&bob, &name, Some(&user("ada"))), policy.pull(&bob, &name, None));
}

#[test]
fn a_token_for_a_new_name_is_good_for_what_it_becomes() {
    let policy = policy(Visibility::Owner);
    let all: BTreeSet<Action> = Action::ALL.into();
    let granted = |who: &str, name: &str, owner: Option<&str>| {
        let name = name.parse().expect("name");
        policy.granted(&Identity::of(user(who)), &all, &name, owner.map(user).as_ref())
    };
    assert_eq!(granted("ada", "run/heart/new", None), all);
    let stored = [Action::Pull, Action::Push, Action::Delete].into();
    assert_eq!(granted("ada", "tools/new", None), stored, "nothing runs there");
    assert_eq!(granted("bob", "run/heart/x", Some("ada")), BTreeSet::new());
    assert_eq!(granted("ada", "results/heart/new", None), BTreeSet::new());
    assert_eq!(granted("eve", "run/heart/new", None), BTreeSet::new());
}
