//! Every limit has an outcome of its own name, and the next honest run succeeds at once.

use std::fs;

use torno_tests::{Disk, Docker, Engine, Site};

const PROJECT: &str = "
[projects.p]
researchers = ['ada']
limits = { memory = '64MiB', pids = 32, time = '5s', output = '1MiB', entries = 10, tmp = '16MiB', log = '4KiB' }
";

/// Runs a script to its end; the run's state. Then an honest run must succeed.
fn outcome(script: &str) -> (Site, Docker, String) {
    let site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    ada.run("p/hostile:1", script);
    let state = site.wait_for_run(1);
    ada.run("p/honest:1", "echo fine > /output/fine");
    assert_eq!(site.wait_for_run(2), "succeeded");
    (site, ada, state)
}

#[test]
fn memory() {
    let (_site, ada, state) = outcome("awk 'BEGIN { s = \"x\"; while (1) s = s s }'");
    assert_eq!(state, "out of memory (limit 64MiB)");
    let message = ada.fails(&["pull", &ada.name("results/p/hostile:1")]);
    assert!(message.contains("run 1 failed: out of memory (limit 64MiB)"), "{message}");
}

#[test]
fn time() {
    let (_site, _ada, state) = outcome("trap '' TERM; sleep 600");
    assert_eq!(state, "stopped after 5s");
}

#[test]
fn bytes_of_output() {
    let (_site, _ada, state) = outcome("dd if=/dev/zero of=/output/big bs=1024 count=1025");
    assert_eq!(state, "output too large (limit 1MiB)");
}

#[test]
fn bytes_of_output_at_the_limit() {
    let (_site, _ada, state) = outcome("dd if=/dev/zero of=/output/big bs=1024 count=1024");
    assert_eq!(state, "succeeded");
}

#[test]
fn output_that_grows_is_stopped_before_the_time_is_up() {
    let site = Site::start_with(&PROJECT.replace("5s", "10m"), &["ada"]);
    let ada = Docker::login(&site, "ada");
    ada.run("p/grows:1", "while true; do dd if=/dev/zero bs=65536 count=4 >> /output/big; sleep 1; done");
    assert_eq!(site.wait_for_run(1), "output too large (limit 1MiB)");
}

/// Each of these would go on for ten minutes, writing what it can, if nobody looked.
#[test]
fn attacks_on_the_disk_are_stopped_while_they_run() {
    let site =
        Site::start_with(&PROJECT.replace("5s", "10m").replace("entries", "depth = 3, entries"), &["ada"]);
    let ada = Docker::login(&site, "ada");
    let attacks = [
        ("fast", "dd if=/dev/zero of=/output/big bs=1M count=100000", "output too large (limit 1MiB)"),
        (
            "sparse",
            "dd if=/dev/zero of=/output/sparse bs=1M seek=1000000 count=1",
            "output too large (limit 1MiB)",
        ),
        ("inodes", "while echo > /output/$((i=i+1)); do :; done", "too many files in the output (limit 10)"),
        (
            "links",
            "echo > /output/one; while ln /output/one /output/$((i=i+1)); do :; done",
            "too many files in the output (limit 10)",
        ),
        (
            "folders",
            "cd /output; while mkdir d && cd d; do :; done",
            "folders nested too deeply in the output (limit 3, or a path of 3 KiB)",
        ),
        (
            "behind",
            "mkdir -p /output/1/2; ln -s /tmp /output/1/2/out; while echo > /output/1/2/$((i=i+1)); do :; done",
            "too many files in the output (limit 10)",
        ),
    ];
    for (number, (image, script, _)) in attacks.iter().enumerate() {
        ada.run(&format!("p/{image}:{number}"), &format!("{script}; sleep 600"));
    }
    for (number, (image, _, expected)) in (1..).zip(attacks) {
        assert_eq!(site.wait_for_run(number), expected, "{image}");
    }
    ada.run("p/honest:1", "mkdir -p /output/1/2; echo fine > /output/1/2/3");
    assert_eq!(site.wait_for_run(7), "succeeded");
}

/// An engine cannot read folders whose path is longer than the kernel takes.
#[test]
fn output_that_cannot_be_measured_is_stopped() {
    let name = "$(printf %0200d 0)";
    let deep = Site::start_with(
        &PROJECT.replace("5s", "10m").replace("entries = 10", "depth = 100, entries = 100"),
        &["ada"],
    );
    let ada = Docker::login(&deep, "ada");
    let folders =
        format!("cd /output; while [ $((i=i+1)) -lt 25 ] && mkdir {name} && cd {name}; do :; done; cd /");
    ada.run("p/long:1", &format!("{folders}; sleep 600"));
    ada.run("p/long:2", &folders);
    for run in [1, 2] {
        let expected = "folders nested too deeply in the output (limit 100, or a path of 3 KiB)";
        assert_eq!(deep.wait_for_run(run), expected);
    }
}

#[test]
fn folders_at_the_limit_and_one_past_it() {
    let site = Site::start_with(&PROJECT.replace("entries", "depth = 2, entries"), &["ada"]);
    let ada = Docker::login(&site, "ada");
    ada.run("p/at:1", "mkdir -p /output/1/2");
    ada.run("p/past:1", "mkdir -p /output/1/2/3");
    assert_eq!(site.wait_for_run(1), "succeeded");
    assert_eq!(site.wait_for_run(2), "folders nested too deeply in the output (limit 2, or a path of 3 KiB)");
}

/// A file that is deleted and still open has no name that could be counted.
#[test]
fn the_disk_of_the_outputs_is_never_filled() {
    let Some(disk) = Disk::new(1024) else { return };
    let mut engine =
        Engine::start_with(|_| vec![format!("--data-root={}", disk.path().join("engine").display())]);
    let mut site = Site::new(&PROJECT.replace("5s", "10m").replace("1MiB", "1TiB"))
        .with("TORNO_EXECUTOR_ENGINE", &engine.socket())
        .with("TORNO_EXECUTOR_KEEP_FREE", "512MiB");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    // Slowly: this disk is small, and what is measured is that somebody looks.
    let script = "exec 3> /output/gone; rm /output/gone
        while dd if=/dev/zero bs=1M count=8 >&3; do sleep 0.1; done; sleep 600";
    ada.run("p/hidden:1", script);
    let state = site.wait_for_run(1);
    assert!(state.contains("disk for outputs was nearly full"), "{state}");
    ada.run("p/honest:1", "echo fine > /output/fine");
    assert_eq!(site.wait_for_run(2), "succeeded", "the room is there again");
    site.stop();
    drop(ada);
    engine.end();
}

#[test]
fn files_in_output() {
    let (_site, _ada, state) = outcome("for i in 1 2 3 4 5 6 7 8 9 10 11; do echo > /output/$i; done");
    assert_eq!(state, "too many files in the output (limit 10)");
}

#[test]
fn files_in_output_at_the_limit() {
    let (_site, _ada, state) = outcome("for i in 1 2 3 4 5 6 7 8 9 10; do echo > /output/$i; done");
    assert_eq!(state, "succeeded");
}

#[test]
fn a_fork_bomb_stops_at_the_process_limit() {
    let script =
        "i=0; while [ $i -lt 100 ]; do sleep 60 & i=$((i+1)); done; echo unbounded > /output/unbounded";
    let (_site, _ada, state) = outcome(script);
    assert!(state.starts_with("exit status"), "the shell could not fork any more: {state}");
}

#[test]
fn what_is_printed_is_kept_from_its_end() {
    let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done";
    let (site, _ada, state) = outcome(script);
    assert_eq!(state, "succeeded");
    let log = site.torno_ok(&["runs", "log", "1"]);
    assert!(log.len() <= 4096, "{} bytes", log.len());
    assert!(log.ends_with("line 4999\n"), "{log}");
}

#[test]
fn a_disk_in_memory_is_bounded() {
    let (_site, _ada, state) =
        outcome("if dd if=/dev/zero of=/tmp/big bs=1M count=17; then exit 9; else exit 0; fi");
    assert_eq!(state, "succeeded", "/tmp takes 16 MiB and no more");
}

#[test]
fn children_that_outlive_the_command_end_with_it() {
    let (site, _ada, state) = outcome("(trap '' HUP TERM; sleep 600) & echo done > /output/done");
    assert_eq!(state, "succeeded");
    let running = site.torno_ok(&["runs", "show", "1"]);
    assert!(running.contains("succeeded"));
    assert!(
        fs::read_dir(site.path("registry-data/uploads")).expect("folder").next().is_none(),
        "nothing is left"
    );
}
