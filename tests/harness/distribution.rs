//! The reference registry, from Debian's package `docker-registry`, to take over what it has written.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{Http, wait_until};

/// A distribution with a folder of its own. Dropped, it ends.
#[derive(Debug)]
pub struct Distribution {
    folder: TempDir,
    server: Option<Child>,
    host: String,
}

impl Distribution {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let host = free.expect("a free port").to_string();
        let config = format!(
            "version: 0.1\n\
             log: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage:\n\
             \x20 filesystem: {{rootdirectory: \"{}\"}}\n\
             \x20 delete: {{enabled: true}}\n\
             http: {{addr: \"{host}\"}}\n",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.yml");
        fs::write(&file, config).expect("write");
        let log = File::create(folder.path().join("log")).expect("log");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let server = Some(child.expect("install docker-registry (scripts/setup does)"));
        let started = Self { folder, server, host };
        wait_until("distribution listens", || TcpStream::connect(&started.host).ok());
        started
    }

    /// A client of it.
    pub fn http(&self) -> Http {
        Http::elsewhere(&self.host)
    }

    /// Its folder, which has `docker/registry/v2` in it.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A path in `docker/registry/v2`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.data().join("docker/registry/v2").join(name)
    }

    /// Where it keeps what has this digest.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.path(&format!("blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// Ends it; what it has written stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.server.take() {
            // It keeps nothing that it has not written.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        self.stop();
    }
}
