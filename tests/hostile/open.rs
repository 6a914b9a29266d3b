//! Containers that are open, to see the probe see it: an attack that fails everywhere shows nothing.

use std::{
    collections::BTreeSet,
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    process::{Command, Stdio},
};

use torno_inside::{ATTACKS, PROBE};
use torno_tests::{Docker, tool};

use crate::{program, site};

/// What cannot be seen broken on every machine: kernels are built without them, and machines have no IPv6.
const NOT_EVERYWHERE: [&str; 3] = ["modules", "kexec", "ipv6"];

/// What a container without confinement is started with.
const OPEN: [&str; 18] = [
    "--network=host",
    "--pid=host",
    "--ipc=host",
    "--user=0",
    "--security-opt=seccomp=unconfined",
    "--security-opt=systempaths=unconfined",
    "--env=LD_X=1",
    "--volume=/sys:/sys",
    "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
    "--volume=/var/run/docker.sock:/var/run/docker.sock",
    "--device=/dev/kmsg",
    "--ulimit=core=-1",
    "--ulimit=nofile=16400:16400",
    "--pids-limit=-1",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--rm",
    "--interactive=false",
];

/// The capabilities that this machine has to give, of those that the attacks would need, as options.
fn capabilities() -> Vec<String> {
    const NEEDED: [(u32, &str); 14] = [
        (0, "CHOWN"),
        (1, "DAC_OVERRIDE"),
        (2, "DAC_READ_SEARCH"),
        (6, "SETGID"),
        (7, "SETUID"),
        (13, "NET_RAW"),
        (16, "SYS_MODULE"),
        (18, "SYS_CHROOT"),
        (19, "SYS_PTRACE"),
        (20, "SYS_PACCT"),
        (21, "SYS_ADMIN"),
        (22, "SYS_BOOT"),
        (23, "SYS_NICE"),
        (25, "SYS_TIME"),
    ];
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a set");
    let bounding = u64::from_str_radix(bounding.trim(), 16).expect("a number");
    let there = NEEDED.iter().filter(|(bit, _)| bounding >> bit & 1 == 1);
    there
        .map(|(_, name)| format!("--cap-add={name}"))
        .chain(["--cap-add=MKNOD".into(), "--cap-add=SYSLOG".into()])
        .collect()
}

/// The attacks that the probe saw succeed in a container with these options.
fn broken(options: &[&str], image: &str, attacks: &[&str]) -> BTreeSet<String> {
    let output = Command::new("docker")
        .arg("run")
        .args(options)
        .arg(image)
        .args(attacks)
        .stdin(Stdio::null())
        .output();
    let output = output.expect("docker");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("kept ") || text.contains("broken "),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{text}");
    let names = text.lines().filter_map(|line| line.strip_prefix("broken "));
    names.map(|rest| rest.split(':').next().unwrap_or(rest).to_owned()).collect()
}

#[test]
fn the_probe_sees_what_is_open() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let archive = tempfile::NamedTempFile::new().expect("a file");
    fs::write(archive.path(), program("program", PROBE)).expect("write");
    let image = ada.name("open/probe:1");
    ada.ok(&[
        "import",
        "--change",
        "ENTRYPOINT [\"/program\"]",
        archive.path().to_str().expect("UTF-8"),
        &image,
    ]);
    ada.remember(&image);

    let data = format!("--volume={}:/input", site.path("data").display());
    let capabilities = capabilities();
    let options: Vec<&str> =
        OPEN.into_iter().chain([data.as_str()]).chain(capabilities.iter().map(String::as_str)).collect();
    let name = SocketAddr::from_abstract_name(format!("torno-{}", std::process::id())).expect("a name");
    let _listener = UnixListener::bind_addr(&name).expect("a socket");
    let mut seen = broken(&options, &image, &[]);

    // What only shows beside somebody else's processes, and not to root.
    let other = ada.build("open/other:1", "echo x > /dev/shm/x; echo there; sleep 300", "");
    let id = ada.ok(&["run", "--detach", "--rm", "--user=65532", "--ipc=shareable", &other]);
    let id = id.trim();
    torno_tests::wait_until("the other container is there", || {
        tool("docker", &["logs", id]).contains("there").then_some(())
    });
    let (pid, ipc) = (format!("--pid=container:{id}"), format!("--ipc=container:{id}"));
    let beside = ["--rm", "--user=65532", "--security-opt=seccomp=unconfined", &pid, &ipc];
    seen.extend(broken(&beside, &image, &["first-process", "ptrace", "shared-memory"]));
    ada.ok(&["kill", id]);
    seen.extend(broken(&["--rm", "--user=65532", "--pid=host"], &image, &["other-processes", "interfaces"]));

    let unseen: Vec<&str> =
        ATTACKS.iter().map(|attack| attack.name).filter(|name| !seen.contains(*name)).collect();
    let unseen: Vec<_> = unseen.into_iter().filter(|name| !NOT_EVERYWHERE.contains(name)).collect();
    assert!(unseen.is_empty(), "the probe took these for kept: {unseen:?}");
    assert_eq!(fs::read_to_string(site.path("data/secret")).expect("data"), "secret\n", "and did no harm");
}
