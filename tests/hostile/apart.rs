//! Two runs at once, of which one takes all that the other could see of it.

use torno_inside::{ATTACKS, PROBE};
use torno_tests::{Docker, tool, wait_until};

use crate::{honest, image_of, program, site};

#[test]
fn two_runs_side_by_side_do_not_see_each_other() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let http = site.http("ada");
    let image = |words: &[&str]| {
        image_of(&[program("program", PROBE)], &serde_json::json!({"Entrypoint": ["/program"], "Cmd": words}))
    };
    image(&["occupy"]).push(&http, "run/p/neighbour", "1").expect(201);
    let container = wait_until("the neighbour has an instance", || site.instance());
    let container = format!("torno-{container}-run-1");
    wait_until("the neighbour is there", || {
        let log = std::process::Command::new("docker").args(["logs", &container]).output().expect("docker");
        String::from_utf8_lossy(&log.stdout).contains("occupied").then_some(())
    });
    image(&[]).push(&http, "run/p/looks", "1").expect(201);
    let state = site.wait_for_run(2);
    let log = site.torno_ok(&["runs", "log", "2"]);
    assert_eq!(state, "succeeded", "{log}");
    assert_eq!(log.lines().filter(|line| line.starts_with("kept ")).count(), ATTACKS.len(), "{log}");
    assert!(site.torno_ok(&["runs", "show", "1"]).contains("running"), "all that while the other was there");
    honest(&site, &ada, "honest");
    tool("docker", &["kill", &container]);
    assert_eq!(site.wait_for_run(1), "it was killed at the site; ask its admin why");
}
