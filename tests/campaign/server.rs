//! The Torno under test: a folder with its configuration and data, and the process that serves it.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{failure::Failure, phase};

/// How long it may take to listen: what it finds in its journal is written first.
const START: Duration = Duration::from_mins(1);

/// The user who pushes everything.
const USER: &str = "ada";
const PASSWORD: &str = "pw-ada";

/// A site. Dropped, its server is killed; its folder is left to whoever made it.
#[derive(Debug)]
pub(crate) struct Server {
    program: PathBuf,
    folder: PathBuf,
    engine: String,
    address: String,
    child: Option<Child>,
}

impl Server {
    /// Makes a site in a folder that is not there yet.
    pub(crate) fn make(program: &Path, folder: &Path, engine: &str) -> Result<Self, Failure> {
        let this = Self::at(program, folder, engine);
        let mut init = Command::new(program);
        let output = init.arg("init").arg(folder).output().map_err(Failure::io("torno init"))?;
        if !output.status.success() {
            return Err(Failure::program("torno init", &output));
        }
        let path = this.path("torno.toml");
        let mut file = File::options().append(true).open(&path).map_err(Failure::io("torno.toml"))?;
        let project = format!("[projects.p]\nresearchers = [\"{USER}\"]\n");
        file.write_all(project.as_bytes()).map_err(Failure::io("torno.toml"))?;
        let mut add = this.torno(&["user", "add", USER, "--password-stdin"]);
        let failure = || Failure::io("torno user add");
        let mut child = add
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failure())?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(PASSWORD.as_bytes()).map_err(failure())?;
        }
        let output = child.wait_with_output().map_err(failure())?;
        if output.status.success() { Ok(this) } else { Err(Failure::program("torno user add", &output)) }
    }

    /// A site that is there.
    pub(crate) fn at(program: &Path, folder: &Path, engine: &str) -> Self {
        let (program, folder) = (program.to_owned(), folder.to_owned());
        Self { program, folder, engine: engine.into(), address: "127.0.0.1:0".into(), child: None }
    }

    /// A path in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.path("registry-data")
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What clients authenticate with.
    pub(crate) fn authorization() -> String {
        format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
    }

    /// A `torno` command on this site, in a process group of its own: a Ctrl-C on the terminal is for this program.
    pub(crate) fn torno(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.process_group(0);
        command.args(arguments).arg("--config").arg(self.path("torno.toml"));
        command.env("TORNO_LISTEN_ADDRESS", &self.address).env("TORNO_EXECUTOR_ENGINE", &self.engine);
        command.env("TORNO_LOG", "warn").env("TORNO_EXECUTOR_CONCURRENT_RUNS", "2");
        // Whatever is left in the engine is to be a leak.
        command.env("TORNO_EXECUTOR_KEEP_CACHE", "0B");
        command
    }

    /// Runs a `torno` command, which must succeed.
    pub(crate) fn run(mut command: Command, what: &str) -> Result<String, Failure> {
        let output: Output = command.stdin(Stdio::null()).output().map_err(Failure::io(what))?;
        if !output.status.success() {
            return Err(Failure::program(what, &output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts it without waiting for anything. It keeps its port once it has one.
    pub(crate) fn begin(&mut self) -> Result<u64, Failure> {
        let path = self.path("log");
        let log = File::options().create(true).append(true).open(path).map_err(Failure::io("its log"))?;
        let from = log.metadata().map_err(Failure::io("its log"))?.len();
        let mut command = self.torno(&["serve"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.child = Some(child.map_err(Failure::io("torno serve"))?);
        Ok(from)
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        let from = usize::try_from(self.begin()?).unwrap_or(0);
        let since = Instant::now();
        loop {
            let log = fs::read(self.path("log")).map_err(Failure::io("its log"))?;
            let new = String::from_utf8_lossy(log.get(from..).unwrap_or_default()).into_owned();
            // A line may be seen while it is being written.
            let mut whole = new.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            if let Some(address) = whole.find_map(|line| line.strip_prefix("listening on ")) {
                address.clone_into(&mut self.address);
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || since.elapsed() > START {
                return Err(Failure::Wrong(format!("torno serve does not come up: {new}")));
            }
            phase::go_on()?;
            thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Sends it SIGKILL, while others still use this value.
    pub(crate) fn kill_now(&self) -> Result<(), Failure> {
        let Some(child) = &self.child else { return Ok(()) };
        let id = rustix::process::Pid::from_child(child);
        let killed = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        killed.map_err(|error| Failure::io("torno serve could not be killed")(error.into()))
    }

    /// Kills it, if it is not dead already, and waits for its end.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let failure = Failure::io("torno serve could not be killed");
        child.kill().and_then(|()| child.wait()).map_err(failure)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that cannot be killed has ended.
        let _ = self.kill();
    }
}
