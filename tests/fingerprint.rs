//! Fingerprints: what exactly a run saw, known in the background and written down with the run.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
    process::Command,
};

use serde_json::Value;
use torno_tests::{Docker, NO_ENGINE, Site, wait_until};

const PROJECT: &str = "
[datasets.numbers]
path = 'confidential'
sample = 'given'
[projects.one]
researchers = ['ada']
datasets = ['numbers']
logs = 'always'
limits = { memory = '128MiB', time = '1m' }
";

fn site() -> Site {
    let site = Site::new(PROJECT);
    for folder in ["confidential", "given"] {
        site.write_data(folder, folder);
    }
    site.add_users(&["ada"]);
    site
}

fn shown(site: &Site) -> Value {
    serde_json::from_str(&site.torno_ok(&["datasets", "show", "numbers", "--json"])).expect("JSON")
}

/// The fingerprint, computed now.
fn computed(site: &Site) -> String {
    site.torno_ok(&["datasets", "fingerprint", "numbers"]);
    shown(site)["fingerprint"]["digest"].as_str().expect("a digest").to_owned()
}

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

#[test]
fn whatever_changes_in_the_data_changes_its_fingerprint_and_nothing_else_does() {
    let mut site = site().with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.start();
    site.stop();
    let at = |path: &str| site.path("confidential").join(path);
    let mut seen = vec![computed(&site)];
    let mut changes = |what: &str, change: &dyn Fn()| {
        change();
        let now = computed(&site);
        assert!(!seen.contains(&now), "{what}");
        seen.push(now);
    };
    changes("added", &|| fs::write(at("more"), "1").expect("file"));
    changes("of the same length", &|| fs::write(at("more"), "2").expect("file"));
    changes("renamed", &|| fs::rename(at("more"), at("other")).expect("renamed"));
    changes("a folder", &|| fs::create_dir(at("folder")).expect("folder"));
    changes("moved", &|| fs::rename(at("other"), at("folder/other")).expect("moved"));
    changes("a hostile name", &|| {
        fs::write(at("").join(OsStr::from_bytes(b"\xff\n\x1b[2J")), "").expect("file");
    });
    changes("a loop", &|| symlink("..", at("folder/loop")).expect("link"));
    changes("led elsewhere", &|| {
        fs::remove_file(at("folder/loop")).expect("removed");
        symlink("/etc/passwd", at("folder/loop")).expect("link");
    });
    changes("a pipe", &|| pipe(&at("pipe")));
    changes("removed", &|| fs::remove_file(at("data.txt")).expect("removed"));
    let last = computed(&site);
    // Times and modes say nothing of what a program computes from.
    for command in [["touch", "--date=2001-01-01"], ["chmod", "go+w"]] {
        let done = Command::new(command[0]).args(&command[1..]).arg(at("folder/other")).status();
        assert!(done.expect("a command").success());
        assert_eq!(computed(&site), last, "{command:?}");
    }
    fs::remove_file(at("pipe")).expect("removed");
    assert_ne!(computed(&site), last);
    assert_eq!(shown(&site)["fingerprint"]["files"], 2);
}

#[test]
fn a_run_says_what_it_saw_and_whether_that_changed_meanwhile() {
    let mut site = site();
    site.start();
    let known = |source: &str| {
        wait_until("the fingerprint is known", || {
            let line = format!("dataset={source:?}");
            let plain = format!("dataset={source}");
            let known = |text: &&str| {
                text.contains("the fingerprint of data is known")
                    && (text.contains(&line) || text.contains(&plain))
            };
            site.log().lines().find(known).map(str::to_owned)
        })
    };
    known("numbers");
    known("samples/numbers");
    let digest = shown(&site)["fingerprint"]["digest"].as_str().expect("a digest").to_owned();
    let ada = Docker::login(&site, "ada");
    ada.run("one/look:1", "cat /input/data.txt");
    ada.pull_result("one/look:1");
    let first = site.torno_ok(&["runs", "show", "1"]);
    assert!(first.contains(&format!("numbers {digest}\n")), "{first}");

    // A try has the sample's, which is another.
    let tried = ada.build("try/one/look:1", "true", "");
    ada.ok(&["push", "--quiet", &tried]);
    ada.pull_result_of("try-results/one/look:1");
    let second = site.torno_ok(&["runs", "show", "2"]);
    assert!(second.contains("numbers sha256:") && !second.contains(&digest), "{second}");

    // What changes under a run is told; what it saw first is known a little later.
    ada.run("one/look:2", "while test \"$(cat /input/data.txt)\" = confidential; do sleep 0.1; done");
    wait_until("it runs", || site.torno_ok(&["runs", "show", "3"]).contains("running").then_some(()));
    fs::write(site.path("confidential/data.txt"), "changed").expect("data");
    assert_eq!(site.wait_for_run(3), "succeeded");
    let third = site.torno_ok(&["runs", "show", "3"]);
    assert!(third.contains(&format!("numbers {digest}, which changed while it ran")), "{third}");
    let changed = wait_until("the change is noticed", || {
        let now = shown(&site)["fingerprint"]["digest"].as_str().expect("a digest").to_owned();
        (now != digest).then_some(now)
    });
    ada.run("one/look:3", "true");
    ada.pull_result("one/look:3");
    assert!(site.torno_ok(&["runs", "show", "4"]).contains(&format!("numbers {changed}\n")));
}
