//! `torno gc`: removes what nothing needs, beside a server that serves.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use torno_registry::{Collected, CollectionProgress, Expired, Garbage, Registry, Retention};

use super::{ConfigFile, Failure};

const EXAMPLES: &str = "\
Examples:
  torno gc --dry-run         what would go, and how many bytes
  torno gc                   remove it; the server may be serving meanwhile
  torno gc --grace 0s        blobs of pushes under way too, which then fail

Garbage is what no tag, manifest or unfinished run needs any more: blobs and manifests that were deleted, and blobs \
whose manifest never came. Before that, tags and manifests go that the configuration does not keep ([[retention]] and \
keep_images), each with the rule that says so.";

/// Remove what nothing needs any more, while the server serves
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Gc {
    #[command(flatten)]
    file: ConfigFile,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object: `dry_run`, `manifests`, `blobs`, `bytes`, `uploads`, `expired` with what retention let go
    /// of and its `rule`, and `deleted` with each blob's `digest` and `size`
    #[arg(long)]
    json: bool,
    /// How long a blob waits for its manifest before it is garbage, such as `30m` [default: `gc.grace`, 1h]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    grace: Option<Duration>,
}

impl Gc {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let grace = self.grace.unwrap_or(config.gc.grace);
        super::with_registry(&config, async |registry| {
            let retention = &config.retention;
            let told = if self.dry_run {
                self.foresee(registry, retention, grace).await?
            } else {
                self.collect(registry, retention, grace).await?
            };
            if self.json {
                let told = serde_json::to_string_pretty(&told);
                return say(&told.map_err(|error| Failure::Output(error.into()))?);
            }
            told.say()
        })
    }

    async fn foresee(
        &self,
        registry: &Registry,
        retention: &Retention,
        grace: Duration,
    ) -> Result<Told, Failure> {
        let (expired, swept) = registry.garbage(retention, grace).await?;
        let mut told = Told { dry_run: true, manifests: swept.manifests, ..Told::default() };
        for expired in &expired {
            self.expired("would expire", expired, &mut told)?;
        }
        for garbage in &swept.blobs {
            told.blobs += 1;
            told.bytes += garbage.size;
            self.one("would delete", garbage, &mut told)?;
        }
        Ok(told)
    }

    async fn collect(
        &self,
        registry: &Registry,
        retention: &Retention,
        grace: Duration,
    ) -> Result<Told, Failure> {
        let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = "{bar:30} {pos}/{len} looked at, {msg} freed, {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let (mut told, mut freed, mut said) = (Told::default(), 0, Ok(()));
        let collected = registry
            .collect(retention, grace, |progress| match progress {
                CollectionProgress::LookedAt { looked_at, of } => {
                    bar.set_length(of);
                    bar.set_position(looked_at);
                }
                CollectionProgress::Expired(expired) => {
                    if said.is_ok() {
                        said = bar.suspend(|| self.expired("expired", expired, &mut told));
                    }
                }
                CollectionProgress::Removed(garbage) => {
                    freed += garbage.size;
                    bar.set_message(size(freed));
                    // A reader that has gone away does not stop the collection.
                    if said.is_ok() {
                        said = bar.suspend(|| self.one("deleted", garbage, &mut told));
                    }
                }
            })
            .await?;
        bar.finish_and_clear();
        said?;
        let Collected { manifests, blobs, bytes, uploads, .. } = collected;
        Ok(Told { manifests, blobs, bytes, uploads, ..told })
    }

    /// What retention lets go of, in the same way.
    fn expired(&self, what: &str, expired: &Expired, told: &mut Told) -> Result<(), Failure> {
        let (repository, rule) = (expired.repository().to_string(), expired.reason.to_string());
        if self.json {
            let (name, manifest) = (expired.name().to_owned(), expired.manifest().to_string());
            told.expired.push(Gone { repository, name, manifest, rule });
            return Ok(());
        }
        let between = if expired.name().contains(':') { '@' } else { ':' };
        say(&format!("{what} {repository}{between}{}  {rule}", expired.name()))
    }

    /// A blob: a line at once, or an entry of what is told at the end.
    fn one(&self, what: &str, garbage: &Garbage, told: &mut Told) -> Result<(), Failure> {
        if self.json {
            told.deleted.push(Deleted { digest: garbage.blob.to_string(), size: garbage.size });
            return Ok(());
        }
        say(&format!("{what} {} {}", garbage.blob, size(garbage.size)))
    }
}

/// What is told at the end, as `--json` writes it.
#[derive(Debug, Default, Serialize)]
struct Told {
    dry_run: bool,
    manifests: u64,
    blobs: u64,
    bytes: u64,
    uploads: u64,
    expired: Vec<Gone>,
    deleted: Vec<Deleted>,
}

#[derive(Debug, Serialize)]
struct Gone {
    repository: String,
    name: String,
    manifest: String,
    rule: String,
}

#[derive(Debug, Serialize)]
struct Deleted {
    digest: String,
    size: u64,
}

impl Told {
    fn say(&self) -> Result<(), Failure> {
        let what = if self.dry_run { "would free" } else { "freed" };
        say(&total(what, self.blobs, self.bytes, self.manifests))?;
        match self.uploads {
            0 => Ok(()),
            1 => say("gc: 1 abandoned upload removed"),
            many => say(&format!("gc: {many} abandoned uploads removed")),
        }
    }
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
