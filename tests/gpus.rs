//! GPUs, as far as they are an engine's matter: which device requests it gets, who waits for whom, and what becomes of a run
//! that is given none. No GPU is needed: what stands in for NVIDIA's hook says which ones there are, and the engine does with
//! it what it does with the real one.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Output};

use serde_json::{Value, json};
use tempfile::TempDir;
use torno_tests::{Docker, Engine, Podman, Site, tool, wait_until};

const PROJECTS: &str = "
[datasets.numbers]
path = 'numbers'
[projects.one]
researchers = ['ada']
datasets = ['numbers']
limits = { gpus = 1, memory = '64MiB', time = '5m' }
[projects.two]
researchers = ['ada']
datasets = ['numbers']
limits = { gpus = 2, memory = '64MiB', time = '5m' }
[projects.none]
researchers = ['ada']
datasets = ['numbers']
limits = { memory = '64MiB', time = '5m' }
";

const ONE: &str = "
[projects.one]
researchers = ['ada']
limits = { gpus = 1, memory = '64MiB', time = '1m' }
[projects.none]
researchers = ['ada']
limits = { memory = '64MiB', time = '1m' }
";

/// An image that wants all there is, and looks like one from before images had to say so.
const GREEDY: &str = "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all NVIDIA_DISABLE_REQUIRE=1 CUDA_VERSION=11.0";

/// Says what it was given and waits for a file among the data.
const WAITS: &str = "env | grep ^NVIDIA_ | sort; until [ -e /input/go ]; do sleep 0.1; done";
const DOES_NOT_WAIT: &str = "env | grep ^NVIDIA_ | sort";

/// What an engine finds as NVIDIA's hook, on a host with GPUs 0 and 1.
fn hook() -> TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let script = "#!/usr/bin/python3
import json, sys
with open(json.load(sys.stdin)['bundle'] + '/config.json') as file:
    environment = dict(line.split('=', 1) for line in json.load(file)['process']['env'])
for device in environment['NVIDIA_VISIBLE_DEVICES'].split(','):
    if device not in ('0', '1'):
        sys.exit(f'nvidia-container-cli: device error: {device}: unknown device')
";
    let program = folder.path().join("nvidia-container-runtime-hook");
    fs::write(&program, script).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    folder
}

fn push(ada: &Docker, image: &str, script: &str) {
    let name = ada.build(&format!("run/{image}"), script, GREEDY);
    ada.ok(&["push", "--quiet", &name]);
}

fn state(site: &Site, run: u64) -> String {
    let shown = site.torno_ok(&["runs", "show", &run.to_string()]);
    let line = shown.lines().find(|line| line.starts_with("state")).expect("a state");
    line.trim_start_matches("state").trim().to_owned()
}

fn begins(site: &Site, run: u64) {
    wait_until(&format!("run {run} begins"), || (state(site, run) == "running").then_some(()));
}

/// What the doctor says of GPUs, of the one runtime there is.
fn doctor(site: &Site) -> Value {
    let Output { status, stdout, stderr } = site.torno(&["doctor", "--json"]);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let told = serde_json::from_slice::<Value>(&stdout).expect("JSON")["gpus"].clone();
    assert_eq!(told.as_array().map(Vec::len), Some(1), "{told}");
    told[0].clone()
}

/// What the engine was told about devices, of a run's container.
fn requests(engine: &Engine, site: &Site, run: u64) -> Value {
    let container = format!("torno-{}-run-{run}", site.instance().expect("an instance"));
    let told = tool(
        "docker",
        &[
            "--host",
            &engine.socket(),
            "inspect",
            "--format",
            "{{json .HostConfig.DeviceRequests}}",
            &container,
        ],
    );
    serde_json::from_str(&told).expect("JSON")
}

fn request(devices: &[&str]) -> Value {
    json!([{
        "Driver": "", "Count": 0, "DeviceIDs": devices, "Capabilities": [["gpu", "compute", "utility"]],
        "Options": null,
    }])
}

#[test]
fn each_run_has_gpus_of_its_own_and_only_who_needs_some_waits_for_them() {
    let programs = hook();
    let engine = Engine::start_behind(programs.path());
    let mut site = Site::new(PROJECTS)
        .with("TORNO_EXECUTOR_ENGINE", &engine.socket())
        .with("TORNO_EXECUTOR_GPUS", "2")
        .with("TORNO_EXECUTOR_CONCURRENT_RUNS", "4");
    site.write_data("numbers", "1\n");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    for image in ["one/a:1", "one/b:1"] {
        push(&ada, image, WAITS);
    }
    for (run, device) in [(1, "0"), (2, "1")] {
        begins(&site, run);
        assert_eq!(requests(&engine, &site, run), request(&[device]));
    }
    // The third wants both, and the fourth, who needs one only, does not pass it; who needs none does.
    push(&ada, "two/c:1", WAITS);
    push(&ada, "one/d:1", WAITS);
    push(&ada, "none/e:1", DOES_NOT_WAIT);
    assert_eq!(site.wait_for_run(5), "succeeded");
    assert_eq!([state(&site, 3), state(&site, 4)], ["queued", "queued"]);

    // Another process knows who has what.
    site.kill();
    site.start();
    wait_until("what was under way is taken up", || {
        (site.log().matches("a run that nobody works on is taken up").count() == 2).then_some(())
    });
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    push(&ada, "none/f:1", DOES_NOT_WAIT);
    assert_eq!(site.wait_for_run(6), "succeeded");
    assert_eq!([state(&site, 1), state(&site, 2)], ["running", "running"]);
    assert_eq!([state(&site, 3), state(&site, 4)], ["queued", "queued"]);

    fs::write(site.path("numbers/go"), "").expect("write");
    for (run, devices) in [(1, "0"), (2, "1"), (3, "0,1"), (4, "0"), (5, "void"), (6, "void")] {
        assert_eq!(site.wait_for_run(run), "succeeded", "run {run}");
        let said = site.torno_ok(&["runs", "log", &run.to_string()]);
        let variables: Vec<&str> = said.lines().filter(|line| line.starts_with("NVIDIA_")).collect();
        let seen = format!("NVIDIA_VISIBLE_DEVICES={devices}");
        match variables[..] {
            [only] if devices == "void" => assert_eq!(only, seen),
            [what, visible] if devices != "void" => {
                assert_eq!(visible, seen, "run {run}");
                let mut what: Vec<&str> =
                    what.trim_start_matches("NVIDIA_DRIVER_CAPABILITIES=").split(',').collect();
                what.sort_unstable();
                assert_eq!(what, ["compute", "utility"], "run {run}");
            }
            _ => panic!("run {run}: {variables:?}"),
        }
    }
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result("two/c:1"), files.path());
    let told = fs::read(files.path().join("run/run.json")).expect("run.json");
    let told: Value = serde_json::from_slice(&told).expect("JSON");
    assert_eq!(told["plan"]["limits"]["gpus"], 2);
    assert!(site.torno_ok(&["projects", "show", "two"]).contains(" --gpus 2 "));
    assert!(!site.torno_ok(&["projects", "show", "none"]).contains("--gpus"));

    let told = doctor(&site);
    assert_eq!((&told["given"], &told["advice"]), (&json!(true), &Value::Null));
    site.stop();

    // One that is not there is found out before anybody waits for it, and does no harm to who needs none.
    let mut site = site.with("TORNO_EXECUTOR_GPUS", "3");
    let told = doctor(&site);
    assert_eq!(told["given"], false);
    assert!(told["found"].as_str().expect("words").contains("unknown device"), "{told}");
    site.start();
    wait_until("the server says so", || site.log().contains("runs that get GPUs will fail").then_some(()));
    site.stop();
}

#[test]
fn an_engine_that_gives_no_gpu_fails_the_run_by_name_and_no_other() {
    let podman = Podman::start();
    for (engine, words) in [
        (None, "could not select device driver"),
        (Some(podman.socket()), "Podman leaves out device requests"),
    ] {
        let mut site = Site::new(ONE).with("TORNO_EXECUTOR_GPUS", "1").with("TORNO_EXECUTOR_ATTEMPTS", "1");
        if let Some(engine) = &engine {
            site = site.with("TORNO_EXECUTOR_ENGINE", engine);
        }
        site.add_users(&["ada"]);
        site.start();
        let ada = Docker::login(&site, "ada");
        // The second is not left waiting for what the first has had.
        for image in ["one/a:1", "one/b:1"] {
            push(&ada, image, "echo > /output/ran");
        }
        push(&ada, "none/c:1", "true");
        for run in [1, 2] {
            let state = site.wait_for_run(run);
            assert_eq!(
                state, "the site could not give it the GPUs that its project's runs get; tell its admin",
                "{words}"
            );
        }
        assert_eq!(site.wait_for_run(3), "succeeded", "{words}");
        let log = site.log();
        let why = log.lines().filter(|line| line.contains("ERROR") || line.contains("WARN"));
        assert!(why.clone().any(|line| line.contains("run=1") && line.contains(words)), "{log}");
        let told = doctor(&site);
        assert_eq!(told["given"], false);
        assert!(told["found"].as_str().expect("words").contains(words), "{told}");
        assert!(told["advice"].as_str().expect("advice").contains("container toolkit"), "{told}");
        site.stop();
    }
}
