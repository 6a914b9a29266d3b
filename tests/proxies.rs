//! Torno behind a reverse proxy: who is believed, and the nginx of the documentation.

use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use torno_tests::{
    Authority, Image, NO_ENGINE, PROJECTS, Site, Tools, allow_many_connections, connect_from, layer, sha256,
    tool, wait_until,
};

const MIB: usize = 1024 * 1024;

/// What stands in this test for a proxy and for anybody else: this machine has all these addresses.
const PROXY: [u8; 4] = [127, 0, 0, 2];
const STRANGER: [u8; 4] = [127, 0, 0, 3];

/// A site that believes these proxies, started.
fn site(proxies: &str, variables: &[(&str, &str)]) -> Site {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    for (name, value) in variables {
        site = site.with(name, value);
    }
    let file = site.path("torno.toml");
    let text = fs::read_to_string(&file).expect("torno.toml");
    assert!(text.contains("\nproxies = []\n"));
    fs::write(&file, text.replace("\nproxies = []\n", &format!("\nproxies = {proxies}\n"))).expect("write");
    site.add_users(&["ada"]);
    site.start();
    site
}

/// Asks for a path that the log speaks of; the address that it does.
fn seen_from(site: &Site, from: [u8; 4], path: &str, lines: &str) -> String {
    let mut connection = site.http("ada").raw_from(from);
    connection.head_with("GET", path, &format!("content-length: 0\r\n{lines}"));
    assert_eq!(connection.answer().0, 404);
    let marked = format!("path=\"{path}\"");
    let log = wait_until("it is logged", || Some(site.log()).filter(|log| log.contains(&marked)));
    let line = log.lines().find(|line| line.contains(&marked)).expect("a line");
    let from = line.split(" from=").nth(1).and_then(|rest| rest.split(' ').next());
    from.expect("an address").to_owned()
}

#[test]
fn only_a_proxy_is_believed() {
    let site = site(r#"["127.0.0.2", "10.0.0.0/8"]"#, &[]);
    let cases = [
        (PROXY, "x-forwarded-for: 192.0.2.7\r\n", "192.0.2.7"),
        (PROXY, "x-forwarded-for: 192.0.2.7, 10.1.2.3\r\n", "192.0.2.7"),
        (PROXY, "x-forwarded-for: 2001:db8::7\r\n", "2001:db8::7"),
        (PROXY, "", "127.0.0.2"),
        // Claimed by the client before the proxy added what it saw.
        (PROXY, "x-forwarded-for: 198.51.100.1, 192.0.2.66\r\n", "192.0.2.66"),
        (PROXY, "x-forwarded-for: 198.51.100.1\r\nx-forwarded-for: 192.0.2.66\r\n", "192.0.2.66"),
        (PROXY, "x-forwarded-for: 198.51.100.1, 127.0.0.2, 192.0.2.66, 10.0.0.1\r\n", "192.0.2.66"),
        (PROXY, "forwarded: for=192.0.2.7\r\n", "127.0.0.2"),
        (PROXY, "x-real-ip: 192.0.2.7\r\n", "127.0.0.2"),
        // Nonsense.
        (PROXY, "x-forwarded-for: 192.0.2.7, \"><script>\r\n", "127.0.0.2"),
        (PROXY, "x-forwarded-for: 192.0.2.7 from=10.0.0.1\r\n", "127.0.0.2"),
        (PROXY, "x-forwarded-for: \u{e9}\r\n", "127.0.0.2"),
        // Not a proxy.
        (STRANGER, "x-forwarded-for: 192.0.2.7\r\n", "127.0.0.3"),
        (STRANGER, "x-forwarded-for: 127.0.0.2\r\n", "127.0.0.3"),
    ];
    for (number, (from, lines, expected)) in cases.into_iter().enumerate() {
        let path = format!("/v2/nothing-{number}");
        assert_eq!(seen_from(&site, from, &path, lines), expected, "{from:?} {lines}");
    }
}

#[test]
fn links_bear_the_name_that_the_client_used() {
    let site = site(r#"["127.0.0.2"]"#, &[]);
    let said = "x-forwarded-proto: https\r\nx-forwarded-host: registry.example.org\r\n";
    let page = |from, lines: &str| {
        let mut connection = site.anonymous().raw_from(from);
        connection.head_with("GET", "/", &format!("content-length: 0\r\n{lines}"));
        let (status, text) = connection.answer();
        assert_eq!(status, 200, "{text}");
        text
    };
    let text = page(PROXY, said);
    assert!(
        text.contains("docker login registry.example.org\n")
            && text.contains("https://registry.example.org/v2/")
    );
    let own = format!("http://{}/v2/", site.host());
    assert!(page(STRANGER, said).contains(&own));
    let hostile = "x-forwarded-proto: javascript\r\nx-forwarded-host: evil.example/<script>\r\n";
    assert!(page(PROXY, hostile).contains(&own));
}

/// A proxy speaks for many; whoever else has an address has one share.
#[test]
fn a_proxy_has_more_than_one_share() {
    const SHARE: usize = 5;
    allow_many_connections();
    let site = site(r#"["127.0.0.2"]"#, &[("TORNO_LISTEN_CONNECTIONS_PER_ADDRESS", "5")]);
    let answered = |mut stream: &TcpStream| {
        use std::io::Read as _;
        let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
        asked.is_ok() && stream.read(&mut [0; 200]).is_ok_and(|read| read > 0)
    };
    let many = |from| -> Vec<TcpStream> { (0..3 * SHARE).map(|_| connect_from(from, site.host())).collect() };
    assert!(many(PROXY).iter().all(answered));
    assert_eq!(many(STRANGER).iter().filter(|stream| answered(stream)).count(), SHARE);
}

/// nginx with the configuration of the documentation, but for its names and places.
struct Nginx {
    child: Child,
    port: u16,
}

impl Nginx {
    fn start(site: &Site, authority: &Authority) -> Self {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ADMINISTRATION.md");
        let docs = fs::read_to_string(docs).expect("the documentation");
        let example =
            docs.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let pair = authority.issue("registry");
        let folder = site.path("nginx");
        fs::create_dir(&folder).expect("a folder");
        // Free a moment ago, and nobody else's meanwhile as far as anybody can tell.
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut server = example.to_owned();
        for (from, to) in [
            ("127.0.0.1:5000", site.host()),
            ("listen 443 ", &format!("listen 127.0.0.1:{port} ")),
            ("registry.example.org", "127.0.0.1"),
            ("/etc/ssl/registry.pem", pair.certificate.to_str().expect("UTF-8")),
            ("/etc/ssl/registry.key", pair.key.to_str().expect("UTF-8")),
        ] {
            assert!(server.contains(from), "`{from}` is in the example");
            server = server.replace(from, to);
        }
        let place = folder.display();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds.map(|kind| format!("{kind}_temp_path {place}/{kind};")).concat();
        // As root its workers would be another user, who may not come by here.
        let user = if is_root() { "user root;" } else { "" };
        let whole = format!(
            "{user} daemon off; pid {place}/pid; error_log stderr; events {{}}\n\
             http {{ access_log off; {temporary}\n{server}}}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, whole).expect("write");
        let log = fs::File::create(folder.join("log")).expect("a log");
        let mut command = Command::new(nginx());
        command.args(["-e", "stderr", "-p"]).arg(&folder).arg("-c").arg(&file);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("nginx");
        let mut this = Self { child, port };
        wait_until("nginx listens", || {
            let ended = this.child.try_wait().expect("wait");
            assert!(ended.is_none(), "{}", fs::read_to_string(folder.join("log")).unwrap_or_default());
            TcpStream::connect(("127.0.0.1", this.port)).ok()
        });
        this
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // In good order, so that its workers end too.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// Debian keeps it where an ordinary user's PATH does not look.
fn nginx() -> PathBuf {
    let found =
        ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| "nginx".into())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn the_documented_nginx_passes_everything_on() {
    let site = site(r#"["127.0.0.1"]"#, &[]);
    let authority = Authority::new();
    let nginx = Nginx::start(&site, &authority);
    let host = nginx.host();
    let trusted = authority.trusted();
    let trusted = trusted.to_str().expect("UTF-8");

    // Far more than the 1 MiB that nginx takes by itself, and than its buffers hold.
    let tools = Tools::anonymous();
    tools.skopeo_ok(&["login", "--cert-dir", trusted, "-u", "ada", "-p", "pw-ada", &host]);
    let ballast: Vec<u8> = (0..=250).cycle().take(20 * MIB).collect();
    let mut image = Image::new(&layer("behind a proxy"));
    image.layers.push(ballast.clone());
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
    let digest = sha256(&ballast);
    let came = fs::read(site.path("back").join(digest.trim_start_matches("sha256:"))).expect("read");
    assert!(came == ballast, "other bytes came back");

    // In a stream of unknown length, over HTTP/2 up to the proxy; and nobody's word but the proxy's is believed.
    let certificate = authority.certificate();
    let curl = |more: &[&str]| {
        let common = ["--silent", "--show-error", "--fail", "--http2", "--user", "ada:pw-ada", "--cacert"];
        tool("curl", &[&common[..], &[certificate.to_str().expect("UTF-8")], more].concat())
    };
    let begin = format!("https://{host}/v2/mine/y/blobs/uploads/");
    let head = curl(&["--request", "POST", "--dump-header", "-", &begin]).to_lowercase();
    let location = head.lines().find_map(|line| line.strip_prefix("location: ")).expect("a location").trim();
    assert!(location.starts_with('/'), "{location}");
    let (sent, put) = (site.path("sent"), format!("https://{host}{location}?digest={digest}"));
    fs::write(&sent, &ballast).expect("write");
    let chunked = ["--header", "transfer-encoding: chunked"];
    let sent = sent.to_str().expect("UTF-8");
    let spoofed = ["--header", "x-forwarded-for: 192.0.2.7", "--header", "x-forwarded-host: evil.example"];
    curl(&[&chunked[..], &spoofed, &["--upload-file", sent, &put]].concat());
    assert!(!site.log().contains("192.0.2.7"));
    let page = curl(&[&spoofed[..], &[&format!("https://{host}/")]].concat());
    assert!(page.contains(&format!("https://{host}/v2/")), "{page}");
}
