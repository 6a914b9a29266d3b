//! Blobs whose stored bytes are damaged: what a pull of one ends as, where it goes, and how a push mends it.

use std::{fs, io::Read as _};

use torno_tests::{Http, Image, Site, layer, sha256, wait_until};

/// A layer too large for the journal, of many pieces.
fn large(seed: u8) -> Vec<u8> {
    (0..1_500_000_u32).map(|at| u8::try_from((at >> 7) % 251).expect("small") ^ seed).collect()
}

/// Everything that comes on a connection of its own: the head, and the bytes of the body until the server closes.
fn pull(http: &Http, path: &str, lines: &str) -> (String, Vec<u8>) {
    let mut raw = http.raw();
    raw.head_with("GET", path, &format!("connection: close\r\n{lines}"));
    let mut bytes = Vec::new();
    // A connection that is cut may end with an error too.
    let _ = raw.stream().read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let body = bytes.split_off(end);
    (String::from_utf8(bytes).expect("ASCII").to_lowercase(), body)
}

/// A site whose journal is empty, so that the files alone have the bytes, with an image of a small and a large layer
/// in two repositories.
fn site_with_image(check: &str) -> (Site, Image) {
    let mut site = Site::new("").with("TORNO_STORAGE_CHECK", check).with("TORNO_SCRUB_INTERVAL", "0s");
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let mut image = Image::new(&layer("small"));
    image.layers.push(large(0));
    for repository in ["tools/x", "tools/y"] {
        image.push(&ada, repository, "v").expect(201);
    }
    // Stopping settles the journal.
    site.stop();
    site.start();
    (site, image)
}

fn path_of(repository: &str, digest: &str) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// The blob is unknown to everybody, and its old file is kept.
#[track_caller]
fn expect_quarantined(site: &Site, digest: &str, kept: &[u8]) {
    let ada = site.http("ada");
    for repository in ["tools/x", "tools/y"] {
        let path = path_of(repository, digest);
        ada.get(&path).expect_error(404, "BLOB_UNKNOWN");
        ada.head(&path).expect(404);
    }
    assert!(!site.blob_file(digest).exists());
    assert!(fs::read(site.quarantined_file(digest)).expect("kept") == kept);
}

/// Pushing it to one repository brings it back in all.
#[track_caller]
fn expect_healed_by_push(site: &Site, digest: &str, bytes: &[u8]) {
    let ada = site.http("ada");
    assert_eq!(ada.push_blob("tools/x", bytes), digest);
    for repository in ["tools/x", "tools/y"] {
        let path = path_of(repository, digest);
        ada.head(&path).expect(200);
        assert!(ada.get(&path).expect(200).body == bytes);
    }
    assert!(site.quarantined_file(digest).exists(), "what was put aside is never deleted");
}

#[test]
fn a_damaged_large_blob_is_never_pulled_whole() {
    let (site, image) = site_with_image("digest");
    let ada = site.http("ada");
    let bytes = &image.layers[1];
    let digest = sha256(bytes);
    let path = path_of("tools/x", &digest);
    let (head, body) = pull(&ada, &path, "");
    assert!(head.starts_with("http/1.1 200") && body == *bytes);
    for (tries, at) in [0, bytes.len() as u64 / 2, bytes.len() as u64 - 1].into_iter().enumerate() {
        site.flip_bit(&digest, at);
        let damaged = fs::read(site.blob_file(&digest)).expect("file");
        let (head, body) = pull(&ada, &path, "");
        assert!(head.contains(&format!("content-length: {}", bytes.len())), "{head}");
        assert!(body.len() < bytes.len(), "{} of {} bytes came", body.len(), bytes.len());
        if tries == 0 {
            expect_quarantined(&site, &digest, &damaged);
        } else {
            let name = format!("{}.{tries}", digest.replace(':', "-"));
            let kept = site.path("registry-data/quarantine").join(name);
            assert!(fs::read(kept).expect("each is kept") == damaged);
        }
        expect_healed_by_push(&site, &digest, bytes);
    }
    let log = site.log();
    let line = log.lines().find(|line| line.contains("in quarantine")).expect("it is logged");
    assert!(line.contains(&digest) && line.contains("tools/x:v") && line.contains("tools/y:v"), "{line}");
}

#[test]
fn a_damaged_small_blob_is_an_error_with_words() {
    let (site, image) = site_with_image("digest");
    let bytes = &image.layers[0];
    let digest = sha256(bytes);
    site.flip_bit(&digest, 7);
    let damaged = fs::read(site.blob_file(&digest)).expect("file");
    let message = site.http("ada").get(&path_of("tools/y", &digest)).expect_error(500, "UNKNOWN");
    assert!(message.contains(&digest) && message.contains("push the image again"), "{message}");
    expect_quarantined(&site, &digest, &damaged);
    expect_healed_by_push(&site, &digest, bytes);
}

#[test]
fn a_part_is_checked_by_length_and_a_whole_range_by_digest() {
    let (site, image) = site_with_image("digest");
    let ada = site.http("ada");
    let bytes = &image.layers[1];
    let digest = sha256(bytes);
    let path = path_of("tools/x", &digest);
    site.flip_bit(&digest, 1_400_000);
    let (head, body) = pull(&ada, &path, "range: bytes=10-99\r\n");
    assert!(head.starts_with("http/1.1 206") && body == bytes[10..100]);
    let (head, body) = pull(&ada, &path, "range: bytes=0-\r\n");
    assert!(head.starts_with("http/1.1 206") && body.len() < bytes.len());
    ada.head(&path).expect(404);
}

#[test]
fn a_file_of_another_length_or_none_is_noticed_in_any_case() {
    for check in ["length", "digest"] {
        let (mut site, image) = site_with_image(check);
        for bytes in &image.layers {
            let digest = sha256(bytes);
            site.truncate(&digest, bytes.len() as u64 - 1);
            let message = site.http("ada").get(&path_of("tools/x", &digest)).expect_error(500, "UNKNOWN");
            assert!(message.contains("push the image again"), "{message}");
            expect_quarantined(&site, &digest, &bytes[..bytes.len() - 1]);
            expect_healed_by_push(&site, &digest, bytes);

            // Out of the journal, which would have written it anew.
            site.stop();
            site.start();
            fs::remove_file(site.blob_file(&digest)).expect("removed");
            let ada = site.http("ada");
            ada.get(&path_of("tools/x", &digest)).expect_error(500, "UNKNOWN");
            ada.head(&path_of("tools/y", &digest)).expect(404);
            expect_healed_by_push(&site, &digest, bytes);
        }
    }
}

#[test]
fn a_push_mends_what_nobody_has_noticed() {
    let (site, image) = site_with_image("length");
    let ada = site.http("ada");
    for bytes in &image.layers {
        let digest = sha256(bytes);
        site.flip_bit(&digest, 0);
        ada.push_blob("tools/y", bytes);
        assert!(fs::read(site.blob_file(&digest)).expect("file") == *bytes);
        for repository in ["tools/x", "tools/y"] {
            assert!(ada.get(&path_of(repository, &digest)).expect(200).body == *bytes);
        }
    }
}

#[test]
fn what_is_in_quarantine_can_be_neither_named_nor_mounted() {
    let (site, image) = site_with_image("length");
    let ada = site.http("ada");
    let digest = sha256(&image.layers[1]);
    site.truncate(&digest, 5);
    ada.get(&path_of("tools/x", &digest)).expect_error(500, "UNKNOWN");
    let pushed = ada.push_manifest("tools/x", "w", image.media_type, &image.manifest());
    let message = pushed.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    assert!(message.contains(&digest), "{message}");
    for from in ["&from=tools/x", ""] {
        ada.post(&format!("/v2/tools/z/blobs/uploads/?mount={digest}{from}")).expect(202);
    }
    ada.push_blob("tools/y", &image.layers[1]);
    ada.push_manifest("tools/x", "w", image.media_type, &image.manifest()).expect(201);
    ada.post(&format!("/v2/tools/z/blobs/uploads/?mount={digest}&from=tools/x")).expect(201);
}

#[test]
fn gc_takes_what_is_in_quarantine_and_keeps_its_file() {
    let (site, image) = site_with_image("length");
    let ada = site.http("ada");
    let bytes = &image.layers[1];
    let digest = sha256(bytes);
    site.truncate(&digest, 5);
    ada.get(&path_of("tools/x", &digest)).expect_error(500, "UNKNOWN");
    for repository in ["tools/x", "tools/y"] {
        ada.delete(&format!("/v2/{repository}/manifests/{}", image.digest())).expect(202);
    }
    let told = site.torno_ok(&["gc", "--grace", "0s"]);
    assert!(told.contains("in 3 blobs, 1 manifest"), "{told}");
    assert_eq!(fs::read(site.quarantined_file(&digest)).expect("kept"), &bytes[..5]);
    image.push(&ada, "tools/x", "v").expect(201);
    assert!(ada.get(&path_of("tools/x", &digest)).expect(200).body == *bytes);
}

#[test]
fn the_server_looks_for_damage_by_itself() {
    let (mut site, image) = site_with_image("length");
    let bytes = &image.layers[1];
    let digest = sha256(bytes);
    site.flip_bit(&digest, 99);
    let damaged = fs::read(site.blob_file(&digest)).expect("file");
    site.stop();
    let mut site = site.with("TORNO_SCRUB_INTERVAL", "1h").with("TORNO_SCRUB_RATE", "1GiB");
    site.start();
    wait_until("the damaged blob is found", || site.log().contains("was looked at").then_some(()));
    expect_quarantined(&site, &digest, &damaged);
    let log = site.log();
    let line = log.lines().find(|line| line.contains("in quarantine")).expect("it is logged");
    assert!(line.contains(&digest) && line.contains("tools/x:v, tools/y:v"), "{line}");
    expect_healed_by_push(&site, &digest, bytes);
}
