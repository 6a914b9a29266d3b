//! HTTP/2: what clients do over it, and what is done to whoever abuses it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use torno_tests::{
    Authority, Http2, Image, NO_ENGINE, PROJECTS, Site, Watch, http2, layer, memory, sha256, wait_until,
};

const MIB: usize = 1024 * 1024;

/// A site that speaks TLS, and the authority that its clients trust.
struct Secure {
    authority: Authority,
    site: Site,
}

impl Secure {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(variables: &[(&str, &str)]) -> Self {
        let authority = Authority::new();
        let pair = authority.issue("torno");
        let mut site = Site::new(PROJECTS)
            .with("TORNO_EXECUTOR_ENGINE", NO_ENGINE)
            .with("TORNO_TLS_MODE", "files")
            .with("TORNO_TLS_CERTIFICATE", pair.certificate.to_str().expect("UTF-8"))
            .with("TORNO_TLS_KEY", pair.key.to_str().expect("UTF-8"));
        for (name, value) in variables {
            site = site.with(name, value);
        }
        site.add_users(&["ada"]);
        site.start();
        Self { authority, site }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.site.host())
    }

    /// `curl` as ada, over HTTP/2 and nothing else.
    fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--http2",
            "--user",
            "ada:pw-ada",
            "--max-time",
            "300",
            "--cacert",
        ]);
        command.arg(self.authority.certificate()).stdin(Stdio::null());
        command
    }

    /// What `curl` was answered: the status, the head in lower case, and the body.
    #[track_caller]
    fn ask(&self, path: &str, arguments: &[&str]) -> (u16, String, Vec<u8>) {
        let (head, body) = (self.site.path("head"), self.site.path("body"));
        fs::write(&body, b"").expect("write");
        let mut command = self.curl();
        command.arg("--dump-header").arg(&head).arg("--output").arg(&body);
        command.args(["--write-out", "%{http_version}"]).args(arguments).arg(self.url(path));
        let output = command.output().expect("curl");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "2", "HTTP/2");
        let head = fs::read_to_string(head).expect("a head").to_lowercase();
        // The last one: interim answers come before it.
        let last = head.trim().rsplit("\r\n\r\n").next().expect("an answer").to_owned();
        let status = last.split(' ').nth(1).and_then(|status| status.trim().parse().ok()).expect("a status");
        (status, last, fs::read(body).expect("a body"))
    }

    fn begin_upload(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let (status, head, _) = self.ask(&path, &["--request", "POST"]);
        assert_eq!(status, 202, "{head}");
        field(&head, "location")
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let (digest, file) = (sha256(bytes), self.site.path("pushed"));
        fs::write(&file, bytes).expect("write");
        let path = format!("{}?digest={digest}", self.begin_upload(repository));
        let (status, head, _) = self.ask(&path, &["--upload-file", file.to_str().expect("UTF-8")]);
        assert_eq!(status, 201, "{head}");
        digest
    }

    fn open(&self, settings: &[(u16, u32)]) -> Http2 {
        Http2::open(&self.authority, &self.site.http("ada"), settings)
    }

    /// Whether the server still answers others.
    #[track_caller]
    fn assert_answers(&self) {
        assert_eq!(self.ask("/v2/", &[]).0, 200);
    }

    /// How many sockets the server has open.
    fn sockets(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.site.pid());
        let links = fs::read_dir(folder).expect("a process").filter_map(Result::ok);
        let targets = links.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }
}

#[track_caller]
fn field(head: &str, name: &str) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {head}")).trim().to_owned()
}

#[test]
fn a_client_pushes_and_pulls_over_http_2() {
    let secure = Secure::start();
    let bytes: Vec<u8> = (0..=250).cycle().take(5_000_001).collect();
    let (digest, sent) = (sha256(&bytes), secure.site.path("sent"));
    fs::write(&sent, &bytes).expect("write");

    // In a stream of unknown length, and in one of known length.
    let location = secure.begin_upload("mine/x");
    let mut patch = secure.curl();
    patch.args(["--fail", "--request", "PATCH", "--upload-file", "-", "--output", "/dev/null"]);
    patch.args(["--write-out", "%{http_code} %{http_version}"]).arg(secure.url(&location));
    let output = patch.stdin(File::open(&sent).expect("a file")).output().expect("curl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "202 2");
    let (status, head, _) = secure.ask(&format!("{location}?digest={digest}"), &["--request", "PUT"]);
    assert_eq!((status, field(&head, "docker-content-digest")), (201, digest.clone()));
    let config = secure.push_blob("mine/x", b"{}");
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/octet-stream","digest":"{digest}","size":{}}}]}}"#,
        bytes.len()
    );
    let kind = "content-type: application/vnd.oci.image.manifest.v1+json";
    let put = ["--request", "PUT", "--header", kind, "--data-binary", &manifest];
    assert_eq!(secure.ask("/v2/mine/x/manifests/1", &put).0, 201);

    let blob = format!("/v2/mine/x/blobs/{digest}");
    let (status, head, body) = secure.ask(&blob, &[]);
    assert!((status, body.as_slice()) == (200, &bytes[..]), "{head}");
    let (status, head, body) = secure.ask(&blob, &["--head"]);
    assert_eq!((status, field(&head, "content-length"), body.len()), (200, "5000001".into(), head.len() + 4));
    let (status, head, body) = secure.ask(&blob, &["--range", "1000000-4000000"]);
    assert!((status, body.as_slice()) == (206, &bytes[1_000_000..=4_000_000]), "{head}");
    assert_eq!(secure.ask("/v2/mine/x/manifests/1", &[]).2, manifest.as_bytes());

    // Who is not known is told what to do; no header is one that HTTP/2 has done away with.
    let (status, head, _) = secure.ask("/v2/", &["--user", "ada:wrong"]);
    assert_eq!(status, 401);
    field(&head, "www-authenticate");
    assert!(!head.contains("\nconnection:") && !head.contains("\ntransfer-encoding:"), "{head}");
}

/// A stream that is cancelled ends no other, and what came of it stays in the upload.
#[test]
fn a_cancelled_upload_is_gone_on_with() {
    let secure = Secure::start();
    let location = secure.begin_upload("mine/x");
    let mut connection = secure.open(&[]);
    let patch = connection.request("PATCH", &location, 0).expect("the server reads");
    connection.frame(http2::DATA, 0, patch, b"abcd").expect("the server reads");
    connection.frame(http2::RST_STREAM, 0, patch, &8_u32.to_be_bytes()).expect("the server reads");
    let get = connection.request("GET", "/v2/", http2::END_STREAM).expect("the server reads");
    let head = connection.next_of(http2::HEADERS).expect("an answer");
    // 200 is one of the few statuses with a number of their own (RFC 7541, appendix A).
    assert_eq!((head.stream, head.payload.first()), (get, Some(&0x88)));
    // What came together with the end of the stream may count as never come: the session says where to go on.
    let last = format!("{location}?digest={}", sha256(b"abcdef"));
    wait_until("it is gone on with", || {
        let (status, head, _) = secure.ask(&location, &[]);
        assert_eq!(status, 204, "{head}");
        let (range, rest) = if field(&head, "range") == "0-3" { ("4-5", "ef") } else { ("0-5", "abcdef") };
        let range = format!("Content-Range: {range}");
        let put = ["--request", "PUT", "--header", &range, "--data-binary", rest];
        (secure.ask(&last, &put).0 == 201).then_some(())
    });
}

/// The body of a request that was refused is passed over, and the connection serves the next.
#[test]
fn a_refused_upload_does_not_end_the_connection() {
    let secure = Secure::start();
    let mut connection = secure.open(&[]);
    for _ in 0..50 {
        let put = connection.request("PUT", "/v2/nothing", 0).expect("the server reads");
        // Together more than the window of the connection.
        for _ in 0..3 {
            connection.frame(http2::DATA, 0, put, &[0; 16 * 1024]).expect("the server reads");
        }
        let answer = connection.next_of(http2::HEADERS).expect("an answer");
        assert_eq!((answer.stream, answer.payload.first()), (put, Some(&0x8d)), "404");
        // The rest is not wanted, and that is no error (RFC 9113, section 8.1).
        let reset = connection.next_of(http2::RST_STREAM).expect("it is told");
        assert_eq!((reset.stream, reset.payload), (put, vec![0; 4]), "NO_ERROR");
    }
    let get = connection.request("GET", "/v2/", http2::END_STREAM).expect("the server reads");
    let answer = connection.next_of(http2::HEADERS).expect("an answer");
    assert_eq!((answer.stream, answer.payload.first()), (get, Some(&0x88)));
}

#[test]
fn a_stop_lets_requests_under_way_end() {
    let mut secure = Secure::start();
    let location = secure.begin_upload("mine/x");
    // One of them answers nothing, and is not waited for.
    let (mut busy, mut idle, deaf) = (secure.open(&[]), secure.open(&[]), secure.open(&[]));
    let patch = busy.request("PATCH", &location, 0).expect("the server reads");
    busy.frame(http2::DATA, 0, patch, b"abcd").expect("the server reads");
    wait_until("it has begun", || {
        (secure.site.upload_bytes() == 4).then_some(()).or_else(|| {
            // It may still be gathered; then the session says busy.
            (secure.ask(&location, &["--request", "PATCH", "--data-binary", "x"]).0 == 409).then_some(())
        })
    });
    secure.site.signal("TERM");
    assert!(idle.end().is_some(), "it is told before the connection ends");
    busy.next_of(http2::GOAWAY).expect("it is told");
    busy.frame(http2::DATA, http2::END_STREAM, patch, b"ef").expect("the server reads");
    let answer = busy.next_of(http2::HEADERS).expect("an answer");
    assert_eq!(answer.stream, patch);
    drop(busy);
    secure.site.wait_for_end();
    drop(deaf);
    assert!(!secure.site.log().contains("still under way"), "{}", secure.site.log());
    secure.site.start();
    assert_eq!(field(&secure.ask(&location, &[]).1, "range"), "0-5");
}

#[test]
fn memory_does_not_grow_with_what_travels() {
    const SIZE: usize = 128 * MIB;
    const MANY: usize = 8;
    /// In KiB.
    const MOST: u64 = 64 * 1024;
    let secure = Secure::start();
    let path = |name: &str| secure.site.path(name);
    let write = |name: &str, seed: u8| {
        let block: Vec<u8> = (0..MIB).map(|at| u8::try_from(at % 251).expect("a byte") ^ seed).collect();
        let mut file = File::create(path(name)).expect("a file");
        (0..SIZE / MIB).for_each(|_| file.write_all(&block).expect("write"));
    };
    let digest = |path: &Path| {
        let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
        format!("sha256:{}", String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a digest"))
    };
    write("there", 255);
    let there = digest(&path("there"));
    let put = |file: PathBuf, digest: &str, repository: &str| -> Child {
        let to = format!("{}?digest={digest}", secure.begin_upload(repository));
        let mut command = secure.curl();
        command.arg("--fail").arg("--upload-file").arg(file).arg(secure.url(&to));
        command.stdout(Stdio::null()).spawn().expect("curl")
    };
    assert!(put(path("there"), &there, "mine/there").wait().expect("curl").success());
    for number in 0..MANY {
        write(&number.to_string(), u8::try_from(number).expect("a byte"));
    }
    let watch = Watch::begin(secure.site.pid());
    let mut under_way = Vec::new();
    for number in 0..MANY {
        let file = path(&number.to_string());
        let digest = digest(&file);
        under_way.push(put(file, &digest, "mine/x"));
        let mut get = secure.curl();
        get.args(["--fail", "--output", "/dev/null"])
            .arg(secure.url(&format!("/v2/mine/there/blobs/{there}")));
        under_way.push(get.spawn().expect("curl"));
    }
    for mut child in under_way {
        assert!(child.wait().expect("curl").success());
    }
    let peak = watch.end();
    eprintln!("the server used at most {} MiB", peak / 1024);
    assert!(peak < MOST, "the server used {peak} KiB");
}

/// Asked and cancelled at once, again and again: work for the server, nothing to wait for (CVE-2023-44487).
#[test]
fn who_cancels_everything_is_let_go() {
    const MANY: usize = 10_000;
    let secure = Secure::start();
    let waits = waiting_result(&secure);
    let cancel = 8_u32.to_be_bytes();
    // Before the server has looked at them; then while it is at work on each.
    let mut connection = secure.open(&[]);
    let result = (0..MANY).try_for_each(|_| {
        let stream = connection.request("GET", &waits, http2::END_STREAM)?;
        connection.frame(http2::RST_STREAM, 0, stream, &cancel)
    });
    assert!(result.is_err(), "{MANY} were taken");
    let mut connection = secure.open(&[]);
    let result = (0..MANY).try_for_each(|_| {
        let stream = connection.request("GET", &waits, http2::END_STREAM)?;
        connection.frame(http2::PING, 0, 0, &[0; 8])?;
        connection.next_of(http2::PING)?;
        connection.frame(http2::RST_STREAM, 0, stream, &cancel)
    });
    assert!(result.is_err(), "{MANY} were taken");
    secure.assert_answers();
}

/// The same, but as a client does that changes its mind now and then.
#[test]
fn who_cancels_some_goes_on() {
    let secure = Secure::start();
    let waits = waiting_result(&secure);
    let mut connection = secure.open(&[]);
    for _ in 0..500 {
        let stream = connection.request("GET", &waits, http2::END_STREAM).expect("the server reads");
        connection.frame(http2::RST_STREAM, 0, stream, &8_u32.to_be_bytes()).expect("the server reads");
        let stream = connection.request("GET", "/v2/", http2::END_STREAM).expect("the server reads");
        assert_eq!(connection.next_of(http2::HEADERS).expect("an answer").stream, stream);
    }
}

/// The path of a result whose pull waits.
fn waiting_result(secure: &Secure) -> String {
    let image = Image::new(&layer("waits"));
    for bytes in image.layers.iter().chain([&image.config]) {
        secure.push_blob("run/heart/x", bytes);
    }
    let file = secure.site.path("manifest");
    fs::write(&file, image.manifest()).expect("write");
    let kind = format!("content-type: {}", torno_tests::OCI_IMAGE);
    let put = ["--header", &kind, "--upload-file", file.to_str().expect("UTF-8")];
    assert_eq!(secure.ask("/v2/run/heart/x/manifests/1", &put).0, 201);
    "/v2/results/heart/x/manifests/1".into()
}

/// A head without end, in as many frames as anybody likes (CVE-2024-27316).
#[test]
fn a_head_without_end_is_bounded() {
    const MANY: usize = 1_000_000;
    let secure = Secure::start();
    let before = memory(secure.site.pid());
    // Frames without a byte; with a byte that ends nothing; with fields of which there is one more each time.
    let endless = [Vec::new(), vec![0], http2::field("x", &"y".repeat(1000))];
    for piece in endless {
        let mut connection = secure.open(&[]);
        let head = connection.head("GET", "/v2/", &[]);
        connection.frame(http2::HEADERS, http2::END_STREAM, 1, &head).expect("the server reads");
        let frame = http2::frame(http2::CONTINUATION, 0, 1, &piece);
        let result = (0..MANY).try_for_each(|_| connection.send(&frame));
        assert!(result.is_err(), "{MANY} frames of {} bytes were taken", piece.len());
    }
    // One request whose fields are too many is refused alone.
    let mut connection = secure.open(&[]);
    let value = "y".repeat(15_000);
    let head = connection.head("GET", "/v2/", &[("x", &value), ("x", &value), ("x", &value)]);
    for (at, piece) in head.chunks(16_000).enumerate() {
        let kind = if at == 0 { http2::HEADERS } else { http2::CONTINUATION };
        let last = if (at + 1) * 16_000 >= head.len() { http2::END_HEADERS } else { 0 };
        let end = if at == 0 { http2::END_STREAM } else { 0 };
        connection.frame(kind, end | last, 1, piece).expect("the server reads");
    }
    let refused = connection.next_of(http2::HEADERS).expect("an answer");
    assert_ne!(refused.payload.first(), Some(&0x88), "200");
    let grown = memory(secure.site.pid()).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    secure.assert_answers();
}

/// Questions whose answers nobody reads: they are neither gathered in memory, nor keep a connection for ever.
#[test]
fn questions_whose_answers_nobody_reads_are_bounded() {
    let secure =
        Secure::start_with(&[("TORNO_LISTEN_BODY_TIMEOUT", "2s"), ("TORNO_LISTEN_HEADER_TIMEOUT", "2s")]);
    secure.assert_answers();
    let before = memory(secure.site.pid());
    let watch = Watch::begin(secure.site.pid());
    for frame in [
        http2::frame(http2::PING, 0, 0, &[7; 8]),
        http2::frame(http2::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
        http2::frame(http2::HEADERS, http2::END_STREAM | http2::END_HEADERS, 1, &[]),
    ] {
        let mut connection = secure.open(&[]);
        let many = frame.repeat(1000);
        let end = loop {
            if let Err(error) = connection.send(&many) {
                break error;
            }
        };
        let expected =
            [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::ConnectionAborted];
        assert!(expected.contains(&end.kind()), "{end:?}");
    }
    let grown = watch.end().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB");
    secure.assert_answers();
}

/// A window that is never opened keeps what is ready to be sent in memory, so not for long.
#[test]
fn answers_that_nobody_takes_are_given_up() {
    const STREAMS: usize = 64;
    let secure =
        Secure::start_with(&[("TORNO_LISTEN_BODY_TIMEOUT", "2s"), ("TORNO_LISTEN_HEADER_TIMEOUT", "2s")]);
    let large: Vec<u8> = (0..=250).cycle().take(8 * MIB).collect();
    let (large, small) = (secure.push_blob("mine/x", &large), secure.push_blob("mine/x", b"small"));
    let before = wait_until("all of curl's connections have gone", || {
        let now = secure.sockets();
        (now == secure.sockets()).then_some(now)
    });
    let watch = Watch::begin(secure.site.pid());
    for digest in [large, small] {
        let mut connection = secure.open(&[(http2::INITIAL_WINDOW_SIZE, 0)]);
        for _ in 0..STREAMS {
            let path = format!("/v2/mine/x/blobs/{digest}");
            connection.request("GET", &path, http2::END_STREAM).expect("the server reads");
        }
        // Further ones are refused by themselves (RFC 9113, section 5.1.2).
        let further = connection.request("GET", "/v2/", http2::END_STREAM).expect("the server reads");
        let refused = connection.next_of(http2::RST_STREAM).expect("an answer");
        assert_eq!((refused.stream, refused.payload), (further, vec![0, 0, 0, 7]), "REFUSED_STREAM");
        connection.end();
    }
    wait_until("nothing is left of them", || (secure.sockets() <= before).then_some(()));
    let peak = watch.end();
    eprintln!("the server used at most {} MiB", peak / 1024);
    assert!(peak < 64 * 1024, "{peak} KiB");
    secure.assert_answers();
}

/// Who says nothing, nothing whole, or nothing more, keeps no place.
#[test]
fn who_asks_for_nothing_is_let_go() {
    let secure = Secure::start_with(&[("TORNO_LISTEN_HEADER_TIMEOUT", "2s")]);
    let versions = [&rustls::version::TLS13];
    let mut silent =
        secure.authority.connect(&secure.site.http("ada"), &versions, &["h2"]).expect("a handshake");
    let (mut idle, mut half, mut used) = (secure.open(&[]), secure.open(&[]), secure.open(&[]));
    half.frame(http2::HEADERS, http2::END_STREAM, 1, &[]).expect("the server reads");
    used.request("GET", "/v2/", http2::END_STREAM).expect("the server reads");
    used.next_of(http2::HEADERS).expect("an answer");
    for connection in [&mut idle, &mut half, &mut used] {
        connection.end();
    }
    let mut rest = Vec::new();
    // However it is closed, it is.
    let end = io::Read::read_to_end(silent.stream_mut(), &mut rest);
    let waited = end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
    assert!(!waited, "{end:?}");
}

/// A body that stands still is refused, and its upload can be gone on with.
#[test]
fn a_body_that_stands_still_is_refused() {
    let secure = Secure::start_with(&[("TORNO_LISTEN_BODY_TIMEOUT", "2s")]);
    let location = secure.begin_upload("mine/x");
    let mut connection = secure.open(&[]);
    let patch = connection.request("PATCH", &location, 0).expect("the server reads");
    connection.frame(http2::DATA, 0, patch, b"abcd").expect("the server reads");
    assert_eq!(connection.next_of(http2::HEADERS).expect("an answer").stream, patch);
    let body = connection.next_of(http2::DATA).expect("words");
    let words = String::from_utf8_lossy(&body.payload);
    assert!(words.contains("stood still for 2s"), "{words}");
    assert_eq!(field(&secure.ask(&location, &[]).1, "range"), "0-3");
}
