//! What stands in the database and in the folders, looked at from outside: read only.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};

use crate::{
    failure::Failure,
    model::World,
    phase,
    tally::{Tally, Wrong},
};

/// How long a collection of the server's own may be in the middle of it.
const COLLECTING: Duration = Duration::from_secs(5);

/// Rows that must not be, each as one text.
const DANGLING: &[(&str, &str)] = &[
    (
        "a link to a blob that is not present",
        "SELECT l.repository || ' ' || l.blob || ' ' || ifnull(b.state, '-') FROM blob_links AS l
            LEFT JOIN blobs AS b ON b.digest = l.blob WHERE b.state IS NOT 'present'",
    ),
    (
        "a link to a manifest that is not there",
        "SELECT l.repository || ' ' || l.manifest FROM manifest_links AS l
            LEFT JOIN manifests AS m ON m.digest = l.manifest WHERE m.digest IS NULL",
    ),
    (
        "a manifest whose blob is not linked",
        "SELECT l.repository || ' ' || l.manifest || ' ' || m.blob FROM manifest_links AS l
            JOIN manifest_blobs AS m ON m.manifest = l.manifest WHERE NOT EXISTS (
            SELECT 1 FROM blob_links AS b WHERE b.repository = l.repository AND b.blob = m.blob)",
    ),
    (
        "an index whose manifest is not linked",
        "SELECT l.repository || ' ' || l.manifest || ' ' || m.child FROM manifest_links AS l
            JOIN manifest_children AS m ON m.manifest = l.manifest WHERE NOT EXISTS (
            SELECT 1 FROM manifest_links AS b WHERE b.repository = l.repository AND b.manifest = m.child)",
    ),
    ("a row that refers to none", "SELECT \"table\" || ' ' || \"parent\" FROM pragma_foreign_key_check"),
    ("a broken database", "SELECT quick_check FROM pragma_quick_check WHERE quick_check <> 'ok'"),
];

/// Rows that a collection leaves to nobody.
const LEAKED: &[(&str, &str)] = &[
    ("a hold", "SELECT id || ' ' || blob FROM holds"),
    ("a blob that is not present", "SELECT digest || ' ' || state FROM blobs WHERE state <> 'present'"),
    (
        "a blob that nothing needs",
        "SELECT digest FROM blobs WHERE NOT EXISTS (SELECT 1 FROM blob_links WHERE blob = digest)
            AND digest NOT IN (SELECT m.blob FROM manifest_blobs AS m JOIN runs AS r ON r.image = m.manifest
                WHERE r.finished_at IS NULL)",
    ),
    (
        "a manifest that nothing needs",
        "SELECT digest FROM manifests WHERE NOT EXISTS (SELECT 1 FROM manifest_links WHERE manifest = digest)
            AND digest NOT IN (SELECT image FROM runs WHERE finished_at IS NULL)",
    ),
    ("bytes that stay in the journal", "SELECT id || ' ' || blob FROM journal"),
];

/// The data of a server that nobody changes at the moment.
#[derive(Debug)]
pub(crate) struct Store<'a> {
    data: &'a Path,
    database: Connection,
    tally: &'a Tally,
    when: &'a str,
}

impl<'a> Store<'a> {
    /// Opens the data folder of a server that runs.
    pub(crate) fn open(data: &'a Path, tally: &'a Tally, when: &'a str) -> Result<Self, Failure> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(data.join("torno.db"), flags)?;
        Ok(Self { data, database, tally, when })
    }

    fn wrong(&self, what: Wrong, detail: &str) {
        self.tally.wrong(what, self.when, detail);
    }

    fn texts(&self, sql: &str) -> Result<Vec<String>, Failure> {
        let mut statement = self.database.prepare(sql)?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("", digest));
        self.data.join("blobs").join(algorithm).join(hex.get(..2).unwrap_or("")).join(hex)
    }

    /// Looks for links that lead nowhere.
    pub(crate) fn look_for_dangling(&self) -> Result<(), Failure> {
        for (what, sql) in DANGLING {
            for row in self.texts(sql)? {
                self.wrong(Wrong::Dangling, &format!("{what}: {row}"));
            }
        }
        // What the journal has need not have reached its file.
        let linked = "SELECT DISTINCT b.digest || ' ' || b.size FROM blob_links AS l JOIN blobs AS b
            ON b.digest = l.blob WHERE NOT EXISTS (SELECT 1 FROM journal AS j WHERE j.id = b.journal)";
        let fits = |row: &String| {
            let Some((digest, size)) = row.split_once(' ') else { return false };
            fs::metadata(self.blob_path(digest)).is_ok_and(|found| found.len().to_string() == size)
        };
        let broken: Vec<String> = self.texts(linked)?.into_iter().filter(|row| !fits(row)).collect();
        // The server collects garbage by itself, and unlinks what it takes before it takes it.
        let still = if broken.is_empty() { Vec::new() } else { self.texts(linked)? };
        for row in broken.into_iter().filter(|row| still.contains(row)) {
            self.wrong(
                Wrong::Dangling,
                &format!("a link to a blob without its file, or with another: {row}"),
            );
        }
        Ok(())
    }

    /// Looks for what one collection should have taken while nothing else went on, but that the server may be
    /// collecting as well.
    pub(crate) fn look_for_leaks(&self) -> Result<(), Failure> {
        let since = Instant::now();
        loop {
            let found = self.leaks()?;
            if found.is_empty() {
                return Ok(());
            }
            if since.elapsed() > COLLECTING {
                for detail in found {
                    self.wrong(Wrong::Leaked, &detail);
                }
                return Ok(());
            }
            phase::go_on()?;
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn leaks(&self) -> Result<Vec<String>, Failure> {
        let mut leaks = Vec::new();
        for (what, sql) in LEAKED {
            leaks.extend(self.texts(sql)?.into_iter().map(|row| format!("{what}: {row}")));
        }
        let uploads = files_below(&self.data.join("uploads"))?;
        leaks.extend(uploads.iter().map(|path| format!("an upload: {}", path.display())));
        // The server's own sign may be there, and nobody else is alive.
        let signs = self.data.join("alive");
        let signs = if signs.exists() { files_below(&signs)? } else { Vec::new() };
        leaks.extend(signs.iter().skip(1).map(|path| format!("a sign of life: {}", path.display())));
        let known = self.texts("SELECT digest FROM blobs")?;
        let known: BTreeSet<PathBuf> = known.iter().map(|digest| self.blob_path(digest)).collect();
        let files = files_below(&self.data.join("blobs"))?;
        let strays = files.iter().filter(|path| !known.contains(*path));
        leaks.extend(strays.map(|path| format!("a file that no row speaks of: {}", path.display())));
        Ok(leaks)
    }

    /// Compares the queue with what one client has pushed to be run: one run for each push.
    pub(crate) fn look_for_runs(&self, world: &World) -> Result<(), Failure> {
        let names = world.repositories.iter().filter(|(name, _)| name.starts_with("run/"));
        for (name, repository) in names {
            let mut statement =
                self.database.prepare("SELECT COUNT(*) FROM runs WHERE repository = ?1 AND tag = ?2")?;
            for (tag, known) in &repository.tags {
                let runs: u32 = statement.query_row([name, tag], |row| row.get(0))?;
                let fits = if known.values.contains(&None) { runs <= 1 } else { runs == 1 };
                if !fits {
                    self.wrong(Wrong::Lost, &format!("{name}:{tag} was pushed once and has {runs} runs"));
                }
            }
        }
        Ok(())
    }
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failure = || Failure::io(format!("{} cannot be read", folder.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failure())? {
        let entry = entry.map_err(failure())?;
        if entry.file_type().map_err(failure())?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}
