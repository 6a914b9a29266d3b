//! `try/…`: a push runs on the sample, never on the data, and what comes out is kept apart from real results.

use std::fs;

use torno_tests::{Docker, Image, OCI_IMAGE, Site, layer};

const PROJECT: &str = "
[datasets.numbers]
path = 'confidential'
sample = 'given'
[datasets.words]
path = 'words'
[projects.one]
researchers = ['ada', 'bob']
custodians = ['cora']
datasets = ['numbers']
logs = 'never'
limits = { memory = '128MiB', time = '1m', entries = 2, log = '1KiB' }
keep_images = 'none'
[projects.two]
researchers = ['ada']
datasets = ['numbers', 'words']
[projects.bare]
researchers = ['ada']
";

fn site() -> Site {
    let mut site = Site::new(PROJECT);
    for (folder, content) in [("confidential", "secret\n"), ("given", "sample\n"), ("words", "words\n")] {
        site.write_data(folder, content);
    }
    site.add_users(&["ada", "bob", "cora"]);
    site.start();
    site
}

/// Builds an image and pushes it under `try/`.
fn tried(docker: &Docker, image: &str, script: &str) {
    let name = docker.build(&format!("try/{image}"), script, "");
    docker.ok(&["push", "--quiet", &name]);
}

/// A file of a pulled result.
fn read(docker: &Docker, image: &str, file: &str) -> String {
    let folder = tempfile::tempdir().expect("folder");
    docker.files(image, folder.path());
    fs::read_to_string(folder.path().join(file)).unwrap_or_else(|error| panic!("{image}: {file}: {error}"))
}

#[test]
fn a_try_sees_the_sample_and_a_run_sees_the_data() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let script = "cat /input/data.txt > /output/seen; cat /proc/self/mountinfo > /output/mounts
        for i in 1 2 3 4; do echo $i > /output/$i; done; seq 1000; echo complained >&2";
    // The same name and the same tag, the one after the other.
    tried(&ada, "one/look:1", script);
    let on_sample = ada.pull_result_of("try-results/one/look:1");
    ada.run("one/look:1", "cat /input/data.txt > /output/seen");
    let on_data = ada.pull_result("one/look:1");
    assert_eq!(read(&ada, &on_sample, "output/seen"), "sample\n");
    assert_eq!(read(&ada, &on_data, "output/seen"), "secret\n");
    let mounts = read(&ada, &on_sample, "output/mounts");
    assert!(!mounts.contains("confidential"), "the data is not even mounted: {mounts}");
    // Everything it says comes back, whatever the project lets out of a run.
    assert_eq!(read(&ada, &on_sample, "run/stdout.log").lines().count(), 1000);
    assert_eq!(read(&ada, &on_sample, "run/stderr.log"), "complained\n");

    // Neither took the other's result, nor its tags.
    let http = site.http("ada");
    let tags = |repository: &str| http.get(&format!("/v2/{repository}/tags/list")).json()["tags"].clone();
    assert_eq!(tags("try-results/one/look"), serde_json::json!(["1", "run-1"]));
    assert_eq!(tags("results/one/look"), serde_json::json!(["1", "run-2"]));
    assert_eq!(read(&ada, &ada.pull_result_of("try-results/one/look:run-1"), "output/seen"), "sample\n");
    for (repository, tag) in [("results/one/look", "run-1"), ("try-results/one/look", "run-2")] {
        http.get(&format!("/v2/{repository}/manifests/{tag}")).expect_error(404, "MANIFEST_UNKNOWN");
    }

    // Another member of the project sees none of it, its custodian all.
    let bob = Docker::login(&site, "bob");
    assert!(bob.fails(&["pull", &on_sample]).contains("not known here"));
    Docker::login(&site, "cora").ok(&["pull", "--quiet", &on_sample]);

    // The images of both go when the project does not keep them.
    let gone = site.torno_ok(&["gc", "--dry-run"]);
    for image in ["try/one/look:1", "run/one/look:1"] {
        assert!(gone.contains(image.split(':').next().expect("a name")), "{image}: {gone}");
    }
}

#[test]
fn a_failed_try_says_where_its_log_is() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    tried(&ada, "one/bad:1", "echo the reason >&2; exit 3");
    assert_eq!(site.wait_for_run(1), "exit status 3");
    let message = ada.fails(&["pull", &ada.name("try-results/one/bad:1")]);
    let log = ada.name("try-results/one/bad:1.log");
    assert!(message.contains(&format!("run 1 failed: exit status 3; its log: {log}")), "{message}");
    ada.ok(&["pull", "--quiet", &log]);
    ada.remember(&log);
}

#[test]
fn without_a_sample_nothing_is_tried() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let name = ada.build("try/two/look:1", "true", "");
    let refused = ada.fails(&["push", &name]);
    assert!(
        refused.contains("its dataset `words` has no sample") && refused.contains("run/two/"),
        "{refused}"
    );
    assert_eq!(site.runs(), 0);
    // Without data there is nothing to keep back.
    tried(&ada, "bare/look:1", "ls /input > /output/seen 2>&1; true");
    let seen = read(&ada, &ada.pull_result_of("try-results/bare/look:1"), "output/seen");
    assert!(seen.contains("No such file"), "{seen}");
}

#[test]
fn a_sample_that_goes_before_the_run_ends_it() {
    let mut site = Site::new(PROJECT).with("TORNO_EXECUTOR_ENGINE", torno_tests::NO_ENGINE);
    for folder in ["confidential", "given", "words"] {
        fs::create_dir(site.path(folder)).expect("folder");
    }
    site.add_users(&["ada"]);
    site.start();
    let image = Image::new(&layer("tried"));
    image.push(&site.http("ada"), "try/one/x", "v").expect(201);
    let message =
        site.http("ada").get("/v2/try-results/one/x/manifests/v").expect_error(404, "MANIFEST_UNKNOWN");
    assert!(message.starts_with("run 1 is queued"), "{message}");
    site.stop();
    let file = site.path("torno.toml");
    let text = fs::read_to_string(&file).expect("torno.toml");
    fs::write(&file, text.replace("sample = 'given'\n", "")).expect("torno.toml");
    let mut site = site.with("TORNO_EXECUTOR_ENGINE", "unix:///var/run/docker.sock");
    site.start();
    assert_eq!(site.wait_for_run(1), "there is no sample to try it on any more");
    let refused = site.http("ada").push_manifest("try/one/x", "v", OCI_IMAGE, &image.manifest());
    assert!(refused.expect_error(403, "DENIED").contains("has no sample"));
}
