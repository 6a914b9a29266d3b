//! An engine that goes away while a run is under way, and engines that are set up otherwise. They are the tests' own,
//! since the other one is everybody's.

use std::fs;

use torno_tests::{Docker, Engine, Site, wait_until};

const PROJECT: &str = "
[projects.p]
researchers = ['ada']
limits = { time = '5m' }
";

#[test]
fn an_engine_that_restarts_ends_its_runs_by_name_and_takes_the_next() {
    let mut engine = Engine::start();
    let mut site = Site::new(PROJECT)
        .with("TORNO_EXECUTOR_ENGINE", &engine.socket())
        .with("TORNO_EXECUTOR_ATTEMPTS", "1");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    ada.run("p/long:1", "sleep 250");
    wait_until("the run is under way", || site.torno_ok(&["runs", "list"]).contains("running").then_some(()));
    engine.end();
    engine.begin();
    let state = site.wait_for_run(1);
    assert!(state.contains("engine went away"), "{state}");

    // While it is away again, what is pushed waits; the server is well.
    engine.end();
    let image = torno_tests::Image::new(&torno_tests::layer("waits"));
    image.push(&site.http("ada"), "run/p/other", "1").expect(201);
    assert!(site.torno_ok(&["runs", "show", "2"]).contains("queued"));
    wait_until("whoever lists runs is told", || {
        let told = site.torno(&["runs", "list"]).stderr;
        String::from_utf8_lossy(&told).contains("the engine has not answered since").then_some(())
    });
    engine.begin();
    ada.run("p/honest:1", "echo fine > /output/fine");
    assert_eq!(site.wait_for_run(3), "succeeded");
    // Its layer is no file system.
    assert_eq!(site.wait_for_run(2), "the command could not be started: a layer of the image is broken");
    site.stop();
}

/// Whoever set up the engine may have taken its default profile away.
#[test]
fn an_engine_that_allows_every_system_call_still_holds_runs_to_the_profile() {
    let engine = Engine::start_with(|folder| {
        let profile = folder.join("everything.json");
        fs::write(&profile, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).expect("write");
        vec![format!("--seccomp-profile={}", profile.display())]
    });
    let mut site = Site::new(PROJECT).with("TORNO_EXECUTOR_ENGINE", &engine.socket());
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    // What a container of this engine may do that a run may not.
    let script = "unshare -U true && echo a namespace";
    let image = ada.build("run/p/namespace:1", &format!("{{ {script}; }} > /output/made; echo fine"), "");
    let by_hand = ["run", "--rm", "--network=none", "--user=65532", "--cap-drop=ALL", &image];
    let by_hand = ada.ok(&[&by_hand[..], &["/bin/sh", "-c", script]].concat());
    assert_eq!(by_hand, "a namespace\n");
    ada.ok(&["push", "--quiet", &image]);
    let result = ada.pull_result("p/namespace:1");
    let folder = tempfile::tempdir().expect("folder");
    ada.files(&result, folder.path());
    assert_eq!(fs::read_to_string(folder.path().join("output/made")).expect("a file"), "");
    site.stop();
}
