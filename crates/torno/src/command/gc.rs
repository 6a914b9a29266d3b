//! `torno gc`: removes what nothing needs, beside a server that serves.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use torno_registry::{DEFAULT_GRACE, Garbage};

use super::{ConfigFile, Failure};

const EXAMPLES: &str = "\
Examples:
  torno gc --dry-run         what would go, and how many bytes
  torno gc                   remove it; the server may be serving meanwhile
  torno gc --grace 0s        blobs of pushes under way too, which then fail

Garbage is what no tag, manifest or unfinished run needs any more: blobs and manifests that were deleted, and blobs \
whose manifest never came.";

/// Remove what nothing needs any more, while the server serves
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Gc {
    #[command(flatten)]
    file: ConfigFile,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// How long a blob waits for its manifest before it is garbage, such as `30m` [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
}

impl Gc {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let grace = self.grace.unwrap_or(DEFAULT_GRACE);
        super::with_registry(&config, async |registry| {
            if self.dry_run {
                let swept = registry.garbage(grace).await?;
                for garbage in &swept.blobs {
                    say(&line("would delete", garbage))?;
                }
                let bytes = swept.blobs.iter().map(|garbage| garbage.size).sum();
                return say(&total("would free", swept.blobs.len() as u64, bytes, swept.manifests));
            }
            let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
            if let Ok(style) =
                ProgressStyle::with_template("{bar:30} {pos}/{len} blobs, {msg} freed, {elapsed}")
            {
                bar.set_style(style);
            }
            let mut freed = 0;
            let mut failed = Ok(());
            let collected = registry
                .collect(grace, |all, gone| {
                    bar.set_length(all.len() as u64);
                    let Some(gone) = gone else { return };
                    freed += gone.size;
                    bar.set_message(size(freed));
                    bar.inc(1);
                    let said = bar.suspend(|| say(&line("deleted", gone)));
                    // A reader that has gone away does not stop the collection.
                    if failed.is_ok() {
                        failed = said;
                    }
                })
                .await?;
            bar.finish_and_clear();
            failed?;
            say(&total("freed", collected.blobs, collected.bytes, collected.manifests))?;
            match collected.uploads {
                0 => Ok(()),
                1 => say("gc: 1 abandoned upload removed"),
                many => say(&format!("gc: {many} abandoned uploads removed")),
            }
        })
    }
}

fn line(what: &str, garbage: &Garbage) -> String {
    format!("{what} {} {}", garbage.blob, size(garbage.size))
}

fn total(what: &str, blobs: u64, bytes: u64, manifests: u64) -> String {
    let counted =
        |number: u64, thing: &str| format!("{number} {thing}{}", if number == 1 { "" } else { "s" });
    format!(
        "gc: {what} {} ({bytes} bytes) in {}, {}",
        size(bytes),
        counted(blobs, "blob"),
        counted(manifests, "manifest")
    )
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(Failure::Output)
}
