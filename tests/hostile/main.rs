//! The hostile suite: images that try what a run must not be able to do, and hosts that do not keep what is promised.
//!
//! After each attack an honest run on the same site must succeed at once. `docs/SECURITY.md` has every attack with its
//! promise and its test, written by `table.rs`.

mod apart;
mod doctor;
mod gvisor;
mod image;
mod link;
mod open;
mod output;
mod parameters;
mod probe;
mod table;

use std::{fs, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use torno_tests::{Docker, Image, OCI_IMAGE, Site, program, sha256};

/// One project, whose runs have little, so that attacks on it end soon.
const PROJECT: &str = "
[executor]
concurrent_runs = 2
[datasets.data]
path = 'data'
[projects.p]
researchers = ['ada']
datasets = ['data']
limits = { memory = '64MiB', pids = 64, time = '1m', output = '8MiB', entries = 100, tmp = '16MiB', log = '32KiB' }
";

/// A started site with confidential data.
fn site() -> Site {
    let mut site = Site::new("");
    let path = site.path("torno.toml");
    let text = fs::read_to_string(&path).expect("the configuration");
    fs::write(
        &path,
        text.replacen("[executor]\n", "", 1).replacen("concurrent_runs = 1\n", "", 1).replacen(
            "engine = \"unix:///var/run/docker.sock\"\n",
            "",
            1,
        ),
    )
    .expect("write");
    site.append(PROJECT);
    fs::create_dir(site.path("data")).expect("a folder");
    fs::write(site.path("data/secret"), "secret\n").expect("data");
    site.add_users(&["ada"]);
    site.start();
    site
}

/// Pushes an honest image, whose run must succeed.
fn honest(site: &Site, ada: &Docker, name: &str) {
    ada.run(&format!("p/{name}:1"), "cat /input/secret > /output/copy");
    let last = u64::try_from(site.runs()).expect("a number");
    assert_eq!(site.wait_for_run(last), "succeeded", "the honest run after the attack");
}

/// A layer of a tar archive.
fn gzip(archive: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(archive).expect("in memory");
    encoder.finish().expect("in memory")
}

/// An image of these archives, compressed, with this `config`.
fn image_of(archives: &[Vec<u8>], config: &Value) -> Image {
    let ids: Vec<String> = archives.iter().map(|archive| sha256(archive)).collect();
    let config = json!({
        "os": "linux", "architecture": Image::HERE, "config": config, "rootfs": {"type": "layers", "diff_ids": ids},
    });
    let layers = archives.iter().map(|archive| gzip(archive)).collect();
    Image { config: config.to_string().into_bytes(), layers, media_type: OCI_IMAGE }
}
