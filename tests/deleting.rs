//! Deleting, and what gc makes of it while the server serves.

use std::{
    thread,
    time::{Duration, Instant},
};

use torno_tests::{Http, Image, NO_ENGINE, OCI_IMAGE, OCI_INDEX, PROJECTS, Site, index, layer, sha256};

/// All that an image has on the disk: its manifest is in the database.
fn size(image: &Image) -> u64 {
    let layers: usize = image.layers.iter().map(Vec::len).sum();
    (image.config.len() + layers) as u64
}

fn gone(http: &Http, path: &str, code: &str) {
    http.delete(path).expect(202);
    http.get(path).expect_error(404, code);
    http.head(path).expect(404);
    http.delete(path).expect_error(404, code);
}

#[test]
fn what_is_deleted_is_gone_at_once() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("deleted"));
    image.push(&ada, "tools/x", "one").expect(201);
    ada.push_manifest("tools/x", "two", OCI_IMAGE, &image.manifest()).expect(201);
    let by_digest = format!("/v2/tools/x/manifests/{}", image.digest());

    gone(&ada, "/v2/tools/x/manifests/one", "MANIFEST_UNKNOWN");
    ada.get("/v2/tools/x/manifests/two").expect(200);
    ada.get(&by_digest).expect(200);
    gone(&ada, &by_digest, "MANIFEST_UNKNOWN");
    ada.get("/v2/tools/x/manifests/two").expect_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(ada.get("/v2/tools/x/tags/list").json()["tags"], serde_json::json!([]));
    gone(&ada, &format!("/v2/tools/x/blobs/{}", sha256(&image.config)), "BLOB_UNKNOWN");
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("dry"));
    image.push(&ada, "tools/x", "v").expect(201);
    assert!(site.torno_ok(&["gc", "--dry-run"]).contains("(0 bytes)"));
    ada.delete(&format!("/v2/tools/x/manifests/{}", image.digest())).expect(202);
    for _ in 0..2 {
        let told = site.torno_ok(&["gc", "--dry-run"]);
        for part in [&image.config, &image.layers[0]] {
            assert!(told.contains(&format!("would delete {}", sha256(part))), "{told}");
        }
        assert!(told.contains(&format!("({} bytes) in 2 blobs, 1 manifest", size(&image))), "{told}");
    }
    assert_eq!(site.blob_bytes(), size(&image));
    ada.get(&format!("/v2/tools/x/blobs/{}", sha256(&image.config))).expect(200);
    let told = site.torno_ok(&["gc"]);
    assert!(told.contains(&format!("({} bytes) in 2 blobs, 1 manifest", size(&image))), "{told}");
    assert_eq!(site.blob_bytes(), 0);
    assert!(site.torno_ok(&["gc"]).contains("(0 bytes)"));
}

#[test]
fn gc_frees_what_one_repository_had_and_keeps_what_another_has() {
    let site = Site::start_with("", &["ada", "bob"]);
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    let base = layer("a base that both have");
    let mut first = Image::new(&base);
    first.layers.push(layer("ada's own"));
    let mut second = Image::new(&base);
    second.layers.push(layer("bob's"));
    first.push(&ada, "ada/x", "v").expect(201);
    second.push(&bob, "bob/x", "v").expect(201);
    assert_eq!(first.config, second.config, "they share the config too");
    ada.delete("/v2/ada/x/manifests/v").expect(202);
    site.torno_ok(&["gc"]);
    assert_eq!(site.blob_bytes(), size(&second));
    assert_eq!(bob.get(&format!("/v2/bob/x/blobs/{}", sha256(&base))).expect(200).body, base);
    ada.get(&format!("/v2/ada/x/blobs/{}", sha256(&base))).expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn an_index_takes_its_children_along_unless_they_have_a_name() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let children: Vec<Image> = ["one", "two", "three"].map(|seed| Image::new(&layer(seed))).into();
    for child in &children {
        child.push(&ada, "tools/x", &child.digest()).expect(201);
    }
    let manifests: Vec<Vec<u8>> = children.iter().map(Image::manifest).collect();
    let all = index(OCI_INDEX, &[(&manifests[0], "amd64"), (&manifests[1], "arm64"), (&manifests[2], "arm")]);
    ada.push_manifest("tools/x", "all", OCI_INDEX, &all).expect(201);
    ada.push_manifest("tools/x", "named", OCI_IMAGE, &manifests[1]).expect(201);
    let other = index(OCI_INDEX, &[(&manifests[2], "arm")]);
    ada.push_manifest("tools/x", "other", OCI_INDEX, &other).expect(201);
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(site.blob_bytes(), children.iter().map(size).sum::<u64>(), "nothing is garbage yet");

    ada.delete(&format!("/v2/tools/x/manifests/{}", sha256(&all))).expect(202);
    site.torno_ok(&["gc"]);
    ada.get(&format!("/v2/tools/x/manifests/{}", children[0].digest())).expect_error(404, "MANIFEST_UNKNOWN");
    ada.get("/v2/tools/x/manifests/named").expect(200);
    ada.get(&format!("/v2/tools/x/manifests/{}", children[2].digest())).expect(200);
    assert_eq!(site.blob_bytes(), size(&children[1]) + size(&children[2]));
}

#[test]
fn a_manifest_pushed_by_digest_stays_until_it_is_deleted() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("untagged"));
    image.push(&ada, "tools/x", &image.digest()).expect(201);
    site.torno_ok(&["gc", "--grace", "0s"]);
    ada.get(&format!("/v2/tools/x/manifests/{}", image.digest())).expect(200);
    assert_eq!(site.blob_bytes(), size(&image));
}

#[test]
fn a_blob_waits_for_its_manifest() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let digest = ada.push_blob("tools/x", b"a layer whose manifest is on its way");
    let path = format!("/v2/tools/x/blobs/{digest}");
    site.torno_ok(&["gc"]);
    ada.get(&path).expect(200);
    site.torno_ok(&["gc", "--grace", "0s"]);
    ada.get(&path).expect_error(404, "BLOB_UNKNOWN");
    assert_eq!(site.blob_bytes(), 0);
}

#[test]
fn an_upload_under_way_survives_gc() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let location = ada.begin_upload("tools/x");
    ada.send("PATCH", &location, &[], b"01234").expect(202);
    site.torno_ok(&["gc", "--grace", "0s"]);
    ada.send("PUT", &format!("{location}?digest={}", sha256(b"0123456789")), &[], b"56789").expect(201);
}

#[test]
fn a_layer_that_need_not_be_there_is_kept_when_it_is() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let mut image = Image::new(&layer("kept elsewhere, and here"));
    image.media_type = "application/vnd.docker.distribution.manifest.v2+json";
    let manifest = String::from_utf8(image.manifest()).expect("UTF-8");
    let manifest = manifest.replace(".rootfs.diff.tar.gzip", ".rootfs.foreign.diff.tar.gzip");
    ada.push_blob("tools/x", &image.config);
    ada.push_manifest("tools/x", "v", image.media_type, manifest.as_bytes()).expect(201);
    let blob = format!("/v2/tools/x/blobs/{}", sha256(&image.layers[0]));
    ada.get(&blob).expect_error(404, "BLOB_UNKNOWN");
    ada.push_blob("tools/x", &image.layers[0]);
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(ada.get(&blob).expect(200).body, image.layers[0]);
    ada.delete("/v2/tools/x/manifests/v").expect(202);
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(site.blob_bytes(), 0);
}

#[test]
fn what_was_deleted_can_be_pushed_again() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("again"));
    let blob = format!("/v2/tools/x/blobs/{}", sha256(&image.layers[0]));
    for gc in [false, true, false] {
        image.push(&ada, "tools/x", "v").expect(201);
        assert_eq!(ada.get(&blob).expect(200).body, image.layers[0]);
        ada.delete(&format!("/v2/tools/x/manifests/{}", image.digest())).expect(202);
        ada.delete(&blob).expect(202);
        if gc {
            site.torno_ok(&["gc"]);
            assert_eq!(site.blob_bytes(), 0);
        }
    }
    image.push(&ada, "tools/x", "v").expect(201);
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(ada.get(&blob).expect(200).body, image.layers[0]);
    assert_eq!(ada.get("/v2/tools/x/manifests/v").expect(200).body, image.manifest());
}

#[test]
fn the_image_of_a_waiting_run_is_no_garbage() {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let image = Image::new(&layer("waits"));
    image.push(&ada, "run/heart/x", "v").expect(201);
    ada.delete(&format!("/v2/run/heart/x/manifests/{}", image.digest())).expect(202);
    for part in [&image.config, &image.layers[0]] {
        ada.delete(&format!("/v2/run/heart/x/blobs/{}", sha256(part))).expect(202);
    }
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(site.blob_bytes(), size(&image), "the run still needs it");
}

#[test]
fn only_who_may_deletes() {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "bob", "cora", "admin"]);
    site.start();
    let image = Image::new(&layer("kept"));
    for tag in ["a", "b", "c"] {
        image.push(&site.http("ada"), "run/heart/x", tag).expect(201);
    }
    let delete = |who: &str, tag: &str| site.http(who).delete(&format!("/v2/run/heart/x/manifests/{tag}"));
    delete("bob", "a").expect_error(404, "NAME_UNKNOWN");
    for (who, tag) in [("ada", "a"), ("cora", "b"), ("admin", "c")] {
        delete(who, tag).expect(202);
    }
}

/// How long pushes, mounts, deletions and collections go on beside each other; `TORNO_RACE` says how many seconds, such
/// as 60.
fn race() -> Duration {
    let seconds = std::env::var("TORNO_RACE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// How many do so.
const CLIENTS: usize = 6;

#[test]
fn a_stored_manifest_has_its_blobs_whatever_else_goes_on() {
    let site = Site::start_with("", &["ada"]);
    // What every thread pushes, mounts, deletes and collects at the same time: in the journal, and as a file.
    let base = [layer("the same base for all"), layer(&"a larger one ".repeat(100))];
    let until = Instant::now() + race();
    let stored: usize = thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let mut collections = 0;
            while Instant::now() < until {
                site.torno_ok(&["gc", "--grace", "0s"]);
                collections += 1;
            }
            collections
        });
        let pushing = std::array::from_fn::<_, CLIENTS, _>(|client| {
            let (site, base) = (&site, &base);
            scope.spawn(move || push_and_delete(&site.http("ada"), client, base, until))
        });
        let stored = pushing.into_iter().map(|thread| thread.join().expect("no failure")).sum();
        assert!(collecting.join().expect("no failure") > 1, "gc was at work meanwhile");
        stored
    });
    eprintln!("{stored} manifests were stored, pulled and deleted");
    assert!(stored > CLIENTS, "{stored} manifests stored are too few to prove anything");
    // What was not deleted is there in the end, and when it is, nothing is left.
    for client in 0..CLIENTS {
        let ada = site.http("ada");
        let last = Image { layers: base.to_vec(), ..Image::new(&base[0]) };
        let repository = format!("tools/x{client}");
        last.push(&ada, &repository, "last").expect(201);
        site.torno_ok(&["gc", "--grace", "0s"]);
        pull(&ada, &repository, &last);
        ada.delete(&format!("/v2/{repository}/manifests/{}", last.digest())).expect(202);
    }
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(site.blob_bytes(), 0, "all was deleted in the end");
    let log = site.log();
    // Where there is no engine, the executor says so.
    let is_error = |line: &&str| line.contains("ERROR") && !line.contains("torno_executor");
    let errors: Vec<&str> = log.lines().filter(is_error).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Pushes an image and deletes it again and again; how many manifests were stored. Whenever one is, all it names
/// must be there.
fn push_and_delete(http: &Http, client: usize, base: &[Vec<u8>; 2], until: Instant) -> usize {
    let (repository, other) = (format!("tools/x{client}"), format!("tools/x{}", (client + 1) % CLIENTS));
    let (mut stored, mut round) = (0, 0);
    while Instant::now() < until {
        round += 1;
        let mut image = Image { layers: base.to_vec(), ..Image::new(&base[0]) };
        // Sometimes the same as before, so that what is just being deleted comes back.
        image.layers.push(layer(&format!("{repository} {}", round % 3)));
        // Another one's, if it is there just now; what is not mounted is pushed below.
        let mount =
            format!("/v2/{repository}/blobs/uploads/?mount={}&from={other}", sha256(&base[round % 2]));
        let mounted = http.post(&mount);
        assert!([201, 202].contains(&mounted.status), "{}", mounted.status);
        // With no grace, gc may take a blob before its manifest comes; a client pushes again.
        let pushed = (0..50).any(|_| {
            let pushed = image.push(http, &repository, "v");
            if pushed.status != 201 {
                pushed.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
            }
            pushed.status == 201
        });
        if !pushed {
            continue;
        }
        stored += 1;
        pull(http, &repository, &image);
        http.delete(&format!("/v2/{repository}/manifests/{}", image.digest())).expect(202);
    }
    stored
}

/// Reads all that an image has.
fn pull(http: &Http, repository: &str, image: &Image) {
    let manifest = http.get(&format!("/v2/{repository}/manifests/{}", image.digest()));
    assert_eq!(manifest.expect(200).body, image.manifest());
    for part in image.layers.iter().chain([&image.config]) {
        let read = http.get(&format!("/v2/{repository}/blobs/{}", sha256(part)));
        assert_eq!(&read.expect(200).body, part, "{repository}");
    }
}
