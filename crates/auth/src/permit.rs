//! Permits: what the policy has allowed. Only the policy makes them, so an operation that demands one cannot be reached
//! without it.

use torno_oci::{Capacity, DatasetName, Namespace, Priority, ProjectName, RepositoryName, RunId, UserName};

/// The right to read one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullPermit {
    pub(crate) repository: RepositoryName,
}

/// The right to write to one repository, in somebody's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPermit {
    pub(crate) repository: RepositoryName,
    pub(crate) owner: UserName,
    pub(crate) by: UserName,
}

/// The right to delete in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletePermit {
    pub(crate) repository: RepositoryName,
}

/// What can be done to a run after its push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunControl {
    /// Ending it.
    Cancel,
    /// Running its image again, once it is over.
    Retry,
    /// Saying whether it goes before others.
    Prioritize(Priority),
}

/// The right to do one thing to one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPermit {
    pub(crate) run: RunId,
    pub(crate) control: RunControl,
    pub(crate) capacity: Capacity,
    pub(crate) by: Option<UserName>,
}

/// The right to pause a project, or the whole site, and to let it go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectPermit {
    pub(crate) project: Option<ProjectName>,
    pub(crate) capacity: Capacity,
    pub(crate) by: Option<UserName>,
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
    /// What the result of a run is published with: only into `results/` and `try-results/`, in the name of the run's owner.
    pub fn publish(results: &RepositoryName, owner: &UserName) -> Option<Self> {
        match results.namespace() {
            Namespace::Results { .. } | Namespace::TryResults { .. } => {
                Some(Self { repository: results.clone(), owner: owner.clone(), by: owner.clone() })
            }
            _ => None,
        }
    }

    /// What a sample is published with. Nobody owns it whom anything is charged to.
    ///
    /// # Panics
    ///
    /// Never: the name of a dataset is a component of a repository's name.
    pub fn sample(dataset: &DatasetName) -> Self {
        let repository = format!("samples/{dataset}").parse().expect("a component of a repository's name");
        let owner: UserName = "torno".parse().expect("a user name");
        Self { repository, owner: owner.clone(), by: owner }
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

impl RunPermit {
    /// For whoever has the data directory itself.
    pub fn of_data_directory(run: RunId, control: RunControl) -> Self {
        Self { run, control, capacity: Capacity::Admin, by: None }
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// What may be done to it.
    pub fn control(&self) -> RunControl {
        self.control
    }

    /// As what.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// By whom; `None` for a command on the machine.
    pub fn by(&self) -> Option<&UserName> {
        self.by.as_ref()
    }
}

impl ProjectPermit {
    /// For whoever has the data directory itself; without a project, it is of the whole site.
    pub fn of_data_directory(project: Option<ProjectName>) -> Self {
        Self { project, capacity: Capacity::Admin, by: None }
    }

    /// The project; `None` for the whole site.
    pub fn project(&self) -> Option<&ProjectName> {
        self.project.as_ref()
    }

    /// As what.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// By whom; `None` for a command on the machine.
    pub fn by(&self) -> Option<&UserName> {
        self.by.as_ref()
    }
}
