//! `torno runs cancel`, `retry`, `priority`, `pause` and `resume`. They write what is wanted into the database and tell
//! whoever serves or carries out runs; all of it works as well while nobody does.

use std::io::{self, Write as _};

use torno_auth::{ProjectPermit, RunControl, RunPermit};
use torno_oci::{Capacity, ProjectName, RunId};
use torno_registry::{Controlled, Pause, Registry, RegistryError, Wanted};

use super::{Failure, print};

/// Does the same to each of these runs and says what became of it. One that is left as it is keeps no other from it.
pub(super) async fn each(registry: &Registry, runs: &[RunId], control: RunControl) -> Result<(), Failure> {
    let mut left = Vec::new();
    for run in runs {
        let permit = RunPermit::of_data_directory(*run, control);
        match registry.control(&permit, registry.itself()).await {
            Ok(done) => print(io::stdout(), told(*run, &done).as_bytes())?,
            Err(error) => left.push(failure(*run, error)),
        }
    }
    match (left.len(), runs.len()) {
        (0, _) => Ok(()),
        (1, 1) => left.pop().map_or(Ok(()), Err),
        (some, all) => {
            for failure in left {
                // Whoever reads neither is told by the exit status.
                let _ = writeln!(io::stderr(), "torno: {failure}");
            }
            Err(Failure::Runs(some, all))
        }
    }
}

fn failure(run: RunId, error: RegistryError) -> Failure {
    match error {
        RegistryError::Left(left) if *left.why() == torno_registry::Left::Unknown => Failure::NoRun(run),
        error => Failure::Registry(error),
    }
}

fn told(run: RunId, done: &Controlled) -> String {
    match done {
        Controlled::Cancelled => format!("run {run} is cancelled; it had not begun\n"),
        Controlled::Stopping => {
            format!("run {run} is being stopped; `torno runs show {run}` tells when it is over\n")
        }
        Controlled::Retried { run: again, repository, tag } => {
            format!("run {again} is queued: it repeats run {run} ({repository}:{tag})\n")
        }
        Controlled::Prioritized(priority) => format!("run {run} has priority {priority}\n"),
    }
}

/// Starts nothing new of a project, or of any.
pub(super) async fn pause(registry: &Registry, project: Option<ProjectName>) -> Result<(), Failure> {
    let permit = ProjectPermit::of_data_directory(project.clone());
    let before = registry.pause(&permit, registry.itself()).await?;
    let what = what(project.as_ref());
    let text = match (before, project) {
        (Some(Pause { wanted, .. }), _) => format!("{what} had been paused before: by {}\n", who(&wanted)),
        (None, Some(project)) => format!(
            "{what} is paused: nothing new of it is started, what runs goes on; `torno runs resume {project}` ends that\n"
        ),
        (None, None) => {
            format!(
                "{what} is paused: nothing new is started, what runs goes on; `torno runs resume` ends that\n"
            )
        }
    };
    print(io::stdout(), text.as_bytes())
}

/// Lets a project, or the site, go on.
pub(super) async fn resume(registry: &Registry, project: Option<ProjectName>) -> Result<(), Failure> {
    let permit = ProjectPermit::of_data_directory(project.clone());
    let before = registry.resume(&permit, registry.itself()).await?;
    let what = what(project.as_ref());
    let text = match before {
        Some(Pause { wanted, .. }) => format!("{what} goes on; it had been paused by {}\n", who(&wanted)),
        None => format!("{what} was not paused\n"),
    };
    let site = registry.pauses().await?.into_iter().find(|pause| pause.project.is_none());
    let further = match (site, project) {
        (Some(Pause { wanted, .. }), Some(_)) => {
            format!("but the whole site is paused by {}; `torno runs resume` ends that\n", who(&wanted))
        }
        _ => String::new(),
    };
    print(io::stdout(), (text + &further).as_bytes())
}

fn what(project: Option<&ProjectName>) -> String {
    project.map_or_else(|| "the site".into(), |project| format!("project `{project}`"))
}

/// Who wanted something, for the admin, who may know.
pub(super) fn who(wanted: &Wanted) -> String {
    let at = wanted.at.strftime("%Y-%m-%d %H:%M:%SZ");
    match (&wanted.by, wanted.capacity) {
        (Some(name), Capacity::Owner) => format!("{name}, the owner, at {at}"),
        (Some(name), Capacity::Custodian) => format!("{name}, a custodian, at {at}"),
        (Some(name), Capacity::Admin) => format!("{name}, an admin, at {at}"),
        (None, _) => format!("a command on this machine at {at}"),
    }
}
