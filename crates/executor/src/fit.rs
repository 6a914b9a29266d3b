//! Which runtimes keep here what runs are promised. One task looks at them; what has not been found fit starts nothing, and
//! the runs of its projects wait in the queue and say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use torno_auth::ProjectName;
use torno_inside::Attack;
use torno_registry::Selection;

use crate::{
    Examination, ExecutorError, Gpus, Line, ProjectPolicy, Runtime, doctor, executor::Wait, life::Site,
    policy::runtimes,
};

/// How long after the start the host is looked at if nothing is to be run before.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How long after a look at a host that breaks a promise the next one is.
const AGAIN: Duration = Duration::from_mins(1);

/// What is known of the runtimes that projects ask for.
#[derive(Debug)]
pub(crate) struct Fit {
    accept: Vec<&'static Attack>,
    data: PathBuf,
    known: Mutex<Known>,
    /// Somebody looks for a run to start, of projects that may have changed.
    wanted: Notify,
    /// One more was found to be fit.
    more: Notify,
}

/// What was found out since all was forgotten last.
#[derive(Debug, Default)]
struct Known {
    /// The runtimes found fit, and whether their runs meet gVisor in place of the host's kernel.
    fit: BTreeMap<Option<Runtime>, bool>,
    /// How often all that was forgotten: what began before says nothing of now.
    forgotten: u64,
}

impl Fit {
    pub(crate) fn new(accept: Vec<&'static Attack>, data: &Path) -> Self {
        Self {
            accept,
            data: data.to_owned(),
            known: Mutex::default(),
            wanted: Notify::default(),
            more: Notify::default(),
        }
    }

    /// Whether runs of a runtime may be started.
    pub(crate) fn has(&self, runtime: Option<Runtime>) -> bool {
        self.known().fit.contains_key(&runtime)
    }

    /// Whether runs of a runtime that was found fit meet gVisor in place of the host's kernel.
    pub(crate) fn is_gvisor(&self, runtime: Option<Runtime>) -> bool {
        self.known().fit.get(&runtime).copied().unwrap_or_default()
    }

    /// The projects of which nothing may be started yet. Whoever looks at runtimes looks whether there are others.
    pub(crate) fn held(&self, projects: &BTreeMap<ProjectName, ProjectPolicy>) -> BTreeSet<ProjectName> {
        self.wanted.notify_one();
        of(projects, |runtime| !self.has(runtime))
    }

    /// Resolves when one more runtime has been found fit since this was last called. Cancelling it is harmless.
    pub(crate) async fn more(&self) {
        self.more.notified().await;
    }

    /// What was found out does not hold any more: the engine may have been set up anew.
    pub(crate) fn forget(&self) {
        let mut known = self.known();
        known.fit.clear();
        known.forgotten += 1;
        self.wanted.notify_one();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forgotten(&self) -> u64 {
        self.known().forgotten
    }

    /// Notes a runtime that was found fit by a look, unless all was forgotten since that began.
    fn note(&self, runtime: Option<Runtime>, gvisor: bool, began: u64) {
        let mut known = self.known();
        if known.forgotten == began {
            known.fit.insert(runtime, gvisor);
            self.more.notify_one();
        }
    }

    /// Looks at one runtime, and notes it if it is fit; nothing when told to stop.
    async fn look(
        &self,
        runtime: Option<Runtime>,
        site: &Site,
        stop: &CancellationToken,
    ) -> Result<Option<Examination>, ExecutorError> {
        // What it makes bears the number that no run has.
        let in_hand = site.hands.wait_for(doctor::run()?);
        let Some(_hand) = stop.run_until_cancelled(in_hand).await else { return Ok(None) };
        let (gpus, began) = (site.total.gpus, self.forgotten());
        let examination =
            doctor::examine_as(&site.engine, &site.instance, runtime, gpus, &self.data, stop).await?;
        if let Some(found) = &examination
            && found.forbidding(&self.accept).next().is_none()
        {
            self.note(runtime, found.gvisor, began);
        }
        Ok(examination)
    }

    /// Resolves when the last round of looks does not say how things stand any more.
    async fn outdated(&self, site: &Site, round: &Round) {
        loop {
            let projects = site.projects.load_full();
            let unknown = |runtime: &Option<Runtime>| !round.tried.contains(runtime) && !self.has(*runtime);
            if self.forgotten() != round.forgotten
                || runtimes(projects.values()).iter().any(unknown)
                || of(&projects, |runtime| round.unfit.contains(&runtime)) != round.noted
            {
                return;
            }
            self.wanted.notified().await;
        }
    }
}

/// What came of looking at every runtime that projects ask for and that was not known to be fit.
#[derive(Debug, Default)]
struct Round {
    /// Before how many times all that was known was forgotten.
    forgotten: u64,
    /// Those that were looked at in vain.
    tried: BTreeSet<Option<Runtime>>,
    /// Those of them that are not fit, as far as an engine that answers can tell.
    unfit: BTreeSet<Option<Runtime>>,
    /// The projects that ask for these.
    noted: BTreeSet<ProjectName>,
    /// Whether something failed that may go well at once.
    failed: bool,
}

/// Looks at every runtime that projects ask for until each keeps the mandatory promises that the configuration does not give
/// up, and at those that they ask for later, until told to stop. What a look makes in the engine, it removes before it stops.
pub(crate) async fn keep(site: &Site, stop: &CancellationToken) {
    let mut wait = Wait::default();
    if stop.run_until_cancelled(called_for(site)).await.is_none() {
        return;
    }
    loop {
        if stop.run_until_cancelled(site.reach()).await.is_none() {
            return;
        }
        let Some(mut round) = look_round(site, stop).await else { return };
        if let Err(error) = site.registry.note_unfit(round.noted.clone()).await {
            tracing::warn!(%error, "which runs wait for this host to be fit could not be noted; trying again");
            round.failed = true;
        }
        let again = async {
            if round.failed {
                return wait.next().await;
            }
            wait = Wait::default();
            if round.unfit.is_empty() { std::future::pending().await } else { sleep(AGAIN).await }
        };
        let next = async {
            tokio::select! {
                () = again => {}
                () = site.fit.outdated(site, &round) => {}
            }
        };
        if stop.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

/// Nothing when told to stop.
async fn look_round(site: &Site, stop: &CancellationToken) -> Option<Round> {
    let projects = site.projects.load_full();
    let mut round = Round { forgotten: site.fit.forgotten(), ..Round::default() };
    for runtime in runtimes(projects.values()).into_iter().filter(|runtime| !site.fit.has(*runtime)) {
        let since = Instant::now();
        match site.fit.look(runtime, site, stop).await {
            Ok(None) => return None,
            Ok(Some(examination)) if tell(site, &examination, since) => continue,
            Ok(Some(_)) => {}
            Err(error) => {
                tracing::error!(
                    %error,
                    runtime = runtime.map(Runtime::name),
                    "it could not be found out what this host keeps of what runs are promised, and none is started; trying \
                     again"
                );
                round.failed = true;
                if error.is_away() {
                    // That there is no engine is all that is known then, and told elsewhere.
                    round.tried.insert(runtime);
                    continue;
                }
            }
        }
        round.tried.insert(runtime);
        round.unfit.insert(runtime);
    }
    round.noted = of(&projects, |runtime| round.unfit.contains(&runtime));
    Some(round)
}

/// Resolves when there is something to run, or else a little after the start, which has better to do.
async fn called_for(site: &Site) {
    let waiting = site.registry.runs(Selection::Unfinished, 1).await;
    if waiting.is_ok_and(|waiting| waiting.is_empty()) {
        tokio::select! {
            () = site.fit.wanted.notified() => {}
            () = sleep(FIRST_LOOK) => {}
        }
    }
}

/// Says in the log what a look has brought; whether the runtime is fit.
fn tell(site: &Site, examination: &Examination, since: Instant) -> bool {
    let runtime = examination.runtime.map(Runtime::name);
    let mut forbidding = examination.forbidding(&site.fit.accept).peekable();
    if forbidding.peek().is_none() {
        tracing::info!(took = ?since.elapsed(), runtime, "this host keeps what runs are promised");
        if let Some(Gpus::NotGiven(why)) = &examination.gpus {
            tracing::error!(runtime, "runs that get GPUs will fail: {why}. `torno doctor` shows what to do");
        }
        return true;
    }
    for Line { attack, verdict } in forbidding {
        let Attack { name, promise, remedy, .. } = attack;
        tracing::error!(line = name, runtime, "not kept here: {promise} ({verdict}). {remedy}");
    }
    tracing::error!(
        runtime,
        "no run is started on this host by this runtime, and what is pushed stays queued: `torno doctor` shows every line, \
         and docs/SECURITY.md says what `executor.accept` is for. The next look is in {AGAIN:?}"
    );
    false
}

/// The projects whose runtime is one of these.
fn of(
    projects: &BTreeMap<ProjectName, ProjectPolicy>,
    is: impl Fn(Option<Runtime>) -> bool,
) -> BTreeSet<ProjectName> {
    projects.iter().filter(|(_, policy)| is(policy.runtime)).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_not_found_fit_is_held_and_looked_for() {
        let fit = Fit::new(Vec::new(), Path::new("/nowhere"));
        let policy = |runtime| ProjectPolicy { runtime, ..ProjectPolicy::default() };
        let name = |name: &str| name.parse::<ProjectName>().expect("a name");
        let projects =
            BTreeMap::from([(name("plain"), policy(None)), (name("sealed"), policy(Some(Runtime::Runsc)))]);
        assert_eq!(fit.held(&projects), BTreeSet::from([name("plain"), name("sealed")]));
        fit.wanted.notified().await;
        fit.note(None, false, 0);
        assert_eq!(fit.held(&projects), BTreeSet::from([name("sealed")]));
        fit.wanted.notified().await;
        fit.note(Some(Runtime::Runsc), true, 0);
        assert!(fit.held(&projects).is_empty());
        fit.forget();
        fit.wanted.notified().await;
        assert_eq!(fit.held(&projects).len(), 2, "an engine that was away is looked at again");
        fit.note(None, false, 0);
        assert_eq!(fit.held(&projects).len(), 2, "and a look that began before says nothing of it");
    }
}
