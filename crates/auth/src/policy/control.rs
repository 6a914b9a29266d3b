//! Who has a say about what was pushed: stopping a run, repeating it, moving it up, pausing a project.

use torno_oci::{Capacity, Namespace, ProjectName, RepositoryName, RunId, UserName};

use crate::{Action, Identity, ProjectPermit, RunControl, RunPermit};

use super::{Policy, Refusal, Role};

impl Policy {
    /// The right of `who` to do this to a run. `of` is the repository of its image and whose the run is; `None` when there
    /// is no such run, which nobody can tell from one that is none of their business.
    pub fn control(
        &self,
        who: &Identity,
        control: RunControl,
        run: RunId,
        of: Option<(&RepositoryName, &UserName)>,
    ) -> Result<RunPermit, Refusal> {
        Self::controls_something(who)?;
        let unknown = || Refusal::UnknownRun(run);
        let (repository, owner) = of.ok_or_else(unknown)?;
        let capacity = self.capacity(who, repository, Some(owner)).ok_or_else(unknown)?;
        if who.limit().is_some_and(|limit| !limit.allows(Action::Control, repository)) {
            return Err(unknown());
        }
        let capacity = match control {
            // Whoever pushed it does this in their own name, whatever else they are.
            RunControl::Cancel | RunControl::Retry if who.is(owner) => Capacity::Owner,
            RunControl::Prioritize(_) if capacity == Capacity::Owner => {
                return Err(Refusal::Denied(
                    "only a custodian of the project or an admin may say which run goes first".into(),
                ));
            }
            _ => capacity,
        };
        self.decide(who, Action::Control, repository, Some(owner))?;
        Ok(RunPermit { run, control, capacity, by: who.name().cloned() })
    }

    /// The right of `who` to pause a project and to let it go on.
    pub fn pause(&self, who: &Identity, name: &ProjectName) -> Result<ProjectPermit, Refusal> {
        Self::controls_something(who)?;
        let unknown = || Refusal::UnknownProject(name.clone());
        let project = self.projects.get(name).ok_or_else(unknown)?;
        let capacity = match self.role(who, name.as_str(), None) {
            _ if self.is_admin(who) => Capacity::Admin,
            Role::Custodian => Capacity::Custodian,
            _ if self.is_member(who, project) => {
                return Err(Refusal::Denied(
                    "only a custodian of the project or an admin may pause it or let it go on".into(),
                ));
            }
            _ => return Err(unknown()),
        };
        let mut of_project = [format!("run/{name}/any"), format!("try/{name}/any")].into_iter();
        let whole = |limit: &crate::Scope| {
            of_project.all(|any| any.parse().is_ok_and(|any| limit.allows(Action::Control, &any)))
        };
        if !who.limit().is_none_or(whole) {
            return Err(unknown());
        }
        // A bearer token speaks of repositories: one of the project is enough, since it is asked for by the same person.
        match (who.access(), format!("run/{name}/any").parse()) {
            (Some(access), Ok(project)) if !access.controls_in(name) => {
                Err(Refusal::OutOfScope(Action::Control, project))
            }
            _ => Ok(ProjectPermit { project: Some(name.clone()), capacity, by: who.name().cloned() }),
        }
    }

    /// As what somebody has a say about the runs of a repository that is `owner`'s, if they have any.
    pub(super) fn capacity(
        &self,
        who: &Identity,
        repository: &RepositoryName,
        owner: Option<&UserName>,
    ) -> Option<Capacity> {
        let (Namespace::Run { project, .. } | Namespace::Try { project, .. }) = repository.namespace() else {
            return None;
        };
        match self.role(who, project, owner) {
            _ if self.is_admin(who) => Some(Capacity::Admin),
            Role::Custodian => Some(Capacity::Custodian),
            Role::Owner => Some(Capacity::Owner),
            Role::Colleague | Role::Stranger | Role::Outsider => None,
        }
    }

    /// A token that is good for no run at all is told so before anything is said of one.
    fn controls_something(who: &Identity) -> Result<(), Refusal> {
        match who.limit() {
            Some(limit) if !limit.controls() => {
                Err(Refusal::Denied(format!("this token is good for {limit} and nothing else")))
            }
            _ => Ok(()),
        }
    }
}
