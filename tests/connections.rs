//! Clients that are slow, silent, many, or want too much; and the others, who must not notice.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use torno_tests::{
    Http, NO_ENGINE, PROJECTS, Raw, Site, allow_many_connections, connect_from, memory, sha256, wait_until,
};

const MIB: usize = 1024 * 1024;

/// Addresses of this machine that are not the one the other clients come from.
const ELSEWHERE: [[u8; 4]; 4] = [[127, 0, 0, 2], [127, 0, 0, 3], [127, 0, 0, 4], [127, 0, 0, 5]];

fn start(variables: &[(&str, &str)]) -> Site {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    for (name, value) in variables {
        site = site.with(name, value);
    }
    site.add_users(&["ada"]);
    site.start();
    site
}

/// How many sockets the server has open.
fn sockets(site: &Site) -> usize {
    let folder = format!("/proc/{}/fd", site.pid());
    let links = fs::read_dir(folder).expect("a process").filter_map(Result::ok);
    let targets = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Reads until the server has closed the connection. Fails if that takes longer than the socket's own patience.
#[track_caller]
fn assert_closed(mut stream: &TcpStream) {
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        read => drop(read.expect("closed by the server")),
    }
}

/// Sends a byte now and then until the server has closed the connection, for a minute at most.
#[track_caller]
fn drip(mut stream: TcpStream, bytes: impl IntoIterator<Item = u8>) -> String {
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut said = Vec::new();
    for byte in bytes.into_iter().take(600) {
        let sent = stream.write_all(&[byte]);
        // The time between two bytes, unless something comes.
        let read = stream.read_to_end(&mut said);
        match read {
            Ok(_) => return String::from_utf8_lossy(&said).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return String::from_utf8_lossy(&said).into_owned();
            }
            Err(_) => sent.expect("still open"),
        }
    }
    panic!("still open after 600 bytes");
}

#[test]
fn a_head_that_trickles_is_cut_off() {
    let site = start(&[("TORNO_LISTEN_HEADER_TIMEOUT", "2s")]);
    let stream = TcpStream::connect(site.host()).expect("a connection");
    let endless = b"GET /v2/ HTTP/1.1\r\nx: ".iter().copied().chain(std::iter::repeat(b'y'));
    drip(stream, endless);
}

/// The session keeps what came, and the client is told why.
#[test]
fn a_body_that_trickles_is_refused_and_its_upload_goes_on() {
    let site = start(&[("TORNO_LISTEN_BODY_TIMEOUT", "2s")]);
    let ada = site.http("ada");
    let location = ada.begin_upload("mine/x");
    let mut connection = ada.raw();
    connection.head("PATCH", &location, 1000);
    let stream = connection.stream().try_clone().expect("a descriptor");
    let said = drip(stream, [b'x'; 1000]);
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(said.contains("connection: close") && said.contains("stood still for 2s"), "{said}");
    let range = ada.get(&location).expect(204).header("range");
    let came: usize = range.trim_start_matches("0-").parse::<usize>().expect("a range") + 1;
    assert!(came > 2, "{came}");
    let whole = vec![b'x'; came];
    ada.send("PUT", &format!("{location}?digest={}", sha256(&whole)), &[], &[]).expect(201);

    // A manifest is held in memory while it comes.
    let mut connection = ada.raw();
    connection.head("PUT", "/v2/mine/x/manifests/1", 1000);
    connection.send(b"{");
    let (status, text) = connection.answer();
    assert_eq!(status, 408, "{text}");
}

/// A bad line is not an attack: an upload may take far longer than its body may stand still.
#[test]
fn a_slow_but_steady_upload_comes_to_its_end() {
    const PIECES: usize = 20;
    let site = start(&[("TORNO_LISTEN_BODY_TIMEOUT", "1s")]);
    let ada = site.http("ada");
    let location = ada.begin_upload("mine/x");
    let mut connection = ada.raw();
    connection.head("PATCH", &location, PIECES * 1024);
    let since = Instant::now();
    let mut silence = connection.stream().try_clone().expect("a descriptor");
    silence.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    for _ in 0..PIECES - 1 {
        connection.send(&[7; 1024]);
        assert!(silence.read(&mut [0]).is_err(), "there is no answer yet");
    }
    assert!(since.elapsed() > Duration::from_secs(3), "several times what it may stand still");
    silence.set_read_timeout(None).expect("a timeout");
    connection.send(&[7; 1024]);
    assert_eq!(connection.answer().0, 202);
}

#[test]
fn whoever_takes_nothing_of_an_answer_is_let_go() {
    // No other connection is closed meanwhile, so a socket that goes is the deaf one's.
    let site = start(&[("TORNO_LISTEN_BODY_TIMEOUT", "2s"), ("TORNO_LISTEN_HEADER_TIMEOUT", "15m")]);
    let ada = site.http("ada");
    // More than both kernels' buffers hold.
    let digest = ada.push_blob("mine/x", &vec![7; 64 * MIB]);
    let get = |connection: &mut Raw| connection.head("GET", &format!("/v2/mine/x/blobs/{digest}"), 0);
    ada.get("/v2/").expect(200);
    let before = sockets(&site);
    let (mut deaf, mut slow) = (ada.raw(), ada.raw());
    get(&mut slow);
    get(&mut deaf);
    wait_until("both are answered", || (sockets(&site) >= before + 2).then_some(()));
    // The slow one takes something now and then, until the other has been let go, and then the rest.
    let mut stream = slow.stream().try_clone().expect("a descriptor");
    let mut came = 0;
    let mut buffer = vec![0; 64 * 1024];
    wait_until("the deaf one is let go", || {
        came += stream.read(&mut buffer).expect("bytes");
        (sockets(&site) < before + 2).then_some(())
    });
    while came < 64 * MIB {
        let read = stream.read(&mut buffer).expect("bytes");
        assert_ne!(read, 0, "cut off after {came}");
        came += read;
    }
}

/// At each limit, and one past it.
#[test]
fn what_is_too_large_is_refused_before_it_is_held() {
    let site = start(&[]);
    let ada = site.http("ada");
    let before = memory(site.pid());
    let ask = |head: &str| {
        let mut connection = ada.raw();
        connection.send(head.as_bytes());
        let (status, text) = connection.answer();
        (status, text)
    };
    let whole = |path: &str, lines: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n{lines}\r\n");
    // The head, whatever it is that makes it long: 32 KiB.
    let fill = |size: usize, prefix: &str, suffix: &str| {
        let rest = size - prefix.len() - suffix.len();
        format!("{prefix}{}{suffix}", "a".repeat(rest))
    };
    let start = "GET /v2/ HTTP/1.1\r\nhost: x\r\n";
    for (prefix, suffix, within) in [
        (&format!("{start}x: ") as &str, "\r\n\r\n", 401),
        ("GET /", " HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        ("GET /v2/?n=", " HTTP/1.1\r\nhost: x\r\n\r\n", 401),
    ] {
        assert_eq!(ask(&fill(32 * 1024, prefix, suffix)).0, within, "{prefix}");
        let (status, text) = ask(&fill(32 * 1024 + 1, prefix, suffix));
        assert_eq!(status, 431, "{prefix}");
        assert!(text.contains("connection: close"), "{text}");
    }
    // How many fields: 100 with `host`.
    assert_eq!(ask(&whole("/v2/", &"x: y\r\n".repeat(99))).0, 401);
    assert_eq!(ask(&whole("/v2/", &"x: y\r\n".repeat(100))).0, 431);
    // A login: no name and password are as long.
    let long = format!("authorization: Basic {}\r\n", "A".repeat(4096));
    assert_eq!(ask(&whole("/v2/", &long)).0, 401);
    // A manifest, whatever it says its length is.
    let limit = 4 * MIB;
    let put = |bytes: &[u8]| ada.push_manifest("mine/x", "1", "application/json", bytes);
    put(&vec![b' '; limit]).expect_error(400, "MANIFEST_INVALID");
    put(&vec![b' '; limit + 1]).expect_error(413, "MANIFEST_INVALID");
    // A head without end is not gathered.
    let mut endless = ada.raw().stream().try_clone().expect("a descriptor");
    endless.write_all(b"GET /v2/ HTTP/1.1\r\n").expect("the server reads");
    let line = b"x: y\r\n".repeat(1000);
    let sent = (0..10_000).try_for_each(|_| endless.write_all(&line));
    assert!(sent.is_err(), "60 MB of a head were taken");
    let grown = memory(site.pid()).saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[test]
fn one_address_cannot_take_all_the_places() {
    let site = start(&[("TORNO_LISTEN_CONNECTIONS", "20"), ("TORNO_LISTEN_CONNECTIONS_PER_ADDRESS", "10")]);
    let ada = site.http("ada");
    let greedy: Vec<TcpStream> = (0..30).map(|_| connect_from(ELSEWHERE[0], site.host())).collect();
    for stream in &greedy {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    }
    // Accepted in order, so the first have the places and the last have been closed.
    greedy[10..].iter().for_each(assert_closed);
    ada.get("/v2/").expect(200);
    assert_eq!(site.log().matches("this address has its whole share").count(), 1, "{}", site.log());
    let mut first = &greedy[9];
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("the server reads");
    assert!(first.read(&mut [0; 100]).expect("an answer") > 0, "it has its place");
    // A place that is free again is somebody else's.
    drop(greedy);
    wait_until("there is a place", || {
        let mut stream = connect_from(ELSEWHERE[0], site.host());
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").ok()?;
        stream.read(&mut [0; 100]).ok().filter(|&read| read > 0)
    });
}

/// 2,000 who say nothing and 200 who say little, while one pulls and pushes: that goes on as if they were not there.
#[test]
fn honest_clients_keep_their_speed() {
    const IDLE: usize = 2000;
    const SLOW: usize = 200;
    const SIZE: usize = 32 * MIB;
    allow_many_connections();
    // They stay for as long as this measures.
    let site = start(&[("TORNO_LISTEN_HEADER_TIMEOUT", "15m"), ("TORNO_LISTEN_BODY_TIMEOUT", "15m")]);
    let ada = site.http("ada");
    let bytes: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
    let digest = ada.push_blob("mine/x", &bytes);
    let quiet = Speed::measure(&ada, &digest, &bytes);

    let before = sockets(&site);
    let idle: Vec<TcpStream> =
        (0..IDLE).map(|number| connect_from(ELSEWHERE[number % 3], site.host())).collect();
    let mut slow: Vec<Raw> = (0..SLOW).map(|_| ada.raw_from(ELSEWHERE[3])).collect();
    let locations: Vec<String> = (0..SLOW / 2).map(|_| ada.begin_upload("mine/slow")).collect();
    for (connection, location) in slow.iter_mut().zip(&locations) {
        connection.head("PATCH", location, SIZE);
    }
    for connection in &mut slow[SLOW / 2..] {
        connection.send(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nx: ");
    }
    wait_until("all of them have a place", || (sockets(&site) >= before + IDLE + SLOW).then_some(()));

    let crowded = thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let slow = &mut slow;
        scope.spawn(move || {
            // Each says something every now and then.
            while stopped.recv_timeout(Duration::from_millis(50))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                for connection in slow.iter_mut() {
                    connection.send(b"y");
                }
            }
        });
        let crowded = Speed::measure(&ada, &digest, &bytes);
        drop(stop);
        crowded
    });
    assert!(sockets(&site) >= before + IDLE + SLOW, "they were there all the time");
    drop(idle);
    eprintln!("quiet {quiet:?}, crowded {crowded:?}");
    assert!(crowded.pull < 3 * quiet.pull, "pulls: {quiet:?}, crowded {crowded:?}");
    assert!(crowded.push < 3 * quiet.push, "pushes: {quiet:?}, crowded {crowded:?}");
}

/// How long a pull and a push take, each the median of several.
#[derive(Debug)]
struct Speed {
    pull: Duration,
    push: Duration,
}

impl Speed {
    const TIMES: usize = 7;

    fn measure(ada: &Http, digest: &str, bytes: &[u8]) -> Self {
        let path = format!("/v2/mine/x/blobs/{digest}");
        let pull = Self::median(|| {
            assert!(ada.get(&path).expect(200).body == bytes, "other bytes came");
        });
        let push = Self::median(|| {
            let location = ada.begin_upload("mine/pushed");
            ada.send("PATCH", &location, &[], bytes).expect(202);
            ada.delete(&location).expect(204);
        });
        Self { pull, push }
    }

    fn median(mut once: impl FnMut()) -> Duration {
        let mut times: Vec<Duration> = (0..Self::TIMES)
            .map(|_| {
                let since = Instant::now();
                once();
                since.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[Self::TIMES / 2]
    }
}

/// The soft limit of open files is 1024 on many machines, for the sake of old programs.
#[test]
fn the_limit_of_open_files_is_raised() {
    let site = start(&[]);
    let limits = fs::read_to_string(format!("/proc/{}/limits", site.pid())).expect("a process");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
}
