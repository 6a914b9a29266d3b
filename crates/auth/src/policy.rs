//! The one place that decides who may do what. Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};

use torno_oci::{Namespace, RepositoryName};

use crate::{Identity, ProjectName, UserName};

/// Who belongs where. Made from the configuration, replaced as a whole when that is reloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// People who may delete anywhere and push and pull outside the projects' namespaces.
    pub admins: BTreeSet<UserName>,
    /// The projects.
    pub projects: BTreeMap<ProjectName, Project>,
}

/// Who belongs to a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Those who push images and pull their results.
    pub researchers: BTreeSet<UserName>,
    /// Those who answer for the data: they may pull every image and result of the project.
    pub custodians: BTreeSet<UserName>,
    /// What the researchers see of each other.
    pub visibility: Visibility,
}

/// What the researchers of a project see of each other's images and results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// Nothing: each sees what is their own.
    #[default]
    Owner,
    /// Everything in the project.
    Project,
}

/// The right to read one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullPermit {
    repository: RepositoryName,
}

/// The right to write to one repository, in somebody's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPermit {
    repository: RepositoryName,
    owner: UserName,
    by: UserName,
}

/// The right to delete in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletePermit {
    repository: RepositoryName,
}

impl PullPermit {
    /// For whoever has the data directory itself, and could read the files.
    pub fn of_data_directory(repository: &RepositoryName) -> Self {
        Self { repository: repository.clone() }
    }

    /// The repository that may be read.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }
}

impl PushPermit {
    /// What the result of a run is published with: only into `results/`, in the name of the run's owner.
    pub fn publish(results: &RepositoryName, owner: &UserName) -> Option<Self> {
        match results.namespace() {
            Namespace::Results { .. } => {
                Some(Self { repository: results.clone(), owner: owner.clone(), by: owner.clone() })
            }
            _ => None,
        }
    }

    /// The repository that may be written.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// Whose the repository is, or becomes if it is new. The permit is worth nothing once it is somebody else's.
    pub fn owner(&self) -> &UserName {
        &self.owner
    }

    /// Who writes.
    pub fn by(&self) -> &UserName {
        &self.by
    }
}

impl DeletePermit {
    /// The repository that may be deleted from.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }
}

/// Why something may not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// To this person the repository does not exist; whether it does is none of their business.
    #[error("repository `{0}` is not known here, or not to you")]
    Unknown(RepositoryName),
    /// The person may know of it and is told what they may do instead.
    #[error("{0}")]
    Denied(String),
}

/// Where to look for what somebody may read. Not a right to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In every repository.
    Everywhere,
    /// Among what they own and what these projects have.
    Within {
        /// They themselves.
        owner: UserName,
        /// The projects in which they may read what others own.
        projects: Vec<ProjectName>,
    },
}

impl Policy {
    /// Where to look for what `who` may read. [`Policy::pull`] refuses them whatever is elsewhere; what is there it may
    /// refuse or not.
    pub fn reach(&self, who: &Identity) -> Reach {
        if self.admins.contains(who.name()) {
            return Reach::Everywhere;
        }
        let open = |project: &Project| {
            let shared = project.visibility == Visibility::Project;
            project.custodians.contains(who.name()) || (shared && project.researchers.contains(who.name()))
        };
        let projects = self.projects.iter().filter(|(_, project)| open(project));
        Reach::Within {
            owner: who.name().clone(),
            projects: projects.map(|(name, _)| name.clone()).collect(),
        }
    }

    /// May `who` read `repository`, which belongs to `owner` if it exists?
    pub fn pull(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<PullPermit, Refusal> {
        let owns = owner == Some(who.name());
        let may = match repository.namespace() {
            Namespace::Run { project, .. } | Namespace::Results { project, .. } => {
                self.projects.get(project).is_some_and(|project| {
                    let member = project.researchers.contains(who.name());
                    let shared = project.visibility == Visibility::Project && owner.is_some();
                    project.custodians.contains(who.name()) || (member && (owns || shared))
                })
            }
            Namespace::Reserved => false,
            Namespace::Plain => owns || self.admins.contains(who.name()),
        };
        if may {
            Ok(PullPermit { repository: repository.clone() })
        } else {
            Err(Refusal::Unknown(repository.clone()))
        }
    }

    /// May `who` write to `repository`, which belongs to `owner` if it exists?
    pub fn push(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<PushPermit, Refusal> {
        let free = owner.is_none_or(|owner| owner == who.name());
        let permit = PushPermit {
            repository: repository.clone(),
            owner: owner.unwrap_or(who.name()).clone(),
            by: who.name().clone(),
        };
        match repository.namespace() {
            Namespace::Run { project, .. } => {
                let known = self.projects.get(project);
                if !known.is_some_and(|project| project.researchers.contains(who.name())) {
                    return Err(Refusal::Denied(format!(
                        "{} may not push to project `{project}`; {}",
                        who.name(),
                        self.projects_of(who)
                    )));
                }
                if repository.results().is_none() {
                    return Err(Refusal::Denied(
                        "this name is too long for its results to be pulled; choose a shorter one".into(),
                    ));
                }
                if free {
                    Ok(permit)
                } else {
                    Err(Refusal::Denied(format!(
                        "the name `{repository}` is taken by somebody else; choose another name under run/{project}/"
                    )))
                }
            }
            Namespace::Results { project, .. } => Err(Refusal::Denied(format!(
                "nobody pushes to results/; push to run/{project}/… and pull what comes out from here"
            ))),
            Namespace::Reserved => Err(Refusal::Denied(format!(
                "names under run/, results/, try/ and samples/ are Torno's own; {}",
                self.projects_of(who)
            ))),
            Namespace::Plain if free || self.admins.contains(who.name()) => Ok(permit),
            Namespace::Plain => Err(Refusal::Denied(format!(
                "the name `{repository}` is taken by somebody else; choose another"
            ))),
        }
    }

    /// May `who` delete in `repository`, which belongs to `owner` if it exists?
    pub fn delete(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<DeletePermit, Refusal> {
        let permit = DeletePermit { repository: repository.clone() };
        if self.admins.contains(who.name()) {
            return Ok(permit);
        }
        self.pull(who, repository, owner)?;
        let custodian = match repository.namespace() {
            Namespace::Run { project, .. } | Namespace::Results { project, .. } => {
                self.projects.get(project).is_some_and(|project| project.custodians.contains(who.name()))
            }
            Namespace::Reserved | Namespace::Plain => false,
        };
        if custodian || owner == Some(who.name()) {
            Ok(permit)
        } else {
            Err(Refusal::Denied(
                "only its owner, a custodian of the project or an admin may delete this".into(),
            ))
        }
    }

    /// One sentence on where someone may push, for those who tried elsewhere.
    fn projects_of(&self, who: &Identity) -> String {
        let names: Vec<String> = self
            .projects
            .iter()
            .filter(|(_, project)| project.researchers.contains(who.name()))
            .map(|(name, _)| format!("run/{name}/<name>:<tag>"))
            .collect();
        if names.is_empty() {
            "you are a researcher in no project yet; ask whoever runs this site".into()
        } else {
            format!("you may push to {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        name.parse().expect("user name")
    }

    fn policy(visibility: Visibility) -> Policy {
        let project = Project {
            researchers: ["ada", "bob"].map(user).into(),
            custodians: ["cora"].map(user).into(),
            visibility,
        };
        Policy {
            admins: ["root"].map(user).into(),
            projects: [("heart".parse().expect("project"), project)].into(),
        }
    }

    /// (who, repository, owner) → may pull, push, delete.
    #[test]
    fn every_role_in_every_namespace() {
        let table = [
            ("ada", "run/heart/x", Some("ada"), (true, true, true)),
            ("ada", "run/heart/x", None, (false, true, false)),
            ("bob", "run/heart/x", Some("ada"), (false, false, false)),
            ("cora", "run/heart/x", Some("ada"), (true, false, true)),
            ("root", "run/heart/x", Some("ada"), (false, false, true)),
            ("eve", "run/heart/x", Some("ada"), (false, false, false)),
            ("eve", "run/heart/x", None, (false, false, false)),
            ("ada", "run/liver/x", None, (false, false, false)),
            ("ada", "results/heart/x", Some("ada"), (true, false, true)),
            ("bob", "results/heart/x", Some("ada"), (false, false, false)),
            ("cora", "results/heart/x", Some("ada"), (true, false, true)),
            ("root", "results/heart/x", Some("ada"), (false, false, true)),
            ("ada", "results/heart/x", None, (false, false, false)),
            ("ada", "try/heart/x", None, (false, false, false)),
            ("root", "samples/heart", None, (false, false, true)),
            ("ada", "tools/x", None, (false, true, false)),
            ("ada", "tools/x", Some("ada"), (true, true, true)),
            ("bob", "tools/x", Some("ada"), (false, false, false)),
            ("root", "tools/x", Some("ada"), (true, true, true)),
        ];
        let policy = policy(Visibility::Owner);
        for (who, repository, owner, expected) in table {
            let identity = Identity::of(user(who));
            let name: RepositoryName = repository.parse().expect("name");
            let owner = owner.map(user);
            let found = (
                policy.pull(&identity, &name, owner.as_ref()).is_ok(),
                policy.push(&identity, &name, owner.as_ref()).is_ok(),
                policy.delete(&identity, &name, owner.as_ref()).is_ok(),
            );
            assert_eq!(found, expected, "{who} in {repository} of {owner:?}");
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
        let names = ["run/heart/x", "results/heart/x", "run/liver/x", "run/heart", "try/heart/x", "tools/x"];
        for (visibility, expected) in [(Visibility::Owner, 14), (Visibility::Project, 18)] {
            let policy = policy(visibility);
            let mut readable = 0;
            for (who, name, owner) in ["ada", "bob", "cora", "eve", "root"].iter().flat_map(|who| {
                let owners = names.iter().flat_map(|name| ["ada", "bob", "eve"].map(|owner| (*name, owner)));
                owners.map(|(name, owner)| (user(who), name, user(owner)))
            }) {
                let identity = Identity::of(who.clone());
                let name: RepositoryName = name.parse().expect("name");
                let within = match policy.reach(&identity) {
                    Reach::Everywhere => true,
                    Reach::Within { owner: own, projects } => {
                        let theirs = match name.namespace() {
                            Namespace::Run { project, .. } | Namespace::Results { project, .. } => {
                                projects.iter().any(|known| known.to_string() == project)
                            }
                            Namespace::Reserved | Namespace::Plain => false,
                        };
                        own == owner || theirs
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
        assert_eq!(few, Reach::Within { owner: user("ada"), projects: Vec::new() });
    }

    #[test]
    fn a_refusal_names_what_one_may_do_and_nothing_else() {
        let policy = policy(Visibility::Owner);
        let elsewhere = "run/liver/x".parse().expect("name");
        let refusal = policy.push(&Identity::of(user("ada")), &elsewhere, None).expect_err("refused");
        assert!(refusal.to_string().contains("run/heart/<name>:<tag>"), "{refusal}");
        let heart = "run/heart/x".parse().expect("name");
        let known = policy.push(&Identity::of(user("eve")), &heart, None).expect_err("refused").to_string();
        let unknown =
            policy.push(&Identity::of(user("eve")), &elsewhere, None).expect_err("refused").to_string();
        assert_eq!(known.replace("heart", "liver"), unknown, "known and unknown projects look alike");
    }

    #[test]
    fn unknown_and_forbidden_look_alike() {
        let policy = policy(Visibility::Owner);
        let name = "run/heart/x".parse().expect("name");
        let bob = Identity::of(user("bob"));
        assert_eq!(policy.pull(&bob, &name, Some(&user("ada"))), policy.pull(&bob, &name, None));
    }
}
