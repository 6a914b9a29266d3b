//! TLS with a certificate from files.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use rustls::{
    AlertDescription, ProtocolVersion,
    version::{TLS12, TLS13},
};
use torno_tests::{
    Authority, Image, NO_ENGINE, PROJECTS, Pair, Secure, Site, Tools, layer, sha256, tool, wait_until,
};

/// What a client offers whose requests are written by hand.
const PROTOCOLS: &[&str] = &["http/1.1"];

/// A site that shows what is at `certs/chain.pem`, which is this pair; not started.
fn site(pair: &Pair) -> Site {
    let site = Site::new(PROJECTS)
        .with("TORNO_EXECUTOR_ENGINE", NO_ENGINE)
        .with("TORNO_TLS_MODE", "files")
        .with("TORNO_TLS_CERTIFICATE", "certs/chain.pem")
        .with("TORNO_TLS_KEY", "certs/key.pem");
    put(&site, pair, pair);
    site.add_users(&["ada"]);
    site
}

fn started(pair: &Pair) -> Site {
    let mut site = site(pair);
    site.start();
    site
}

/// Lets the site have the certificate of one pair and the key of another.
fn put(site: &Site, certificate: &Pair, key: &Pair) {
    fs::copy(&certificate.certificate, site.path("certs/chain.pem")).expect("copy");
    fs::copy(&key.key, site.path("certs/key.pem")).expect("copy");
}

/// A connection of ada's, as ordinary clients make it.
fn connect(authority: &Authority, site: &Site) -> Secure {
    authority.connect(&site.http("ada"), &[&TLS13, &TLS12], PROTOCOLS).expect("a handshake")
}

#[test]
fn clients_push_and_pull() {
    const SIZE: usize = 5_000_001;
    let authority = Authority::new();
    let site = started(&authority.issue("torno"));
    let host = site.host();
    let trusted = authority.trusted();
    let trusted = trusted.to_str().expect("UTF-8");

    let tools = Tools::anonymous();
    let login = ["login", "-u", "ada", "-p", "pw-ada", host];
    assert!(!tools.skopeo(&login).status.success(), "nobody else trusts this authority");
    tools.skopeo_ok(&[&login[..1], &["--cert-dir", trusted], &login[1..]].concat());
    let image = Image::new(&layer("over TLS"));
    let folder = site.path("image");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").expect("write");
    fs::write(folder.join("manifest.json"), image.manifest()).expect("write");
    for bytes in image.layers.iter().chain([&image.config]) {
        fs::write(folder.join(sha256(bytes).trim_start_matches("sha256:")), bytes).expect("write");
    }
    let (from, to) = (format!("dir:{}", folder.display()), format!("docker://{host}/mine/x:1"));
    tools.skopeo_ok(&["copy", "--preserve-digests", "--dest-cert-dir", trusted, &from, &to]);
    let back = format!("dir:{}", site.path("back").display());
    tools.skopeo_ok(&["copy", "--preserve-digests", "--src-cert-dir", trusted, &to, &back]);
    assert_eq!(fs::read(site.path("back/manifest.json")).expect("read"), image.manifest());

    // More than a record, more than a buffer, and no multiple of either.
    let bytes: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
    let (sent, came) = (site.path("sent"), site.path("came"));
    fs::write(&sent, &bytes).expect("write");
    let digest = sha256(&bytes);
    let certificate = authority.certificate();
    let curl = |more: &[&str]| {
        let common = [
            "--silent",
            "--show-error",
            "--fail",
            "--user",
            "ada:pw-ada",
            "--cacert",
            certificate.to_str().expect("UTF-8"),
        ];
        tool("curl", &[&common[..], more].concat())
    };
    for version in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
        let begin = format!("https://{host}/v2/mine/{}/blobs/uploads/", version.len());
        let head =
            curl(&[version, &["--request", "POST", "--dump-header", "-", &begin]].concat()).to_lowercase();
        let location =
            head.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location").trim();
        assert!(location.starts_with('/'), "{location}");
        let put = format!("https://{host}{location}?digest={digest}");
        let sent = sent.to_str().expect("UTF-8");
        curl(&[version, &["--upload-file", sent, &put]].concat());
        let get = format!("https://{host}/v2/mine/{}/blobs/{digest}", version.len());
        curl(&[version, &["--output", came.to_str().expect("UTF-8"), &get]].concat());
        assert!(fs::read(&came).expect("read") == bytes, "other bytes came back");
    }
}

#[test]
fn tls_1_2_and_1_3_with_http_1_1_and_2() {
    let authority = Authority::new();
    let site = started(&authority.issue("torno"));
    let ada = site.http("ada");
    let versions = [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)];
    for (version, name) in versions {
        let offers: [(&[&str], _); 5] = [
            (&["h2", "http/1.1"], Some("h2")),
            (&["http/1.1", "h2"], Some("h2")),
            (&["h2"], Some("h2")),
            (&["http/1.1"], Some("http/1.1")),
            (&[], None),
        ];
        for (offered, expected) in offers {
            let mut connection = authority.connect(&ada, &[version], offered).expect("a handshake");
            let session = &connection.stream().conn;
            assert_eq!(session.protocol_version(), Some(name));
            let chosen = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
            assert_eq!(chosen.as_deref(), expected);
            if expected == Some("h2") {
                continue;
            }
            // Two requests: the connection is kept.
            for _ in 0..2 {
                connection.head("GET", "/v2/", 0);
                assert_eq!(connection.answer().0, 200);
            }
        }
        let refused = authority.connect(&ada, &[version], &["h3"]).expect_err("HTTP/3 is not spoken");
        let alert = rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol);
        assert!(refused.to_string().contains(&alert.to_string()), "{refused}");
    }
    let older = ["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-connect", site.host()];
    let output =
        Command::new("openssl").arg("s_client").args(older).stdin(Stdio::null()).output().expect("openssl");
    let said = String::from_utf8_lossy(&output.stderr);
    // An alert is what the server said: the client alone would have gone on.
    assert!(!output.status.success() && said.contains("SSL alert number"), "{said}");
}

#[test]
fn http_in_clear_is_refused_in_words() {
    let authority = Authority::new();
    let site = started(&authority.issue("torno"));
    for http in [site.anonymous(), site.http("ada")] {
        for path in ["/v2/", "/"] {
            let message = http.get(path).expect_error(400, "UNSUPPORTED");
            assert!(message.contains("https://"), "{message}");
        }
        let put = http.send("PUT", "/v2/mine/x/manifests/1", &[], b"{}");
        put.expect_error(400, "UNSUPPORTED");
        put.expect_header("connection", "close");
    }
    assert!(!site.log().contains("user=\"ada\""), "nobody was let in");
}

#[test]
fn a_new_pair_is_shown_to_new_connections_and_a_bad_one_is_not() {
    let authority = Authority::new();
    let (first, second) = (authority.issue("first"), authority.issue("second"));
    let site = started(&first);
    let mut old = connect(&authority, &site);
    assert!(first.is_shown_on(&old));
    let location = {
        let mut other = connect(&authority, &site);
        other.head("POST", "/v2/mine/x/blobs/uploads/", 0);
        let (status, text) = other.answer();
        assert_eq!(status, 202, "{text}");
        text.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location").to_owned()
    };
    old.head("PATCH", &location, 4);
    old.send(b"ab");

    put(&site, &second, &second);
    site.signal("HUP");
    wait_until("the second is shown", || second.is_shown_on(&connect(&authority, &site)).then_some(()));
    old.send(b"cd");
    let (status, text) = old.answer();
    assert_eq!(status, 202, "{text}");
    assert!(text.contains("range: 0-3"), "{text}");

    // A key of another certificate, and then no key at all.
    let refusals = || site.log().matches("the configuration was not changed").count();
    put(&site, &second, &first);
    site.signal("HUP");
    wait_until("it is refused", || (refusals() == 1).then_some(()));
    fs::write(site.path("certs/key.pem"), "no key").expect("write");
    site.signal("HUP");
    wait_until("it is refused", || (refusals() == 2).then_some(()));
    let log = site.log();
    assert!(log.contains("TORNO_TLS_KEY: ") && log.contains("does not belong to the certificate"), "{log}");
    assert!(log.contains("there is no private key"), "{log}");
    assert!(second.is_shown_on(&connect(&authority, &site)));
    old.head("GET", &location, 0);
    assert_eq!(old.answer().0, 204);
}

/// Without a signal, by whoever renews them; and whoever pulls meanwhile pulls on.
#[test]
fn files_that_change_are_used() {
    /// More than the kernel holds between the two.
    const SIZE: usize = 64 << 20;
    let authority = Authority::new();
    let (first, second, third) =
        (authority.issue("first"), authority.issue("second"), authority.issue("third"));
    let site = started(&first);
    let bytes: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
    let digest = sha256(&bytes);
    let mut pull = connect(&authority, &site);
    pull.head("POST", &format!("/v2/mine/x/blobs/uploads/?digest={digest}"), SIZE);
    pull.send(&bytes);
    assert_eq!(pull.answer().0, 201);
    pull.head("GET", &format!("/v2/mine/x/blobs/{digest}"), 0);
    assert_eq!(pull.answer_head().0, 200);
    let mut came = pull.receive(SIZE / 8);

    // The certificate comes first and its key later: meanwhile both do not fit.
    let shown = |pair: &Pair| pair.is_shown_on(&connect(&authority, &site));
    put(&site, &second, &first);
    let refused = || site.log().matches("have changed and are not used").count();
    wait_until("half of a pair is refused", || (refused() == 1).then_some(()));
    assert!(shown(&first) && site.log().contains("does not belong to the certificate"), "{}", site.log());
    fs::copy(&second.key, site.path("certs/key.pem")).expect("copy");
    wait_until("the second is shown", || shown(&second).then_some(()));
    assert_eq!(refused(), 1, "it was said once");

    // By links that are turned, as certbot does it.
    for (name, from) in [("chain.pem", &third.certificate), ("key.pem", &third.key)] {
        let link = site.path(&format!("certs/{name}.new"));
        std::os::unix::fs::symlink(from, &link).expect("a link");
        fs::rename(link, site.path(&format!("certs/{name}"))).expect("rename");
    }
    wait_until("the third is shown", || shown(&third).then_some(()));
    // A signal that comes with it changes nothing more.
    site.signal("HUP");
    wait_until("it was read", || site.log().contains("the configuration was read again").then_some(()));
    assert!(shown(&third));
    came.extend(pull.receive(SIZE - SIZE / 8));
    assert!(came == bytes, "other bytes came");
    pull.head("GET", "/v2/", 0);
    assert_eq!(pull.answer().0, 200);
}

/// A handshake that is not over in its time must not take room from others, nor hold them up.
#[test]
fn whoever_does_not_shake_hands_is_let_go() {
    let authority = Authority::new();
    let mut site = site(&authority.issue("torno")).with("TORNO_LISTEN_HANDSHAKE_TIMEOUT", "2s");
    site.start();
    let connect_and_say = |said: &[u8]| {
        let mut stream = TcpStream::connect(site.host()).expect("a connection");
        // Shorter than what is given for the head of a request.
        stream.set_read_timeout(Some(Duration::from_secs(25))).expect("a timeout");
        stream.write_all(said).expect("the server reads");
        stream
    };
    // Nothing; a record's first byte; the head of a long record; the beginning of a request in clear.
    let said: [&[u8]; 4] = [b"", b"\x16", b"\x16\x03\x01\x40\x00\x01", b"GET /v2/ HTTP/1.1\r\n"];
    let silent = said.map(connect_and_say);
    let mut other = connect(&authority, &site);
    other.head("GET", "/v2/", 0);
    assert_eq!(other.answer().0, 200);
    for mut stream in silent {
        // To its end: it comes in time, or this fails.
        stream.read_to_end(&mut Vec::new()).expect("closed by the server");
    }
}

#[test]
fn a_stop_does_not_wait_for_handshakes() {
    let authority = Authority::new();
    let mut site = started(&authority.issue("torno"));
    let silent = TcpStream::connect(site.host()).expect("a connection");
    // Accepted in order: the silent one is in its handshake.
    drop(connect(&authority, &site));
    site.stop();
    assert!(!site.log().contains("still under way"), "{}", site.log());
    drop(silent);
}

#[test]
fn check_config_says_everything_that_is_wrong_with_a_pair() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one"), authority.issue("other"));
    let site = site(&one);
    let errors = || {
        let output = site.torno(&["check-config"]);
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    assert_eq!(errors().0, Some(0));
    // The other's certificate comes second: the key belongs to the first.
    let chain = [&one, &other].map(|pair| fs::read_to_string(&pair.certificate).expect("PEM")).concat();
    fs::write(site.path("certs/chain.pem"), chain).expect("write");
    assert_eq!(errors().0, Some(0));

    put(&site, &one, &other);
    let (code, said) = errors();
    assert_eq!(code, Some(64));
    assert!(
        said.starts_with("TORNO_TLS_KEY: ") && said.contains("does not belong to the certificate"),
        "{said}"
    );

    let key = fs::read_to_string(&one.key).expect("PEM");
    let bad: [(&str, &str, &str); 3] = [
        ("", "", "there is no certificate"),
        (&key, "-----BEGIN PRIVATE KEY-----\n", "a section has no end"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key.replace("PRIVATE", "PUBLIC"),
            "certificate 1",
        ),
    ];
    for (certificate, key, words) in bad {
        fs::write(site.path("certs/chain.pem"), certificate).expect("write");
        fs::write(site.path("certs/key.pem"), key).expect("write");
        let (code, said) = errors();
        assert_eq!(code, Some(64));
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines[0].starts_with("TORNO_TLS_CERTIFICATE: ") && lines[1].starts_with("TORNO_TLS_KEY: "),
            "{said}"
        );
        assert!(said.contains(words), "{words}: {said}");
        assert!(!said.contains(key.lines().nth(1).unwrap_or("?")), "a key is never shown: {said}");
    }
}
