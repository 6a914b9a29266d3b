//! `torno runs`: what ran, what it printed, and what becomes of what is queued or under way. For the admin, who has the
//! data directory.

mod control;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use bytesize::ByteSize;
use torno_auth::RunControl;
use torno_oci::{Priority, ProjectName, RunId};
use torno_registry::{Pause, Registry, Run, RunData, RunLog, RunState, Selection, ServiceTraffic};

use super::{ConfigFile, Failure};

/// How many runs are listed when nobody says.
const LISTED: usize = 50;

const EXAMPLES: &str = "\
Examples:
  torno runs list                 the newest runs
  torno runs list --limit 1000
  torno runs show 12              all that is known of run 12
  torno runs logs 12              what it printed; its stderr on stderr
  torno runs logs 12 --times      both in one, each line with its time
  torno runs cancel 12 13         stop them; nothing of their output is released
  torno runs retry 12             run the same image again, as a new run
  torno runs priority 14 --set high
  torno runs pause retina         start nothing new of a project, until `resume`
  torno runs pause                of none";

/// See what ran and what it printed; stop, repeat and order runs
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Runs {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List runs, the newest first
    List {
        /// At most so many
        #[arg(long, default_value_t = LISTED)]
        limit: usize,
    },
    /// Print all that is known of a run
    Show {
        /// The run's number
        run: RunId,
    },
    /// Print the end of what a run's container printed, whatever its project lets out
    #[command(visible_alias = "log")]
    Logs {
        /// The run's number
        run: RunId,
        /// Print both streams in the order of time, each line with its time (UTC)
        #[arg(long)]
        times: bool,
    },
    /// Stop runs: what is queued ends at once, what is under way within seconds
    ///
    /// Nothing of their output is released; what they printed is kept as that of any run that failed. Whoever carries out
    /// runs is told. If nobody does at the moment, what is under way ends as soon as somebody does again.
    Cancel {
        /// The runs' numbers
        #[arg(required = true)]
        runs: Vec<RunId>,
    },
    /// Run the images of runs that are over again, each as a new run
    ///
    /// A new run has a new number, so that the log, the outcome and the result of the first stay what they are. It counts
    /// towards the quotas of its owner and project as a push does. Its image must still be in its repository.
    Retry {
        /// The runs' numbers
        #[arg(required = true)]
        runs: Vec<RunId>,
    },
    /// Start nothing new of a project, or of any, until `torno runs resume`
    ///
    /// Pushes go on and are queued, whoever pulls is told, what runs goes on. Stays so when Torno starts again.
    Pause {
        /// The project; all runs of the site if it is not named
        project: Option<ProjectName>,
    },
    /// Let a project, or the site, go on that was paused
    Resume {
        /// The project; the site if it is not named
        project: Option<ProjectName>,
    },
    /// Let queued runs go before the others of their project, or after them
    Priority {
        /// The runs' numbers
        #[arg(required = true)]
        runs: Vec<RunId>,
        /// `high`, `normal` or `low`
        #[arg(long, value_name = "PRIORITY")]
        set: Priority,
    },
}

impl Runs {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        super::with_registry(&config, async |registry| match &self.action {
            Action::List { limit } => {
                let runs = registry.runs(Selection::All, *limit).await?;
                let held = Held::of(registry).await?;
                print(io::stdout(), table(&runs, &held).as_bytes())?;
                print(io::stderr(), (outage(registry.outage().await?) + &held.unfit()).as_bytes())
            }
            Action::Show { run } => {
                let found = registry.run(*run).await?.ok_or(Failure::NoRun(*run))?;
                let given = registry.run_data(*run).await?;
                let traffic = registry.traffic(*run).await?;
                let held = Held::of(registry).await?;
                let text = details(&found, &held) + &data(&given) + &exchanged(&traffic);
                print(io::stdout(), text.as_bytes())?;
                let waits = found.finished_at.is_none();
                let since = if waits { registry.outage().await? } else { None };
                print(io::stderr(), outage(since).as_bytes())
            }
            Action::Cancel { runs } => control::each(registry, runs, RunControl::Cancel).await,
            Action::Retry { runs } => control::each(registry, runs, RunControl::Retry).await,
            Action::Priority { runs, set } => {
                control::each(registry, runs, RunControl::Prioritize(*set)).await
            }
            Action::Pause { project } => {
                let known = |project: &ProjectName| config.projects.contains_key(project);
                match project {
                    Some(project) if !known(project) => Err(Failure::NoProject(project.clone())),
                    project => control::pause(registry, project.clone()).await,
                }
            }
            Action::Resume { project } => control::resume(registry, project.clone()).await,
            Action::Logs { run, times } => {
                let (run, times) = (*run, *times);
                let found = registry.run(run).await?.ok_or(Failure::NoRun(run))?;
                let log = registry.run_log(run).await?.ok_or(Failure::NoLog(found.id, found.state))?;
                if times {
                    return print(io::stdout(), &timed(&log));
                }
                print(io::stdout(), &log.stdout)?;
                print(io::stderr(), &log.stderr)
            }
        })
    }
}

/// What keeps projects from being started.
struct Held {
    pauses: Vec<Pause>,
    unfit: BTreeMap<ProjectName, jiff::Timestamp>,
}

impl Held {
    async fn of(registry: &Registry) -> Result<Self, Failure> {
        Ok(Self { pauses: registry.pauses().await?, unfit: registry.unfit().await? })
    }

    /// What whoever looks at runs is to know while this host is not fit for some.
    fn unfit(&self) -> String {
        let line = |(project, since): (&ProjectName, &jiff::Timestamp)| {
            let since = since.strftime("%Y-%m-%d %H:%M:%SZ");
            format!(
                "no run of `{project}` is started since {since}: this host is not known to keep what they are promised \
                 (`torno doctor`)\n"
            )
        };
        self.unfit.iter().map(line).collect()
    }
}

/// How far a run is, and whether it stays there.
fn state(run: &Run, held: &Held) -> String {
    let project = run.repository.namespace().project();
    let of_it = |pause: &Pause| pause.project.as_ref().is_none_or(|name| project == Some(name.as_str()));
    let unfit = || held.unfit.keys().any(|name| project == Some(name.as_str()));
    let state = &run.state;
    match (&run.cancel, state) {
        (_, RunState::Queued) if held.pauses.iter().any(of_it) => format!("{state}, paused"),
        (_, RunState::Queued) if unfit() => format!("{state}, host not fit"),
        (Some(_), RunState::Pulling | RunState::Starting | RunState::Running | RunState::Collecting) => {
            format!("{state}, to be cancelled")
        }
        _ => state.to_string(),
    }
}

fn table(runs: &[Run], held: &Held) -> String {
    let heads = ["RUN", "IMAGE", "OWNER", "QUEUED", "TOOK", "STATE"].map(str::to_owned);
    let rows = runs.iter().map(|run| {
        [
            run.id.to_string(),
            format!("{}:{}", run.repository, run.tag),
            run.owner.to_string(),
            run.queued_at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            took(run).map_or_else(|| "-".into(), span),
            state(run, held),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(heads).chain(rows).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn details(run: &Run, held: &Held) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let time = |at: Option<jiff::Timestamp>| {
        at.map_or_else(|| "-".into(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
    };
    line("run", run.id.to_string());
    line("state", state(run, held));
    line("image", format!("{}:{}", run.repository, run.tag));
    line("manifest", run.image.to_string());
    line("owner", run.owner.to_string());
    line("attempts", run.attempt.to_string());
    line("priority", run.priority.to_string());
    if let Some(first) = run.retry_of {
        line("repeats", format!("run {first}"));
    }
    if let Some(wanted) = &run.cancel {
        line("cancelled", control::who(wanted));
    }
    line("queued", time(Some(run.queued_at)));
    if let Some(at) = run.not_before {
        line("tried again", format!("not before {}, after a failure of the site", time(Some(at))));
    }
    line("started", time(run.started_at));
    line("finished", time(run.finished_at));
    line("took", took(run).map_or_else(|| "-".into(), span));
    line("time limit", run.time_limit.map_or_else(|| "-".into(), span));
    let memory = run.measured.peak_memory.map(|memory| ByteSize::b(memory).display().iec().to_string());
    line("peak memory", memory.unwrap_or_else(|| "-".into()));
    line("cpu time", run.measured.cpu.map_or_else(|| "-".into(), |cpu| format!("{:.1}s", cpu.as_secs_f64())));
    line("published", run.result.as_ref().map_or_else(|| "-".into(), ToString::to_string));
    text
}

/// A line for each service that the run could reach.
fn exchanged(traffic: &[ServiceTraffic]) -> String {
    let line = |traffic: &ServiceTraffic| {
        let ServiceTraffic { service, connections, refused, sent, received } = traffic;
        format!(
            "{:<12} {service}: {connections} connections, {refused} refused, {sent} bytes sent, {received} received\n",
            "service"
        )
    };
    traffic.iter().map(line).collect()
}

/// What whoever looks at runs is to know while there is no engine.
fn outage(since: Option<jiff::Timestamp>) -> String {
    since.map_or_else(String::new, |since| {
        let since = since.strftime("%Y-%m-%d %H:%M:%SZ");
        format!(
            "the engine has not answered since {since}: what is queued waits until it does (`torno doctor`)\n"
        )
    })
}

/// What a run was given, a line for each dataset.
fn data(given: &[RunData]) -> String {
    given.iter().fold(String::new(), |mut text, RunData { dataset, fingerprint, changed }| {
        let known = fingerprint.as_ref().map_or_else(|| "(no fingerprint yet)".into(), ToString::to_string);
        let changed = if *changed { ", which changed while it ran" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<12} {dataset} {known}{changed}", "data");
        text
    })
}

/// Each line whose time is known, with the time and the stream before it.
fn timed(log: &RunLog) -> Vec<u8> {
    let mut text = Vec::new();
    for line in log.lines() {
        let at = line.at.strftime("%Y-%m-%d %H:%M:%S%.3fZ");
        text.extend(format!("{at} {} ", line.stream).into_bytes());
        text.extend_from_slice(&line.text);
        text.push(b'\n');
    }
    text
}

/// From the container's start to its end, or to now.
fn took(run: &Run) -> Option<Duration> {
    let end = run.finished_at.unwrap_or_else(jiff::Timestamp::now);
    end.duration_since(run.started_at?).try_into().ok()
}

fn span(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string().replace(' ', "")
}

/// A container may print what moves the cursor or renames the window; a terminal gets to see it, not to obey it.
fn print(mut to: impl Write + IsTerminal, bytes: &[u8]) -> Result<(), Failure> {
    let written = if to.is_terminal() {
        let shown: String = String::from_utf8_lossy(bytes).chars().map(shown).collect();
        to.write_all(shown.as_bytes())
    } else {
        to.write_all(bytes)
    };
    written.and_then(|()| to.flush()).map_err(Failure::Output)
}

fn shown(character: char) -> char {
    if character.is_control() && character != '\n' && character != '\t' { '\u{fffd}' } else { character }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        let shown: String = "a\u{1b}[2Jb\n\tc\r".chars().map(shown).collect();
        assert_eq!(shown, "a\u{fffd}[2Jb\n\tc\u{fffd}");
    }
}
