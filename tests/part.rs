//! A project that sees a part of a dataset, and nothing beside it.

use std::{fs, os::unix::fs::symlink};

use torno_tests::{Docker, Site, wait_until};

const PROJECT: &str = "
[datasets.numbers]
path = 'confidential'
sample = 'given'
[projects.one]
researchers = ['ada']
datasets = ['numbers/train']
limits = { memory = '128MiB', time = '1m' }
";

#[test]
fn a_run_and_a_try_see_the_part_alone_and_a_link_in_its_place_is_refused() {
    let mut site = Site::new(PROJECT);
    for folder in ["confidential", "given"] {
        for part in ["train", "test"] {
            site.write_data(&format!("{folder}/{part}"), &format!("{folder} {part}"));
        }
    }
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    let script = "cat /input/data.txt /input/../input/../test/data.txt > /output/seen 2>/dev/null; ls /input >> /output/seen";
    let seen = |image: &str| {
        let folder = tempfile::tempdir().expect("folder");
        ada.files(&ada.pull_result_of(image), folder.path());
        fs::read_to_string(folder.path().join("output/seen")).expect("seen")
    };
    ada.run("one/look:1", script);
    assert_eq!(seen("results/one/look:1"), "confidential traindata.txt\n");
    let tried = ada.build("try/one/look:1", script, "");
    ada.ok(&["push", "--quiet", &tried]);
    assert_eq!(seen("try-results/one/look:1"), "given traindata.txt\n");

    // After the configuration was read, somebody puts a link in its place.
    fs::rename(site.path("confidential/train"), site.path("confidential/moved")).expect("renamed");
    symlink("test", site.path("confidential/train")).expect("link");
    ada.run("one/look:2", script);
    // By the pull, since commands would read the configuration again.
    let http = site.http("ada");
    let message = wait_until("the run is over", || {
        let answer = http.get("/v2/results/one/look/manifests/2").expect_error(404, "MANIFEST_UNKNOWN");
        answer.contains("failed").then_some(answer)
    });
    assert!(message.contains("something failed at this site"), "{message}");
    assert!(site.log().contains("a link leads elsewhere"));
}
