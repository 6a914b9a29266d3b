//! Disks that are full or fail, files that are not what they were, and too few descriptors: requests get an error that
//! says so, the server lives, and nothing half-written is ever served.

use std::{
    fs::{self, File},
    net::TcpStream,
    path::PathBuf,
    process::Command,
};

use torno_tests::{Answer, Disk, Http, Image, NO_ENGINE, OCI_INDEX, Site, layer, sha256, tool, wait_until};

const REPOSITORY: &str = "tools/x";

/// A site that is started, with its data on a disk and an image in it.
fn site_on(disk: &Disk) -> (Site, Image) {
    let data = disk.path().join("data");
    fs::create_dir(&data).expect("a folder");
    let data = data.to_str().expect("UTF-8");
    let mut site = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE).with("TORNO_DATA", data);
    site.add_users(&["ada"]);
    site.start();
    let image = Image::new(&bytes("a layer", 500_000));
    image.push(&site.http("ada"), REPOSITORY, "v").expect(201);
    (site, image)
}

fn bytes(seed: &str, size: usize) -> Vec<u8> {
    seed.bytes().cycle().take(size).collect()
}

/// Pushes a blob; the answer to its bytes, or to none when it is refused before them.
fn push(http: &Http, bytes: &[u8]) -> Answer {
    let begun = http.post(&format!("/v2/{REPOSITORY}/blobs/uploads/"));
    if begun.status != 202 {
        return begun;
    }
    let location = begun.header("location");
    let path = format!("{location}?digest={}", sha256(bytes));
    http.send("PUT", &path, &[("content-type", "application/octet-stream")], bytes)
}

fn pull(http: &Http, digest: &str) -> Answer {
    http.get(&format!("/v2/{REPOSITORY}/blobs/{digest}"))
}

/// Blobs that go through the journal, and blobs that go through a file.
fn blobs(seed: &str) -> [Vec<u8>; 3] {
    [100, 50_000, 2_000_000].map(|size| bytes(&format!("{seed} {size} "), size))
}

/// An index of nothing, and so large that it takes new room.
fn manifest(seed: &str) -> Vec<u8> {
    let text = seed.repeat(10_000);
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[],"annotations":{{"text":"{text}"}}}}"#
    )
    .into_bytes()
}

/// Everything that writes is refused with this status and these words, and none of it is there; what was there is.
fn only_pulls_go_on(http: &Http, image: &Image, status: u16, words: &str) {
    for blob in blobs("refused") {
        let message = push(http, &blob).expect_error(status, "UNKNOWN");
        assert!(message.contains(words), "{message}");
        pull(http, &sha256(&blob)).expect_error(404, "BLOB_UNKNOWN");
    }
    let refused = http.push_manifest(REPOSITORY, "refused", OCI_INDEX, &manifest("refused"));
    let message = refused.expect_error(status, "UNKNOWN");
    assert!(message.contains(words), "{message}");
    http.get(&format!("/v2/{REPOSITORY}/manifests/refused")).expect_error(404, "MANIFEST_UNKNOWN");
    is_whole(http, image);
}

fn is_whole(http: &Http, image: &Image) {
    assert_eq!(http.get(&format!("/v2/{REPOSITORY}/manifests/v")).expect(200).body, image.manifest());
    for blob in [&image.config, &image.layers[0]] {
        assert!(pull(http, &sha256(blob)).expect(200).body == *blob);
    }
}

/// Everything can be pushed and pulled.
fn goes_on(http: &Http, image: &Image) {
    for blob in blobs("later") {
        push(http, &blob).expect(201);
        assert!(pull(http, &sha256(&blob)).expect(200).body == blob);
    }
    http.push_manifest(REPOSITORY, "later", OCI_INDEX, &manifest("later")).expect(201);
    is_whole(http, image);
}

#[test]
fn a_full_disk_is_told_of_and_when_there_is_room_it_goes_on() {
    let Some(disk) = Disk::new(64) else { return };
    let (site, image) = site_on(&disk);
    let ada = site.http("ada");
    disk.fill();
    only_pulls_go_on(&ada, &image, 507, "disk is full");
    disk.make_room();
    goes_on(&ada, &image);
}

/// Pushes blobs of 2 MB each that no manifest names.
fn push_garbage(http: &Http, count: usize) -> Vec<String> {
    let garbage = (0..count).map(|number| {
        let blob = bytes(&format!("garbage {number} "), 2_000_000);
        push(http, &blob).expect(201);
        sha256(&blob)
    });
    garbage.collect()
}

/// Removes what nothing needs; says how many blobs.
fn collect(site: &Site) -> u64 {
    let told = site.torno_ok(&["gc", "--grace", "0s", "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    told["blobs"].as_u64().expect("a count")
}

#[test]
fn garbage_goes_from_a_disk_without_any_room_and_then_pushes_go_on() {
    let Some(disk) = Disk::new(128) else { return };
    let (mut site, image) = site_on(&disk);
    push_garbage(&site.http("ada"), 20);
    disk.fill();
    assert_eq!(collect(&site), 20, "beside the server");
    goes_on(&site.http("ada"), &image);

    push_garbage(&site.http("ada"), 10);
    site.kill();
    disk.fill();
    assert!(collect(&site) >= 10, "alone, with the database closed");
    assert_eq!(fs::metadata(disk.path().join("data/reserve")).expect("the reserve").len(), 16 << 20);
    site.start();
    goes_on(&site.http("ada"), &image);
}

#[test]
fn a_server_starts_on_a_disk_without_any_room_and_serves_and_deletes() {
    let Some(disk) = Disk::new(128) else { return };
    let (mut site, image) = site_on(&disk);
    let garbage = push_garbage(&site.http("ada"), 20);
    site.kill();
    disk.fill();
    site.start();
    let ada = site.http("ada");
    only_pulls_go_on(&ada, &image, 507, "disk is full");
    for blob in &garbage {
        ada.delete(&format!("/v2/{REPOSITORY}/blobs/{blob}")).expect(202);
    }
    // What was given back for that is nobody's to push into.
    only_pulls_go_on(&ada, &image, 507, "disk is full");
    let blob = bytes("in one request", 2_000_000);
    let path = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(&blob));
    ada.send("POST", &path, &[], &blob).expect_error(507, "UNKNOWN");
    assert_eq!(collect(&site), 20);
    goes_on(&ada, &image);
}

#[test]
fn a_disk_that_can_only_be_read_is_told_of() {
    let Some(disk) = Disk::new(64) else { return };
    let (site, image) = site_on(&disk);
    let ada = site.http("ada");
    disk.fail();
    only_pulls_go_on(&ada, &image, 503, "cannot be written");
    let deleted = ada.delete(&format!("/v2/{REPOSITORY}/manifests/v"));
    let message = deleted.expect_error(503, "UNKNOWN");
    assert!(message.contains("cannot be written"), "{message}");
    is_whole(&ada, &image);
}

/// What is done to a blob's file.
type Damage<'a> = &'a dyn Fn(&PathBuf);

#[test]
fn what_does_not_fit_leaves_its_room_to_what_does() {
    let Some(disk) = Disk::new(64) else { return };
    let (site, image) = site_on(&disk);
    let ada = site.http("ada");
    let large = bytes("more than there is room for", 64 << 20);
    push(&ada, &large).expect_error(507, "UNKNOWN");
    let location = ada.begin_upload(REPOSITORY);
    let headers = [("content-type", "application/octet-stream")];
    ada.send("PATCH", &location, &headers, &large).expect_error(507, "UNKNOWN");
    ada.get(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    goes_on(&ada, &image);
}

/// The file of a blob.
fn file_of(site: &Site, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    site.path("registry-data/blobs/sha256").join(&hex[..2]).join(hex)
}

#[test]
fn a_file_that_is_not_what_it_was_is_never_a_success_and_a_push_heals_it() {
    let site = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada"]);
    let mut site = site;
    site.start();
    let ada = site.http("ada");
    let image = Image::new(&bytes("a layer", 500_000));
    image.push(&ada, REPOSITORY, "v").expect(201);
    let set_length = |path: &PathBuf, length: u64| {
        File::options().write(true).open(path).and_then(|file| file.set_len(length)).expect("a length");
    };
    let damages: [(&str, Damage<'_>); 4] = [
        ("gone", &|path| fs::remove_file(path).expect("a file")),
        ("empty", &|path| set_length(path, 0)),
        ("shorter", &|path| set_length(path, 999_999)),
        ("longer", &|path| set_length(path, 1_000_001)),
    ];
    for (what, damage) in damages {
        let blob = bytes(what, 1_000_000);
        push(&ada, &blob).expect(201);
        // What was read a moment ago is still in memory.
        assert!(pull(&ada, &sha256(&blob)).expect(200).body == blob);
        damage(&file_of(&site, &sha256(&blob)));
        let answer = pull(&ada, &sha256(&blob));
        assert!(answer.status >= 400, "{what}: {}", answer.status);
        is_whole(&ada, &image);
        push(&ada, &blob).expect(201);
        assert!(pull(&ada, &sha256(&blob)).expect(200).body == blob, "{what}");
    }
}

#[test]
fn too_many_open_files_are_told_of_and_pass() {
    let mut site = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let image = Image::new(&layer("a layer"));
    image.push(&ada, REPOSITORY, "v").expect(201);

    // One that is served before nothing more can be opened.
    let mut served = ada.raw();
    served.head("GET", "/v2/", 0);
    assert_eq!(served.answer().0, 200);
    // As many connections as it has taken files into account for do no harm; so the files are taken away under it.
    let pid = site.pid();
    let limit = |files: &str| {
        let set =
            Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={files}")]).status();
        assert!(set.expect("prlimit").success());
    };
    let before =
        tool("prlimit", &["--pid", &pid.to_string(), "--nofile", "--output", "SOFT", "--noheadings"]);
    limit("10:");
    let other = TcpStream::connect(site.host()).expect("a connection");
    wait_until("no connection can be accepted", || {
        site.log().contains("a connection could not be accepted").then_some(())
    });
    let blob = bytes("a blob that takes a file", 500_000);
    let digest = sha256(&blob);
    served.head("POST", &format!("/v2/{REPOSITORY}/blobs/uploads/?digest={digest}"), blob.len());
    served.send(&blob);
    let (status, answer) = served.answer();
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("too many files open"), "{answer}");

    drop((other, served));
    limit(&format!("{}:", before.trim()));
    push(&ada, &blob).expect(201);
    assert!(pull(&ada, &digest).expect(200).body == blob);
    assert_eq!(ada.get(&format!("/v2/{REPOSITORY}/manifests/v")).expect(200).body, image.manifest());
}
