//! Podman in Docker's place.

use std::fs;

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
    let mut site = Site::new(PROJECT).with("TORNO_EXECUTOR_ENGINE", &podman.socket());
    site.write_data("numbers", "1\n2\n3\n");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");

    // Images are built and results read with Docker; what runs them is Podman.
    let script =
        "awk '{s += $1} END {print s}' /input/data.txt > /output/sum; id > /output/id; env > /output/env
        ls /sys/class/net > /output/net; touch /run/x /etc/x 2>/output/refused; echo spoken";
    let image = ada.build("run/p/sum:1", script, "ENV LD_PRELOAD=/none.so\nENV TORNO_RUN=99");
    ada.ok(&["push", "--quiet", &image]);
    let result = ada.pull_result("p/sum:1");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&result, files.path());
    let read = |name: &str| fs::read_to_string(files.path().join(name)).expect(name);
    assert_eq!(read("output/sum"), "6\n");
    assert!(read("output/id").starts_with("uid=65532"), "{}", read("output/id"));
    assert_eq!(read("output/net"), "lo\n");
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
    wait_until("nothing of the runs is left", || {
        let left = [podman.ok(&["ps", "--all", "--quiet"]), podman.ok(&["volume", "ls", "--quiet"])].concat();
        left.is_empty().then_some(())
    });
    let images = podman.ok(&["images", "--format", "{{.Repository}}"]);
    assert_eq!(images.trim(), "localhost/torno/probe", "what looked at the host stays, and nothing else");
    site.stop();
}
