//! The images that the engine keeps between runs.

use std::{fs, process::Command};

use serde_json::json;
use torno_tests::{Http, Image, Site, busybox, leftovers, program, sha256, wait_until};

const PROJECT: &str =
    "[projects.p]\nresearchers = ['ada']\nlimits = { memory = '64MiB', pids = 64, time = '1m' }\n";

/// An image of some 4 MiB: a shell, which all of them share, and something of its own.
fn image(shell: &[u8], own: u8) -> Image {
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|at| at.to_le_bytes()[usize::from(own % 2)] ^ own).collect();
    let layers = vec![shell.to_vec(), program("own", &bytes)];
    let config = json!({
        "os": "linux", "architecture": Image::HERE,
        "config": {"Cmd": ["/busybox", "sh", "-c", "/busybox wc -c < /own > /output/size"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| sha256(layer)).collect::<Vec<_>>()},
    });
    Image { config: config.to_string().into_bytes(), layers, media_type: torno_tests::OCI_IMAGE }
}

/// The runs whose images the engine holds.
fn held(site: &Site) -> Vec<u64> {
    let mine = format!("/torno-{}/run-", site.instance().expect("an id"));
    let format = "{{.Repository}}";
    let listed = Command::new("docker").args(["images", "--digests", "--format", format]).output();
    let listed = String::from_utf8(listed.expect("docker").stdout).expect("UTF-8");
    let runs = listed.lines().filter_map(|name| name.split_once(&mine)?.1.parse().ok());
    let mut runs: Vec<u64> = runs.collect();
    runs.sort_unstable();
    runs
}

/// Runs an image.
fn run(site: &Site, ada: &Http, image: &Image, number: u64) {
    image.push(ada, "run/p/x", &format!("t{number}")).expect(201);
    let state = site.wait_for_run(number);
    assert_eq!(state, "succeeded", "run {number}");
}

#[test]
fn images_stay_for_the_next_run_as_far_as_there_is_room() {
    // Room for two of the images here.
    let mut site =
        Site::new(PROJECT).with("TORNO_EXECUTOR_KEEP_CACHE", "9MiB").with("TORNO_EXECUTOR_RECONCILE", "1s");
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let shell = program("busybox", &fs::read(busybox()).expect("busybox"));
    let holds = |site: &Site, runs: &[u64]| {
        let what = format!("the images of runs {runs:?} are held");
        wait_until(&what, || (held(site) == runs).then_some(()));
    };

    run(&site, &ada, &image(&shell, 1), 1);
    holds(&site, &[1]);
    // The layer they share is not asked for again, so nobody misses it.
    let shared = site.blob_file(&sha256(&shell));
    fs::rename(&shared, site.path("away")).expect("there");
    run(&site, &ada, &image(&shell, 2), 2);
    holds(&site, &[1, 2]);
    fs::rename(site.path("away"), &shared).expect("back");
    // Used again, it is the one that was used last.
    run(&site, &ada, &image(&shell, 1), 3);
    holds(&site, &[2, 3]);
    run(&site, &ada, &image(&shell, 3), 4);
    holds(&site, &[3, 4]);

    // A restart forgets nothing; what the registry has no more goes.
    site.stop();
    site.start();
    run(&site, &ada, &image(&shell, 3), 5);
    holds(&site, &[3, 5]);
    let ada = site.http("ada");
    ada.delete(&format!("/v2/run/p/x/manifests/{}", image(&shell, 1).digest())).expect(202);
    site.torno_ok(&["gc", "--grace", "0s"]);
    holds(&site, &[5]);

    site.stop();
    site = site.with("TORNO_EXECUTOR_KEEP_CACHE", "0B");
    site.start();
    holds(&site, &[]);
    let instance = site.instance().expect("an id");
    wait_until("nothing is left", || leftovers(&instance).is_empty().then_some(()));
}
