//! Podman's service, with nothing of the machine's own: the other engine that Torno speaks to.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::wait_until;

/// What a machine may have to be told: not every one may raise limits, has systemd, or runs crun.
const CONFIGURATION: &str = "
[containers]
default_ulimits = [\"nofile=20000:20000\", \"nproc=30000:30000\"]
[engine]
runtime = \"runc\"
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

/// A service below one folder. Dropped, it ends.
#[derive(Debug)]
pub struct Podman {
    folder: tempfile::TempDir,
    service: Child,
}

impl Podman {
    /// Starts one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("containers.conf"), CONFIGURATION).expect("write");
        let log = File::create(folder.path().join("log")).expect("log");
        let mut command = podman(&folder);
        let socket = format!("unix://{}", folder.path().join("podman.sock").display());
        command.args(["system", "service", "--time", "0", &socket]);
        let service = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("podman");
        let this = Self { folder, service };
        wait_until("Podman answers", || {
            let info = Command::new("docker").args(["--host", &this.socket(), "version"]).output();
            info.expect("docker").status.success().then_some(())
        });
        this
    }

    /// Where it listens, as `DOCKER_HOST` has it.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.path("podman.sock").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the client on the same folders, which must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = podman(&self.folder).args(arguments).output().expect("podman");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn podman(folder: &tempfile::TempDir) -> Command {
    let mut command = Command::new("podman");
    command.env("CONTAINERS_CONF", folder.path().join("containers.conf"));
    for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
        command.arg(option).arg(folder.path().join(name));
    }
    command
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What it has mounted would keep the folder.
        let _ = podman(&self.folder).args(["rm", "--all", "--force"]).output();
        let _ = self.service.kill();
        let _ = self.service.wait();
        let _ = podman(&self.folder).args(["system", "reset", "--force"]).output();
    }
}
