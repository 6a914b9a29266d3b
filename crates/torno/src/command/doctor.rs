//! `torno doctor`: what this host keeps of what runs are promised.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write as _},
};

use serde_json::{Value, json};
use tokio::signal::unix::SignalKind;
use tokio_util::sync::CancellationToken;
use torno_executor::{Attack, Examination, ExecutorError, Fact, Gpus, Line, Runtime, Verdict};

use super::{ConfigFile, Failure, on};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  torno doctor
  torno doctor --runtime runsc
  torno doctor --json

A container is planned and started as that of a run is, and tries to break out: nothing it tries does harm where it \
succeeds. Each line is a promise: kept, broken or not tried. `torno serve` looks at the mandatory ones by itself and \
starts no run on a host that does not keep them, but for those that `executor.accept` names. Exit codes: 0 when runs \
are started here, 1 when not, or when the engine cannot be asked.";

/// Find out which promises this host keeps, by trying to break them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    #[command(flatten)]
    file: ConfigFile,
    /// Look at runs of this runtime alone: `runc`, or `runsc` for gVisor [default: those that projects have]
    #[arg(long, value_name = "NAME")]
    runtime: Option<Runtime>,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        super::make_private_folder(&config.data)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let found = runtime.map_err(Failure::Runtime)?.block_on(async {
            let stop = CancellationToken::new();
            let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
            let mut examined = Box::pin(self.examine(&config, &stop));
            let found = tokio::select! {
                found = &mut examined => found,
                _ = terminate.recv() => { stop.cancel(); examined.await }
                _ = interrupt.recv() => { stop.cancel(); examined.await }
            };
            found?.ok_or(Failure::Interrupted)
        })?;
        let accepted = config.executor.accept;
        let text = if self.json {
            format!("{:#}\n", as_json(&found, &accepted))
        } else {
            found.iter().map(|found| as_text(found, &accepted)).collect::<Vec<_>>().join("\n")
        };
        io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)?;
        match found.iter().flat_map(|found| found.forbidding(&accepted)).count() {
            0 => Ok(()),
            lines => Err(Failure::Unfit(lines)),
        }
    }

    /// What was found out of each runtime in question, or nothing when told to stop.
    async fn examine(
        &self,
        config: &Config,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<Examination>>, ExecutorError> {
        let runtimes = match self.runtime {
            None => torno_executor::runtimes(config.projects.values()),
            only => BTreeSet::from([only]),
        };
        let gpus = config.executor.total.gpus;
        let mut all = Vec::new();
        for runtime in runtimes {
            let examined =
                torno_executor::examine(&config.executor.engine, runtime, gpus, &config.data, stop);
            let Some(found) = examined.await? else { return Ok(None) };
            all.push(found);
        }
        Ok(Some(all))
    }
}

/// One word for a line, and what showed.
fn judged<'a>(line: &'a Line, accepted: &[&'static Attack]) -> (&'static str, &'a str) {
    match &line.verdict {
        Verdict::Kept => ("kept", ""),
        Verdict::Contained(words) => ("contained", words),
        Verdict::Broken(words) if accepted.contains(&line.attack) => ("accepted", words),
        Verdict::Broken(words) => ("broken", words),
        Verdict::NotTried(words) => ("not tried", words),
    }
}

/// What to do where no GPU is given.
const WITHOUT_GPUS: &str = "install NVIDIA's driver and its container toolkit for Docker on the engine's host and start the \
    engine anew, or have `executor.gpus` say how many there are; until then runs that get GPUs fail, and others do not";

/// Whether runs are given GPUs, and what to do if not.
fn told(gpus: &Gpus) -> (String, Option<&'static str>) {
    match gpus {
        Gpus::Given(gpus) => (format!("{gpus}, given to a run together"), None),
        Gpus::NotGiven(why) => (format!("none: {why}"), Some(WITHOUT_GPUS)),
    }
}

/// The lines of all runtimes, each with the name of its own.
fn as_json(found: &[Examination], accepted: &[&'static Attack]) -> Value {
    let line = |runtime: Option<Runtime>, line: &Line| {
        let (verdict, words) = judged(line, accepted);
        let Attack { name, promise, mandatory, remedy, .. } = line.attack;
        json!({
            "runtime": runtime.map(Runtime::name),
            "line": name, "promise": promise, "mandatory": mandatory, "verdict": verdict, "found": words,
            "remedy": (!line.verdict.is_harmless()).then_some(remedy),
            "forbidsRuns": line.forbids_runs(accepted),
        })
    };
    let of = |found: &Examination| found.lines.iter().map(|of| line(found.runtime, of)).collect::<Vec<_>>();
    let fact = |Fact { name, value, advice }: &Fact| json!({"fact": name, "value": value, "advice": advice});
    json!({
        "lines": found.iter().flat_map(of).collect::<Vec<_>>(),
        "gpus": found.iter().filter_map(|found| found.gpus.as_ref().map(|gpus| {
            let (found_out, advice) = told(gpus);
            json!({
                "runtime": found.runtime.map(Runtime::name),
                "given": matches!(gpus, Gpus::Given(_)), "found": found_out, "advice": advice,
            })
        })).collect::<Vec<_>>(),
        "facts": found.iter().take(1).flat_map(|found| &found.facts).map(fact).collect::<Vec<_>>(),
        "startsRuns": found.iter().all(|found| found.forbidding(accepted).next().is_none()),
    })
}

fn as_text(
    Examination { runtime, lines, gvisor: _, gpus, facts }: &Examination,
    accepted: &[&'static Attack],
) -> String {
    let mut text = String::new();
    if let Some(runtime) = runtime {
        let _ = writeln!(text, "Runs of the runtime {runtime}:\n");
    }
    for line in lines {
        let (verdict, words) = judged(line, accepted);
        let Attack { name, promise, mandatory, remedy, .. } = line.attack;
        let weight = if *mandatory { "" } else { " (advised)" };
        let _ = writeln!(text, "{verdict:<9}  {name:<17}  {promise}{weight}");
        if line.verdict != Verdict::Kept {
            let _ = writeln!(text, "{:31}{words}", "");
        }
        if !line.verdict.is_harmless() {
            let _ = writeln!(text, "{:31}→ {remedy}", "");
        }
    }
    text.push('\n');
    let gpus = gpus.as_ref().map(told);
    let gpus = gpus.as_ref().map(|(value, advice)| ("GPUs", value, *advice));
    let facts = facts.iter().map(|fact| (fact.name, &fact.value, fact.advice));
    for (name, value, advice) in gpus.into_iter().chain(facts) {
        let _ = writeln!(text, "{name:<28}  {value}");
        if let Some(advice) = advice {
            let _ = writeln!(text, "{:30}→ {advice}", "");
        }
    }
    text.push('\n');
    let kept = lines.iter().filter(|line| line.verdict.is_harmless()).count();
    let forbidding: Vec<&str> =
        lines.iter().filter(|line| line.forbids_runs(accepted)).map(|line| line.attack.name).collect();
    let _ = writeln!(text, "{kept} of {} promises are kept here", lines.len());
    if !forbidding.is_empty() {
        let _ = writeln!(text, "runs are not started here, because of: {}", forbidding.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Examination {
        let line = |name, verdict| Line { attack: torno_executor::attack(name).expect("an attack"), verdict };
        Examination {
            runtime: None,
            lines: vec![
                line("write-input", Verdict::Kept),
                line("seccomp", Verdict::Broken("Seccomp is 0".into())),
                line("memory", Verdict::NotTried("it took too long".into())),
                line("processors", Verdict::Broken("no bound".into())),
                line("mknod", Verdict::Contained("elsewhere".into())),
            ],
            gvisor: false,
            gpus: Some(Gpus::NotGiven("could not select device driver".into())),
            facts: vec![Fact { name: "live restore", value: "no".into(), advice: Some("turn it on") }],
        }
    }

    #[test]
    fn every_line_says_what_became_of_it_and_what_to_do() {
        let accepted = [torno_executor::attack("seccomp").expect("an attack")];
        let text = as_text(&found(), &accepted);
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).expect("a line");
        assert!(line("kept").contains("write-input"));
        assert!(line("accepted").contains("System calls are filtered."));
        assert!(line("not tried").contains("memory"));
        assert!(line("broken").ends_with("(advised)"), "{text}");
        assert!(text.contains("→ turn it on") && text.contains("Seccomp is 0"));
        assert!(line("GPUs").contains("none: could not select"), "{text}");
        let without = Examination { gpus: None, ..found() };
        assert!(
            !as_text(&without, &accepted).contains("GPUs"),
            "where runs have none, nothing is said of them"
        );
        assert!(text.contains("2 of 5 promises are kept here"));
        assert!(text.ends_with("because of: memory\n"), "{text}");
    }

    #[test]
    fn a_program_reads_the_same() {
        let json = as_json(&[found()], &[]);
        assert_eq!(json["startsRuns"], false);
        assert_eq!(json["lines"][1]["verdict"], "broken");
        assert_eq!(json["lines"][1]["forbidsRuns"], true);
        assert_eq!(json["lines"][0]["remedy"], Value::Null);
        assert_eq!(json["lines"][3]["forbidsRuns"], false, "advised only");
        let contained = (&json["lines"][4]["verdict"], &json["lines"][4]["remedy"]);
        assert_eq!(contained, (&json!("contained"), &Value::Null));
        assert_eq!((&json["lines"][0]["runtime"], &json["startsRuns"]), (&Value::Null, &json!(false)));
        assert_eq!(json["facts"][0]["advice"], "turn it on");
    }
}
