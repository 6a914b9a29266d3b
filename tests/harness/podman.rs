//! Podman's service, with nothing of the machine's own: the other engine that Torno speaks to.

use std::{
    fs::{self, File},
    os::unix::fs::chown,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::wait_until;

/// How long a service that is told to end is waited for.
const ENDS: Duration = Duration::from_secs(15);

/// What a machine may have to be told: not every one may raise limits, has systemd, or runs crun.
const CONFIGURATION: &str = "
[containers]
default_ulimits = [\"nofile=20000:20000\", \"nproc=30000:30000\"]
[engine]
runtime = \"runc\"
cgroup_manager = \"cgroupfs\"
events_logger = \"file\"
";

/// The numbers that a user of Podman's may give to those in its containers.
const SUBORDINATE: &str = "10000000:65536";

/// What becomes one user, on a machine that knows it and lets it have other numbers in its containers. Nobody else sees that.
const AS_USER: &str =
    "for file in passwd group subuid subgid; do mount --bind \"$1/$file\" \"/etc/$file\" || exit; done
    uid=$2; shift 2; exec setpriv --reuid=$uid --regid=$uid --clear-groups --inh-caps=-all -- \"$@\"";

/// A service below one folder. Dropped, it ends.
#[derive(Debug)]
pub struct Podman {
    folder: tempfile::TempDir,
    /// Whose it is if not root's.
    user: Option<u32>,
    service: Option<Child>,
}

impl Podman {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_as(None)
    }

    /// Starts one of a user that need not exist.
    pub fn rootless(user: u32) -> Self {
        Self::start_as(Some(user))
    }

    fn start_as(user: Option<u32>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("write");
        write("containers.conf", CONFIGURATION);
        if let Some(user) = user {
            let home = folder.path().display();
            write("passwd", &format!("root:x:0:0::/root:/bin/sh\npodman:x:{user}:{user}::{home}:/bin/sh\n"));
            write("group", &format!("root:x:0:\npodman:x:{user}:\n"));
            for name in ["subuid", "subgid"] {
                write(name, &format!("podman:{SUBORDINATE}\n"));
            }
            chown(folder.path(), Some(user), Some(user)).expect("chown");
        }
        let mut this = Self { folder, user, service: None };
        let log = File::create(this.path("log")).expect("log");
        let mut command = this.podman();
        command.args(["system", "service", "--time", "0", &this.socket()]);
        let service = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("podman");
        this.service = Some(service);
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
        let output = self.podman().args(arguments).output().expect("podman");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn podman(&self) -> Command {
        let mut command = match self.user {
            None => Command::new("podman"),
            Some(user) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", AS_USER, "sh"]).arg(self.folder.path());
                command.args([&user.to_string(), "podman"]);
                // Its way to the home is the folder; nothing of who runs the test is its business.
                command.env("HOME", self.folder.path()).env("XDG_RUNTIME_DIR", self.folder.path());
                command.current_dir(self.folder.path());
                command
            }
        };
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.path(name));
        }
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // What it has mounted would keep the folder.
        let _ = self.podman().args(["rm", "--all", "--force"]).output();
        if let Some(mut service) = self.service.take() {
            // A rootless one is two processes, and the second ends with the first when that is asked to.
            let _ = Command::new("kill").arg(service.id().to_string()).output();
            let since = Instant::now();
            while matches!(service.try_wait(), Ok(None)) && since.elapsed() < ENDS {
                thread::park_timeout(Duration::from_millis(20));
            }
            let _ = service.kill();
            let _ = service.wait();
        }
        let _ = self.podman().args(["system", "reset", "--force"]).output();
        // What keeps the namespaces of a user while nothing else does.
        if let Ok(pause) = fs::read_to_string(self.path("tmp/pause.pid")) {
            let _ = Command::new("kill").arg(pause.trim()).output();
        }
    }
}
