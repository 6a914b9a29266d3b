//! A database: the server of `PostgreSQL`, from Debian's package, with a table and somebody who may read it.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{free_port, tool, wait_until};

const OWNER_PASSWORD: &str = "pw-owner";

/// A database server on loopback with a folder of its own. Dropped, it ends.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    port: u16,
    server: Child,
}

impl Postgres {
    /// What `reader`, who may only read, logs in with.
    pub const READER_PASSWORD: &str = "pw-reader-7c1e";

    /// Starts one with a table `patients` of three rows.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("pw"), OWNER_PASSWORD).expect("write");
        if root() {
            // It refuses to be root.
            tool("chown", &["-R", "postgres:postgres", folder.path().to_str().expect("UTF-8")]);
        }
        let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let (data, password) = (at("data"), at("pw"));
        let made = as_nobody("initdb")
            .args(["-D", &data, "-U", "owner", "-A", "scram-sha-256", "--pwfile", &password, "--no-sync"])
            .current_dir(folder.path())
            .output()
            .expect("install postgresql (scripts/setup does)");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let server = as_nobody("postgres")
            .args(["-D", &data, "-k", &at(""), "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "fsync=off"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).expect("log"))
            .spawn()
            .expect("postgres");
        let this = Self { folder, port, server };
        wait_until("the database answers", || this.try_sql("SELECT 1"));
        let reader = Self::READER_PASSWORD;
        this.sql("CREATE TABLE patients (id integer, name text)");
        this.sql("INSERT INTO patients VALUES (1, 'one'), (2, 'two'), (3, 'three')");
        this.sql(&format!("CREATE ROLE reader LOGIN PASSWORD '{reader}'"));
        this.sql("GRANT SELECT ON patients TO reader");
        this
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Does something as its owner; what it answers.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|| {
            panic!("{sql}: {}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default())
        })
    }

    fn try_sql(&self, sql: &str) -> Option<String> {
        TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let answer = Command::new(Self::client())
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "owner",
                "-d",
                "postgres",
                "-Atc",
                sql,
            ])
            .env("PGPASSWORD", OWNER_PASSWORD)
            .output()
            .expect("psql");
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
    }

    /// The client, a program with libraries.
    pub fn client() -> PathBuf {
        program("psql")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Ends at once, with what it had begun undone; killed, it would leave memory behind that is shared.
        let _ = Command::new("kill").args(["-QUIT", &self.server.id().to_string()]).status();
        let _ = self.server.wait();
    }
}

/// A program of the newest version there is.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("install postgresql (scripts/setup does)");
    let newest = versions.flatten().map(|version| version.path()).max().expect("a version");
    newest.join("bin").join(name)
}

fn as_nobody(name: &str) -> Command {
    if !root() {
        return Command::new(program(name));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program(name));
    command
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The libraries that a program needs, and its loader.
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let listed = tool("ldd", &[program.to_str().expect("UTF-8")]);
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}
