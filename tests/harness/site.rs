//! A Torno of a test's own.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{Http, docker};

/// How long anything may take that should be quick, on a machine that is busy with other tests: a memory bomb in gVisor has
/// taken more than a minute there.
const PATIENCE: Duration = Duration::from_mins(3);

/// Two projects: heart with the researchers ada and bob and the custodian cora, liver with the researcher eve.
pub const PROJECTS: &str = "[projects.heart]\nresearchers = [\"ada\", \"bob\"]\ncustodians = [\"cora\"]\n\
    [projects.liver]\nresearchers = [\"eve\"]\n";

/// For `TORNO_EXECUTOR_ENGINE`: an engine that is not there, so that runs stay queued.
pub const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// How long the traces of a run may stay in the engine after its end.
const TIDY: Duration = Duration::from_secs(15);

/// A folder with a configuration, users and data, and a Torno that serves it.
#[derive(Debug)]
pub struct Site {
    folder: TempDir,
    host: String,
    server: Option<Child>,
    environment: BTreeMap<String, String>,
    wrapper: Vec<String>,
}

impl Site {
    /// A site whose configuration is `torno init`'s with `extra` behind it and a quick `[results] wait`.
    pub fn new(extra: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let environment = [
            ("TORNO_LISTEN_ADDRESS", "127.0.0.1:0"),
            ("TORNO_RESULTS_WAIT", "30s"),
            // What is left in the engine is a defect, unless a test asks for it.
            ("TORNO_EXECUTOR_KEEP_CACHE", "0B"),
            ("TORNO_LOG", "info,torno_server=debug"),
        ];
        let site = Self {
            folder,
            host: String::new(),
            server: None,
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            wrapper: Vec::new(),
        };
        assert!(site.torno(&["init", site.path("").to_str().expect("UTF-8")]).status.success());
        site.append(extra);
        site
    }

    /// Sets a `TORNO_*` variable for everything started from now on.
    #[must_use]
    pub fn with(mut self, variable: &str, value: &str) -> Self {
        self.environment.insert(variable.to_owned(), value.to_owned());
        self
    }

    /// Starts the server by way of another program, whose process becomes the server's: `strace -D`, for one.
    #[must_use]
    pub fn behind(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// A site with these users (each with its name as its password), started.
    pub fn start_with(extra: &str, users: &[&str]) -> Self {
        let mut site = Self::new(extra);
        site.add_users(users);
        site.start();
        site
    }

    /// Adds users; each has `pw-<name>` as the password. `admin` is there already and gets it too.
    pub fn add_users(&self, users: &[&str]) {
        for user in users {
            let action = if *user == "admin" { "passwd" } else { "add" };
            let added = self.torno_with_input(&["user", action, user, "--password-stdin"], &password(user));
            assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        }
    }

    /// A path in the site's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder of data in the site's folder, which has one file, `data.txt`.
    pub fn write_data(&self, folder: &str, content: &str) {
        let folder = self.path(folder);
        fs::create_dir_all(&folder).expect("folder");
        fs::write(folder.join("data.txt"), content).expect("data");
    }

    /// Adds text to the configuration.
    pub fn append(&self, text: &str) {
        let mut file = File::options().append(true).open(self.path("torno.toml")).expect("torno.toml");
        writeln!(file, "{text}").expect("write");
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> &str {
        assert!(!self.host.is_empty(), "the site has not been started");
        &self.host
    }

    /// An HTTP client that logs in as this user.
    pub fn http(&self, user: &str) -> Http {
        Http::new(self.host(), Some((user, &password(user))))
    }

    /// An HTTP client that logs in with this password.
    pub fn http_with(&self, user: &str, password: &str) -> Http {
        Http::new(self.host(), Some((user, password)))
    }

    /// An HTTP client that brings this bearer token.
    pub fn bearer(&self, token: &str) -> Http {
        Http::with_bearer(self.host(), token)
    }

    /// An HTTP client that does not log in.
    pub fn anonymous(&self) -> Http {
        Http::new(self.host(), None)
    }

    /// Starts the server and waits until it answers. It keeps its port over restarts.
    pub fn start(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.path("log")).expect("log");
        let from = log.metadata().expect("log").len();
        let mut command = self.as_server(&["serve"]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("torno serve");
        self.server = Some(child);
        self.host = wait_until("the server listens", || {
            let text = self.log();
            let new = text.get(usize::try_from(from).expect("length")..)?;
            if let Some(status) = self.exited() {
                panic!("the server ended ({status}): {new}");
            }
            // A line may be seen while it is being written.
            let whole = new.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            whole.into_iter().find_map(|line| line.strip_prefix("listening on ")).map(str::to_owned)
        });
        self.environment.insert("TORNO_LISTEN_ADDRESS".into(), self.host.clone());
    }

    /// Has clients go to a server that the test has started by itself.
    pub fn served_at(&mut self, host: &str) {
        host.clone_into(&mut self.host);
    }

    fn exited(&self) -> Option<String> {
        let id = self.pid();
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next().unwrap_or("X").chars().next();
        matches!(state, Some('Z' | 'X') | None).then(|| format!("state {state:?}"))
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Ends the server with SIGTERM; it must exit with 0.
    pub fn stop(&mut self) {
        self.signal("TERM");
        self.wait_for_end();
    }

    /// Waits until the server has ended by itself or by a signal; it must exit with 0.
    pub fn wait_for_end(&mut self) {
        let mut child = self.server.take().expect("the server runs");
        let status = wait_until("the server ends", || child.try_wait().expect("wait"));
        assert!(status.success(), "the server ended with {status}: {}", self.log());
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.server.take().expect("the server runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Sends the server a signal by its name, such as `HUP`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// A `torno` command on this site's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments);
        if arguments.first() != Some(&"init") {
            command.arg("--config").arg(self.path("torno.toml"));
        }
        command.envs(&self.environment);
        command
    }

    /// The same by way of what the server is started by.
    pub fn as_server(&self, arguments: &[&str]) -> Command {
        let command = self.command(arguments);
        let [program, words @ ..] = &self.wrapper[..] else { return command };
        let mut wrapped = Command::new(program);
        wrapped.args(words).arg(command.get_program()).args(command.get_args()).envs(&self.environment);
        wrapped
    }

    /// Runs a `torno` command.
    pub fn torno(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("torno")
    }

    /// Runs a `torno` command that must succeed; its standard output.
    pub fn torno_ok(&self, arguments: &[&str]) -> String {
        let output = self.torno(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "torno {arguments:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a `torno` command that reads standard input.
    pub fn torno_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("torno");
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write");
        child.wait_with_output().expect("torno")
    }

    /// How many bytes of uploads are on the disk.
    pub fn upload_bytes(&self) -> u64 {
        bytes_below(&self.path("registry-data/uploads"))
    }

    /// How many runs there are.
    pub fn runs(&self) -> usize {
        self.torno_ok(&["runs", "list"]).lines().count() - 1
    }

    /// How many bytes of blobs are on the disk.
    pub fn blob_bytes(&self) -> u64 {
        bytes_below(&self.path("registry-data/blobs"))
    }

    /// What labels this site's containers, volumes and images; `None` before the executor has started once.
    pub fn instance(&self) -> Option<String> {
        let text = fs::read_to_string(self.path("registry-data/instance")).ok()?;
        Some(text.trim().to_owned())
    }

    /// Waits until a run is over; its state.
    pub fn wait_for_run(&self, run: u64) -> String {
        wait_until(&format!("run {run} is over"), || {
            let shown = self.torno_ok(&["runs", "show", &run.to_string()]);
            let field = |name: &str| {
                let line = shown.lines().find(|line| line.starts_with(name))?;
                Some(line.get(name.len()..)?.trim().to_owned())
            };
            (field("finished")? != "-").then(|| field("state")).flatten()
        })
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let instance = self.instance();
        let leftovers = || instance.as_deref().map(docker::leftovers).unwrap_or_default();
        if self.server.is_some() && !thread::panicking() {
            // A run is over when its result is there; its traces go a moment later.
            let since = Instant::now();
            while !leftovers().is_empty() && since.elapsed() < TIDY {
                thread::park_timeout(Duration::from_millis(50));
            }
        }
        if let Some(mut child) = self.server.take() {
            // Best effort: the test has ended, well or not.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(40).collect();
            let text = last.into_iter().rev().fold(String::new(), |text, line| text + "    " + line + "\n");
            eprintln!("the last lines of the server's log:\n{text}");
        }
        if let Some(instance) = &instance {
            docker::remove_examination(instance);
        }
        let left = leftovers();
        docker::remove(&left);
        if !thread::panicking() {
            assert!(left.is_empty(), "the engine was left with {left:?}");
        }
        if let Some(instance) = instance {
            let memory = Path::new("/dev/shm").join(format!("torno-{instance}"));
            if thread::panicking() {
                let _ = fs::remove_dir_all(&memory);
            }
            let removed = fs::remove_dir(&memory);
            assert!(
                removed.is_ok() || !memory.exists() || thread::panicking(),
                "{} is not empty",
                memory.display()
            );
        }
    }
}

fn password(user: &str) -> String {
    format!("pw-{user}")
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().expect("kill");
    assert!(sent.success());
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        // gc may have been quicker.
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

/// The binary under test, built from the sources at hand.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "torno", "--bin", "torno"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo");
        assert!(built.success(), "torno could not be built");
        let test = std::env::current_exe().expect("the test's own path");
        let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
        profile.join("torno")
    })
}

/// Asks again and again until there is an answer; fails after three minutes.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(since.elapsed() < PATIENCE, "waited in vain: {what}");
        // Between two looks at a condition, not instead of one.
        thread::park_timeout(Duration::from_millis(20));
    }
}
