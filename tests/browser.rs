//! What a browser is told, and what nobody is.

use std::fs;

use torno_tests::{Authority, Http, NO_ENGINE, PROJECTS, Secure, Site, sha256};

/// Their answers must not be turned against whoever looks at them.
const GUARDS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "deny"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

fn site(variables: &[(&str, &str)]) -> Site {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    for (name, value) in variables {
        site = site.with(name, value);
    }
    site.add_users(&["ada"]);
    site.start();
    site
}

/// The answer to whatever is written, head and body in lower case.
fn said(http: &Http, written: &str) -> (u16, String) {
    let mut connection = http.raw();
    connection.send(written.as_bytes());
    connection.answer()
}

fn guarded(head: &str) -> bool {
    let has = |name: &str, value: &str| head.lines().any(|line| line == format!("{name}: {value}"));
    let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    GUARDS.iter().all(|(name, value)| has(name, value))
        && policy.is_some_and(|policy| {
            ["default-src 'none'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"]
                .iter()
                .all(|directive| policy.contains(directive))
        })
}

#[test]
fn pages_are_guarded_whatever_their_status() {
    let site = site(&[]);
    for (path, status) in [("/", 200), ("/healthz", 200)] {
        let (found, head) = said(&site.anonymous(), &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert_eq!(found, status);
        assert!(guarded(&head), "{path}: {head}");
        assert!(!head.contains("strict-transport-security"), "there is no TLS: {head}");
    }
}

/// Whoever pushes a manifest chooses its type, and a browser that is logged in shows what it is given.
#[test]
fn a_manifest_is_no_page_of_ours() {
    let site = site(&[]);
    let ada = site.http("ada");
    let config = ada.push_blob("mine/x", b"{}");
    let manifest = |kind: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[],"annotations":{{"x":"<script>alert(1)</script>"}}}}"#
        )
    };
    for kind in
        ["text/html", "image/svg+xml", "application/xhtml+xml", "application/vnd.oci.image.manifest.v1+json"]
    {
        let bytes = manifest(kind).into_bytes();
        let pushed = ada.push_manifest("mine/x", "1", kind, &bytes);
        if pushed.status != 201 {
            pushed.expect_error(400, "MANIFEST_INVALID");
            continue;
        }
        let mut connection = ada.raw();
        connection.head("GET", "/v2/mine/x/manifests/1", 0);
        let (_, head) = connection.answer();
        assert!(head.contains("x-content-type-options: nosniff\r\n"), "{head}");
        assert!(kind.starts_with("application/vnd.oci.") || guarded(&head), "{kind}: {head}");
    }
    let blob = ada.push_blob("mine/x", b"<script>alert(1)</script>");
    let answer = ada.get(&format!("/v2/mine/x/blobs/{blob}"));
    answer.expect_header("content-type", "application/octet-stream");
    answer.expect_header("x-content-type-options", "nosniff");
}

/// Over TLS, and by a name that is not shared with anything on other ports.
#[test]
fn a_browser_stays_with_tls() {
    let authority = Authority::new();
    let pair = authority.issue("torno");
    for (hostname, stays) in [("registry.example.org", true), ("registry.example.org:5000", false)] {
        let site = site(&[
            ("TORNO_TLS_MODE", "files"),
            ("TORNO_TLS_CERTIFICATE", pair.certificate.to_str().expect("UTF-8")),
            ("TORNO_TLS_KEY", pair.key.to_str().expect("UTF-8")),
            ("TORNO_LISTEN_HOSTNAME", hostname),
        ]);
        let versions = [&rustls::version::TLS13];
        let mut connection: Secure =
            authority.connect(&site.anonymous(), &versions, &["http/1.1"]).expect("a handshake");
        connection.head("GET", "/", 0);
        let (status, head) = connection.answer();
        assert_eq!(
            (status, head.contains("strict-transport-security: max-age=31536000\r\n")),
            (200, stays),
            "{head}"
        );
        assert!(guarded(&head), "{head}");
    }
}

/// Neither which program this is nor which version, nor where it keeps what; and no cookie.
#[test]
fn nobody_is_told_what_runs_here() {
    let site = site(&[]);
    let (anyone, ada) = (site.anonymous(), site.http("ada"));
    let blob = ada.push_blob("mine/x", b"x");
    let get = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{lines}\r\n");
    let long = format!("x: {}\r\n", "y".repeat(40_000));
    let mut answers = vec![
        said(&anyone, &get("/", "")),
        said(&anyone, &get("/nothing", "")),
        said(&anyone, &get("/v2/", "")),
        said(&anyone, &get("/v2/", "authorization: Basic !\r\n")),
        said(&anyone, &get("/v2/", &long)),
        said(&anyone, "GET /v2/ HTTP/9.9\r\n\r\n"),
        said(&anyone, "?? ??\r\n\r\n"),
        said(&anyone, "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"),
    ];
    for (method, path) in [
        ("GET", "/v2/".to_owned()),
        ("PATCH", "/v2/".to_owned()),
        ("GET", format!("/v2/mine/x/blobs/{}", sha256(b"none"))),
        ("GET", format!("/v2/mine/x/blobs/{blob}")),
        ("GET", "/v2/mine/x/blobs/uploads/x".to_owned()),
        ("GET", "/v2/A/manifests/x".to_owned()),
    ] {
        let mut connection = ada.raw();
        connection.head(method, &path, 0);
        answers.push(connection.answer());
    }
    // Its last file is gone: something that fails within.
    let path = format!("registry-data/blobs/sha256/{}/{}", &blob[7..9], &blob[7..]);
    fs::remove_file(site.path(&path)).expect("its file");
    let mut connection = ada.raw();
    connection.head("GET", &format!("/v2/mine/x/blobs/{blob}"), 0);
    answers.push(connection.answer());
    let folder = site.path("").display().to_string().to_lowercase();
    for (status, text) in answers {
        for line in ["\r\nserver:", "\r\nset-cookie:", "\r\nx-powered-by:", "\r\nvia:"] {
            assert!(!text.contains(line), "{status}: {text}");
        }
        for word in
            ["hyper", "rust", "axum", "sqlite", env!("CARGO_PKG_VERSION"), folder.trim_end_matches('/')]
        {
            assert!(!text.contains(word), "{word} in {status}: {text}");
        }
    }
}
