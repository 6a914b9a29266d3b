//! An identity provider of a test's own, over TLS.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Answer, Authority, wait_until};

/// A provider with a folder of its own, which knows whoever a test says. Dropped, it ends.
#[derive(Debug)]
pub struct IdentityProvider {
    folder: TempDir,
    authority: Authority,
    server: Option<Child>,
    base: String,
}

impl IdentityProvider {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        let authority = Authority::new();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pair = authority.issue("provider");
        fs::create_dir(folder.path().join("codes")).expect("a folder");
        fs::copy(&pair.certificate, folder.path().join("provider.pem")).expect("copied");
        fs::copy(&pair.key, folder.path().join("provider.key")).expect("copied");
        let mut provider = Self { folder, authority, server: None, base: String::new() };
        for key in ["signing.key", "other.key"] {
            let path = provider.path(key);
            crate::tool("openssl", &["genrsa", "-out", path.to_str().expect("UTF-8"), "2048"]);
        }
        let secret = provider.path("secret");
        fs::write(&secret, "a secret%with/signs\n").expect("written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("chmod");
        provider.resume();
        provider
    }

    /// Starts it, again at the same address if it ran before.
    pub fn resume(&mut self) {
        let port = self.base.rsplit(':').next().filter(|port| !port.is_empty()).unwrap_or("0").to_owned();
        let _ = fs::remove_file(self.path("base"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/identity_provider.py");
        let log = File::create(self.path("log")).expect("log");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script).arg(self.folder.path()).arg(port).env("PYTHONDONTWRITEBYTECODE", "1");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(child.expect("python"));
        self.base = wait_until("the provider listens", || fs::read_to_string(self.path("base")).ok());
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.server.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What tells Torno of it.
    pub fn table(&self) -> String {
        format!(
            "[auth.oidc]\nissuer = \"{}/site\"\nclient_id = \"torno:client\"\nclient_secret_file = \"{}\"\n\
             ca = \"{}\"\n",
            self.base,
            self.path("secret").display(),
            self.authority.certificate().display()
        )
    }

    /// Its address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Says other things of itself from now on.
    pub fn say(&self, configuration: &Value) {
        fs::write(self.path("configuration"), configuration.to_string()).expect("written");
    }

    /// Somebody whom Torno has sent here logs in; the address they are sent back to. `change` changes what belongs to
    /// their login.
    pub fn log_in(&self, sent: &Answer, claims: &Value, change: impl FnOnce(&mut Value)) -> String {
        let location = sent.header("location");
        let start = format!("{}/site/authorize?theme=plain&", self.base);
        let query = location.strip_prefix(&start).unwrap_or_else(|| panic!("{location}"));
        let asked: BTreeMap<&str, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name, decoded(value)))
            .collect();
        assert_eq!((asked["response_type"].as_str(), asked["client_id"].as_str()), ("code", "torno:client"));
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"), "{asked:?}");
        assert_eq!(asked["code_challenge_method"], "S256");
        let mut login = json!({
            "code_challenge": asked["code_challenge"],
            "redirect_uri": asked["redirect_uri"],
            "nonce": asked["nonce"],
            "claims": claims,
        });
        change(&mut login);
        let code = crate::sha256(asked["state"].as_bytes()).replace("sha256:", "");
        fs::write(self.path("codes").join(&code), login.to_string()).expect("written");
        format!("{}?code={code}&state={}", asked["redirect_uri"], asked["state"])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = part.split_at(2);
        decoded.push(char::from(u8::from_str_radix(code, 16).expect("hexadecimal")));
        decoded.push_str(rest);
    }
    decoded
}
