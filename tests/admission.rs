//! What a push under `run/` queues, what it is refused for, and what the result's tag says meanwhile.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use torno_tests::{Answer, Image, NO_ENGINE, OCI_IMAGE, OCI_INDEX, PROJECTS, Site, index, layer, sha256};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A site whose runs stay queued.
fn site(wait: &str) -> Site {
    let mut site =
        Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE).with("TORNO_RESULTS_WAIT", wait);
    site.add_users(&["ada", "eve"]);
    site.start();
    site
}

/// What `torno runs show` says of a run.
fn shown(site: &Site, run: usize, field: &str) -> String {
    let shown = site.torno_ok(&["runs", "show", &run.to_string()]);
    let line = shown.lines().find_map(|line| line.strip_prefix(field));
    line.unwrap_or_else(|| panic!("no `{field}` in {shown}")).trim().to_owned()
}

/// Pushes an image, with one word of its manifest replaced by another.
fn push_as(site: &Site, image: &Image, word: Option<(&str, &str)>, tag: &str) -> Answer {
    let ada = site.http("ada");
    let mut text = String::from_utf8(image.manifest()).expect("UTF-8");
    if let Some((from, to)) = word {
        assert!(text.contains(from));
        text = text.replace(from, to);
    }
    ada.push_blob("run/heart/x", &image.config);
    for layer in &image.layers {
        ada.push_blob("run/heart/x", layer);
    }
    ada.push_manifest("run/heart/x", tag, OCI_IMAGE, text.as_bytes())
}

#[test]
fn what_cannot_run_is_refused_with_the_way_out() {
    let site = site("0s");
    let bytes = layer("cannot run");
    let with = |config: Value| Image::with_config(&bytes, &config);
    let elsewhere = Image::built_for(Image::ELSEWHERE, &bytes, &json!({"Cmd": ["/x"]}));
    let build = format!("docker build --platform linux/{}", Image::HERE);
    let mut windows = Image::new(&bytes);
    windows.config =
        String::from_utf8(windows.config).expect("UTF-8").replace("linux", "windows").into_bytes();
    let mut broken = Image::new(&bytes);
    broken.config = b"not JSON".to_vec();
    let mut empty = Image::new(&bytes);
    empty.layers.clear();
    let mut deep = Image::new(&bytes);
    deep.layers = vec![bytes.clone(); 128];
    let proc = with(json!({"Cmd": ["/x"], "WorkingDir": "/proc/self/cwd"}));
    let volume = with(json!({"Cmd": ["/x"], "Volumes": {"/dev/shm/x": {}}}));
    let good = Image::new(&bytes);
    for (image, expected) in [
        (&with(json!({})), "CMD or an ENTRYPOINT"),
        (&with(json!({"Cmd": [], "Entrypoint": null})), "CMD or an ENTRYPOINT"),
        (&elsewhere, &build),
        (&windows, &build),
        (&proc, "/proc/self/cwd"),
        (&volume, "/dev/shm/x"),
        (&broken, "cannot be read"),
        (&empty, "no layers"),
        (&deep, "at most 127"),
    ] {
        let message = push_as(&site, image, None, "v").expect_error(400, "MANIFEST_INVALID");
        assert!(message.contains(expected), "{message}");
    }
    for (from, to, expected) in [
        (CONFIG, "application/vnd.cncf.helm.config.v1+json", "not a container image"),
        (GZIP, "application/vnd.oci.image.layer.v1.tar+lzma", "gzip layers"),
        (GZIP, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip layers"),
    ] {
        let message = push_as(&site, &good, Some((from, to)), "v").expect_error(400, "MANIFEST_INVALID");
        assert!(message.contains(expected), "{message}");
    }
    for tag in ["run-3", "run-0", "x.log", "run-3.log"] {
        let message = push_as(&site, &good, None, tag).expect_error(400, "MANIFEST_INVALID");
        assert!(message.contains("another tag") && message.contains(tag), "{message}");
    }
    assert_eq!(site.runs(), 0);
    assert_eq!(site.http("ada").get("/v2/run/heart/x/tags/list").json()["tags"], json!([]));

    // One layer less, and tags that only look like those.
    deep.layers.pop();
    for (image, tag) in [(&deep, "deep"), (&good, "run-x"), (&good, "log"), (&good, "run-3x")] {
        push_as(&site, image, None, tag).expect(201);
    }
    assert_eq!(site.runs(), 4);
}

#[test]
fn what_is_not_run_may_be_anything() {
    let site = site("0s");
    let ada = site.http("ada");
    Image::with_config(&layer("no command"), &json!({})).push(&ada, "tools/x", "run-3").expect(201);
    let elsewhere = Image::built_for(Image::ELSEWHERE, &layer("elsewhere"), &json!({}));
    // By digest too: it may be a part of an index.
    elsewhere.push(&ada, "run/heart/x", &elsewhere.digest()).expect(201);
    assert_eq!(site.runs(), 0);
}

#[test]
fn a_push_by_tag_queues_exactly_one_run_of_what_was_pushed() {
    let site = site("0s");
    let ada = site.http("ada");
    let image = Image::new(&layer("one run"));
    image.push(&ada, "run/heart/x", &image.digest()).expect(201);
    assert_eq!(site.runs(), 0, "a digest is no request to run");
    ada.push_manifest("run/heart/x", "v", OCI_IMAGE, &image.manifest()).expect(201);
    assert_eq!(site.runs(), 1);
    assert_eq!(shown(&site, 1, "image"), "run/heart/x:v");
    assert_eq!(shown(&site, 1, "manifest"), image.digest());
    assert_eq!(shown(&site, 1, "owner"), "ada");
    assert_eq!(shown(&site, 1, "state"), "queued");

    // Pushed again, it runs again; pushed anew, the tag's new image runs.
    ada.push_manifest("run/heart/x", "v", OCI_IMAGE, &image.manifest()).expect(201);
    let newer = Image::new(&layer("another run"));
    newer.push(&ada, "run/heart/x", "v").expect(201);
    assert_eq!(site.runs(), 3);
    assert_eq!(shown(&site, 2, "manifest"), image.digest());
    assert_eq!(shown(&site, 3, "manifest"), newer.digest());
}

#[test]
fn of_an_index_the_child_for_this_machine_runs() {
    let site = site("0s");
    let ada = site.http("ada");
    let command = json!({"Cmd": ["/x"]});
    let here = Image::built_for(Image::HERE, &layer("here"), &command);
    let elsewhere = Image::built_for(Image::ELSEWHERE, &layer("elsewhere"), &command);
    let silent = Image::built_for(Image::HERE, &layer("no command"), &json!({}));
    for image in [&here, &elsewhere, &silent] {
        image.push(&ada, "run/heart/x", &image.digest()).expect(201);
    }
    let (here_bytes, elsewhere_bytes) = (here.manifest(), elsewhere.manifest());

    let foreign = index(OCI_INDEX, &[(&elsewhere_bytes, Image::ELSEWHERE), (&here_bytes, "unknown")]);
    let refused = ada.push_manifest("run/heart/x", "v", OCI_INDEX, &foreign);
    let message = refused.expect_error(400, "MANIFEST_INVALID");
    assert!(message.contains(&format!("linux/{}", Image::ELSEWHERE)), "{message}");
    assert!(message.contains(&format!("docker build --platform linux/{}", Image::HERE)), "{message}");
    // What the index says of a child and what the child says of itself are two things.
    for (child, words) in [(&elsewhere_bytes, "--platform"), (&silent.manifest(), "CMD")] {
        let lying = index(OCI_INDEX, &[(child, Image::HERE)]);
        let refused = ada.push_manifest("run/heart/x", "v", OCI_INDEX, &lying);
        let message = refused.expect_error(400, "MANIFEST_INVALID");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(site.runs(), 0);

    let both = index(OCI_INDEX, &[(&elsewhere_bytes, Image::ELSEWHERE), (&here_bytes, Image::HERE)]);
    ada.push_manifest("run/heart/x", &sha256(&both), OCI_INDEX, &both).expect(201);
    assert_eq!(site.runs(), 0);
    ada.push_manifest("run/heart/x", "v", OCI_INDEX, &both).expect(201);
    assert_eq!(site.runs(), 1);
    assert_eq!(shown(&site, 1, "manifest"), here.digest());
}

#[test]
fn a_sparse_index_runs_only_with_the_image_for_this_machine() {
    let mut site = Site::new(PROJECTS)
        .with("TORNO_EXECUTOR_ENGINE", NO_ENGINE)
        .with("TORNO_REGISTRY_SPARSE_INDEXES", "true")
        .with("TORNO_REGISTRY_SPARSE_IMAGES", "true");
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let command = json!({"Cmd": ["/x"]});
    let here = Image::built_for(Image::HERE, &layer("here"), &command);
    let elsewhere = Image::built_for(Image::ELSEWHERE, &layer("elsewhere"), &command);
    let both =
        index(OCI_INDEX, &[(&elsewhere.manifest(), Image::ELSEWHERE), (&here.manifest(), Image::HERE)]);
    elsewhere.push(&ada, "run/heart/x", &elsewhere.digest()).expect(201);
    let put = |tag: &str| ada.push_manifest("run/heart/x", tag, OCI_INDEX, &both);
    put("v").expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    let by_digest = sha256(&both);
    put(&format!("{by_digest}?tag=v")).expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    put(&by_digest).expect(201);
    // Whole but for its layer.
    ada.push_blob("run/heart/x", &here.config);
    ada.push_manifest("run/heart/x", &here.digest(), OCI_IMAGE, &here.manifest()).expect(201);
    put("v").expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    let image = ada.push_manifest("run/heart/x", "v", OCI_IMAGE, &here.manifest());
    image.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(site.runs(), 0);

    ada.push_blob("run/heart/x", &here.layers[0]);
    ada.delete(&format!("/v2/run/heart/x/manifests/{}", elsewhere.digest())).expect(202);
    put("v").expect(201);
    assert_eq!(site.runs(), 1);
    assert_eq!(shown(&site, 1, "manifest"), here.digest());
}

#[test]
fn a_refused_push_queues_nothing() {
    let site = site("0s");
    let image = Image::new(&layer("refused"));
    for (who, repository) in [("ada", "run/liver/x"), ("ada", "run/nowhere/x"), ("eve", "run/heart/x")] {
        let http = site.http(who);
        http.push_manifest(repository, "v", OCI_IMAGE, &image.manifest()).expect_error(403, "DENIED");
    }
    let ada = site.http("ada");
    ada.push_manifest("run/heart/x", "v", OCI_IMAGE, &image.manifest())
        .expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    image.push(&ada, "run/heart/y", &image.digest()).expect(201);
    ada.push_manifest("run/heart/y", "v", OCI_IMAGE, b"{}").expect_error(400, "MANIFEST_INVALID");
    // The longest name there is has no room for `results` in place of `run`.
    let long = format!("run/heart/{}", "a".repeat(245));
    ada.post(&format!("/v2/{long}/blobs/uploads/")).expect_error(403, "DENIED");
    assert_eq!(site.runs(), 0);
}

#[test]
fn the_tag_of_a_result_says_how_far_its_run_is() {
    let site = site("0s");
    let ada = site.http("ada");
    let result = |tag: &str| ada.get(&format!("/v2/results/heart/x/manifests/{tag}"));
    Image::new(&layer("one")).push(&ada, "run/heart/x", "one").expect(201);
    Image::new(&layer("two")).push(&ada, "run/heart/x", "two").expect(201);
    Image::new(&layer("three")).push(&ada, "run/heart/x", "one").expect(201);
    for (tag, words) in [("one", "run 3 is queued"), ("two", "run 2 is queued"), ("run-1", "run 1 is queued")]
    {
        let message = result(tag).expect_error(404, "MANIFEST_UNKNOWN");
        assert!(message.starts_with(words), "{message}");
    }
    let message = result("one").expect_error(404, "MANIFEST_UNKNOWN");
    assert!(message.contains("2 runs before it"), "{message}");
    for tag in ["other", "run-4", "run-0"] {
        let message = result(tag).expect_error(404, "MANIFEST_UNKNOWN");
        assert!(!message.contains("queued"), "{message}");
    }
}

#[test]
fn one_pull_waits_once() {
    let wait = Duration::from_secs(2);
    let site = site("2s");
    let ada = site.http("ada");
    Image::new(&layer("waits")).push(&ada, "run/heart/x", "v").expect(201);
    let path = "/v2/results/heart/x/manifests/v";
    let timed = |method: &str| {
        let since = Instant::now();
        ada.send(method, path, &[], b"").expect(404);
        since.elapsed()
    };
    // The client asks with HEAD, and for the words with GET.
    assert!(timed("HEAD") >= wait);
    assert!(timed("GET") < wait);
    // That was one pull; the next one waits again.
    assert!(timed("GET") >= wait);
    let since = Instant::now();
    ada.get("/v2/results/heart/x/manifests/other").expect_error(404, "MANIFEST_UNKNOWN");
    assert!(since.elapsed() < wait, "there is no run to wait for");
}
