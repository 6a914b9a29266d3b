//! An engine of a test's own, since the machine's is everybody's.

use std::{
    fs::{self, File},
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

    /// Sends it a signal by its name: `STOP` has it hang, `CONT` ends that.
    pub fn signal(&self, name: &str) {
        let pid = self.daemon.as_ref().expect("the engine runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill").success());
    }

    /// Kills it; its containers live on.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("the engine runs");
        daemon.kill().expect("kill");
        daemon.wait().expect("wait");
        self.forget_containerd();
    }

    /// Its containerd dies with it, a moment later; an engine that starts in that moment takes it for alive and waits for it in
    /// vain.
    fn forget_containerd(&self) {
        let noted = self.path("exec/containerd/containerd.pid");
        let Ok(pid) = fs::read_to_string(&noted) else { return };
        let command = format!("/proc/{}/cmdline", pid.trim());
        wait_until("containerd ends", || fs::read(&command).unwrap_or_default().is_empty().then_some(()));
        // Until somebody has asked how it ended, its number counts as one that lives.
        fs::remove_file(noted).expect("removed");
    }

    /// Kills it and everything of it at once, as when its host loses power.
    pub fn lose_power(&mut self) {
        let folder = self.folder.path().to_str().expect("UTF-8").to_owned();
        let mut of_it: Vec<(u32, u32, String)> = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
            of_it.push((pid, parent.unwrap_or(0), String::from_utf8_lossy(&command).into_owned()));
        }
        let mut dead: Vec<u32> = Vec::new();
        // Its own processes name its folder; a container's first process is a child of one that does.
        let daemons = of_it.iter().filter(|(pid, _, command)| {
            *pid != std::process::id() && command.contains(&folder) && command.contains("containerd")
                || Some(*pid) == self.daemon.as_ref().map(Child::id)
        });
        dead.extend(daemons.map(|(pid, ..)| *pid));
        let children: Vec<u32> =
            of_it.iter().filter(|(_, parent, _)| dead.contains(parent)).map(|(pid, ..)| *pid).collect();
        dead.extend(children);
        for pid in dead {
            // One may have died of another's death.
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().expect("wait");
        }
        self.forget_containerd();
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
