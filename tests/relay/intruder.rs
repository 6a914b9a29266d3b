//! A hostile program: tries to reach all that a run must not, and prints what it reached. Built by the test, statically,
//! with nothing but the standard library.

use std::{
    env, fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    time::Duration,
};

const SHORT: Duration = Duration::from_millis(200);

/// What nothing outside `lo` answers at is asked here: any address does.
const PORTS: [u16; 8] = [22, 53, 80, 443, 2375, 2376, 5000, 5432];

fn main() {
    let mut arguments = env::args().skip(1);
    let service: SocketAddr = arguments.next().expect("the service").parse().expect("an address");
    let host: Vec<IpAddr> = arguments.map(|address| address.parse().expect("an address")).collect();
    inside(service);
    on_the_host(&host);
    outside();
    names();
    sockets();
    flood(service);
}

/// Every port of the addresses that lead back to the run itself.
fn inside(service: SocketAddr) {
    for address in ["127.0.0.1", "127.0.1.1", "127.0.1.2", "::1"] {
        let address: IpAddr = address.parse().expect("an address");
        for port in 1..=u16::MAX {
            let target = SocketAddr::new(address, port);
            if target != service && connects(target) {
                println!("reached {target}");
            }
        }
    }
    println!("{} {service}", if connects(service) { "the service answers at" } else { "no service at" });
}

/// Every port of every address that the host has, by TCP; and a byte to each by UDP.
fn on_the_host(addresses: &[IpAddr]) {
    let mut tried = 0_u32;
    for address in addresses {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        for port in 1..=u16::MAX {
            let target = SocketAddr::new(*address, port);
            if connects(target) {
                println!("reached {target}");
            }
            if socket.send_to(&[0], target).is_ok() {
                println!("reached {target} by UDP");
            }
            tried += 1;
        }
    }
    println!("tried {tried}");
}

/// What may be near a host: gateways, clouds, name servers, and loopback addresses that nobody was given.
fn outside() {
    let known = [
        "127.0.0.53",
        "127.0.1.0",
        "127.0.1.3",
        "127.0.1.16",
        "172.17.0.1",
        "172.17.0.2",
        "10.0.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "1.1.1.1",
        "2606:4700::1111",
    ];
    for address in known.map(|address| address.parse::<IpAddr>().expect("an address")) {
        for port in PORTS {
            let target = SocketAddr::new(address, port);
            if connects(target) {
                println!("reached {target}");
            }
        }
    }
}

fn connects(target: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&target, SHORT) else { return false };
    // A connection to a free port may meet itself.
    stream.local_addr().ok() != Some(target)
}

fn names() {
    // The question for the address of example.org.
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";
    let told = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let told = told.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse::<IpAddr>().ok());
    let known = ["127.0.0.1", "127.0.0.11", "127.0.0.53", "127.0.1.1", "172.17.0.1", "8.8.8.8"];
    for server in told.chain(known.map(|server| server.parse().expect("an address"))) {
        let server = SocketAddr::new(server, 53);
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.set_read_timeout(Some(SHORT)).expect("a timeout");
        if socket.send_to(question, server).is_ok() && socket.recv(&mut [0; 512]).is_ok() {
            println!("reached {server} by UDP");
        }
        if connects(server) {
            println!("reached {server} by TCP");
        }
    }
}

/// The relay's own way, the engine's, and names that are no files.
fn sockets() {
    let paths = ["/relay", "/relay/ready", "/var/run/docker.sock", "/run/docker.sock", "/dev/shm/torno"];
    for path in paths {
        if fs::exists(path).unwrap_or(true) || UnixStream::connect(path).is_ok() {
            println!("reached {path}");
        }
    }
    let listed = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    for line in listed.lines().skip(1).filter(|line| line.contains('/') || line.contains('@')) {
        println!("reached the socket {line}");
    }
}

/// More connections than there may be, each of them as bad as it can be.
fn flood(service: SocketAddr) {
    let streams: Vec<_> = (0..300).filter_map(|_| TcpStream::connect(service).ok()).collect();
    let mut held = Vec::new();
    for mut stream in streams {
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        match stream.read(&mut [0; 1]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => held.push(stream),
            _ => {}
        }
    }
    println!("held {}", held.len());
    // The first byte of a message that never comes, on each.
    for stream in &mut held {
        let _ = stream.write(&[0]);
    }
    // Bytes without an end, until somebody has enough.
    let piece = vec![0xff; 1 << 16];
    if let Some(stream) = held.first_mut() {
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let sent = (0..1024).take_while(|_| stream.write_all(&piece).is_ok()).count();
        println!("sent {sent} pieces");
    }
    // It ends with its connections open.
    println!("done");
    std::process::exit(0);
}
