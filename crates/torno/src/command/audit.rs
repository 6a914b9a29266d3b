//! `torno audit`: what was done, and whether the record of it is whole.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::Value;
use torno_audit::{Entry, Finding, Hash, Segments, Span, Verified};
use torno_auth::{ProjectName, UserName};
use torno_oci::{RepositoryName, RunId};

use super::{ConfigFile, Failure};

const EXAMPLES: &str = "\
Examples:
  torno audit show --project retina-challenge --since 7d
  torno audit show --user ada --event pull --json
  torno audit verify                     is the record whole?
  torno audit head                       note what this prints, elsewhere
  torno audit verify --head 5b9e…        is everything up to that note as it was?
  torno audit verify /mnt/archive/audit  files of the record that were moved away

The record is made of lines, each with the hash of the one before: whoever changes, removes or adds one must write all \
that come after it anew, up to the last hash that somebody has noted.";

/// See what was done and by whom, and whether the record of it is whole
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Audit {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print what was done, the oldest first
    Show(Show),
    /// Look whether the record is whole; exit 1 if it is not
    Verify {
        /// A hash that was noted: the line that has it must be there
        #[arg(long, value_name = "HASH")]
        head: Option<Hash>,
        /// A folder with files of the record that were moved away [default: where it is written]
        #[arg(value_name = "DIR")]
        folder: Option<PathBuf>,
    },
    /// Print the number and the hash of the last line, for a note that is kept elsewhere
    Head,
}

/// Which lines, and how.
#[derive(Debug, clap::Args)]
struct Show {
    /// Only what has to do with a project
    #[arg(long, value_name = "NAME")]
    project: Option<ProjectName>,
    /// Only what somebody did, or what was done with what is theirs
    #[arg(long, value_name = "NAME")]
    user: Option<UserName>,
    /// Only what happened to a run; its push has the same request
    #[arg(long, value_name = "NUMBER")]
    run: Option<RunId>,
    /// Only one kind, such as `push`, `pull`, `delete`, `run_ended`, `login_failed`
    #[arg(long, value_name = "KIND")]
    event: Option<String>,
    /// Only since then: a day such as 2026-11-01, a time such as 2026-11-01T12:00:00Z, or how long ago, such as 7d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// The lines as they are written, each a JSON object
    #[arg(long)]
    json: bool,
    /// A folder with files of the record that were moved away [default: where it is written]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Audit {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let folder = |named: &Option<PathBuf>| named.clone().unwrap_or_else(|| config.audit.folder.clone());
        match &self.action {
            Action::Show(show) => show.run(&folder(&show.folder)),
            Action::Verify { head, folder: named } => {
                let place = if named.is_some() { Place::Archive } else { Place::Live };
                verify(&folder(named), *head, place)
            }
            Action::Head => {
                let segments = segments(&config.audit.folder)?;
                let Some((seq, hash)) = torno_audit::head(&segments)? else {
                    return Err(Failure::NoRecord(config.audit.folder.clone()));
                };
                writeln!(io::stdout(), "{seq} {hash}").map_err(Failure::Output)
            }
        }
    }
}

fn segments(folder: &Path) -> Result<Segments, Failure> {
    let segments = Segments::of(folder)?;
    if segments.is_empty() { Err(Failure::NoRecord(folder.to_owned())) } else { Ok(segments) }
}

/// Where the files are that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where the record is written: its end is here.
    Live,
    /// Somewhere else: it may go on where it is written.
    Archive,
}

fn verify(folder: &Path, head: Option<Hash>, place: Place) -> Result<(), Failure> {
    let segments = segments(folder)?;
    let mut problems = 0;
    let verified = torno_audit::verify(&segments, head, |finding: Finding| {
        problems += u64::from(finding.is_problem());
        let word = if finding.is_problem() { "problem" } else { "note" };
        eprintln!("{word}: {finding}");
    })?;
    let Verified { lines, segments, first, last, goes_on, head_found } = verified;
    let mut out = io::stdout().lock();
    let mut say = |text: String| writeln!(out, "{text}").map_err(Failure::Output);
    say(format!("audit: {lines} lines in {segments} {}", if segments == 1 { "file" } else { "files" }))?;
    if let Some((seq, before)) = first
        && seq > 1
    {
        say(format!("begins with number {seq}, behind the line with hash {before}"))?;
    }
    if let Some((seq, hash, at)) = last {
        say(format!("ends with number {seq} of {at}, whose hash is {hash}"))?;
        if goes_on && place == Place::Archive {
            say(format!("goes on with number {}", seq + 1))?;
        }
    }
    if goes_on && place == Place::Live {
        problems += 1;
        eprintln!("problem: the last file says that the record goes on in another, which is missing");
    }
    match head {
        Some(head) if head_found => say(format!("{head} is there, and all before it is as it was"))?,
        Some(head) => {
            problems += 1;
            eprintln!(
                "problem: no line has the hash {head}: the record was cut off or written anew, or that line is in a \
                 file that was moved away"
            );
        }
        None => {}
    }
    if problems == 0 { Ok(()) } else { Err(Failure::Record(problems)) }
}

impl Show {
    fn run(&self, folder: &Path) -> Result<(), Failure> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut strange = 0_u64;
        for span in torno_audit::read(&segments(folder)?) {
            match span? {
                Span::Entry(entry) if self.fits(&entry) => {
                    let text = if self.json { entry.text } else { told(&entry) };
                    writeln!(out, "{}", harmless(&text)).map_err(Failure::Output)?;
                }
                Span::Entry(_) => {}
                Span::Strange { .. } => strange += 1,
            }
        }
        out.flush().map_err(Failure::Output)?;
        if strange > 0 {
            eprintln!("warning: {strange} lines are not what was written; see `torno audit verify`");
        }
        Ok(())
    }

    fn fits(&self, entry: &Entry) -> bool {
        let user = |name: &UserName| {
            ["user", "owner", "name"].iter().any(|field| entry.text_of(field) == Some(name.as_str()))
        };
        let last = entry.text_of("last").or(entry.text_of("at")).and_then(|at| at.parse::<Timestamp>().ok());
        let first = entry.text_of("at").and_then(|at| at.parse::<Timestamp>().ok());
        self.user.as_ref().is_none_or(user)
            && self.project.as_ref().is_none_or(|project| is_of(entry, project))
            && self.run.is_none_or(|run| entry.number_of("run") == Some(run.number()))
            && self.event.as_ref().is_none_or(|kind| entry.text_of("event") == Some(kind))
            && self.since.is_none_or(|since| last.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| first.is_some_and(|at| at < until))
    }
}

/// Whether something has to do with a project: it or its repository is named, or that was what was refused.
fn is_of(entry: &Entry, project: &ProjectName) -> bool {
    let named = entry.text_of("repository").and_then(|name| name.parse::<RepositoryName>().ok());
    if let Some(name) = named {
        return name.namespace().project() == Some(project.as_str());
    }
    if let Some(name) = entry.text_of("project") {
        return name == project.as_str();
    }
    let path = entry.text_of("path").unwrap_or_default();
    ["run", "results", "try", "try-results"]
        .iter()
        .any(|namespace| path.starts_with(&format!("/v2/{namespace}/{project}/")))
        || path.starts_with(&format!("/api/projects/{project}/"))
}

/// A line in words.
fn told(entry: &Entry) -> String {
    /// Told first, or of no interest to a reader.
    const ELSEWHERE: [&str; 10] =
        ["seq", "at", "event", "user", "by", "credential", "uid", "from", "prev", "hash"];
    let text = |name| entry.text_of(name).unwrap_or("-");
    let user = entry.text_of("user").unwrap_or("-");
    let by = match (entry.text_of("credential"), entry.number_of("uid")) {
        (Some(token), _) => format!("token {token}"),
        (_, Some(uid)) => format!("command of uid {uid}"),
        _ => text("by").to_owned(),
    };
    let mut line = format!("{}  {}  {user} ({by}) {}", text("at"), text("event"), text("from"));
    for (name, value) in &entry.fields {
        if ELSEWHERE.contains(&name.as_str()) {
            continue;
        }
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(values) => {
                let words = values.iter().map(|value| value.as_str().unwrap_or("?"));
                words.collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        };
        // Writing to a String cannot fail.
        let _ = write!(line, "  {name}={value}");
    }
    line
}

/// What is written has nothing in it that a terminal obeys; what somebody has put there instead may.
fn harmless(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// A day, a time, or how long ago.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    if let Ok(day) = text.parse::<Date>() {
        return day.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp()).map_err(|error| error.to_string());
    }
    let ago: Duration = humantime::parse_duration(text)
        .map_err(|_| "write 2026-11-01, 2026-11-01T12:00:00Z, or how long ago, such as 7d".to_owned())?;
    Timestamp::now().checked_sub(ago).map_err(|_| "that is too long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for good in ["2026-11-01", "2026-11-01T12:00:00Z", "7d", "1h"] {
            assert!(moment(good).is_ok(), "{good}");
        }
        for bad in ["", "yesterday", "2026-13-01", "100000years"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
        assert_eq!(moment("2026-11-01"), moment("2026-11-01T00:00:00Z"));
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(harmless("a\u{1b}[2J\u{9b}b\n"), "a\u{fffd}[2J\u{fffd}b\u{fffd}");
    }

    fn entry(json: &str) -> Entry {
        Entry { text: json.to_owned(), fields: serde_json::from_str(json).expect("JSON") }
    }

    #[test]
    fn what_is_a_projects() {
        let heart: ProjectName = "heart".parse().expect("a name");
        for of in [
            r#"{"repository":"run/heart/x"}"#,
            r#"{"repository":"results/heart/x"}"#,
            r#"{"path":"/v2/run/heart/x/manifests/1"}"#,
            r#"{"path":"/api/projects/heart/pause"}"#,
            r#"{"project":"heart"}"#,
        ] {
            assert!(is_of(&entry(of), &heart), "{of}");
        }
        for other in [
            "{}",
            r#"{"project":"hearts"}"#,
            r#"{"repository":"heart/x"}"#,
            r#"{"repository":"run/hearts/x"}"#,
        ] {
            assert!(!is_of(&entry(other), &heart), "{other}");
        }
    }
}
