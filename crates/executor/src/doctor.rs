//! What the engine's host keeps of what runs are promised, found out by breaking it: the probe's attacks, in a container
//! that is planned and made as a run's is.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use bytesize::ByteSize;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use torno_inside::{ATTACKS, Attack, PROBE};
use torno_oci::{RunConfig, RunId};

use crate::{
    Dataset, ExecutorError, Limits, ProjectPolicy,
    engine::{Engine, Fact, preparation_name},
    instance::Instance,
    plan::{Plan, Subject},
};

/// How long the attacks may take, all of them: they take a second, and one that hangs is ended after ten by the probe.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long what was made may take to go: long enough for any engine that works, short enough for whoever stops Torno.
const TIDYING: Duration = Duration::from_secs(10);

/// What the probe prints at most: a line for each attack.
const SAID: u64 = 64 * 1024;

/// Less than what the probe takes to be without a bound (`programs/probe/limits.rs`), and little enough for any host.
const LIMITS: Limits = Limits {
    cpus: crate::Cpus::ONE,
    memory: ByteSize::mib(64),
    pids: 64,
    time: PATIENCE,
    output: ByteSize::mib(1),
    entries: 1,
    depth: 1,
    tmp: ByteSize::mib(16),
    log: ByteSize::b(SAID),
};

/// What was found out.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Every promise, in the order of the table of attacks.
    pub lines: Vec<Line>,
    /// What the engine says of itself.
    pub facts: Vec<Fact>,
}

/// A promise and what became of it.
#[derive(Clone, Debug)]
pub struct Line {
    /// The attack that tests it.
    pub attack: &'static Attack,
    /// Whether the promise was kept.
    pub verdict: Verdict,
}

/// What came of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It failed: the promise was kept.
    Kept,
    /// It succeeded; how that showed.
    Broken(String),
    /// It could not be tried; why.
    NotTried(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::Broken(words) => write!(f, "broken: {words}"),
            Self::NotTried(words) => write!(f, "not tried: {words}"),
        }
    }
}

impl Line {
    /// Whether no run may start because of it. A mandatory promise of which nothing is known is as good as broken.
    pub fn forbids_runs(&self, accepted: &[&'static Attack]) -> bool {
        self.attack.mandatory && self.verdict != Verdict::Kept && !accepted.contains(&self.attack)
    }
}

impl Examination {
    /// The lines because of which no run may start.
    pub fn forbidding(&self, accepted: &[&'static Attack]) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.forbids_runs(accepted))
    }
}

/// Examines the host of the engine behind a socket, or stops when told to, and then tells nothing. `data` is the data
/// directory: a folder in it, which is removed again, stands for confidential data, since the engine sees it where it
/// sees what else runs are given.
///
/// Cancelled otherwise, it leaves a container and a volume, which nobody looks for.
pub async fn examine(
    socket: &Path,
    data: &Path,
    stop: &CancellationToken,
) -> Result<Option<Examination>, ExecutorError> {
    examine_as(&Engine::new(socket), &Instance::draw()?, data, stop).await
}

/// The same as one of this instance: what it leaves when it is cut off is found as what a run leaves is.
pub(crate) async fn examine_as(
    engine: &Engine,
    instance: &Instance,
    data: &Path,
    stop: &CancellationToken,
) -> Result<Option<Examination>, ExecutorError> {
    let data = StandIn::make_in(data).map_err(ExecutorError::io(data))?;
    let mut steps = Box::pin(steps(engine, instance, data.0.path(), stop));
    // A call that is given up may still be carried out, after everything has been removed.
    let given_up = async {
        stop.cancelled().await;
        tokio::time::sleep(TIDYING).await;
    };
    let found = tokio::select! {
        found = &mut steps => found,
        () = given_up => Ok(None),
    };
    let name = instance.container(run()?);
    if let Ok(cleared) = timeout(TIDYING, clear(engine, &name)).await {
        cleared?;
    } else {
        tracing::warn!(container = name, "the engine has not removed what looked at its host");
    }
    found
}

/// What is done with the engine, one after the other, as far as nobody says to stop.
async fn steps(
    engine: &Engine,
    instance: &Instance,
    data: &Path,
    stop: &CancellationToken,
) -> Result<Option<Examination>, ExecutorError> {
    let facts = engine.facts().await?;
    let image = engine.program("probe", PROBE).await?;
    let plan = plan(instance, &image, data)?;
    clear(engine, &plan.name).await?;
    if stop.is_cancelled() {
        return Ok(None);
    }
    engine.create(&plan).await?;
    if stop.is_cancelled() {
        return Ok(None);
    }
    engine.start(&plan.name).await?;
    // Waiting changes nothing, so it can be given up at any time.
    match stop.run_until_cancelled(timeout(PATIENCE, engine.wait(&plan.name))).await {
        None => return Ok(None),
        Some(Ok(ended)) => ended?,
        Some(Err(_)) => engine.kill(&plan.name).await?,
    }
    let said = engine.logs(&plan.name, SAID).await?.stdout;
    Ok(Some(Examination { lines: lines(&String::from_utf8_lossy(&said)), facts }))
}

/// A number that no run has.
fn run() -> Result<RunId, ExecutorError> {
    RunId::new(i64::MAX.unsigned_abs()).ok_or(ExecutorError::Run("a number was none"))
}

/// A run like any other.
fn plan(instance: &Instance, image: &str, data: &Path) -> Result<Plan, ExecutorError> {
    let policy = ProjectPolicy {
        datasets: vec![Dataset::folder("probe", data)],
        limits: LIMITS,
        ..ProjectPolicy::default()
    };
    let nothing = RunConfig::default();
    let project = "probe".parse().map_err(|_| ExecutorError::Run("a name was none"))?;
    let subject = Subject { instance, run: run()?, attempt: 1, project: &project, image };
    Plan::new(&subject, &nothing, &policy).map_err(|_| ExecutorError::Run("the probe cannot be planned"))
}

/// The container and the volume of a run have one name.
async fn clear(engine: &Engine, name: &str) -> Result<(), ExecutorError> {
    engine.remove_container(&preparation_name(name)).await?;
    engine.remove_container(name).await?;
    engine.remove_volume(name).await?;
    Ok(())
}

/// Reads what the probe said. What it did not speak of was not tried.
fn lines(said: &str) -> Vec<Line> {
    let verdict = |line: &str| {
        let (word, rest) = line.split_once(' ')?;
        let (name, words) = rest.split_once(": ").unwrap_or((rest, ""));
        let words = words.to_owned();
        let verdict = match word {
            "kept" => Verdict::Kept,
            "broken" => Verdict::Broken(words),
            "unknown" => Verdict::NotTried(words),
            _ => return None,
        };
        Some((name.to_owned(), verdict))
    };
    let mut told: BTreeMap<String, Verdict> = said.lines().filter_map(verdict).collect();
    let silent = || Verdict::NotTried("the probe ended before it".to_owned());
    ATTACKS
        .iter()
        .map(|attack| Line { attack, verdict: told.remove(attack.name).unwrap_or_else(silent) })
        .collect()
}

/// A folder in place of data: whoever runs may read it, as they may real data.
struct StandIn(TempDir);

impl StandIn {
    /// Blocks, for as long as it takes to make a folder and a file.
    fn make_in(data: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("probe-").tempdir_in(data)?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
        let file = folder.path().join("data");
        fs::write(&file, "1,2,3\n")?;
        fs::set_permissions(file, Permissions::from_mode(0o666))?;
        Ok(Self(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_probe_says_is_read_line_by_line() {
        let said = "kept write-root\nbroken seccomp: Seccomp is 0\nunknown memory: signal: 9\nbroken dns\nnonsense\n\
            kept nothing-known\nmaybe tcp\n";
        let found: BTreeMap<_, _> =
            lines(said).into_iter().map(|line| (line.attack.name, line.verdict)).collect();
        assert_eq!(found.len(), ATTACKS.len());
        assert_eq!(found["write-root"], Verdict::Kept);
        assert_eq!(found["seccomp"], Verdict::Broken("Seccomp is 0".into()));
        assert_eq!(found["memory"], Verdict::NotTried("signal: 9".into()));
        assert_eq!(found["dns"], Verdict::Broken(String::new()));
        assert!(matches!(found["tcp"], Verdict::NotTried(_)), "the probe said nothing that can be read");
    }

    #[test]
    fn a_mandatory_promise_must_be_known_to_be_kept_unless_it_is_accepted() {
        let attack = |name| torno_inside::attack(name).expect("an attack");
        let line = |name, verdict| Line { attack: attack(name), verdict };
        let broken = || Verdict::Broken("so".into());
        assert!(!line("seccomp", Verdict::Kept).forbids_runs(&[]));
        assert!(line("seccomp", broken()).forbids_runs(&[]));
        assert!(line("seccomp", Verdict::NotTried("so".into())).forbids_runs(&[]));
        assert!(line("seccomp", broken()).forbids_runs(&[attack("dns")]));
        assert!(!line("seccomp", broken()).forbids_runs(&[attack("dns"), attack("seccomp")]));
        assert!(!attack("processors").mandatory);
        assert!(!line("processors", broken()).forbids_runs(&[]));
    }

    #[test]
    fn the_probe_is_planned_as_a_run_is() {
        let instance: Instance = "0123456789abcdef".parse().expect("an id");
        let plan = plan(&instance, "torno/probe:1", Path::new("/data/probe-1")).expect("a plan");
        assert_eq!(plan.name, "torno-0123456789abcdef-run-9223372036854775807");
        assert_eq!(plan.data.iter().map(|data| data.target.as_str()).collect::<Vec<_>>(), ["/input"]);
    }
}
