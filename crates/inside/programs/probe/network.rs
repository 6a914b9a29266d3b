//! Every route out.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::{Verdict, failed, first_broken, kernel, system};

/// How long an answer is waited for. Without a route there is none to wait for.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the kernel says when there is no way: not permitted, no such interface, family or address here, and no network.
const NO_WAY: [i32; 7] = [1, 13, 19, 97, 99, 100, 101];

/// What gVisor says then.
const NO_ROUTE_TO_HOST: i32 = 113;

fn no_way(error: &io::Error) -> bool {
    let is_gvisors = |number| number == NO_ROUTE_TO_HOST && kernel::is_gvisor();
    error.raw_os_error().is_some_and(|number| NO_WAY.contains(&number) || is_gvisors(number))
}

/// An address of somebody else's: that a packet was let out is enough.
fn connect(address: &str) -> Verdict {
    let Ok(to) = address.parse::<SocketAddr>() else {
        return Verdict::Unknown(format!("{address} is no address"));
    };
    match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => Verdict::Broken(format!("{address} answers")),
        Err(error) if no_way(&error) => Verdict::Kept,
        Err(error) => Verdict::Broken(format!("there is a route to {address}: {error}")),
    }
}

fn send(address: &str, message: &[u8]) -> Verdict {
    let Ok(to) = address.parse::<SocketAddr>() else {
        return Verdict::Unknown(format!("{address} is no address"));
    };
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let exchange = || -> io::Result<bool> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(message)?;
        // What is sent on the run's own loopback stays there; elsewhere it is out.
        if !to.ip().is_loopback() {
            return Ok(true);
        }
        Ok(socket.recv(&mut [0; 512]).is_ok())
    };
    match exchange() {
        Ok(true) => Verdict::Broken(format!("a packet for {address} was taken")),
        Ok(false) => Verdict::Kept,
        Err(error) if no_way(&error) => Verdict::Kept,
        Err(error) => Verdict::Broken(format!("there is a route to {address}: {error}")),
    }
}

pub(crate) fn interfaces() -> Verdict {
    let Ok(text) = fs::read_to_string("/proc/net/dev") else {
        return Verdict::Unknown("/proc/net/dev cannot be read".into());
    };
    let names = text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    match names.into_iter().find(|name| *name != "lo") {
        Some(name) => Verdict::Broken(format!("there is an interface {name}")),
        None => Verdict::Kept,
    }
}

/// Whoever listens there is not of the run: nothing of it has been started.
pub(crate) fn loopback() -> Verdict {
    first_broken(["tcp", "tcp6", "udp", "udp6"].map(|table| {
        match fs::read_to_string(format!("/proc/net/{table}")) {
            Ok(text) if text.lines().count() > 1 => {
                Verdict::Broken(format!("/proc/net/{table} shows others' sockets"))
            }
            Ok(_) | Err(_) => Verdict::Kept,
        }
    }))
}

pub(crate) fn dns() -> Verdict {
    /// A question for the address of `example.org`.
    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01";
    let configured = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let configured =
        configured.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok());
    // The engine's own, and one of the world's.
    let known: [IpAddr; 3] = [[127, 0, 0, 11].into(), [127, 0, 0, 53].into(), [8, 8, 8, 8].into()];
    let all = configured.chain(known);
    first_broken(all.map(|server| send(&SocketAddr::new(server, 53).to_string(), QUESTION)))
}

pub(crate) fn tcp() -> Verdict {
    first_broken(["1.1.1.1:443", "192.0.2.1:80", "10.0.0.1:22"].map(connect))
}

pub(crate) fn udp() -> Verdict {
    first_broken(
        ["1.1.1.1:443", "192.0.2.1:9", "224.0.0.251:5353", "255.255.255.255:67"].map(|to| send(to, b"x")),
    )
}

pub(crate) fn ipv6() -> Verdict {
    let to = ["[2606:4700:4700::1111]:443", "[fe80::1%2]:80", "[ff02::1%2]:5353", "[::ffff:1.1.1.1]:443"];
    first_broken(to.map(connect).into_iter().chain(to.map(|to| send(to, b"x"))))
}

pub(crate) fn gateway() -> Verdict {
    // The engines' own bridges, and where desktop machines put the host; then whatever is the default here.
    const KNOWN: [&str; 6] =
        ["172.17.0.1:1", "172.18.0.1:1", "10.88.0.1:1", "10.0.2.2:1", "192.168.65.2:1", "192.168.127.254:1"];
    let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
    match table.lines().nth(1) {
        Some(route) => Verdict::Broken(format!(
            "there is a route: {}",
            route.split_whitespace().collect::<Vec<_>>().join(" ")
        )),
        None => first_broken(KNOWN.map(connect)),
    }
}

pub(crate) fn metadata() -> Verdict {
    first_broken(
        ["169.254.169.254:80", "169.254.170.2:80", "[fd00:ec2::254]:80", "100.100.100.200:80"].map(connect),
    )
}

/// Sockets whose names begin with a zero byte belong to a network namespace and to no folder: containerd's once were a
/// way out of containers that shared the host's.
pub(crate) fn abstract_sockets() -> Verdict {
    let Ok(text) = fs::read_to_string("/proc/net/unix") else {
        return Verdict::Unknown("/proc/net/unix cannot be read".into());
    };
    match text.lines().find_map(|line| line.split_once(" @")) {
        Some((_, name)) => Verdict::Broken(format!("@{name} is there")),
        None => Verdict::Kept,
    }
}

pub(crate) fn engine_socket() -> Verdict {
    const SOCKETS: [&str; 6] = [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
        "/run/crio/crio.sock",
        "/run/systemd/private",
    ];
    first_broken(SOCKETS.map(|path| {
        if Path::new(path).exists() {
            return Verdict::Broken(format!("{path} is there"));
        }
        failed(format!("connecting to {path}"), UnixStream::connect(path))
    }))
}

const INET: u64 = 2;
const INET6: u64 = 10;
const PACKET: u64 = 17;
const RAW: u64 = 3;

pub(crate) fn raw_socket() -> Verdict {
    // ICMP, ICMPv6, and any.
    first_broken(
        [(INET, 1), (INET6, 58), (INET, 255)]
            .map(|(family, protocol)| failed("opening a raw socket", system::socket(family, RAW, protocol))),
    )
}

pub(crate) fn packet_socket() -> Verdict {
    first_broken(
        [RAW, 2, 10].map(|kind| failed("opening a packet socket", system::socket(PACKET, kind, 0x0300))),
    )
}

/// Families that reach past a network namespace, or that a run has no use for and kernels had holes in.
pub(crate) fn socket_families() -> Verdict {
    const FAMILIES: [(u64, u64, u64, &str); 8] = [
        (15, RAW, 2, "key"),
        (21, 5, 0, "rds"),
        (29, RAW, 1, "can"),
        (30, 5, 0, "tipc"),
        (31, RAW, 1, "bluetooth"),
        (38, 5, 0, "alg"),
        (40, 1, 0, "vsock"),
        (44, RAW, 0, "xdp"),
    ];
    first_broken(FAMILIES.map(|(family, kind, protocol, name)| {
        failed(format!("opening a socket of the family {name}"), system::socket(family, kind, protocol))
    }))
}
