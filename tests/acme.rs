//! Certificates by ACME, from Pebble.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, KeyPair};
use torno_tests::{Authority, Checked, Http, NO_ENGINE, Pebble, Site, free_port, shown, wait_until};

/// What people type.
const NAME: &str = "registry.example.org";

/// How long certificates hold that are not to be renewed during a test.
const LONG: u64 = 90 * 24 * 3600;

/// A site and the authority that it orders from, neither of them started.
struct Ordering {
    pebble: Pebble,
    site: Site,
    checked: Checked,
}

impl Ordering {
    fn new() -> Self {
        let pebble = Pebble::new();
        let checked = Checked { tls: free_port(), http: free_port() };
        let site = Site::new("")
            .with("TORNO_LOG", "info")
            .with("TORNO_EXECUTOR_ENGINE", NO_ENGINE)
            .with("TORNO_LISTEN_ADDRESS", &format!("127.0.0.1:{}", checked.tls))
            .with("TORNO_LISTEN_HOSTNAME", &format!("{NAME}:{}", checked.tls))
            .with("TORNO_TLS_MODE", "acme")
            .with("TORNO_TLS_DIRECTORY", &pebble.directory())
            .with("TORNO_TLS_ROOT", pebble.root().to_str().expect("UTF-8"));
        site.add_users(&["ada"]);
        Self { pebble, site, checked }
    }

    /// Where the site keeps what this authority gives.
    fn kept(&self) -> PathBuf {
        let directory = self.pebble.directory().replace("https://", "").replace([':', '/'], "_");
        self.site.path("certs/acme").join(directory)
    }

    fn shown(&self) -> Option<String> {
        shown(self.site.host(), NAME)
    }

    /// Waits until something is shown that is not this.
    fn wait_for_other_than(&self, old: Option<&String>) -> String {
        wait_until("another certificate is shown", || self.shown().filter(|now| Some(now) != old))
    }

    /// The status of a request by a client that trusts this authority only, and the name in the certificate.
    fn status(&self, name: &str, issuer: &Path) -> String {
        let port = self.checked.tls;
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--user", "ada:pw-ada", "--output", "/dev/null"])
            .args(["--write-out", "%{http_code}", "--cacert", issuer.to_str().expect("UTF-8")])
            .args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/v2/")])
            .output()
            .expect("curl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Puts a certificate where an earlier process would have left it: one that still holds, and that ought to have
    /// been renewed long ago. What it is shown as.
    fn leave_an_old_certificate(&self) -> String {
        let key = KeyPair::generate().expect("a key");
        let mut parameters = CertificateParams::new([NAME.to_owned()]).expect("a name");
        let day = Duration::from_hours(24);
        parameters.not_before = (SystemTime::now() - 80 * day).into();
        parameters.not_after = (SystemTime::now() + 10 * day).into();
        let certificate = parameters.self_signed(&key).expect("a certificate").pem();
        fs::create_dir_all(self.kept()).expect("a folder");
        fs::write(self.kept().join("certificate.pem"), key.serialize_pem() + &certificate).expect("write");
        let lines: Vec<&str> = certificate.lines().filter(|line| !line.starts_with('-')).collect();
        lines.join("\n").trim().to_owned()
    }
}

#[test]
fn a_certificate_is_had_by_tls_and_kept_over_a_restart() {
    const OTHER: &str = "other.example.org";
    let mut ordering = Ordering::new();
    let file = ordering.site.path("torno.toml");
    let text = fs::read_to_string(&file).expect("read");
    let names = format!("[tls]\nhostnames = [\"{NAME}\", \"{OTHER}\"]\n");
    fs::write(&file, text.replacen("[tls]\n", &names, 1)).expect("write");
    // Nobody listens where names would be checked in clear.
    ordering.pebble.start(ordering.checked, LONG);
    ordering.site.start();
    let first = ordering.wait_for_other_than(None);
    let issuer = ordering.pebble.issuer();
    assert_eq!(
        (ordering.status(NAME, &issuer), ordering.status(OTHER, &issuer)),
        ("200".into(), "200".into())
    );

    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&ordering.kept()), 0o700);
    for name in ["account.json", "certificate.pem"] {
        assert_eq!(mode(&ordering.kept().join(name)), 0o600, "{name}");
    }
    let key = fs::read_to_string(ordering.kept().join("certificate.pem")).expect("read");
    let key = key.lines().nth(1).expect("a key");
    assert!(!ordering.site.log().contains(key), "a key is never logged");

    // Without the authority: it is not needed.
    ordering.site.stop();
    ordering.pebble.stop();
    ordering.site.start();
    assert_eq!(ordering.shown().as_ref(), Some(&first));
    assert_eq!(ordering.status(NAME, &issuer), "200");
    ordering.site.stop();
    let log = ordering.site.log();
    assert_eq!(log.matches("a certificate was issued").count(), 1, "{log}");
    assert!(!log.contains("no certificate for"), "nothing was asked for: {log}");
}

#[test]
fn a_certificate_is_had_by_http_and_everything_else_is_sent_on() {
    let mut ordering = Ordering::new();
    let clear = format!("127.0.0.1:{}", ordering.checked.http);
    ordering.site = ordering.site.with("TORNO_LISTEN_HTTP", &clear).with("TORNO_TLS_CHALLENGE", "http-01");
    // Nobody listens where names would be checked by TLS.
    ordering.pebble.start(Checked { tls: free_port(), ..ordering.checked }, LONG);
    ordering.site.start();
    ordering.wait_for_other_than(None);
    assert_eq!(ordering.status(NAME, &ordering.pebble.issuer()), "200");

    let clear = Http::elsewhere(&clear);
    let answer = clear.get("/v2/a/tags/list?n=1");
    assert_eq!(answer.status, 308);
    answer.expect_header("location", &format!("https://{NAME}:{}/v2/a/tags/list?n=1", ordering.checked.tls));
    clear.post("/v2/a/blobs/uploads/").expect_error(400, "UNSUPPORTED");
    // What was proven is over.
    let token = ordering.pebble.log();
    let token = token.split("/.well-known/acme-challenge/").nth(1).expect("it asked");
    let token: String =
        token.chars().take_while(|letter| letter.is_ascii_alphanumeric() || "-_".contains(*letter)).collect();
    assert!(token.len() > 20, "{token}");
    assert_eq!(clear.get(&format!("/.well-known/acme-challenge/{token}")).status, 404);
}

#[test]
fn a_certificate_is_renewed_while_connections_go_on() {
    /// Renewed after two thirds of it.
    const SHORT: u64 = 15;
    let mut ordering = Ordering::new();
    ordering.pebble.start(ordering.checked, SHORT);
    ordering.site.start();
    let first = ordering.wait_for_other_than(None);
    let issuer = Authority::of(&ordering.pebble.issuer());
    let mut old = issuer.connect_as(&ordering.site.http("ada"), NAME).expect("a handshake");
    let second = ordering.wait_for_other_than(Some(&first));
    ordering.wait_for_other_than(Some(&second));
    old.head("GET", "/v2/", 0);
    assert_eq!(old.answer().0, 200);
    assert!(ordering.pebble.orders() >= 3, "{}", ordering.pebble.orders());
    assert_eq!(ordering.pebble.log().matches("accounts in memory").count(), 1, "one account for all");
}

#[test]
fn an_authority_that_is_down_is_waited_for() {
    let mut ordering = Ordering::new();
    ordering.site.start();
    let failed = "no certificate for registry.example.org was had";
    wait_until("it has tried", || ordering.site.log().contains(failed).then_some(()));
    assert_eq!(ordering.shown(), None);
    let log = ordering.site.log();
    assert!(log.contains("it cannot be spoken to") && log.contains("there is none to show"), "{log}");
    assert!(log.contains("connections are refused for now"), "{log}");
    ordering.pebble.start(ordering.checked, LONG);
    ordering.wait_for_other_than(None);
    assert_eq!(ordering.status(NAME, &ordering.pebble.issuer()), "200");
}

#[test]
fn what_there_is_is_shown_while_the_authority_is_down() {
    let mut ordering = Ordering::new();
    let old = ordering.leave_an_old_certificate();
    ordering.site.start();
    assert_eq!(ordering.shown().as_ref(), Some(&old));
    let failed = "the one that is shown holds until";
    wait_until("it has tried to renew it", || ordering.site.log().contains(failed).then_some(()));
    assert_eq!(ordering.shown().as_ref(), Some(&old));
    ordering.pebble.start(ordering.checked, LONG);
    ordering.wait_for_other_than(Some(&old));
    assert_eq!(ordering.status(NAME, &ordering.pebble.issuer()), "200");
}

#[test]
fn a_name_that_does_not_lead_here_is_said_and_the_old_certificate_stays() {
    let mut ordering = Ordering::new();
    let old = ordering.leave_an_old_certificate();
    // The authority looks at ports where nobody is.
    ordering.pebble.start(Checked { tls: free_port(), http: free_port() }, LONG);
    ordering.site.start();
    let failed = "it could not check by tls-alpn-01 that registry.example.org leads here";
    wait_until("it was told", || ordering.site.log().contains(failed).then_some(()));
    let log = ordering.site.log();
    let line = log.lines().find(|line| line.contains(failed)).expect("a line");
    for words in ["Failed to connect", "urn:ietf:params:acme:error:", "its port 443 leads to", "SIGHUP"] {
        assert!(line.contains(words), "{words}: {line}");
    }
    assert_eq!(ordering.shown().as_ref(), Some(&old));

    // Another one that has forgotten the account: put right, it need not be waited for.
    ordering.pebble.stop();
    ordering.pebble.start(ordering.checked, LONG);
    ordering.site.signal("HUP");
    ordering.wait_for_other_than(Some(&old));
    assert_eq!(ordering.status(NAME, &ordering.pebble.issuer()), "200");
    assert!(ordering.site.log().contains("does not know the account any more"), "{}", ordering.site.log());
}

#[test]
fn an_authority_that_is_somebody_else_is_not_spoken_to() {
    let mut ordering = Ordering::new();
    let stranger = Authority::new();
    ordering.site = ordering.site.with("TORNO_TLS_ROOT", stranger.certificate().to_str().expect("UTF-8"));
    ordering.pebble.start(ordering.checked, LONG);
    ordering.site.start();
    wait_until("it has tried", || ordering.site.log().contains("invalid peer certificate").then_some(()));
    assert_eq!(ordering.pebble.orders(), 0);
}

/// Nobody can have the name proven for themselves: without an order there is nothing to see.
#[test]
fn who_is_no_authority_sees_no_proof() {
    let mut ordering = Ordering::new();
    ordering.leave_an_old_certificate();
    ordering.site.start();
    let arguments =
        ["s_client", "-alpn", "acme-tls/1", "-servername", NAME, "-connect", ordering.site.host()];
    let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().expect("openssl");
    assert!(!output.status.success());
    assert!(!String::from_utf8_lossy(&output.stdout).contains("BEGIN CERTIFICATE"));
}
