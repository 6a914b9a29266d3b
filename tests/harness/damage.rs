//! Damage done to a site's files and database, as disks and people do it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, types::Value};

use crate::Site;

impl Site {
    /// The file of a blob.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let (algorithm, hex) = digest.split_once(':').expect("a digest");
        self.path("registry-data/blobs").join(algorithm).join(&hex[..2]).join(hex)
    }

    /// Where the file of a damaged blob goes first.
    pub fn quarantined_file(&self, digest: &str) -> PathBuf {
        self.path("registry-data/quarantine").join(digest.replace(':', "-"))
    }

    /// Changes one bit of a blob's file.
    pub fn flip_bit(&self, digest: &str, at: u64) {
        let file = File::options().read(true).write(true).open(self.blob_file(digest)).expect("the file");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 4], at).expect("write");
    }

    /// Cuts a blob's file off.
    pub fn truncate(&self, digest: &str, length: u64) {
        let file = File::options().write(true).open(self.blob_file(digest)).expect("the file");
        file.set_len(length).expect("shorter");
    }

    /// The site's database, as somebody may open it who should not.
    pub fn database(&self) -> Connection {
        let database = Connection::open(self.path("registry-data/torno.db")).expect("the database");
        database.busy_timeout(std::time::Duration::from_secs(30)).expect("a timeout");
        database
    }

    /// The names of what has come, changed or gone in the data directory since. The record of what happens is written a
    /// moment later, so to have grown is no change of it.
    pub fn changed_since(&self, before: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
        let after = self.everything();
        let same = |name: &&String| match (before.get(*name), after.get(*name)) {
            (Some(before), Some(after)) if name.starts_with("file audit/") => after.starts_with(before),
            (before, after) => before == after,
        };
        before.keys().chain(after.keys()).filter(|name| !same(name)).cloned().collect()
    }

    /// Everything in the data directory: each file with its bytes, and each table of the database with its rows.
    pub fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        let data = self.path("registry-data");
        files_below(&data, &data, &mut all);
        let database = self.database();
        let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
        let mut statement = database.prepare(sql).expect("tables");
        let tables = statement.query_map([], |row| row.get::<_, String>(0)).expect("tables");
        for table in tables.map(|name| name.expect("a name")) {
            let mut statement =
                database.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).expect("rows");
            let columns = statement.column_count();
            let mut rows = statement.query([]).expect("rows");
            let mut text = String::new();
            while let Some(row) = rows.next().expect("a row") {
                let values = (0..columns).map(|column| row.get::<_, Value>(column).expect("a value"));
                writeln!(text, "{:?}", values.collect::<Vec<_>>()).expect("a text");
            }
            all.insert(format!("table {table}"), text.into_bytes());
        }
        all
    }
}

fn files_below(root: &Path, folder: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = entry.strip_prefix(root).expect("below").display().to_string();
        if entry.is_dir() {
            all.insert(format!("folder {name}"), Vec::new());
            files_below(root, &entry, all);
        } else if entry.is_file() && !name.starts_with("torno.db") {
            // What is in the database is compared by its rows; a socket is not stored.
            all.insert(format!("file {name}"), fs::read(&entry).expect("a file"));
        }
    }
}
