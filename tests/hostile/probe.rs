//! The probe as a researcher's image.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};
use torno_inside::{ATTACKS, PROBE};
use torno_tests::{Docker, Site};

use crate::{honest, image_of, program, site};

/// Pushes the probe with this configuration and waits for its end; its lines.
fn tried(site: &Site, name: &str, config: &Value) -> BTreeMap<String, String> {
    let image = image_of(&[program("program", PROBE)], config);
    image.push(&site.http("ada"), &format!("run/p/{name}"), "1").expect(201);
    let run = u64::try_from(site.runs()).expect("a number");
    let state = site.wait_for_run(run);
    let log = site.torno_ok(&["runs", "log", &run.to_string()]);
    assert_eq!(state, "succeeded", "{log}");
    let words = |line: &str| line.split_once(' ').map(|(word, name)| (name.to_owned(), word.to_owned()));
    log.lines().filter_map(words).collect()
}

#[test]
fn every_attack_of_the_probe_fails() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    // An image that asks for whatever an image can ask for.
    let config = json!({
        "Entrypoint": ["/program"], "User": "0:0", "WorkingDir": "/etc",
        "Env": [
            "LD_PRELOAD=forged", "LD_LIBRARY_PATH=forged", "NVIDIA_VISIBLE_DEVICES=forged", "TORNO_INPUT=forged",
            "TORNO_RUN=forged", "TORNO_PROJECT=forged", "TORNO_ANYTHING=forged", "HOME=forged",
        ],
        "Volumes": {"/var/run": {}, "/tmp": {}},
        "ExposedPorts": {"22/tcp": {}, "53/udp": {}}, "StopSignal": "SIGCONT", "Shell": ["/program"],
        "Healthcheck": {"Test": ["CMD", "/program"], "Interval": 1_000_000_000},
        "Labels": {
            "org.torno.instance": "0000000000000000", "org.torno.run": "1", "privileged": "true",
            "com.docker.compose.project": "x", "io.podman.annotations.privileged": "TRUE",
        },
    });
    let found = tried(&site, "asks", &config);
    assert_eq!(found.len(), ATTACKS.len(), "{found:#?}");
    for attack in ATTACKS {
        assert_eq!(found.get(attack.name).map(String::as_str), Some("kept"), "{attack:?}: {found:#?}");
    }
    assert_eq!(fs::read_to_string(site.path("data/secret")).expect("data"), "secret\n");
    assert_eq!(fs::read_dir(site.path("data")).expect("data").count(), 1);
    honest(&site, &ada, "honest");
}
