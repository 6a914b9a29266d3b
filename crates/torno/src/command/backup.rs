//! `torno backup` and `torno restore`: a copy of everything while the server serves, and the way back.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use torno_audit::Event;
use torno_registry::{BackedUp, Backup as Folder, BlobError, Superfluous};

use super::{ConfigFile, Failure};

const EXAMPLES: &str = "\
Examples:
  torno backup /mnt/backup/torno    the first time everything, then only what is new
  torno backup --prune /mnt/backup/torno    and remove there what only earlier backups needed
  torno verify --backup /mnt/backup/torno   read it again, and compare it with its digests
  torno restore /mnt/backup/torno   into the empty data directory of the configuration

The folder holds passwords' hashes and keys: keep it as private as the data directory. On the same file system blobs \
are not copied but given a second name, which protects from deletion and not from the disk. The configuration is not \
in it. A backup that was stopped leaves the one before it whole; do it again.";

/// Copy the registry to a folder, while the server serves
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Backup {
    #[command(flatten)]
    file: ConfigFile,
    /// The folder: new, empty, or with an earlier backup
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Remove blobs from the folder that only earlier backups needed, once this one is whole
    #[arg(long)]
    prune: bool,
}

/// Make the data directory from a backup
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Restore {
    #[command(flatten)]
    file: ConfigFile,
    /// The folder with the backup
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Backup {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        super::with_registry(&config, async |registry| {
            let folder = Folder::open(&self.folder, &config.data)?;
            let bar = bar();
            let superfluous = if self.prune { Superfluous::Prune } else { Superfluous::Keep };
            let made =
                registry.back_up(&config.data, &config.auth.htpasswd, &folder, superfluous, advance(&bar));
            let made = made.await?;
            bar.finish_and_clear();
            let done = conclude("backup", &made);
            self.note(&made);
            done
        })
    }
}

impl Backup {
    /// Says what is not in the backup, and what is in its folder and not in it.
    fn note(&self, made: &BackedUp) {
        if made.linked > 0 {
            eprintln!(
                "note: what is linked was not read; `torno verify --backup {}` reads it all",
                self.folder.display()
            );
        }
        if made.quarantined > 0 {
            let count = made.quarantined;
            eprintln!("note: in quarantine and so not in the backup: {count}; `torno verify` tells which");
        }
        if made.superfluous > 0 {
            let (count, size) = (made.superfluous, ByteSize::b(made.superfluous_bytes).display().iec());
            let what = if self.prune { "removed" } else { "--prune removes them" };
            eprintln!("note: blobs that only earlier backups needed: {count} ({size}); {what}");
        }
    }
}

impl Restore {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        super::own_data(&config.data)?;
        let kept = fs::symlink_metadata(&config.auth.htpasswd).is_ok();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let bar = bar();
        let restored = torno_registry::restore(
            &self.folder,
            &config.data,
            &config.auth.htpasswd,
            &config.audit.folder,
            advance(&bar),
        );
        let made = runtime.map_err(Failure::Runtime)?.block_on(restored)?;
        bar.finish_and_clear();
        if kept {
            eprintln!("note: {} was there and is left as it is", config.auth.htpasswd.display());
        }
        super::recorded(&config, Event::Restored, || conclude("restore", &made))
    }
}

fn bar() -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} blobs, {per_sec}, {elapsed}") {
        bar.set_style(style);
    }
    bar
}

fn advance(bar: &ProgressBar) -> impl FnMut(usize, usize) {
    |all, done| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    }
}

/// Says what was done. What was lost makes it a failure, though all the rest is there.
fn conclude(what: &str, made: &BackedUp) -> Result<(), Failure> {
    writeln!(
        io::stdout(),
        "{what}: {} blobs; new: {} linked, {} copied and compared ({})",
        made.blobs,
        made.linked,
        made.copied,
        ByteSize::b(made.copied_bytes).display().iec()
    )
    .map_err(Failure::Output)?;
    for lost in &made.lost {
        match &lost.error {
            BlobError::Missing(_) => eprintln!("lost: {}: its file is missing", lost.blob),
            error => eprintln!("lost: {}: {error}", lost.blob),
        }
    }
    if made.lost.is_empty() { Ok(()) } else { Err(Failure::Lost(made.lost.len())) }
}
