//! What runs leave, and what they leave behind.

use std::{
    collections::BTreeSet,
    fs,
    io::{Cursor, Read as _},
    path::Path,
};

use serde_json::{Value, json};
use torno_inside::PROBE;
use torno_tests::Docker;

use crate::{honest, image_of, program, site};

/// What stands below a folder, with `/` at the end of folders.
fn names(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(&inside).expect("a folder") {
            let path = entry.expect("an entry").path();
            let kind = path.symlink_metadata().expect("something").file_type();
            assert!(kind.is_file() || kind.is_dir(), "{} is neither file nor folder", path.display());
            let name = path.strip_prefix(folder).expect("below").to_str().expect("UTF-8").to_owned();
            names.insert(if kind.is_dir() { name + "/" } else { name });
            if kind.is_dir() {
                folders.push(path);
            }
        }
    }
    names
}

#[test]
fn sockets_attributes_holes_and_odd_names_come_out_plain_or_not_at_all() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    for name in ["litter", "hole"] {
        let image = image_of(&[program("program", PROBE)], &json!({"Entrypoint": ["/program", name]}));
        image.push(&site.http("ada"), &format!("run/p/{name}"), "1").expect(201);
    }
    assert_eq!(site.wait_for_run(1), "succeeded", "{}", site.torno_ok(&["runs", "log", "1"]));
    let result = ada.pull_result("p/litter:1");
    let folder = tempfile::tempdir().expect("a folder");
    ada.files(&result, folder.path());
    let found = names(&folder.path().join("output"));
    assert!(found.contains("plain") && found.contains("attributed"), "{found:?}");
    for gone in ["socket", "up"] {
        assert!(!found.contains(gone), "{found:?}");
    }
    let report: Value =
        serde_json::from_slice(&fs::read(folder.path().join("run/run.json")).expect("run.json"))
            .expect("JSON");
    let listed: BTreeSet<&str> =
        report["output"].as_array().expect("files").iter().filter_map(|file| file["path"].as_str()).collect();
    for name in &found {
        if !name.ends_with('/') {
            assert!(listed.contains(format!("output/{name}").as_str()), "{name} is not in run.json");
        }
    }
    // Of what came out, nothing but names and bytes.
    let manifest = site.http("ada").get("/v2/results/p/litter/manifests/1").json();
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let layer = site.http("ada").get(&format!("/v2/results/p/litter/blobs/{digest}")).body;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.as_slice()));
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let extensions = entry.pax_extensions().expect("headers");
        let keys: Vec<_> = extensions
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.key().ok().map(str::to_owned))
            .collect();
        assert!(keys.iter().all(|key| key == "path"), "{keys:?}");
    }
    // A file of a terabyte that takes no room counts as one that does.
    assert_eq!(site.wait_for_run(2), "output too large (limit 8MiB)");
    honest(&site, &ada, "honest");
}

/// Whoever looks through the folder while it changes must not be led elsewhere: what changes it has ended by then.
#[test]
fn nothing_of_a_run_lives_after_it() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let mark = format!("torno-hostile-{}-{}", std::process::id(), site.host().replace(':', "-"));
    let script = format!(
        "mkdir /output/d; echo x > /output/d/f
        child() {{ trap '' TERM HUP INT QUIT; exec setsid sh -c ': {mark}
            while true; do
                mv /output/d /output/e; ln -s /input /output/d; ln -s /etc /output/x
                rm -f /output/d /output/x; mv /output/e /output/d; (exit 0) & done'; }}
        child & child2() {{ ( ( trap '' TERM HUP; exec sleep 86400 ) & ) ; }}; child2
        i=0; while [ $i -lt 200 ]; do (exit 0) & i=$((i+1)); done
        while [ ! -e /output/e ] && [ ! -L /output/d ]; do :; done
        echo {mark} > /output/mark; exit 0"
    );
    ada.run("p/outlives:1", &script);
    assert_eq!(site.wait_for_run(1), "succeeded", "{}", site.torno_ok(&["runs", "log", "1"]));
    let alive = fs::read_dir("/proc").expect("processes").flatten().filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mark)
    });
    assert_eq!(alive.count(), 0, "processes of the run are still there");
    let result = ada.pull_result("p/outlives:1");
    let folder = tempfile::tempdir().expect("a folder");
    ada.files(&result, folder.path());
    let found = names(&folder.path().join("output"));
    let possible = ["d/", "d/f", "e/", "e/f", "mark"];
    assert!(found.iter().all(|name| possible.contains(&name.as_str())), "{found:?}");
    assert!(found.contains("mark"), "{found:?}");
    honest(&site, &ada, "honest");
}

/// What an exit status, a duration and names tell is told of in `docs/SECURITY.md`; more than that they do not.
#[test]
fn logs_without_end_and_exit_statuses_are_bounded() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    ada.run(
        "p/loud:1",
        "yes 0123456789abcdef0123456789abcdef0123456789abcdef | head -c 20000000
        echo x > /output/dated; touch -d '2001-02-03 04:05:06' /output/dated; echo the end",
    );
    ada.run("p/status:1", "exit 300");
    assert_eq!(site.wait_for_run(1), "succeeded");
    let log = site.torno_ok(&["runs", "log", "1"]);
    assert!(log.len() <= 32 << 10, "{} bytes", log.len());
    assert!(log.ends_with("the end\n"), "{}", log.lines().last().unwrap_or_default());
    assert_eq!(site.wait_for_run(2), "exit status 44", "one of 256");

    let manifest = site.http("ada").get("/v2/results/p/loud/manifests/1").json();
    let layer = |number: usize| {
        let digest = manifest["layers"][number]["digest"].as_str().expect("a digest");
        flate2::read::GzDecoder::new(Cursor::new(
            site.http("ada").get(&format!("/v2/results/p/loud/blobs/{digest}")).body,
        ))
    };
    for number in 0..2 {
        let mut archive = tar::Archive::new(layer(number));
        for entry in archive.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            assert_eq!(entry.header().mtime().expect("a time"), 0);
            if entry.path().expect("a path").ends_with("run.json") {
                let mut text = String::new();
                entry.read_to_string(&mut text).expect("text");
                let report: Value = serde_json::from_str(&text).expect("JSON");
                for moment in ["queued", "started", "finished"] {
                    let told = report[moment].as_str().unwrap_or_else(|| panic!("{moment}: {text}"));
                    assert!(
                        told.ends_with('Z') && !told.contains('.'),
                        "{moment} is {told}: not to the second"
                    );
                }
            }
        }
    }
    honest(&site, &ada, "honest");
}
