//! A containerd of a test's own, which needs no engine as long as nothing is unpacked or run.

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{Site, wait_until};

/// containerd with its client `ctr`, in a folder that goes when this is dropped.
#[derive(Debug)]
pub struct Containerd {
    folder: TempDir,
    daemon: Child,
}

impl Containerd {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("socket")
        );
        fs::write(path("config.toml"), config).expect("write");
        let log = fs::File::create(path("log")).expect("log");
        let daemon = Command::new("containerd")
            .args(["--config", &path("config.toml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd");
        let this = Self { folder, daemon };
        wait_until("containerd answers", || this.ctr(&["version"]).status.success().then_some(()));
        this
    }

    /// Runs `ctr`.
    pub fn ctr(&self, arguments: &[&str]) -> Output {
        let socket = self.folder.path().join("socket");
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket).args(arguments).stdin(Stdio::null());
        command.output().expect("ctr")
    }

    /// Runs `ctr` on a site as a user; it must succeed.
    #[track_caller]
    pub fn ok(&self, site: &Site, user: &str, arguments: &[&str], images: &[&str]) {
        let login = format!("{user}:pw-{user}");
        let images: Vec<String> = images.iter().map(|image| format!("{}/{image}", site.host())).collect();
        let mut all = arguments.to_vec();
        all.extend(["--plain-http", "--user", &login]);
        all.extend(images.iter().map(String::as_str));
        let output = self.ctr(&all);
        assert!(output.status.success(), "ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Best effort: the test has ended, well or not.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
