//! One SQLite database: its connections, its writing thread, its migrations.

use std::{
    fs::File,
    iter,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};
use tokio::sync::{Semaphore, oneshot};

use torno_oci::RepositoryName;

use crate::{
    MetadataError,
    cache::{Answer, Cache, Question, Stale},
};

/// Migrations in their order; a database's `user_version` counts those applied. Never edited once released.
const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001-first.sql"),
    include_str!("../migrations/0002-uploads-are-files.sql"),
    include_str!("../migrations/0003-lists.sql"),
    include_str!("../migrations/0004-journal.sql"),
    include_str!("../migrations/0005-journal-without-places.sql"),
    include_str!("../migrations/0006-suspects.sql"),
    include_str!("../migrations/0007-retention.sql"),
    include_str!("../migrations/0008-quarantine.sql"),
    include_str!("../migrations/0009-tokens.sql"),
    include_str!("../migrations/0010-fingerprints.sql"),
    include_str!("../migrations/0011-log-times.sql"),
    include_str!("../migrations/0012-queue.sql"),
    include_str!("../migrations/0013-given.sql"),
    include_str!("../migrations/0014-traffic.sql"),
    include_str!("../migrations/0015-outages.sql"),
    include_str!("../migrations/0016-control.sql"),
    include_str!("../migrations/0017-unfit.sql"),
    include_str!("../migrations/0018-gpus.sql"),
];

/// Reading connections. Reads are short; more would only compete for two cores.
const READERS: usize = 4;

/// Pages of the write-ahead log after which they are brought into the database, 64 MiB: a page that changes often is
/// then brought there once for many times that it was written.
const CHECKPOINT: i64 = 16 * 1024;

/// Memory for pages of the database, in KiB for each connection.
const CACHE: i64 = 4 * 1024;

/// How long one process waits for another's write, such as `torno gc` for the server's.
const BUSY: Duration = Duration::from_secs(30);

/// Writes committed together at most, so that the first of a group does not wait long for the last.
const GROUP: usize = 64;

/// A write on its way to the writing thread: done inside the group's transaction, it returns what to tell the one who
/// waits, once it is committed. Given the reason why there is no transaction, it does nothing and tells that.
type Job = Box<dyn FnOnce(Result<&mut Transaction<'_>, &MetadataError>) -> Reply + Send>;

type Reply = Box<dyn FnOnce(Result<(), &MetadataError>)>;

/// A handle to the database; clones share it.
#[derive(Clone, Debug)]
pub struct Metadata {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` only while dropping.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<thread::JoinHandle<()>>,
    readers: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
    cache: Cache,
    path: PathBuf,
}

impl Metadata {
    /// Opens the database at `path`, made or migrated as needed. Blocks for as long as that takes.
    pub fn open(path: &Path) -> Result<Self, MetadataError> {
        make(path);
        let mut writer = connect(path)?;
        migrate(&mut writer, path)?;
        let readers = (0..READERS).map(|_| connect(path)).collect::<Result<Vec<_>, _>>()?;
        let (jobs, queue) = mpsc::channel();
        let writer = thread::Builder::new()
            .name("metadata-writer".into())
            .spawn(move || write_all(&mut writer, &queue))
            .map_err(|error| MetadataError::Database(Box::new(error)))?;
        Ok(Self {
            inner: Arc::new(Inner {
                jobs: Some(jobs),
                writer: Some(writer),
                readers: Mutex::new(readers),
                turns: Arc::new(Semaphore::new(READERS)),
                cache: Cache::default(),
                path: path.to_owned(),
            }),
        })
    }

    /// Runs `job` in a transaction, which is rolled back when it fails. Durable once this resolves.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        self.write_making(Stale::All, job).await
    }

    /// The same for a job that is known to change less than everything.
    pub(crate) async fn write_making<T: Send + 'static>(
        &self,
        stale: Stale,
        job: impl FnOnce(&Connection) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        self.write_telling(move |connection| Ok((job(connection)?, stale))).await
    }

    /// The same for a job that tells what it has changed.
    pub(crate) async fn write_telling<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<(T, Stale), MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        self.submit(job)?.await.map_err(|_| MetadataError::Closed)?
    }

    /// Hands a job to the writing thread, which does it whether or not anybody waits.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<(T, Stale), MetadataError> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, MetadataError>>, MetadataError> {
        let (sender, receiver) = oneshot::channel();
        let inner = Arc::downgrade(&self.inner);
        let work: Job = Box::new(move |transaction| -> Reply {
            let done = match transaction {
                Ok(transaction) => in_savepoint(transaction, job),
                Err(error) => Err(error.for_each()),
            };
            Box::new(move |committed| {
                let done = done.map(|(answer, stale)| {
                    // Here, since whoever asked may have gone away.
                    if let Some(inner) = inner.upgrade() {
                        inner.cache.forget(&stale);
                    }
                    answer
                });
                let answer = match committed {
                    Ok(()) => done,
                    Err(error) => done.and(Err(error.for_each())),
                };
                // Whoever asked may have gone away; the write stands all the same.
                let _ = sender.send(answer);
            })
        });
        let jobs = self.inner.jobs.as_ref().ok_or(MetadataError::Closed)?;
        jobs.send(work).map_err(|_| MetadataError::Closed)?;
        Ok(receiver)
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> Result<Connection, MetadataError> {
        connect(&self.inner.path)
    }

    /// Runs `job` on a connection of its own that cannot change the database, for what takes long or needs temporary
    /// tables.
    pub(crate) async fn read_alone<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let inner = Arc::clone(&self.inner);
        let reading = tokio::task::spawn_blocking(move || job(&connect_as(&inner.path, Access::Read)?));
        reading.await.map_err(|_| MetadataError::Closed)?
    }

    /// Brings the write-ahead log into the database and gives its room back, if no process reads from it just now.
    pub async fn shorten_log(&self) -> Result<(), MetadataError> {
        /// Reads are short, but for a backup's.
        const PATIENCE: Duration = Duration::from_secs(1);
        let inner = Arc::clone(&self.inner);
        let shortening = tokio::task::spawn_blocking(move || {
            let connection = connect(&inner.path)?;
            connection.busy_timeout(PATIENCE)?;
            // Its row says whether somebody was in the way, which is as good as nothing having been there to give back.
            Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
        });
        shortening.await.map_err(|_| MetadataError::Closed)?
    }

    /// Runs `job` on a connection that only reads; it sees one moment of the database per statement.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T, MetadataError> + Send + 'static,
    ) -> Result<T, MetadataError> {
        let inner = Arc::clone(&self.inner);
        let turn = Arc::clone(&inner.turns).acquire_owned().await.map_err(|_| MetadataError::Closed)?;
        let reading = tokio::task::spawn_blocking(move || {
            // The turn goes along, so that a dropped future does not give it back while its reader is out.
            let _turn = turn;
            let taken = inner.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.ok_or(MetadataError::Closed)?;
            let answer = job(&connection);
            inner.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            answer
        });
        reading.await.map_err(|_| MetadataError::Closed)?
    }
}

impl Metadata {
    /// Asks the database anew about a repository, since something that should be there is not.
    pub fn distrust(&self, name: &RepositoryName) {
        self.inner.cache.forget(&Stale::Of(vec![name.clone()]));
    }

    /// Answers a question from memory or, with `job`, from the database. Nothing waits for a thread when it is in
    /// memory.
    pub(crate) async fn answer(
        &self,
        question: Question,
        job: impl FnOnce(&Connection) -> Result<Option<Answer>, MetadataError> + Send + 'static,
    ) -> Result<Option<Answer>, MetadataError> {
        match self.remembered(&question) {
            Some(answer) => Ok(Some(answer)),
            None => self.answer_anew(question, job).await,
        }
    }

    /// An answer from memory, if there is one that is still good.
    pub(crate) fn remembered(&self, question: &Question) -> Option<Answer> {
        self.inner.cache.recall(question)
    }

    /// An answer of the database, which is remembered.
    pub(crate) async fn answer_anew(
        &self,
        question: Question,
        job: impl FnOnce(&Connection) -> Result<Option<Answer>, MetadataError> + Send + 'static,
    ) -> Result<Option<Answer>, MetadataError> {
        let cache = &self.inner.cache;
        let asked = cache.moment(&question);
        let found = self.read(job).await?;
        if let Some(answer) = &found {
            cache.keep(question, asked, answer.clone());
        }
        Ok(found)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Ends the queue, so that the thread commits what is in it and returns.
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // It cannot wait for itself: a reply may hold the last handle.
            if writer.thread().id() != thread::current().id() && writer.join().is_err() {
                tracing::error!("the database's writing thread panicked");
            }
        }
    }
}

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// All, and make the database.
    Write,
    /// Change nothing but temporary tables.
    Read,
}

/// Makes the file of a database as other files are made: the one that SQLite makes, and the log beside it, the group can
/// never write to, which may share the data directory. What is in the way is SQLite's to tell.
fn make(path: &Path) {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let made = File::options().append(true).create(true).mode(0o660).custom_flags(flags).open(path);
    drop(made);
}

fn connect(path: &Path) -> Result<Connection, MetadataError> {
    connect_as(path, Access::Write)
}

fn connect_as(path: &Path, access: Access) -> Result<Connection, MetadataError> {
    let flags = match access {
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(128);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    connection.pragma_update(None, "cache_size", -CACHE)?;
    // What a savepoint may take back is kept in memory, not in a file of its own.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Plans do not depend on the values that are bound, so no statement is prepared twice.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Opens a copy of a database, which is not written to, whatever it is asked.
pub(crate) fn connect_to_copy(path: &Path) -> Result<Connection, MetadataError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    refuse_newer(found, path)?;
    Ok(connection)
}

fn refuse_newer(found: i64, path: &Path) -> Result<(), MetadataError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(MetadataError::Newer { path: path.to_owned(), found, known });
    }
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), MetadataError> {
    loop {
        // Asked within the transaction: another process may be doing the same.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        refuse_newer(found, path)?;
        let next = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found));
        let Some(migration) = next else { return Ok(()) };
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", found + 1)?;
        transaction.commit()?;
    }
}

/// The writing thread: takes whatever waits, does it in one transaction, commits, answers.
fn write_all(connection: &mut Connection, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let group: Vec<Job> = iter::once(first).chain(queue.try_iter()).take(GROUP).collect();
        let mut replies = Vec::with_capacity(group.len());
        match write_group(connection, group, &mut replies) {
            Ok(()) => {
                for reply in replies {
                    reply(Ok(()));
                }
            }
            Err(error) => {
                let error = MetadataError::from(error);
                for reply in replies {
                    reply(Err(&error));
                }
            }
        }
    }
}

fn write_group(
    connection: &mut Connection,
    jobs: Vec<Job>,
    replies: &mut Vec<Reply>,
) -> Result<(), rusqlite::Error> {
    let mut transaction = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
        Ok(transaction) => transaction,
        Err(error) => {
            let error = MetadataError::from(error);
            replies.extend(jobs.into_iter().map(|job| job(Err(&error))));
            return Ok(());
        }
    };
    for job in jobs {
        replies.push(job(Ok(&mut transaction)));
    }
    transaction.commit()
}

fn in_savepoint<T>(
    transaction: &mut Transaction<'_>,
    job: impl FnOnce(&Connection) -> Result<T, MetadataError>,
) -> Result<T, MetadataError> {
    let savepoint = transaction.savepoint()?;
    let done = job(&savepoint)?;
    savepoint.commit()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failed_write_leaves_nothing_and_harms_no_other() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
        let insert = |name: &'static str| {
            move |connection: &Connection| {
                connection
                    .execute("INSERT INTO repositories (name, owner, created_at) VALUES (?1, 'a', 0)", [name])
                    .map_err(MetadataError::from)
            }
        };
        let bad = metadata.write(move |connection| {
            insert("one")(connection)?;
            Err::<(), _>(MetadataError::Corrupt("test"))
        });
        let good = metadata.write(insert("two"));
        let (bad, good) = tokio::join!(bad, good);
        assert!(bad.is_err() && good.is_ok());
        let count = |connection: &Connection| {
            Ok(connection.query_row("SELECT count(*) FROM repositories", [], |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(metadata.read(count).await.expect("read"), 1);
    }

    #[tokio::test]
    async fn who_waits_too_long_for_another_process_is_told_so() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("torno.db");
        let metadata = Metadata::open(&path).expect("open");
        // Instead of half a minute.
        let soon = metadata.write(|connection| Ok(connection.busy_timeout(Duration::from_millis(1))?));
        soon.await.expect("a timeout");
        let other = connect(&path).expect("connect");
        other.execute_batch("BEGIN IMMEDIATE").expect("begun");
        let (one, two) = tokio::join!(metadata.write(|_| Ok(())), metadata.write(|_| Ok(())));
        for refused in [one, two] {
            assert!(matches!(refused, Err(MetadataError::Busy)), "{refused:?}");
        }
        other.execute_batch("COMMIT").expect("ended");
        metadata.write(|_| Ok(())).await.expect("its turn");
    }

    #[test]
    fn a_newer_database_is_refused_with_words() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("torno.db");
        drop(Metadata::open(&path).expect("open"));
        connect(&path).expect("connect").pragma_update(None, "user_version", 999).expect("update");
        let refused = Metadata::open(&path).expect_err("refused").to_string();
        assert!(refused.contains("newer Torno"), "{refused}");
    }

    /// A database of an earlier version.
    fn at_version(version: usize, path: &Path) -> Connection {
        let connection = connect(path).expect("connect");
        for migration in &MIGRATIONS[..version] {
            connection.execute_batch(migration).expect("migrated");
        }
        connection
            .pragma_update(None, "user_version", i64::try_from(version).expect("few"))
            .expect("version");
        connection
    }

    #[test]
    fn a_database_of_any_version_becomes_what_a_new_one_is() {
        let folder = tempfile::tempdir().expect("folder");
        let schema = |path: &Path| {
            drop(Metadata::open(path).expect("open"));
            let connection = connect(path).expect("connect");
            let mut statement =
                connection.prepare("SELECT sql FROM sqlite_master ORDER BY name").expect("sql");
            let rows = statement.query_map([], |row| row.get::<_, Option<String>>(0)).expect("rows");
            rows.collect::<Result<Vec<_>, _>>().expect("schema")
        };
        let new = schema(&folder.path().join("new.db"));
        for version in 0..=MIGRATIONS.len() {
            let path = folder.path().join(format!("{version}.db"));
            drop(at_version(version, &path));
            assert_eq!(schema(&path), new, "from version {version}");
        }
    }

    #[tokio::test]
    async fn what_was_garbage_before_is_found_after_a_migration() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("torno.db");
        let [named, waiting, linked_nowhere, of_orphan] =
            ["named", "waiting", "nowhere", "orphan"].map(|text| torno_oci::Digest::sha256(text.as_bytes()));
        let [manifest, orphan] = ["m", "o"].map(|text| torno_oci::Digest::sha256(text.as_bytes()));
        let connection = at_version(5, &path);
        connection
            .execute_batch(
                "INSERT INTO repositories (id, name, owner, created_at) VALUES (7, 'tools/x', 'ada', 0)",
            )
            .expect("inserted");
        for blob in [&named, &waiting, &linked_nowhere, &of_orphan] {
            let sql = "INSERT INTO blobs (digest, size, state) VALUES (?1, 4, 'present')";
            connection.execute(sql, [blob.as_str()]).expect("inserted");
            let sql = "INSERT INTO blob_links (repository, blob, touched_at) VALUES (7, ?1, 5)";
            if blob != &linked_nowhere {
                connection.execute(sql, [blob.as_str()]).expect("inserted");
            }
        }
        for (manifest, blob, orphaned) in [(&manifest, &named, false), (&orphan, &of_orphan, true)] {
            let sql = "INSERT INTO manifests (digest, bytes) VALUES (?1, x'7b7d')";
            connection.execute(sql, [manifest.as_str()]).expect("inserted");
            let sql = "INSERT INTO manifest_blobs (manifest, blob) VALUES (?1, ?2)";
            connection.execute(sql, [manifest.as_str(), blob.as_str()]).expect("inserted");
            let sql = "INSERT INTO manifest_links (repository, manifest, media_type, orphaned, pushed_at)
                VALUES (7, ?1, 'application/vnd.oci.image.manifest.v1+json', ?2, 6)";
            connection.execute(sql, rusqlite::params![manifest.as_str(), orphaned]).expect("inserted");
        }
        drop(connection);
        let metadata = Metadata::open(&path).expect("open");
        let swept = metadata.sweepable(Vec::new(), Duration::from_hours(1), jiff::Timestamp::now());
        let mut found: Vec<_> = swept.await.expect("swept").blobs.into_iter().map(|one| one.blob).collect();
        found.sort();
        let mut garbage = vec![waiting, linked_nowhere, of_orphan];
        garbage.sort();
        assert_eq!(found, garbage);
    }

    #[tokio::test]
    async fn links_outlive_the_journal_s_migration() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("torno.db");
        let connection = at_version(3, &path);
        let blob = torno_oci::Digest::sha256(b"blob");
        let sql = format!(
            "INSERT INTO repositories (id, name, owner, created_at) VALUES (7, 'tools/x', 'ada', 0);
            INSERT INTO blobs (digest, size, state) VALUES ('{blob}', 4, 'present');
            INSERT INTO blob_links (repository, blob, touched_at) VALUES (7, '{blob}', 5);"
        );
        connection.execute_batch(&sql).expect("inserted");
        drop(connection);
        let metadata = Metadata::open(&path).expect("open");
        let name = "tools/x".parse().expect("name");
        assert_eq!(metadata.linked(&name, &blob).await.expect("linked"), Some(4));
        assert_eq!(metadata.journaled(&blob).await.expect("journaled"), None);
    }

    #[test]
    fn it_can_be_opened_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("torno.db");
        for _ in 0..2 {
            drop(Metadata::open(&path).expect("open"));
        }
    }
}
