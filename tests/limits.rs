//! Every limit has an outcome of its own name, and the next honest run succeeds at once.

use std::fs;

use torno_tests::{Docker, Site};

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

/// An engine cannot measure folders whose path is longer than the kernel takes.
#[test]
fn output_that_cannot_be_measured_is_stopped() {
    let site = Site::start_with(&PROJECT.replace("5s", "10m"), &["ada"]);
    let ada = Docker::login(&site, "ada");
    let script = "cd /output; n=$(printf %0200d 0)
        i=0; while [ $i -lt 25 ]; do mkdir $n && cd $n || break; i=$((i+1)); done; cd /output; sleep 600";
    ada.run("p/deep:1", script);
    assert_eq!(site.wait_for_run(1), "output too large (limit 1MiB)");
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
