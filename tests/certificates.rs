//! Certificates of clients as a login.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber,
};
use torno_tests::{Authority, NO_ENGINE, PROJECTS, Site, wait_until};

const DAY: Duration = Duration::from_hours(24);

/// Who signs people's certificates.
struct People(CertifiedIssuer<'static, KeyPair>);

/// Somebody's certificate.
struct Wanted<'a> {
    name: &'a str,
    serial: u64,
    until: SystemTime,
    purpose: Option<ExtendedKeyUsagePurpose>,
}

impl Wanted<'_> {
    /// An ordinary one.
    fn of(name: &str) -> Wanted<'_> {
        Wanted { name, serial: 1, until: SystemTime::now() + DAY, purpose: None }
    }
}

impl People {
    fn new() -> Self {
        let mut parameters = named("people");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(parameters, key).expect("an authority"))
    }

    /// A file with the certificate and its key, as curl wants it.
    fn issue(&self, site: &Site, file: &str, wanted: Wanted<'_>) -> PathBuf {
        let mut parameters = named(wanted.name);
        parameters.serial_number = Some(SerialNumber::from(wanted.serial));
        parameters.not_before = (SystemTime::now() - 2 * DAY).into();
        parameters.not_after = wanted.until.into();
        parameters.extended_key_usages = wanted.purpose.into_iter().collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.0).expect("a certificate");
        let path = site.path(file);
        fs::write(&path, certificate.pem() + &key.serialize_pem()).expect("write");
        path
    }

    /// A list of those that are taken back, which is good until then.
    fn list(&self, path: &Path, revoked: &[u64], until: SystemTime) {
        let revoked = revoked.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: (SystemTime::now() - DAY).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (SystemTime::now() - 2 * DAY).into(),
            next_update: until.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.0).expect("a list").pem().expect("PEM");
        // At once, as whoever fetches lists does.
        let beside = path.with_extension("new");
        fs::write(&beside, list).expect("write");
        fs::rename(beside, path).expect("rename");
    }
}

fn named(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}

/// A site with the users ada and bob that trusts these people; not started.
fn site(authority: &Authority, people: &People) -> Site {
    let site = Site::new(PROJECTS)
        .with("TORNO_EXECUTOR_ENGINE", NO_ENGINE)
        .with("TORNO_TLS_MODE", "files")
        .with("TORNO_TLS_CERTIFICATE", "certs/chain.pem")
        .with("TORNO_TLS_KEY", "certs/key.pem")
        .with("TORNO_TLS_CLIENT_CA", "certs/people.pem");
    let pair = authority.issue("torno");
    fs::copy(&pair.certificate, site.path("certs/chain.pem")).expect("copy");
    fs::copy(&pair.key, site.path("certs/key.pem")).expect("copy");
    fs::write(site.path("certs/people.pem"), people.0.pem()).expect("write");
    site.add_users(&["ada", "bob"]);
    site
}

/// Asks with curl on a connection of its own.
fn ask(authority: &Authority, site: &Site, certificate: Option<&Path>, more: &[&str]) -> Output {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    command.arg("--cacert").arg(authority.certificate());
    if let Some(certificate) = certificate {
        command.arg("--cert").arg(certificate);
    }
    command.args(more).arg(format!("https://{}/v2/", site.host())).output().expect("curl")
}

/// The status that came; an error if hands were not shaken.
fn status(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// No answer came, and the server says that this was the reason. Over TLS 1.3 a client has shaken hands when it is
/// refused, and may see a closed connection before it sees why.
fn assert_refused(site: &Site, output: &Output, why: &str) {
    assert!(status(output).is_err(), "hands were shaken");
    let told = || {
        let log = site.log();
        log.lines()
            .any(|line| line.contains("refused: the client's certificate") && line.contains(why))
            .then_some(())
    };
    wait_until(&format!("the log says {why}"), told);
}

#[test]
fn a_certificate_logs_in_whom_it_names() {
    let (authority, people) = (Authority::new(), People::new());
    let mut site = site(&authority, &people);
    site.start();
    let ada = people.issue(&site, "ada.pem", Wanted::of("ada"));
    let answer =
        |certificate: Option<&Path>, more: &[&str]| status(&ask(&authority, &site, certificate, more));
    assert_eq!(answer(Some(&ada), &[]).as_deref(), Ok("200"));
    assert!(site.log().contains("user=\"ada\""), "{}", site.log());
    assert_eq!(answer(None, &[]).as_deref(), Ok("401"));
    assert_eq!(answer(None, &["--user", "ada:pw-ada"]).as_deref(), Ok("200"));

    // What the request itself says is meant, right or wrong.
    assert_eq!(answer(Some(&ada), &["--user", "bob:pw-bob"]).as_deref(), Ok("200"));
    assert!(site.log().contains("user=\"bob\""), "{}", site.log());
    assert_eq!(answer(Some(&ada), &["--user", "ada:wrong"]).as_deref(), Ok("401"));
    assert_eq!(answer(Some(&ada), &["--header", "authorization: nonsense"]).as_deref(), Ok("401"));

    // A page in her browser makes it ask.
    assert_eq!(answer(Some(&ada), &["--header", "origin: https://elsewhere.example"]).as_deref(), Ok("401"));

    for name in ["eve", "Ada Lovelace", "ada\u{0}", "", "*"] {
        let other = people.issue(&site, "other.pem", Wanted::of(name));
        assert_eq!(answer(Some(&other), &[]).as_deref(), Ok("401"), "{name:?}");
        assert_eq!(answer(Some(&other), &["--user", "bob:pw-bob"]).as_deref(), Ok("200"), "{name:?}");
    }

    // Whoever is removed is out, certificate or not.
    site.torno_ok(&["user", "remove", "ada"]);
    wait_until("she is out", || (answer(Some(&ada), &[]).as_deref() == Ok("401")).then_some(()));
}

#[test]
fn certificates_that_nobody_here_vouches_for_are_refused() {
    let (authority, people) = (Authority::new(), People::new());
    let mut site = site(&authority, &people);
    site.start();
    let strangers = People::new().issue(&site, "stranger.pem", Wanted::of("ada"));
    let ended = Wanted { until: SystemTime::now() - DAY, ..Wanted::of("ada") };
    let ended = people.issue(&site, "ended.pem", ended);
    let server = Wanted { purpose: Some(ExtendedKeyUsagePurpose::ServerAuth), ..Wanted::of("ada") };
    let server = people.issue(&site, "server.pem", server);
    for (certificate, words) in [
        (strangers, "BadSignature"),
        (ended, "certificate expired"),
        (server, "does not allow extended key usage for client authentication"),
    ] {
        assert_refused(&site, &ask(&authority, &site, Some(&certificate), &["--user", "ada:pw-ada"]), words);
    }
    assert!(!site.log().contains("user=\"ada\""), "{}", site.log());
}

#[test]
fn who_must_have_a_certificate_is_not_spoken_to_without() {
    let (authority, people) = (Authority::new(), People::new());
    let mut site = site(&authority, &people).with("TORNO_TLS_CLIENT_LOGIN", "required");
    site.start();
    let ada = people.issue(&site, "ada.pem", Wanted::of("ada"));
    let without = ask(&authority, &site, None, &["--user", "ada:pw-ada"]);
    assert_refused(&site, &without, "sent no certificates");
    assert_eq!(status(&ask(&authority, &site, Some(&ada), &[])).as_deref(), Ok("200"));
}

#[test]
fn certificates_that_were_taken_back_are_refused() {
    let (authority, people) = (Authority::new(), People::new());
    let mut site = site(&authority, &people).with("TORNO_TLS_CLIENT_CRL", "certs/people.crl");
    let list = site.path("certs/people.crl");
    people.list(&list, &[1], SystemTime::now() + DAY);
    site.start();
    let ada = people.issue(&site, "ada.pem", Wanted::of("ada"));
    let bob = people.issue(&site, "bob.pem", Wanted { serial: 2, ..Wanted::of("bob") });
    assert_refused(&site, &ask(&authority, &site, Some(&ada), &[]), "Revoked");
    assert_eq!(status(&ask(&authority, &site, Some(&bob), &[])).as_deref(), Ok("200"));

    // A new list needs no signal.
    people.list(&list, &[2], SystemTime::now() + DAY);
    let now = || status(&ask(&authority, &site, Some(&bob), &[]));
    wait_until("the new list is used", || now().is_err().then_some(()));
    assert_eq!(status(&ask(&authority, &site, Some(&ada), &[])).as_deref(), Ok("200"));

    // An old one says nothing of what was taken back since, so nobody is let in on a certificate.
    people.list(&list, &[2], SystemTime::now() - DAY);
    let now = || status(&ask(&authority, &site, Some(&ada), &[]));
    wait_until("the old list is not enough", || now().is_err().then_some(()));
    assert_eq!(status(&ask(&authority, &site, None, &["--user", "ada:pw-ada"])).as_deref(), Ok("200"));
    assert_refused(&site, &ask(&authority, &site, Some(&ada), &[]), "revocation list expired");
}
