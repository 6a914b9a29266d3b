//! Podman in Docker's place.

use std::{
    fs, io::Write as _, net::TcpListener, os::unix::fs::PermissionsExt as _, process::Command, thread,
};

use serde_json::Value;
use torno_tests::{Docker, Podman, Site, wait_until};

const PROJECT: &str = "
[datasets.numbers]
path = 'numbers'
[projects.p]
researchers = ['ada']
datasets = ['numbers']
logs = 'always'
limits = { memory = '64MiB', pids = 64, time = '20s', output = '1MiB' }
";

#[test]
fn podman_carries_runs_out_as_docker_does() {
    let podman = Podman::start();
    let greeter = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = greeter.local_addr().expect("an address").port();
    let reaching = format!(
        "[projects.s]
        researchers = ['ada']
        allow = ['greeter.internal:7000 = 127.0.0.1:{port}']
        secrets = {{ word = {{ file = 'word' }} }}
        limits = {{ memory = '64MiB', time = '1m' }}"
    );
    let mut site = Site::new(&[PROJECT, &reaching].concat()).with("TORNO_EXECUTOR_ENGINE", &podman.socket());
    site.write_data("numbers", "1\n2\n3\n");
    fs::write(site.path("word"), "swordfish").expect("write");
    fs::set_permissions(site.path("word"), fs::Permissions::from_mode(0o600)).expect("mode");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");

    // Images are built and results read with Docker; what runs them is Podman.
    let script =
        "awk '{s += $1} END {print s}' /input/data.txt > /output/sum; id > /output/id; env > /output/env
        ls /sys/class/net > /output/net; cat /etc/hosts > /output/hosts; touch /run/x /etc/x 2>/output/refused; echo spoken";
    let image = ada.build("run/p/sum:1", script, "ENV LD_PRELOAD=/none.so\nENV TORNO_RUN=99");
    ada.ok(&["push", "--quiet", &image]);
    let result = ada.pull_result("p/sum:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&result, files.path());
    let read = |name: &str| fs::read_to_string(files.path().join(name)).expect(name);
    assert_eq!(read("output/sum"), "6\n");
    assert!(read("output/id").starts_with("uid=65532"), "{}", read("output/id"));
    assert_eq!(read("output/net"), "lo\n");
    assert_eq!(
        read("output/hosts"),
        "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
        "and none of the host's names"
    );
    assert_eq!(read("output/refused").lines().count(), 2, "{}", read("output/refused"));
    assert_eq!(read("run/stdout.log"), "spoken\n");
    let environment = read("output/env");
    assert!(!environment.contains("none.so") && environment.contains("TORNO_RUN=1\n"), "{environment}");

    for (name, script, end) in [
        ("fails", "exit 3", "exit status 3"),
        // Podman does not tell everywhere what the kernel ended it for.
        ("memory", "a=$(head -c 200m /dev/zero | tr '\\0' x); echo $a > /output/a", "137|out of memory"),
        ("long", "sleep 100", "stopped after 20s"),
        ("large", "head -c 4m /dev/zero > /output/x; sleep 100", "output"),
    ] {
        ada.run(&format!("p/{name}:1"), script);
        let last = u64::try_from(site.runs()).expect("a number");
        let state = site.wait_for_run(last);
        let log = site.log();
        let warned: Vec<_> =
            log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR")).collect();
        assert!(end.split('|').any(|end| state.contains(end)), "{name}: {state}\n{warned:#?}");
    }

    // The one service that a project allows, by its name, and its secret.
    thread::spawn(move || {
        for client in greeter.incoming() {
            let _ = client.and_then(|mut client| client.write_all(b"hello"));
        }
    });
    let script = "nc greeter.internal 7000 < /dev/null > /output/greeting;
         cat /run/secrets/word > /output/word
        nc -w 1 127.0.0.1 7001 < /dev/null || touch /output/nobody";
    ada.run("s/reach:1", script);
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result("s/reach:1"), files.path());
    let read = |name: &str| fs::read_to_string(files.path().join("output").join(name)).expect(name);
    assert_eq!(
        (read("greeting"), read("word"), read("nobody")),
        ("hello".into(), "swordfish".into(), String::new())
    );
    wait_until("nothing of the runs is left", || {
        let left = [podman.ok(&["ps", "--all", "--quiet"]), podman.ok(&["volume", "ls", "--quiet"])].concat();
        left.is_empty().then_some(())
    });
    let images = podman.ok(&["images", "--format", "{{.Repository}}"]);
    let mut images: Vec<&str> = images.lines().collect();
    images.sort_unstable();
    assert_eq!(images, ["localhost/torno/probe", "localhost/torno/relay"], "what is Torno's own stays");
    site.stop();
}

/// Somebody without a name or rights.
const USER: u32 = 64_210;

/// What an engine without root keeps only where it is given the controllers of control groups of version 2.
const BY_CONTROL_GROUPS: [&str; 5] = ["core-dumps", "processors", "open-files", "processes", "memory"];

#[test]
fn rootless_podman_keeps_the_rest_where_it_may_not_use_control_groups() {
    let podman = Podman::rootless(USER);
    let site = Site::new(PROJECT).with("TORNO_EXECUTOR_ENGINE", &podman.socket());
    site.write_data("numbers", "1\n2\n3\n");
    site.add_users(&["ada"]);
    // Torno is the same user's, where the sources may be out of reach.
    let torno = site.path("torno");
    fs::copy(site.command(&[]).get_program(), &torno).expect("a copy of the binary");
    let whose = format!("{USER}:{USER}");
    let owned = Command::new("chown").args(["--recursive", &whose]).arg(site.path("")).status();
    assert!(owned.expect("chown").success());
    let as_user = format!(
        "shift; exec setpriv --reuid={USER} --regid={USER} --clear-groups --inh-caps=-all {} \"$@\"",
        torno.display()
    );
    let mut site = site.behind(&["sh", "-c", &as_user, "sh"]);

    let examined = site.as_server(&["doctor", "--json"]).output().expect("torno doctor");
    let report: Value = serde_json::from_slice(&examined.stdout).expect("JSON");
    let broken = report["lines"].as_array().expect("lines").iter().filter(|line| line["verdict"] == "broken");
    let (mut accepted, mut forbidding) = (Vec::new(), 0);
    for line in broken {
        let name = line["line"].as_str().expect("a name");
        assert!(BY_CONTROL_GROUPS.contains(&name), "{line:#}");
        forbidding += u32::from(line["forbidsRuns"] == true);
        accepted.push(format!("'{name}'"));
    }
    assert_eq!(report["startsRuns"] == true, forbidding == 0, "{report:#}");

    let configured = fs::read_to_string(site.path("torno.toml")).expect("torno.toml");
    let accepting = format!("[executor]\naccept = [{}]\n", accepted.join(", "));
    fs::write(site.path("torno.toml"), configured.replacen("[executor]\n", &accepting, 1))
        .expect("torno.toml");
    site.start();
    let ada = Docker::login(&site, "ada");
    ada.run("p/sum:1", "awk '{s += $1} END {print s}' /input/data.txt > /output/sum; id -u > /output/user");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result("p/sum:1"), files.path());
    let read = |name: &str| fs::read_to_string(files.path().join("output").join(name)).expect(name);
    assert_eq!((read("sum").as_str(), read("user").as_str()), ("6\n", "65532\n"));
    ada.run("p/fails:1", "exit 3");
    assert!(site.wait_for_run(2).contains("exit status 3"), "{}", site.wait_for_run(2));
    site.stop();
}
