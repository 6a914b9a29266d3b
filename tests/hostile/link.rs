//! Links of an image's own where the engine, which is root on the host, makes, mounts and reads something.

use std::fs;

use serde_json::{Value, json};
use torno_tests::{Docker, Image, busybox};

use crate::{honest, image::entry, image_of, program, site};

/// What a run says of where it is and what it reaches from there, by the names that a host knows a folder by.
fn script(outside: &str) -> String {
    format!(
        "cd . ; pwd; for up in . .. ../.. ../../.. ../../../.. ../../../../../../../.. /way /v0 /v1 /v2 /v3 /v4; do
            cat $up/kept $up{outside}/kept; echo x > $up/escaped; echo x > $up{outside}/escaped
            echo x > $up/cgroup.procs; echo x > $up/release_agent
        done 2>/dev/null; exit 0"
    )
}

/// An image with a link.
struct Attack<'a> {
    name: String,
    link: (&'a str, &'a str),
    /// What its configuration says beside the command.
    config: Value,
}

/// An image of busybox and this link, whose command looks for a way out.
fn with_link(Attack { link: (path, target), config, .. }: &Attack<'_>, outside: &str) -> Image {
    let mut archive = Vec::new();
    entry(&mut archive, tar::EntryType::Symlink, path, target, b"");
    archive.resize(archive.len() + 1024, 0);
    let busybox = program("busybox", &fs::read(busybox()).expect("busybox"));
    let mut whole = json!({"Cmd": ["/busybox", "sh", "-c", script(outside)]});
    for (key, value) in config.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    image_of(&[busybox, archive], &whole)
}

/// What an image cannot say in words, since that is refused at the push, it can say by a link: that its command starts in a
/// folder which the runtime has open and has not closed (CVE-2024-21626), or that something is mounted there.
#[test]
fn links_lead_neither_the_engine_nor_the_run_out_of_the_image() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let outside = tempfile::tempdir().expect("a folder");
    let folder = outside.path().to_str().expect("UTF-8");
    fs::write(outside.path().join("kept"), "of the host\n").expect("write");
    let up = "../".repeat(20);
    let climbing = format!("{}{folder}", up.trim_end_matches('/'));
    let at = |path: &str| json!({"WorkingDir": path});
    let mut attacks = Vec::new();
    let mut attack = |name: &str, link, config| attacks.push(Attack { name: name.to_owned(), link, config });
    // What a runtime has open is where nobody says: some of its first numbers are.
    let descriptors: Vec<String> = (3..=9).map(|number| format!("/proc/self/fd/{number}")).collect();
    for (number, descriptor) in descriptors.iter().enumerate() {
        attack(&format!("fd-{number}"), ("way", descriptor), at("/way"));
    }
    attack("fd-above", ("way", "proc/self/fd"), at("/way/7"));
    attack("self", ("way", "/proc/1/cwd"), at("/way"));
    attack("sys", ("way", "/sys/fs/cgroup"), at("/way"));
    attack("made", ("way", folder), at("/way/made"));
    attack("climbing", ("way", &climbing), at("/way/made"));
    for (volume, target) in
        [("v0", "/proc"), ("v1", "/sys/fs/cgroup"), ("v2", "/dev"), ("v3", "/input"), ("v4", &climbing)]
    {
        let volumes: Value = [(format!("/{volume}"), json!({}))].into_iter().collect();
        attack(&format!("volume-{volume}"), (volume, target), json!({"Volumes": volumes}));
    }
    for (name, path, target) in [
        ("output-host", "output", folder),
        ("output-data", "output", "/input"),
        ("input-host", "input", &climbing),
        ("tmp-proc", "tmp", "/proc/self"),
        ("etc-host", "etc", folder),
        ("dev-host", "dev", &climbing),
    ] {
        attack(name, (path, target), json!({}));
    }
    for attack in &attacks {
        let repository = format!("run/p/{}", attack.name);
        with_link(attack, folder).push(&site.http("ada"), &repository, "1").expect(201);
    }
    for (number, Attack { name, .. }) in (1u64..).zip(&attacks) {
        let state = site.wait_for_run(number);
        let log = site.torno(&["runs", "log", &number.to_string()]).stdout;
        let log = String::from_utf8_lossy(&log);
        assert!(!log.contains("of the host"), "{name}: {log}");
        let ended = state == "succeeded" || state.starts_with("the command could not be started");
        assert!(ended, "{name}: {state}");
    }
    // What stands in the place of its output is not taken for that.
    for name in ["output-host", "output-data"] {
        let manifest = site.http("ada").get(&format!("/v2/results/p/{name}/manifests/1")).json();
        let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
        let layer = site.http("ada").get(&format!("/v2/results/p/{name}/blobs/{digest}")).body;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.as_slice()));
        for entry in archive.entries().expect("an archive") {
            let path = entry.expect("an entry").path().expect("a path").into_owned();
            assert!(path.components().count() == 1, "{name} gave out {}", path.display());
        }
    }
    let left: Vec<_> =
        fs::read_dir(outside.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["kept"], "nothing was made in a folder of the host");
    assert_eq!(fs::read_to_string(outside.path().join("kept")).expect("kept"), "of the host\n");
    assert_eq!(fs::read_to_string(site.path("data/secret")).expect("data"), "secret\n");
    assert_eq!(fs::read_dir(site.path("data")).expect("data").count(), 1);
    honest(&site, &ada, "honest");
}
