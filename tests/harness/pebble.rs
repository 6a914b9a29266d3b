//! A certificate authority that speaks ACME: Let's Encrypt's Pebble, from Debian's package, with a DNS of its own in
//! which every name leads to this machine.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::json;
use tempfile::TempDir;

use crate::{Authority, Pair, docker::tool, wait_until};

/// A Pebble in a folder of its own. Dropped, it ends.
#[derive(Debug)]
pub struct Pebble {
    folder: TempDir,
    /// Who vouches for Pebble itself.
    authority: Authority,
    pair: Pair,
    address: String,
    management: String,
    dns: (String, Child),
    server: Option<Child>,
}

/// Where names are checked.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// The port for TLS-ALPN-01.
    pub tls: u16,
    /// The port for HTTP-01.
    pub http: u16,
}

/// A port that nobody has just now.
pub fn free_port() -> u16 {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    free.expect("a free port").port()
}

impl Pebble {
    /// One that is not started yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new();
        let pair = authority.issue("pebble");
        let local = |port| format!("{}:{port}", Ipv4Addr::LOCALHOST);
        let dns = local(free_port());
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-dns01", &dns, "-management", &local(free_port()), "-defaultIPv6", ""]);
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let names = spawn(command, File::create(folder.path().join("dns.log")).expect("log"));
        wait_until("names are answered", || TcpStream::connect(&dns).ok());
        let (address, management) = (local(free_port()), local(free_port()));
        Self { folder, authority, pair, address, management, dns: (dns, names), server: None }
    }

    /// Where it says what it offers.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The certificate that vouches for it.
    pub fn root(&self) -> PathBuf {
        self.authority.certificate()
    }

    /// Starts it, without memory of what was before. Names are checked at these ports, and certificates hold for so
    /// many seconds.
    pub fn start(&mut self, checked: Checked, lifetime: u64) {
        assert!(self.server.is_none(), "it runs already");
        let config = json!({"pebble": {
            "listenAddress": self.address,
            "managementListenAddress": self.management,
            "certificate": self.pair.certificate,
            "privateKey": self.pair.key,
            "httpPort": checked.http,
            "tlsPort": checked.tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": lifetime,
        }});
        let file = self.folder.path().join("config.json");
        fs::write(&file, config.to_string()).expect("write");
        let log =
            File::options().create(true).append(true).open(self.folder.path().join("log")).expect("log");
        let mut command = Command::new("pebble");
        command.arg("-config").arg(&file).args(["-strict", "-dnsserver", &self.dns.0]);
        // Bad nonces it gives as it does by default; names it checks anew and at once.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        self.server = Some(spawn(command, log));
        for address in [&self.address, &self.management] {
            wait_until("Pebble listens", || TcpStream::connect(address).ok());
        }
    }

    /// Ends it.
    pub fn stop(&mut self) {
        end(self.server.take().as_mut().expect("it runs"));
    }

    /// What it has logged since the first start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How many orders were placed since the first start.
    pub fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    /// The root of the certificates that it has issued since it was started, as a file.
    pub fn issuer(&self) -> PathBuf {
        let file = self.folder.path().join("issuer.pem");
        let url = format!("https://{}/roots/0", self.management);
        let (trusted, to) = (self.root(), file.to_str().expect("UTF-8"));
        let trusted = trusted.to_str().expect("UTF-8");
        tool("curl", &["--silent", "--show-error", "--fail", "--cacert", trusted, "--output", to, &url]);
        file
    }
}

impl Default for Pebble {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("Pebble's log:\n{}", self.log());
        }
        end(&mut self.dns.1);
        if let Some(server) = &mut self.server {
            end(server);
        }
    }
}

fn spawn(mut command: Command, log: File) -> Child {
    let both = log.try_clone().expect("a descriptor");
    let child = command.stdin(Stdio::null()).stdout(both).stderr(log).spawn();
    child.expect("install pebble (scripts/setup does)")
}

/// Best effort: the test has ended, well or not.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
