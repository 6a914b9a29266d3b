//! Blobs on their way in, over HTTP, without any client's habits (distribution-spec: Pushing blobs).

use torno_tests::{Answer, Http, Site, layer, sha256, wait_until};

const BYTES: [(&str, &str); 1] = [("content-type", "application/octet-stream")];
const MIB: usize = 1024 * 1024;

fn patch(http: &Http, location: &str, range: Option<&str>, bytes: &[u8]) -> Answer {
    let mut headers = BYTES.to_vec();
    headers.extend(range.map(|range| ("content-range", range)));
    http.send("PATCH", location, &headers, bytes)
}

fn finish(http: &Http, location: &str, digest: &str, bytes: &[u8]) -> Answer {
    http.send("PUT", &format!("{location}?digest={digest}"), &BYTES, bytes)
}

#[track_caller]
fn assert_blob(http: &Http, repository: &str, bytes: &[u8]) {
    let read = http.get(&format!("/v2/{repository}/blobs/{}", sha256(bytes)));
    assert!(read.expect(200).body == bytes, "the bytes differ");
}

/// Bytes without a pattern that a lost or doubled piece would leave whole.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

#[test]
fn a_blob_comes_in_every_way() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");

    let bytes = layer("all in one POST");
    let digest = sha256(&bytes);
    let posted = ada.send("POST", &format!("/v2/a/b/blobs/uploads/?digest={digest}"), &BYTES, &bytes);
    posted.expect(201).expect_header("location", &format!("/v2/a/b/blobs/{digest}"));
    posted.expect_header("docker-content-digest", &digest);
    assert_blob(&ada, "a/b", &bytes);

    let bytes = layer("POST, then PUT");
    assert_eq!(ada.push_blob("a/b", &bytes), sha256(&bytes));
    assert_blob(&ada, "a/b", &bytes);

    let bytes = layer("POST, PATCH, PUT");
    let location = ada.begin_upload("a/b");
    let sent = patch(&ada, &location, None, &bytes);
    sent.expect(202).expect_header("range", &format!("0-{}", bytes.len() - 1));
    finish(&ada, &sent.header("location"), &sha256(&bytes), b"").expect(201);
    assert_blob(&ada, "a/b", &bytes);

    let location = ada.begin_upload("a/b");
    patch(&ada, &location, Some("0-4"), b"01234").expect(202).expect_header("range", "0-4");
    patch(&ada, &location, Some("bytes 5-7/*"), b"567").expect(202).expect_header("range", "0-7");
    finish(&ada, &location, &sha256(b"0123456789"), b"89").expect(201);
    assert_blob(&ada, "a/b", b"0123456789");

    let empty = ada.push_blob("a/b", b"");
    assert_blob(&ada, "a/b", b"");
    ada.head(&format!("/v2/a/b/blobs/{empty}")).expect(200).expect_header("content-length", "0");
}

#[test]
fn a_chunk_out_of_order_is_told_where_to_go_on() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    patch(&ada, &location, Some("0-4"), b"01234").expect(202);
    for range in ["0-4", "6-9", "3-7"] {
        let refused = patch(&ada, &location, Some(range), &b"xxxxx"[..range_length(range)]);
        refused.expect_error(416, "BLOB_UPLOAD_INVALID");
        refused.expect_header("range", "0-4");
    }
    patch(&ada, &location, Some("5-9"), b"56789").expect(202);
    finish(&ada, &location, &sha256(b"0123456789"), b"").expect(201);
}

fn range_length(range: &str) -> usize {
    let (first, last) = range.split_once('-').expect("a range");
    last.parse::<usize>().expect("a number") - first.parse::<usize>().expect("a number") + 1
}

#[test]
fn a_wrong_content_range_takes_nothing() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    for range in ["0-3", "0-5"] {
        patch(&ada, &location, Some(range), b"01234").expect_error(400, "SIZE_INVALID");
    }
    for range in ["", "x", "4-0", "-1-3", "0-99999999999999999999"] {
        patch(&ada, &location, Some(range), b"01234").expect_error(400, "BLOB_UPLOAD_INVALID");
    }
    ada.get(&location).expect(204).expect_header("range", "0-0");
    patch(&ada, &location, Some("0-4"), b"01234").expect(202);
}

#[test]
fn a_session_tells_how_far_it_is_and_can_be_given_up() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    patch(&ada, &location, None, b"01234").expect(202);
    let status = ada.get(&location);
    status.expect(204).expect_header("range", "0-4").expect_header("location", &location);
    assert!(location.ends_with(&status.header("docker-upload-uuid")));
    ada.delete(&location).expect(204);
    ada.get(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    patch(&ada, &location, None, b"5").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    finish(&ada, &location, &sha256(b"01234"), b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    ada.delete(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(site.upload_bytes(), 0, "nothing is left of it");
}

#[test]
fn bytes_with_another_digest_end_the_session() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let wrong = sha256(b"something else");

    let location = ada.begin_upload("a/b");
    let message = finish(&ada, &location, &wrong, b"01234").expect_error(400, "DIGEST_INVALID");
    assert!(message.contains(&sha256(b"01234")), "it says what came: {message}");
    ada.get(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    let posted = ada.send("POST", &format!("/v2/a/b/blobs/uploads/?digest={wrong}"), &BYTES, b"01234");
    posted.expect_error(400, "DIGEST_INVALID");
    assert_eq!((site.upload_bytes(), site.blob_bytes()), (0, 0));
    // Until something is there, not even the name is.
    ada.get(&format!("/v2/a/b/blobs/{wrong}")).expect_error(404, "NAME_UNKNOWN");
    ada.push_blob("a/b", b"right");
    for digest in [&wrong, &sha256(b"01234")] {
        ada.get(&format!("/v2/a/b/blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
    }
}

#[test]
fn an_upload_without_a_readable_digest_can_still_be_ended() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    patch(&ada, &location, None, b"01234").expect(202);
    ada.send("PUT", &location, &BYTES, b"").expect_error(400, "DIGEST_INVALID");
    for digest in ["", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256"] {
        finish(&ada, &location, digest, b"").expect_error(400, "DIGEST_INVALID");
    }
    ada.get(&location).expect(204).expect_header("range", "0-4");
    finish(&ada, &location, &sha256(b"01234"), b"").expect(201);
}

#[test]
fn a_body_cut_off_leaves_what_came() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let bytes = noise(5 * MIB);
    let half = bytes.len() / 2;
    let location = ada.begin_upload("a/b");
    let mut connection = ada.raw();
    connection.head("PATCH", &location, bytes.len());
    connection.send(&bytes[..half]);
    drop(connection);
    let came = wait_until("the server has seen the end", || {
        let status = ada.get(&location);
        // Busy while the request that was cut off still has it.
        (status.status == 204).then(|| status.header("range")).filter(|range| range != "0-0")
    });
    assert_eq!(came, format!("0-{}", half - 1), "all that was sent");
    let rest = format!("{half}-{}", bytes.len() - 1);
    patch(&ada, &location, Some(&rest), &bytes[half..]).expect(202);
    finish(&ada, &location, &sha256(&bytes), b"").expect(201);
    assert_blob(&ada, "a/b", &bytes);
}

#[test]
fn a_closing_request_cut_off_makes_no_blob() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    ada.push_blob("a/b", b"there");
    let bytes = noise(MIB);
    let half = bytes.len() / 2;
    let mut connection = ada.raw();
    // Even when what came happens to have the digest: the client said there was more.
    connection.head("PUT", &format!("{location}?digest={}", sha256(&bytes[..half])), bytes.len());
    connection.send(&bytes[..half]);
    drop(connection);
    wait_until("the server has seen the end", || {
        let status = ada.get(&location);
        (status.status == 204 && status.header("range") != "0-0").then_some(())
    });
    ada.get(&format!("/v2/a/b/blobs/{}", sha256(&bytes[..half]))).expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn an_upload_goes_on_after_kill_at_the_byte_where_it_stopped() {
    let mut site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let bytes = noise(6 * MIB);
    let location = ada.begin_upload("a/b");
    patch(&ada, &location, None, &bytes[..MIB + 7]).expect(202);
    let mut connection = ada.raw();
    connection.head("PATCH", &location, bytes.len() - MIB - 7);
    connection.send(&bytes[MIB + 7..4 * MIB]);
    wait_until("some of the second request is on the disk", || {
        (site.upload_bytes() > MIB as u64 + 7).then_some(())
    });
    site.kill();
    drop(connection);
    let kept = usize::try_from(site.upload_bytes()).expect("a length");
    site.start();
    let status = ada.get(&location);
    status.expect(204).expect_header("range", &format!("0-{}", kept - 1));
    let rest = format!("{kept}-{}", bytes.len() - 1);
    patch(&ada, &location, Some(&rest), &bytes[kept..]).expect(202);
    finish(&ada, &location, &sha256(&bytes), b"").expect(201);
    assert_blob(&ada, "a/b", &bytes);
}

#[test]
fn one_request_at_a_time_writes_to_a_session() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    let mut connection = ada.raw();
    connection.head("PATCH", &location, 10);
    connection.send(b"01234");
    wait_until("the first request has the session", || (ada.get(&location).status == 409).then_some(()));
    patch(&ada, &location, None, b"xxxxx").expect_error(409, "BLOB_UPLOAD_INVALID");
    connection.send(b"56789");
    assert_eq!(connection.answer().0, 202);
    finish(&ada, &location, &sha256(b"0123456789"), b"").expect(201);
}

#[test]
fn a_mount_needs_the_right_to_read() {
    let site = Site::start_with("", &["ada", "bob"]);
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    let digest = ada.push_blob("ada/one", b"shared");
    let mount = |who: &Http, digest: &str, from: &str| {
        who.post(&format!("/v2/{}/blobs/uploads/?mount={digest}{from}", "to/here"))
    };

    // Not one's own, not there, no such repository, none named: all alike.
    let absent = sha256(b"nobody has this");
    for (digest, from) in
        [(&digest, "&from=ada/one"), (&digest, "&from=ada/two"), (&absent, "&from=ada/one"), (&digest, "")]
    {
        let answer = mount(&bob, digest, from);
        answer.expect(202).expect_header("range", "0-0");
        assert!(answer.header("location").starts_with("/v2/to/here/blobs/uploads/"));
        assert!(answer.body.is_empty());
        let mut names: Vec<&str> = answer.headers.keys().map(ureq::http::HeaderName::as_str).collect();
        names.sort_unstable();
        let plain = bob.post("/v2/to/here/blobs/uploads/");
        let mut expected: Vec<&str> = plain.headers.keys().map(ureq::http::HeaderName::as_str).collect();
        expected.sort_unstable();
        assert_eq!(names, expected, "{from}");
    }
    bob.push_blob("to/here", b"bob's own");
    bob.get(&format!("/v2/to/here/blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");

    let mounted = ada.post(&format!("/v2/ada/two/blobs/uploads/?mount={digest}&from=ada/one"));
    mounted.expect(201).expect_header("location", &format!("/v2/ada/two/blobs/{digest}"));
    assert_blob(&ada, "ada/two", b"shared");
    mount(&bob, "sha256:abc", "&from=ada/one").expect_error(400, "DIGEST_INVALID");
}

#[test]
fn a_mount_without_a_source_finds_what_one_may_read() {
    let site = Site::start_with("", &["ada", "bob"]);
    let (ada, bob) = (site.http("ada"), site.http("bob"));
    let digest = ada.push_blob("ada/one", b"to be found");
    let mount = |http: &Http, name: &str| http.post(&format!("/v2/{name}/blobs/uploads/?mount={digest}"));
    mount(&ada, "ada/two").expect(201).expect_header("docker-content-digest", &digest);
    ada.get(&format!("/v2/ada/two/blobs/{digest}")).expect(200);
    mount(&bob, "bob/one").expect(202);
    bob.push_blob("bob/one", b"bob's own");
    bob.get(&format!("/v2/bob/one/blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn a_session_that_rests_too_long_expires() {
    let mut site = Site::new("").with("TORNO_REGISTRY_UPLOAD_LIFETIME", "1s");
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    let sent = patch(&ada, &location, None, b"01234");
    // A machine that stood still for a second may have let it expire before.
    assert!([202, 404].contains(&sent.status), "{}", sent.status);
    // By the server alone: nobody runs gc.
    wait_until("its bytes are gone", || (site.upload_bytes() == 0).then_some(()));
    ada.get(&location).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    patch(&ada, &location, None, b"5").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    finish(&ada, &location, &sha256(b"01234"), b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_session_outlives_a_restart_within_its_lifetime() {
    let mut site = Site::new("").with("TORNO_REGISTRY_UPLOAD_LIFETIME", "1h");
    site.add_users(&["ada"]);
    site.start();
    let ada = site.http("ada");
    let location = ada.begin_upload("a/b");
    patch(&ada, &location, None, b"01234").expect(202);
    site.stop();
    site.start();
    site.torno_ok(&["gc", "--grace", "0s"]);
    ada.get(&location).expect(204).expect_header("range", "0-4");
    finish(&ada, &location, &sha256(b"01234"), b"").expect(201);
}

#[test]
fn one_post_that_fails_leaves_nothing() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let digest = sha256(b"0123456789");
    let headers = [BYTES[0], ("content-range", "0-8")];
    let path = format!("/v2/a/b/blobs/uploads/?digest={digest}");
    ada.send("POST", &path, &headers, b"0123456789").expect_error(400, "SIZE_INVALID");
    wait_until("the session is gone", || {
        let files = std::fs::read_dir(site.path("registry-data/uploads")).expect("uploads").count();
        (files == 0).then_some(())
    });
}
