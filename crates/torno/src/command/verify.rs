//! `torno verify`: compares everything that is stored, beside a server that serves.

mod resume;

use std::{
    io::{self, IsTerminal as _, Write as _},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::SignalKind;
use torno_registry::{
    Finding, Mode, Phase, Position, Registry, Remedy, Sample, Verification, Verified, VerifyEvent,
    verify_backup,
};

use super::{ConfigFile, Failure};
use resume::Stopped;

const EXAMPLES: &str = "\
Examples:
  torno verify                  look at everything; nothing changes, and the server may be serving
  torno verify --sample 5%      read the bytes of one blob in twenty; the files of all are looked at
  torno verify --repair         put right what can be, and what cannot into quarantine
  torno verify --resume         go on where the last one was stopped
  torno verify --backup DIR     look at a backup instead, of which nothing changes

Rows are compared with files, files with rows, bytes with digests, and what is kept of manifests with their bytes. \
With --repair, what is kept of manifests is put right; damaged blobs and strange files move to quarantine/ in the data \
directory; damaged manifests and blobs are unknown until somebody pushes them again, which mends them everywhere; a file \
that is called like its bytes and that nothing is known of is left to `torno gc`. Nothing is deleted.

Exit status: 0 when all is well or has been put right, 1 when something is left to do or the look was not ended, 2 for \
wrong usage, 64 when the configuration is wrong or missing.";

/// How often a look that goes on for long writes down where it is.
const NOTE: Duration = Duration::from_secs(5);

/// Compare everything that is stored with its digests, while the server serves
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Verify {
    #[command(flatten)]
    file: ConfigFile,
    /// Put right what can be, and what cannot into quarantine
    #[arg(long)]
    repair: bool,
    /// Read the bytes of so many blobs in a hundred only, others each time, such as `5%`
    #[arg(long, value_name = "N%", value_parser = percent)]
    sample: Option<f64>,
    /// Go on where the last look was stopped
    #[arg(long)]
    resume: bool,
    /// Look at everything that would be restored from this backup, and at nothing else
    #[arg(long, value_name = "DIR", conflicts_with_all = ["repair", "sample", "resume"])]
    backup: Option<PathBuf>,
    /// Print one JSON object: `blobs`, `bytes` and `manifests` (null when it was stopped), `left`, `earlier` (findings
    /// left by the part before `--resume`), and `findings`, each with its `kind`, `what`, `digest`, `used_by`, `remedy` and `left`
    #[arg(long)]
    json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    let valid = number.ok().filter(|percent| (0.0..=100.0).contains(percent));
    valid.ok_or_else(|| format!("`{}` is not a number from 0% to 100%", text.escape_debug()))
}

impl Verify {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        if let Some(backup) = &self.backup {
            return self.verify_backup(backup);
        }
        let config = self.file.load()?;
        let notes = config.data.join(resume::FILE);
        let left = super::with_registry(&config, async |registry| {
            let begun = if self.resume { resume::read(&notes)? } else { None };
            if self.resume && begun.is_none() {
                eprintln!("verify: no look was stopped; this one begins at the beginning");
            }
            let begun = match begun {
                Some(begun) => begun,
                None => Stopped { seed: seed()?, ..Stopped::default() },
            };
            self.verify(registry, &notes, begun).await
        })?;
        if left > 0 { Err(Failure::Damaged(left)) } else { Ok(()) }
    }

    /// A backup needs no configuration to be looked at.
    fn verify_backup(&self, backup: &Path) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut show = Show::new(self.json);
        let verified = verify_backup(backup, threads(), |event| show.event(event));
        let verified = runtime.map_err(Failure::Runtime)?.block_on(verified)?;
        show.bar.finish_and_clear();
        std::mem::replace(&mut show.said, Ok(()))?;
        if self.json {
            show.tell(Some(verified), verified.left, 0)?;
        } else {
            say(&summary(&verified, 0))?;
        }
        if verified.left > 0 { Err(Failure::Damaged(verified.left)) } else { Ok(()) }
    }

    /// How many findings are left.
    async fn verify(&self, registry: &Registry, notes: &Path, begun: Stopped) -> Result<u64, Failure> {
        let sample =
            self.sample.and_then(|percent| Sample::percent(percent, begun.seed)).unwrap_or(Sample::ALL);
        let how = Verification {
            mode: if self.repair { Mode::Repair } else { Mode::Look },
            sample,
            from: begun.position()?,
            threads: threads(),
        };
        let mut show = Show::new(self.json);
        let mut now = begun.clone();
        let mut written = Instant::now();
        let mut failed = Ok(());
        let tell = |event: VerifyEvent<'_>| {
            if let VerifyEvent::Found(finding) = event {
                now.left += u64::from(finding.is_left());
            }
            if let VerifyEvent::At(position) = event {
                now.at = position.to_string();
                if written.elapsed() >= NOTE && failed.is_ok() {
                    failed = resume::write(notes, &now);
                    written = Instant::now();
                }
            }
            show.event(event);
        };
        let (mut terminate, mut interrupt) =
            (super::on(SignalKind::terminate())?, super::on(SignalKind::interrupt())?);
        let verified = tokio::select! {
            verified = registry.verify(how, tell) => Some(verified?),
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
        };
        show.bar.finish_and_clear();
        let Some(verified) = verified else {
            resume::write(notes, &now)?;
            if self.json {
                show.tell(None, now.left, begun.left)?;
            }
            return Err(Failure::Stopped);
        };
        resume::remove(notes)?;
        failed?;
        std::mem::replace(&mut show.said, Ok(()))?;
        let left = verified.left + begun.left;
        if self.json {
            show.tell(Some(verified), left, begun.left)?;
        } else {
            say(&summary(&verified, begun.left))?;
        }
        Ok(left)
    }
}

/// Files that are read at a time.
fn threads() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// What is shown meanwhile.
struct Show {
    json: bool,
    bar: ProgressBar,
    told: Vec<Entry>,
    /// A reader that has gone away does not stop the look.
    said: Result<(), Failure>,
}

impl Show {
    fn new(json: bool) -> Self {
        let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = "{bar:30} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { json, bar, told: Vec::new(), said: Ok(()) }
    }

    /// In JSON; `None` of a look that was stopped.
    fn tell(self, verified: Option<Verified>, left: u64, earlier: u64) -> Result<(), Failure> {
        let told = Told {
            blobs: verified.map(|verified| verified.blobs),
            bytes: verified.map(|verified| verified.bytes),
            manifests: verified.map(|verified| verified.manifests),
            left,
            earlier,
            findings: self.told,
        };
        say(&serde_json::to_string_pretty(&told).map_err(|error| Failure::Output(error.into()))?)
    }

    fn event(&mut self, event: VerifyEvent<'_>) {
        match event {
            VerifyEvent::All { bytes, .. } => self.bar.set_length(bytes),
            VerifyEvent::Read(bytes) | VerifyEvent::Passed(bytes) => self.bar.inc(bytes),
            VerifyEvent::At(Position { phase: Phase::Blobs | Phase::Strays, .. }) => {}
            VerifyEvent::At(Position { phase: Phase::Manifests, .. }) => self.bar.set_message("(manifests)"),
            VerifyEvent::At(Position { phase: Phase::Rows, .. }) => self.bar.set_message("(rows)"),
            VerifyEvent::Found(finding) if self.json => self.told.push(Entry::of(finding)),
            VerifyEvent::Found(finding) => {
                if self.said.is_ok() {
                    self.said = self.bar.suspend(|| say(&line(finding)));
                }
            }
        }
    }
}

/// What is told at the end, as `--json` writes it.
#[derive(Debug, Serialize)]
struct Told {
    blobs: Option<u64>,
    bytes: Option<u64>,
    manifests: Option<u64>,
    left: u64,
    earlier: u64,
    findings: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    kind: &'static str,
    what: String,
    digest: Option<String>,
    used_by: Vec<String>,
    remedy: &'static str,
    left: bool,
}

impl Entry {
    fn of(finding: &Finding) -> Self {
        Self {
            kind: finding.problem.kind(),
            what: finding.problem.to_string(),
            digest: finding.problem.digest().map(ToString::to_string),
            used_by: finding.used_by.iter().map(ToString::to_string).collect(),
            remedy: match finding.remedy {
                Remedy::None => "none",
                Remedy::PutAside => "quarantined",
                Remedy::Corrected => "corrected",
                Remedy::Adopted => "adopted",
                Remedy::Restored => "restored",
            },
            left: finding.is_left(),
        }
    }
}

/// A finding, what uses it, and what became of it.
fn line(finding: &Finding) -> String {
    let remedy = match finding.remedy {
        Remedy::None => "",
        Remedy::PutAside if finding.is_left() => "; it is in quarantine: push it again to mend it",
        Remedy::PutAside => "; it is in quarantine",
        Remedy::Corrected => "; it has been corrected",
        Remedy::Adopted => "; it is left to gc",
        Remedy::Restored => "; it is served again",
    };
    let used_by: Vec<String> = finding.used_by.iter().map(ToString::to_string).collect();
    let used_by =
        if used_by.is_empty() { String::new() } else { format!("; used by {}", used_by.join(", ")) };
    format!("{}{used_by}{remedy}", finding.problem)
}

fn summary(verified: &Verified, earlier: u64) -> String {
    let counted =
        |number: u64, thing: &str| format!("{number} {thing}{}", if number == 1 { "" } else { "s" });
    let Verified { blobs, bytes, manifests, findings, left } = *verified;
    let looked_at = format!(
        "{}, {} read, {}",
        counted(blobs, "blob"),
        ByteSize::b(bytes).display().iec(),
        counted(manifests, "manifest")
    );
    let verdict = match (findings, left) {
        (0, _) => "all is well".to_owned(),
        (found, 0) => format!("{}, put right", counted(found, "finding")),
        (found, left) => format!("{}, {left} of them left", counted(found, "finding")),
    };
    let earlier =
        if earlier == 0 { String::new() } else { format!(", and {earlier} left by the part before") };
    format!("verify: {looked_at}: {verdict}{earlier}")
}

/// Which blobs a sample takes; a look that goes on takes the same.
fn seed() -> Result<u32, Failure> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_written_in_percent() {
        assert_eq!(percent("5%"), Ok(5.0));
        assert_eq!(percent("0.5 %"), Ok(0.5));
        assert_eq!(percent("100"), Ok(100.0));
        for bad in ["", "%", "101%", "-1%", "five", "nan"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}
