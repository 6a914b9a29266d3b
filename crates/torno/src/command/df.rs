//! `torno df`: how much there is and whose it is. For the admin, who has the data directory.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use bytesize::ByteSize;
use serde_json::{Value, json};
use torno_registry::{DiskUsage, Usage};

use super::{ConfigFile, Failure};

/// How many rows of each kind are shown when nobody says.
const SHOWN: usize = 20;

const EXAMPLES: &str = "\
Examples:
  torno df               the largest namespaces, projects, users and repositories
  torno df --limit 1000
  torno df --json        all of them, in bytes

LOGICAL is what each repository holds, added up; ON DISK counts once what several repositories of the row hold; \
SAVED is what that saves; UNSHARED is what no repository outside the row holds, and would be free without it.";

/// See how much there is, whose it is, and what sharing saves
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Df {
    #[command(flatten)]
    file: ConfigFile,
    /// Print everything as JSON, sizes in bytes
    #[arg(long)]
    json: bool,
    /// At most so many rows of each table
    #[arg(long, default_value_t = SHOWN, conflicts_with = "json")]
    limit: usize,
}

impl Df {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        super::with_registry(&config, async |registry| {
            let usage = registry.usage().await?;
            let text =
                if self.json { format!("{:#}\n", as_json(&usage)) } else { as_text(&usage, self.limit) };
            io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)
        })
    }
}

fn as_json(DiskUsage { held, uploads }: &DiskUsage) -> Value {
    let with = |mut value: Value, key: &str, name: &dyn Display| {
        value[key] = json!(name.to_string());
        value
    };
    let usage = |usage: &Usage| {
        json!({
            "repositories": usage.repositories, "logical": usage.logical, "onDisk": usage.stored,
            "saved": saved(usage), "unshared": usage.unshared,
        })
    };
    let own = |own: &Usage| json!({"logical": own.logical, "unshared": own.unshared});
    json!({
        "all": usage(&held.all),
        "onDisk": held.kept,
        "garbage": {"blobs": held.garbage.blobs, "bytes": held.garbage.bytes},
        "uploads": {"sessions": uploads.sessions, "bytes": uploads.bytes},
        "namespaces": held.namespaces.iter().map(|(name, of)| with(usage(of), "namespace", name)).collect::<Vec<_>>(),
        "projects": held.projects.iter().map(|(name, of)| with(usage(of), "project", name)).collect::<Vec<_>>(),
        "users": held.users.iter().map(|(name, of)| with(usage(of), "user", name)).collect::<Vec<_>>(),
        "repositories": held.repositories.iter().map(|(name, of)| with(own(of), "repository", name)).collect::<Vec<_>>(),
    })
}

fn as_text(DiskUsage { held, uploads }: &DiskUsage, limit: usize) -> String {
    let all = &held.all;
    let mut text = [
        format!(
            "{} repositories hold {}, on disk {}: sharing saves {}",
            all.repositories,
            size(all.logical),
            size(all.stored),
            size(saved(all))
        ),
        format!("on disk in all     {}", size(held.kept)),
        format!("garbage waiting    {} in {} blobs", size(held.garbage.bytes), held.garbage.blobs),
        format!("being uploaded     {} in {} uploads", size(uploads.bytes), uploads.sessions),
    ]
    .join("\n");
    text.push('\n');
    text += &table("NAMESPACE", &held.namespaces, limit);
    text += &table("PROJECT", &held.projects, limit);
    text += &table("USER", &held.users, limit);
    text += &table("REPOSITORY", &held.repositories, limit);
    text
}

/// A table of the first rows, and how many there are more; nothing without rows.
fn table(head: &str, rows: &[(impl Display, Usage)], limit: usize) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heads = [head, "REPOSITORIES", "LOGICAL", "ON DISK", "SAVED", "UNSHARED"].map(str::to_owned);
    let cells = rows.iter().take(limit).map(|(name, usage)| {
        [
            name.to_string(),
            usage.repositories.to_string(),
            size(usage.logical),
            size(usage.stored),
            size(saved(usage)),
            size(usage.unshared),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(heads).chain(cells).collect();
    let widths: Vec<usize> = (0..6)
        .map(|column| lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    let mut text = String::from("\n");
    for line in &lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // Names to the left, numbers to the right.
            if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    match rows.len().saturating_sub(limit) {
        0 => text,
        more => text + &format!("and {more} more; see --limit\n"),
    }
}

fn saved(usage: &Usage) -> u64 {
    usage.logical.saturating_sub(usage.stored)
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}
