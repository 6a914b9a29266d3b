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
use torno_inside::{ATTACKS, Against, Attack, PROBE_ATTACKS, PROBE_GVISOR};
use torno_oci::{RunConfig, RunId};
use torno_registry::Gpu;

use crate::{
    Dataset, ExecutorError, Limits, ProjectPolicy, Runtime,
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
    gpus: 0,
};

/// An attack that takes no time, for a container that only has to start.
const A_LOOK: &str = "root-user";

/// What was found out.
#[derive(Clone, Debug)]
pub struct Examination {
    /// What ran the probe; `None`: what the engine takes when nothing is said.
    pub runtime: Option<Runtime>,
    /// Every promise, in the order of the table of attacks.
    pub lines: Vec<Line>,
    /// Whether the probe met gVisor's kernel in place of the host's.
    pub gvisor: bool,
    /// Whether a run can be given all the GPUs that runs may have, where they may have some.
    pub gpus: Option<Gpus>,
    /// What the engine says of itself.
    pub facts: Vec<Fact>,
}

/// What came of asking for GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gpus {
    /// The engine started a container with so many.
    Given(u32),
    /// It did not; why.
    NotGiven(String),
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
    /// It met a kernel of the run's own, or ended the run as a whole, and so nothing of the host's; how that showed.
    Contained(String),
    /// It succeeded; how that showed.
    Broken(String),
    /// It could not be tried; why.
    NotTried(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::Contained(words) => write!(f, "contained: {words}"),
            Self::Broken(words) => write!(f, "broken: {words}"),
            Self::NotTried(words) => write!(f, "not tried: {words}"),
        }
    }
}

impl Verdict {
    /// Whether the host has lost nothing.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::Kept | Self::Contained(_))
    }
}

impl Line {
    /// Whether no run may start because of it. A mandatory promise of which nothing is known is as good as broken.
    pub fn forbids_runs(&self, accepted: &[&'static Attack]) -> bool {
        self.attack.mandatory && !self.verdict.is_harmless() && !accepted.contains(&self.attack)
    }
}

impl Examination {
    /// The lines because of which no run may start.
    pub fn forbidding(&self, accepted: &[&'static Attack]) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.forbids_runs(accepted))
    }
}

/// Examines the host of the engine behind a socket as runs of one runtime find it, or stops when told to, and then tells
/// nothing. `gpus`: how many of the host's runs may have. `data` is the data directory: a folder in it, which is removed again,
/// stands for confidential data, since the engine sees it where it sees what else runs are given.
///
/// Cancelled otherwise, it leaves a container and a volume, which nobody looks for.
pub async fn examine(
    socket: &Path,
    runtime: Option<Runtime>,
    gpus: u32,
    data: &Path,
    stop: &CancellationToken,
) -> Result<Option<Examination>, ExecutorError> {
    examine_as(&Engine::new(socket, data), &Instance::draw()?, runtime, gpus, data, stop).await
}

/// The same as one of this instance: what it leaves when it is cut off is found as what a run leaves is.
pub(crate) async fn examine_as(
    engine: &Engine,
    instance: &Instance,
    runtime: Option<Runtime>,
    gpus: u32,
    data: &Path,
    stop: &CancellationToken,
) -> Result<Option<Examination>, ExecutorError> {
    let data = StandIn::make_in(data).map_err(ExecutorError::io(data))?;
    let mut steps = Box::pin(steps(engine, instance, runtime, gpus, data.0.path(), stop));
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
    runtime: Option<Runtime>,
    gpus: u32,
    data: &Path,
    stop: &CancellationToken,
) -> Result<Option<Examination>, ExecutorError> {
    let facts = engine.facts().await?;
    let image = engine.probe().await?;
    let mut heard = Heard::default();
    // Where an attack ends the run as a whole, those behind it are tried by another.
    while let Some(attacks) = heard.left() {
        let plan = plan(instance, &image, runtime, data, &attacks, &[])?;
        clear(engine, &plan.name).await?;
        if stop.is_cancelled() {
            return Ok(None);
        }
        engine.create_output(&plan).await?;
        engine.create(&plan).await?;
        if stop.is_cancelled() {
            return Ok(None);
        }
        engine.start(&plan.name).await?;
        // Waiting changes nothing, so it can be given up at any time.
        let in_time = match stop.run_until_cancelled(timeout(PATIENCE, engine.wait(&plan.name))).await {
            None => return Ok(None),
            Some(Ok(ended)) => ended.map(|()| true)?,
            Some(Err(_)) => engine.kill(&plan.name).await.map(|()| false)?,
        };
        let said = engine.logs(&plan.name, SAID).await?.stdout;
        heard.hear(&String::from_utf8_lossy(&said), in_time);
    }
    if runtime == Some(Runtime::Runsc) && !heard.gvisor {
        return Err(ExecutorError::NoGvisor);
    }
    let gvisor = heard.gvisor;
    let gpus = match gpus {
        0 => None,
        _ if gvisor => Some(Gpus::NotGiven("runs meet gVisor, whose `runsc` may pass none on".to_owned())),
        gpus => {
            let all: Vec<Gpu> = (0..gpus).map(Gpu::new).collect();
            Some(given(engine, &plan(instance, &image, runtime, data, A_LOOK, &all)?).await?)
        }
    };
    Ok(Some(Examination { runtime, lines: heard.lines(), gvisor, gpus, facts }))
}

/// Whether the engine starts a container with GPUs. What runs in it then is of no matter.
async fn given(engine: &Engine, plan: &Plan) -> Result<Gpus, ExecutorError> {
    clear(engine, &plan.name).await?;
    let started = async {
        engine.create_output(plan).await?;
        engine.create(plan).await?;
        engine.start(&plan.name).await
    };
    match started.await {
        Ok(()) => Ok(Gpus::Given(u32::try_from(plan.gpus.len()).unwrap_or(u32::MAX))),
        Err(error) if error.denies_gpus() => Ok(Gpus::NotGiven(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// A number that no run has.
pub(crate) fn run() -> Result<RunId, ExecutorError> {
    RunId::new(i64::MAX.unsigned_abs()).ok_or(ExecutorError::Run("a number was none"))
}

/// A run like any other.
fn plan(
    instance: &Instance,
    image: &str,
    runtime: Option<Runtime>,
    data: &Path,
    attacks: &str,
    gpus: &[Gpu],
) -> Result<Plan, ExecutorError> {
    let policy = ProjectPolicy {
        datasets: vec![Dataset::folder("probe", data)],
        limits: LIMITS,
        runtime,
        environment: BTreeMap::from([(PROBE_ATTACKS.to_owned(), attacks.to_owned())]),
        ..ProjectPolicy::default()
    };
    let nothing = RunConfig::default();
    let project = "probe".parse().map_err(|_| ExecutorError::Run("a name was none"))?;
    // The policy has neither services nor secrets.
    let nowhere = Path::new("");
    let subject = Subject {
        instance,
        run: run()?,
        attempt: 1,
        project: &project,
        image,
        sockets: nowhere,
        secrets: nowhere,
        gpus,
    };
    Plan::new(&subject, &nothing, &policy).map_err(|_| ExecutorError::Run("the probe cannot be planned"))
}

/// The container and the volume of a run have one name.
async fn clear(engine: &Engine, name: &str) -> Result<(), ExecutorError> {
    engine.remove_container(&preparation_name(name)).await?;
    engine.remove_container(name).await?;
    engine.remove_volume(name).await?;
    Ok(())
}

/// What the probe said, in one run or several.
#[derive(Debug, Default)]
struct Heard {
    gvisor: bool,
    told: BTreeMap<String, Verdict>,
}

impl Heard {
    /// What is still to be tried, with spaces between.
    fn left(&self) -> Option<String> {
        let left = ATTACKS.iter().map(|attack| attack.name).filter(|name| !self.told.contains_key(*name));
        let left: Vec<&str> = left.collect();
        (!left.is_empty()).then(|| left.join(" "))
    }

    /// Reads what one run said. Afterwards fewer attacks are left: the first that it did not speak of is what ended it,
    /// unless the run was out of time, and then nothing more is tried.
    fn hear(&mut self, said: &str, in_time: bool) {
        self.gvisor |= said.lines().any(|line| line == PROBE_GVISOR);
        self.told.extend(said.lines().filter_map(verdict));
        let mut silent = ATTACKS.iter().filter(|attack| !self.told.contains_key(attack.name));
        let ended_before = || Verdict::NotTried("the probe ended before it".to_owned());
        let verdicts: Vec<_> = if in_time {
            let ended = |attack: &Attack| match attack.against {
                Against::Limit => Verdict::Contained("the run was ended as a whole".to_owned()),
                Against::Engine | Against::Kernel => ended_before(),
            };
            silent.next().map(|attack| (attack.name.to_owned(), ended(attack))).into_iter().collect()
        } else {
            silent.map(|attack| (attack.name.to_owned(), ended_before())).collect()
        };
        self.told.extend(verdicts);
    }

    /// A line for each attack.
    fn lines(mut self) -> Vec<Line> {
        ATTACKS
            .iter()
            .map(|attack| {
                let verdict = self.told.remove(attack.name);
                let verdict = verdict.unwrap_or_else(|| Verdict::NotTried("it was left out".to_owned()));
                let verdict = match verdict {
                    Verdict::Broken(words) | Verdict::NotTried(words)
                        if self.gvisor && attack.against == Against::Kernel =>
                    {
                        Verdict::Contained(format!("in gVisor's own kernel: {words}"))
                    }
                    verdict => verdict,
                };
                Line { attack, verdict }
            })
            .collect()
    }
}

/// A line of the probe's. What cannot be read says nothing.
fn verdict(line: &str) -> Option<(String, Verdict)> {
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

    fn found(heard: Heard) -> BTreeMap<&'static str, Verdict> {
        heard.lines().into_iter().map(|line| (line.attack.name, line.verdict)).collect()
    }

    #[test]
    fn what_the_probe_says_is_read_line_by_line() {
        let said = "kept write-root\nbroken seccomp: Seccomp is 0\nunknown memory: signal: 9\nbroken dns\nnonsense\n\
            kept nothing-known\nmaybe tcp\n";
        let mut heard = Heard::default();
        heard.hear(said, false);
        assert_eq!(heard.left(), None, "it was out of time");
        let found = found(heard);
        assert_eq!(found.len(), ATTACKS.len());
        assert_eq!(found["write-root"], Verdict::Kept);
        assert_eq!(found["seccomp"], Verdict::Broken("Seccomp is 0".into()));
        assert_eq!(found["memory"], Verdict::NotTried("signal: 9".into()));
        assert_eq!(found["dns"], Verdict::Broken(String::new()));
        assert!(matches!(found["tcp"], Verdict::NotTried(_)), "the probe said nothing that can be read");
    }

    #[test]
    fn an_attack_that_ends_its_run_has_met_a_limit_or_says_nothing() {
        let all_but = |names: &[&str]| {
            let others = ATTACKS.iter().filter(|attack| !names.contains(&attack.name));
            others.map(|attack| format!("kept {}", attack.name)).collect::<Vec<_>>().join("\n")
        };
        let mut heard = Heard::default();
        heard.hear(&all_but(&["processes", "memory"]), true);
        assert_eq!(heard.left().as_deref(), Some("memory"));
        heard.hear("", true);
        let ended = found(heard);
        assert!(matches!(ended["processes"], Verdict::Contained(_)) && ended["processes"].is_harmless());
        assert!(matches!(ended["memory"], Verdict::Contained(_)));
        let mut heard = Heard::default();
        heard.hear(&all_but(&["ptrace"]), true);
        assert!(matches!(found(heard)["ptrace"], Verdict::NotTried(_)));
    }

    #[test]
    fn what_is_done_to_a_kernel_of_the_runs_own_is_not_done_to_the_host() {
        let heard = |kernel: &str| {
            let mut heard = Heard::default();
            heard.hear(&format!("{kernel}broken mknod: so\nbroken tcp: so\nunknown seccomp: so\n"), false);
            found(heard)
        };
        let own = heard("kernel gvisor\n");
        assert!(own["mknod"].is_harmless() && own["seccomp"].is_harmless());
        assert_eq!(own["tcp"], Verdict::Broken("so".into()));
        assert_eq!(heard("")["mknod"], Verdict::Broken("so".into()));
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
        let plan = plan(&instance, "torno/probe:1", None, Path::new("/data/probe-1"), "seccomp", &[])
            .expect("a plan");
        assert_eq!(plan.name, "torno-0123456789abcdef-run-9223372036854775807");
        assert_eq!(plan.data.iter().map(|data| data.target.as_str()).collect::<Vec<_>>(), ["/input"]);
    }
}
