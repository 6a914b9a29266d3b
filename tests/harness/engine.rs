//! An engine of a test's own, since the machine's is everybody's.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::wait_until;

/// A `dockerd` with nothing of the machine's own, below one folder.
#[derive(Debug)]
pub struct Engine {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    programs: Option<PathBuf>,
    daemon: Option<Child>,
}

impl Engine {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// One with further arguments, which may name files in its folder.
    pub fn start_with(arguments: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let arguments = arguments(folder.path());
        let mut engine = Self { folder, arguments, programs: None, daemon: None };
        engine.begin();
        engine
    }

    /// One that finds the programs of this folder before the machine's own.
    pub fn start_behind(programs: &Path) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let programs = Some(programs.to_owned());
        let mut engine = Self { folder, arguments: Vec::new(), programs, daemon: None };
        engine.begin();
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where it listens, as `DOCKER_HOST` has it.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Starts it again.
    pub fn begin(&mut self) {
        let log = File::options().create(true).append(true).open(self.path("log")).expect("log");
        // A second engine told to have no bridge would remove the one of the first.
        let bridge = if Path::new("/sys/class/net/docker0").exists() { "docker0" } else { "none" };
        let mut daemon = Command::new("dockerd");
        if let Some(programs) = &self.programs {
            let path = std::env::var("PATH").expect("a PATH");
            daemon.env("PATH", format!("{}:{path}", programs.display()));
        }
        let daemon = daemon
            .args(["--host", &self.socket(), "--bridge", bridge, "--iptables=false", "--ip6tables=false"])
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd");
        self.daemon = Some(daemon);
        wait_until("the engine answers", || {
            let info = Command::new("docker").args(["--host", &self.socket(), "info"]).output();
            info.expect("docker").status.success().then_some(())
        });
    }

    /// Ends it in good order.
    pub fn end(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let pid = daemon.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
            wait_until("the engine ends", || daemon.try_wait().expect("wait"));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}
