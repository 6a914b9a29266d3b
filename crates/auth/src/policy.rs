//! The one place that decides who may do what. Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};

use torno_oci::{DatasetName, Namespace, RepositoryName, RunId};

use crate::{
    Action, DeletePermit, Identity, Members, Patterns, ProjectName, PullPermit, PushPermit, UserName,
};

mod control;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

/// Who belongs where. Made from the configuration, replaced as a whole when that is reloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// People who may delete anywhere and push and pull outside the projects' namespaces.
    pub admins: Members,
    /// Names that belong to machines: they log in with tokens only.
    pub robots: BTreeSet<UserName>,
    /// The projects.
    pub projects: BTreeMap<ProjectName, Project>,
    /// Who may do what outside the projects: the first rule whose pattern fits a repository judges it.
    pub access: Vec<Access>,
    /// What everybody who is no admin may keep.
    pub quota: Quota,
}

/// How much may be kept, and how much may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of blobs and manifests, those that several repositories share counted once; `None`: as many as fit.
    pub bytes: Option<u64>,
    /// Repositories; `None`: as many as fit.
    pub repositories: Option<u64>,
    /// Runs that wait in the queue; `None`: as many as they like.
    pub queued_runs: Option<u64>,
    /// Runs that are queued within 24 hours; `None`: as many as they like.
    pub daily_runs: Option<u64>,
}

/// Who is charged for what a repository holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Charged {
    /// Its owner, for all that they own.
    User(UserName),
    /// Its project, for its images and results.
    Project(ProjectName),
}

/// Who belongs to a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Project {
    /// Those who push images and pull their results.
    pub researchers: Members,
    /// Machines that do the same.
    pub robots: BTreeSet<UserName>,
    /// Those who answer for the data: they may pull every image and result of the project.
    pub custodians: Members,
    /// What the researchers see of each other.
    pub visibility: Visibility,
    /// What its repositories may keep together.
    pub quota: Quota,
    /// The data that its runs see.
    pub datasets: BTreeMap<DatasetName, Sample>,
    /// What becomes of an image that is pushed again under the same tag.
    pub rerun: Rerun,
}

/// Whether a dataset has a sample, which may be given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// It has one.
    Given,
    /// It has none, so nobody can try a program on it.
    None,
}

/// What becomes of an image that is pushed again under the same tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rerun {
    /// It runs again.
    #[default]
    Always,
    /// It does not while its run is queued or under way, or has succeeded and its result is there.
    Changed,
}

/// Who may do what in repositories outside the projects. Whose they are counts no longer then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which repositories.
    pub repositories: Patterns,
    /// Who may read them, besides those who may push or delete.
    pub pull: Members,
    /// Who may write to them.
    pub push: Members,
    /// Who may delete in them.
    pub delete: Members,
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

/// What somebody is in a project, to a repository of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Custodian,
    /// A researcher or robot whose the repository is.
    Owner,
    /// A researcher or robot who may see what others own.
    Colleague,
    /// A researcher or robot who may not.
    Stranger,
    /// Nobody in it.
    Outsider,
}

/// Why something may not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// To this person the repository does not exist; whether it does is none of their business.
    #[error("repository `{0}` is not known here, or not to you")]
    Unknown(RepositoryName),
    /// The same of a run.
    #[error("run {0} is not known here, or not to you")]
    UnknownRun(RunId),
    /// The same of a project.
    #[error("project `{0}` is not known here, or not to you")]
    UnknownProject(ProjectName),
    /// The person may know of it and is told what they may do instead.
    #[error("{0}")]
    Denied(String),
    /// The person might, but the bearer token they came with was not asked to be good for it.
    #[error("this token is not good for `{0}` in `{1}`; log in again, or ask for one that is")]
    OutOfScope(Action, RepositoryName),
}

/// Where to look for what somebody may read. Not a right to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In every repository.
    Everywhere,
    /// Among what they own, what these projects have, and perhaps all that is in no project.
    Within {
        /// They themselves, if they have logged in.
        owner: Option<UserName>,
        /// The projects in which they may read what others own.
        projects: Vec<ProjectName>,
        /// The datasets whose samples they may have.
        samples: Vec<DatasetName>,
        /// What is in no project.
        plain: Plain,
    },
}

/// Which of the repositories that are in no project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// One's own alone.
    Own,
    /// All: a rule lets one read some that others own.
    All,
}

impl Policy {
    /// May `who` do this to `repository`, which belongs to `owner` if it exists?
    pub fn decide(
        &self,
        who: &Identity,
        action: Action,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<(), Refusal> {
        // First, so that what is said of the repository is not said to a token that has no business with it.
        if let Some(limit) = who.limit()
            && !limit.allows(action, repository)
        {
            return Err(Refusal::Denied(format!("this token is good for {limit} and nothing else")));
        }
        match action {
            Action::Pull if self.may_pull(who, repository, owner) => {}
            Action::Push => self.may_push(who, repository, owner)?,
            Action::Delete => self.may_delete(who, repository, owner)?,
            Action::Control if self.capacity(who, repository, owner).is_some() => {}
            Action::Pull | Action::Control => return Err(Refusal::Unknown(repository.clone())),
        }
        // Last, since whoever is told this comes again with a better token, which is of no use to those refused above.
        match who.access() {
            Some(access) if !access.allows(action, repository) => {
                Err(Refusal::OutOfScope(action, repository.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The right of `who` to read `repository`, which belongs to `owner` if it exists.
    pub fn pull(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<PullPermit, Refusal> {
        self.decide(who, Action::Pull, repository, owner)?;
        Ok(PullPermit { repository: repository.clone() })
    }

    /// The right of `who` to write to `repository`, which belongs to `owner` if it exists.
    pub fn push(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<PushPermit, Refusal> {
        self.decide(who, Action::Push, repository, owner)?;
        let by = who.name().ok_or_else(|| Refusal::Denied("log in to push".into()))?;
        Ok(PushPermit { repository: repository.clone(), owner: owner.unwrap_or(by).clone(), by: by.clone() })
    }

    /// The right of `who` to delete in `repository`, which belongs to `owner` if it exists.
    pub fn delete(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<DeletePermit, Refusal> {
        self.decide(who, Action::Delete, repository, owner)?;
        Ok(DeletePermit { repository: repository.clone() })
    }

    /// Whether `who` is shown `repository`, which belongs to `owner`, in the catalog. It is asked for as a whole, so that a
    /// bearer token's access to one repository or another says nothing here.
    pub fn lists(&self, who: &Identity, repository: &RepositoryName, owner: &UserName) -> bool {
        who.limit().is_none_or(|limit| limit.allows(Action::Pull, repository))
            && self.may_pull(who, repository, Some(owner))
    }

    /// Which of these somebody may do, for the bearer token that they ask for (Token Authentication Specification:
    /// Requesting a Token).
    pub fn granted(
        &self,
        who: &Identity,
        wished: &BTreeSet<Action>,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> BTreeSet<Action> {
        let may = |action, owner| self.decide(who, action, repository, owner).is_ok();
        // Whoever pushes to a name that nobody has yet owns it from then on, with the same token.
        let owner = owner.or_else(|| who.name().filter(|_| may(Action::Push, None)));
        wished.iter().copied().filter(|action| may(*action, owner)).collect()
    }

    /// Whether anybody may read something without logging in.
    pub fn admits_anonymous(&self) -> bool {
        let nobody = Identity::anonymous();
        self.access.iter().any(|rule| rule.reads(&nobody))
    }

    fn may_pull(&self, who: &Identity, repository: &RepositoryName, owner: Option<&UserName>) -> bool {
        match repository.namespace() {
            Namespace::Run { project, .. }
            | Namespace::Results { project, .. }
            | Namespace::Try { project, .. }
            | Namespace::TryResults { project, .. } => {
                matches!(self.role(who, project, owner), Role::Custodian | Role::Owner | Role::Colleague)
            }
            Namespace::Sample { dataset } => self.may_have_sample(who, dataset),
            Namespace::Reserved => false,
            Namespace::Plain if self.is_admin(who) => true,
            Namespace::Plain => match self.rule(repository) {
                Some(rule) => rule.reads(who),
                None => owner.is_some_and(|owner| who.is(owner)),
            },
        }
    }

    fn may_push(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<(), Refusal> {
        let free = owner.is_none_or(|owner| who.is(owner));
        let denied = |why: String| Err(Refusal::Denied(why));
        match repository.namespace() {
            namespace @ (Namespace::Run { project, .. } | Namespace::Try { project, .. }) => {
                let known = self.projects.get(project).filter(|project| self.is_member(who, project));
                let Some(known) = known else {
                    return denied(format!(
                        "{who} may not push to project `{project}`; {}",
                        self.where_to_push(who)
                    ));
                };
                let kind = if matches!(namespace, Namespace::Try { .. }) { "try" } else { "run" };
                if let (Some(dataset), "try") = (known.without_sample(), kind) {
                    return denied(format!(
                        "nothing can be tried in project `{project}`: its dataset `{dataset}` has no sample; push to \
                         run/{project}/…, or ask the site for a sample"
                    ));
                }
                if repository.results().is_none() {
                    return denied(
                        "this name is too long for its results to be pulled; choose a shorter one".into(),
                    );
                }
                if free {
                    return Ok(());
                }
                denied(format!(
                    "the name `{repository}` is taken by somebody else; choose another name under {kind}/{project}/"
                ))
            }
            Namespace::Results { project, .. } => denied(format!(
                "nobody pushes to results/; push to run/{project}/… and pull what comes out from here"
            )),
            Namespace::TryResults { project, .. } => denied(format!(
                "nobody pushes to try-results/; push to try/{project}/… and pull what comes out from here"
            )),
            Namespace::Sample { .. } | Namespace::Reserved => denied(format!(
                "names under run/, results/, try/, try-results/ and samples/ are Torno's own; {}",
                self.where_to_push(who)
            )),
            Namespace::Plain if self.is_admin(who) => Ok(()),
            Namespace::Plain => match self.rule(repository) {
                Some(rule) if rule.push.contains(who) && who.name().is_some() => Ok(()),
                Some(_) => {
                    denied(format!("{who} may not push to `{repository}`; {}", self.where_to_push(who)))
                }
                None if who.name().is_none() => denied("log in to push".into()),
                None if free => Ok(()),
                None => denied(format!("the name `{repository}` is taken by somebody else; choose another")),
            },
        }
    }

    fn may_delete(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Result<(), Refusal> {
        if self.is_admin(who) {
            return Ok(());
        }
        if !self.may_pull(who, repository, owner) {
            return Err(Refusal::Unknown(repository.clone()));
        }
        let may = match repository.namespace() {
            Namespace::Run { project, .. }
            | Namespace::Results { project, .. }
            | Namespace::Try { project, .. }
            | Namespace::TryResults { project, .. } => {
                matches!(self.role(who, project, owner), Role::Custodian | Role::Owner)
            }
            Namespace::Sample { .. } | Namespace::Reserved => false,
            Namespace::Plain => match self.rule(repository) {
                Some(rule) => rule.delete.contains(who) && who.name().is_some(),
                None => owner.is_some_and(|owner| who.is(owner)),
            },
        };
        if may {
            return Ok(());
        }
        Err(Refusal::Denied(match (repository.namespace(), self.rule(repository)) {
            (Namespace::Plain, Some(_)) => {
                "only an admin, or whom the rule for these names lists, may delete this".into()
            }
            _ => "only its owner, a custodian of the project or an admin may delete this".into(),
        }))
    }

    /// Whether somebody belongs to a project that has a dataset with a sample.
    fn may_have_sample(&self, who: &Identity, dataset: &str) -> bool {
        let has = |project: &Project| project.datasets.get(dataset) == Some(&Sample::Given);
        let mut having = self.projects.values().filter(|project| has(project)).peekable();
        (self.is_admin(who) && having.peek().is_some())
            || having.any(|project| {
                self.is_member(who, project) || (project.custodians.contains(who) && !self.is_robot(who))
            })
    }

    fn is_admin(&self, who: &Identity) -> bool {
        self.admins.contains(who) && !self.is_robot(who)
    }

    fn is_robot(&self, who: &Identity) -> bool {
        who.name().is_some_and(|name| self.robots.contains(name))
    }

    /// Whether somebody pushes images of a project.
    fn is_member(&self, who: &Identity, project: &Project) -> bool {
        match who.name() {
            Some(name) if self.robots.contains(name) => project.robots.contains(name),
            _ => project.researchers.contains(who),
        }
    }

    fn role(&self, who: &Identity, project: &str, owner: Option<&UserName>) -> Role {
        let Some(project) = self.projects.get(project) else { return Role::Outsider };
        if project.custodians.contains(who) && !self.is_robot(who) {
            return Role::Custodian;
        }
        if !self.is_member(who, project) {
            return Role::Outsider;
        }
        match owner {
            Some(owner) if who.is(owner) => Role::Owner,
            Some(_) if project.visibility == Visibility::Project => Role::Colleague,
            _ => Role::Stranger,
        }
    }

    /// The rule that judges a repository outside the projects.
    fn rule(&self, repository: &RepositoryName) -> Option<&Access> {
        self.access.iter().find(|rule| rule.repositories.fit(repository.as_str()))
    }

    /// Where to look for what `who` may read. [`Policy::pull`] refuses them whatever is elsewhere; what is there it may
    /// refuse or not.
    pub fn reach(&self, who: &Identity) -> Reach {
        if self.is_admin(who) {
            return Reach::Everywhere;
        }
        let open = |project: &Project| {
            let shared = project.visibility == Visibility::Project;
            project.custodians.contains(who) || (shared && self.is_member(who, project))
        };
        let projects = self.projects.iter().filter(|(_, project)| open(project));
        let some = self.access.iter().any(|rule| rule.reads(who));
        let datasets: BTreeSet<_> =
            self.projects.values().flat_map(|project| project.datasets.keys()).collect();
        let samples = datasets.into_iter().filter(|name| self.may_have_sample(who, name.as_str()));
        Reach::Within {
            owner: who.name().cloned(),
            projects: projects.map(|(name, _)| name.clone()).collect(),
            samples: samples.cloned().collect(),
            plain: if some { Plain::All } else { Plain::Own },
        }
    }

    /// Who is charged for a push to `repository`, which belongs to `owner`, and what they may keep. Results are never
    /// refused, since the run that they come from is over, nor are samples, which are the site's.
    pub fn quotas(&self, repository: &RepositoryName, owner: &UserName) -> Vec<(Charged, Quota)> {
        let namespace = repository.namespace();
        let own = matches!(
            namespace,
            Namespace::Results { .. } | Namespace::TryResults { .. } | Namespace::Sample { .. }
        );
        if own {
            return Vec::new();
        }
        let mut quotas = Vec::new();
        if !self.admins.users.contains(owner) && self.quota != Quota::default() {
            quotas.push((Charged::User(owner.clone()), self.quota));
        }
        if let Some(project) = namespace.project()
            && let Some((name, project)) = self.projects.get_key_value(project)
            && project.quota != Quota::default()
        {
            quotas.push((Charged::Project(name.clone()), project.quota));
        }
        quotas
    }

    /// Whether somebody may know what is said of a project: one of its people, with a token that is good for it, if they
    /// came with one that is good for some things only.
    pub fn knows_project(&self, who: &Identity, name: &ProjectName) -> bool {
        let Some(project) = self.projects.get(name) else { return false };
        let good = |kind: &str, limit: &crate::Scope| {
            let any = format!("{kind}/{name}/any").parse();
            any.is_ok_and(|any| [Action::Push, Action::Pull].iter().any(|action| limit.allows(*action, &any)))
        };
        let belongs =
            self.is_member(who, project) || (project.custodians.contains(who) && !self.is_robot(who));
        belongs && who.limit().is_none_or(|limit| good("run", limit) || good("try", limit))
    }

    /// What becomes of an image that is pushed again to the same tag of `repository`.
    pub fn rerun(&self, repository: &RepositoryName) -> Rerun {
        match repository.namespace() {
            Namespace::Run { project, .. } | Namespace::Try { project, .. } => {
                self.projects.get(project).map(|project| project.rerun)
            }
            _ => None,
        }
        .unwrap_or_default()
    }

    /// What somebody is here and where they may push, for themselves.
    pub fn standing(&self, who: &Identity) -> Standing {
        let among = |listed: fn(&Self, &Identity, &Project) -> bool| -> Vec<ProjectName> {
            let projects = self.projects.iter().filter(|(_, project)| listed(self, who, project));
            projects.map(|(name, _)| name.clone()).collect()
        };
        let researcher = among(Self::is_member);
        let kinds = |name: &ProjectName| {
            let tried = self.projects.get(name).filter(|project| project.without_sample().is_none());
            std::iter::once("run").chain(tried.map(|_| "try"))
        };
        let mut push: Vec<String> = researcher
            .iter()
            .flat_map(|project| kinds(project).map(move |kind| format!("{kind}/{project}/<name>:<tag>")))
            .collect();
        let named = who.name().is_some();
        let rules = self.access.iter().filter(|rule| named && rule.push.contains(who));
        push.extend(rules.map(|rule| rule.repositories.to_string()));
        Standing {
            admin: self.is_admin(who),
            robot: self.is_robot(who),
            researcher,
            custodian: among(|this, who, project| project.custodians.contains(who) && !this.is_robot(who)),
            push,
        }
    }

    /// One sentence on where someone may push, for those who tried elsewhere.
    fn where_to_push(&self, who: &Identity) -> String {
        let Standing { push, .. } = self.standing(who);
        if push.is_empty() {
            "you are a researcher in no project yet; ask whoever runs this site".into()
        } else {
            format!("you may push to {}", push.join(", "))
        }
    }
}

/// What somebody is at a site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether they are an admin.
    pub admin: bool,
    /// Whether they are a machine.
    pub robot: bool,
    /// The projects whose images they push.
    pub researcher: Vec<ProjectName>,
    /// The projects whose data they answer for.
    pub custodian: Vec<ProjectName>,
    /// Names and patterns of repositories that they may push to.
    pub push: Vec<String>,
}

impl Project {
    /// A dataset that has no sample, if there is one.
    fn without_sample(&self) -> Option<&DatasetName> {
        self.datasets.iter().find(|(_, sample)| **sample == Sample::None).map(|(name, _)| name)
    }
}

impl Access {
    /// Whether somebody may read what this rule judges. Whoever writes or deletes must see what is there.
    fn reads(&self, who: &Identity) -> bool {
        self.pull.contains(who)
            || (who.name().is_some() && (self.push.contains(who) || self.delete.contains(who)))
    }
}
