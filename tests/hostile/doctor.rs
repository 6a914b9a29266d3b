//! `torno doctor`, and a server that starts no run on a host that breaks a promise.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::Value;
use torno_inside::ATTACKS;
use torno_tests::{Docker, Engine, Site, tool, wait_until};

const PROJECT: &str = "
[projects.p]
researchers = ['ada']
";

/// The lines of `torno doctor --json`, and whether it found that runs are started.
pub(crate) fn examined(site: &Site) -> (Vec<Value>, bool) {
    let output = site.torno(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let starts = report["startsRuns"] == true;
    assert_eq!(output.status.success(), starts, "{}", String::from_utf8_lossy(&output.stderr));
    (report["lines"].as_array().expect("lines").clone(), starts)
}

pub(crate) fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().expect("a text")
}

#[test]
fn this_machine_keeps_every_promise() {
    let site = Site::new("");
    let (lines, starts) = examined(&site);
    let unkept: Vec<_> = lines.iter().filter(|line| line["verdict"] != "kept").collect();
    assert!(starts && unkept.is_empty(), "{unkept:#?}");
    assert_eq!(lines.len(), ATTACKS.len());
    let shown = site.torno_ok(&["doctor"]);
    assert!(shown.contains("kept       seccomp") && shown.contains("storage driver"), "{shown}");
    let left = fs::read_dir(site.path("registry-data")).expect("the data directory");
    let left: Vec<_> = left.map(|entry| entry.expect("entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("probe-")), "{left:?}");
}

#[test]
fn without_an_engine_nothing_is_known() {
    let site = Site::new("").with("TORNO_EXECUTOR_ENGINE", torno_tests::NO_ENGINE);
    let output = site.torno(&["doctor"]);
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("the engine cannot be reached"), "{message}");
}

/// A folder with a `runc` of its own, which takes the filter of system calls out of what the engine asks for, as
/// runtimes that add something for containers might.
fn careless_runtime() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let real = tool("sh", &["-c", "command -v runc"]);
    let script = format!(
        "#!/bin/sh
before=
for word in \"$@\"; do
    if [ \"$before\" = --bundle ]; then
        /usr/bin/python3 - \"$word/config.json\" <<'END'
import json, sys
with open(sys.argv[1]) as file:
    config = json.load(file)
config['linux'].pop('seccomp', None)
with open(sys.argv[1], 'w') as file:
    json.dump(config, file)
END
    fi
    before=$word
done
exec {} \"$@\"
",
        real.trim()
    );
    let program = folder.path().join("runc");
    fs::write(&program, script).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    folder
}

fn accept(site: &Site, lines: &[&str]) {
    let path = site.path("torno.toml");
    let text = fs::read_to_string(&path).expect("the configuration");
    let quoted: Vec<String> = lines.iter().map(|line| format!("\"{line}\"")).collect();
    let accepted = format!("[executor]\naccept = [{}]\n", quoted.join(", "));
    fs::write(&path, text.replacen("[executor]\n", &accepted, 1)).expect("write");
}

#[test]
fn a_host_that_breaks_a_promise_starts_no_run_until_that_is_accepted() {
    let programs = careless_runtime();
    let engine = Engine::start_behind(programs.path());
    let mut site = Site::new(PROJECT).with("TORNO_EXECUTOR_ENGINE", &engine.socket());
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login_at(&engine.socket(), &site, "ada");
    ada.run("p/waits:1", "echo fine > /output/fine");
    let refusal = "no run is started on this host";
    wait_until("the server has looked at its host", || site.log().contains(refusal).then_some(()));
    let log = site.log();
    assert!(log.contains("System calls are filtered.") && log.contains("Seccomp is 0"), "{log}");
    assert!(site.torno_ok(&["runs", "show", "1"]).contains("queued"));
    assert!(!log.contains("a run is prepared"), "{log}");
    let pull = site.http("ada").get("/v2/results/p/waits/manifests/1");
    let message = pull.expect_error(404, "MANIFEST_UNKNOWN");
    let why = "this host is not known to keep what runs are promised; tell its admin";
    assert!(message.contains("run 1 is queued") && message.contains(why), "{message}");
    assert!(!message.contains("eccomp"), "nothing of the host: {message}");
    let containers = tool("docker", &["--host", &engine.socket(), "ps", "--all", "--quiet"]);
    assert_eq!(containers, "", "what looked at the host is gone");

    // The doctor names the same lines, and what else is open without a filter.
    let (lines, starts) = examined(&site);
    let forbidding: Vec<&str> =
        lines.iter().filter(|line| line["forbidsRuns"] == true).map(|line| text(line, "line")).collect();
    assert!(!starts && forbidding.contains(&"seccomp"), "{forbidding:?}");
    for open in ["user-namespace", "keyrings"] {
        assert!(forbidding.contains(&open), "{open} is not among {forbidding:?}");
    }

    // Some of it is not enough; all of it is.
    site.stop();
    accept(&site, &["seccomp"]);
    let (lines, starts) = examined(&site);
    assert!(!starts);
    let line = lines.iter().find(|line| line["line"] == "seccomp").expect("the line");
    assert_eq!(text(line, "verdict"), "accepted");
    let path = site.path("torno.toml");
    fs::write(&path, fs::read_to_string(&path).expect("read").replace("accept = [\"seccomp\"]\n", ""))
        .expect("write");
    accept(&site, &forbidding);
    assert!(examined(&site).1);
    site.start();
    assert_eq!(site.wait_for_run(1), "succeeded");
    assert!(site.log().contains("runs are started although"), "whoever accepts is told so at each start");
    site.stop();
}

/// Whoever stops a server while it looks at its host finds nothing left of that.
#[test]
fn a_look_at_the_host_that_is_cut_off_leaves_nothing() {
    let mut site = Site::start_with(PROJECT, &["ada"]);
    let ada = Docker::login(&site, "ada");
    ada.run("p/early:1", "true");
    // The number is one that no run has.
    let name = format!("torno-{}-run-{}", site.instance().expect("an instance"), i64::MAX);
    let volumes = || tool("docker", &["volume", "ls", "--quiet", "--filter", &format!("name={name}")]);
    wait_until("the look has begun", || (!volumes().is_empty()).then_some(()));
    site.stop();
    assert_eq!(volumes(), "");
    let containers = ["ps", "--all", "--quiet", "--filter", &format!("name={name}")];
    assert_eq!(tool("docker", &containers), "");
    site.start();
    assert_eq!(site.wait_for_run(1), "succeeded");
}
