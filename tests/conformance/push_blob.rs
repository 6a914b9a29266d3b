//! Push: blobs.

use std::collections::BTreeSet;

use torno_tests::{OCI_IMAGE, sha256};

use crate::{BYTES, Case, closing, location, sha512};

#[test]
fn push_blob() {
    requirements! {
        "Pushing blobs" => [an_invalid_digest_is_400, an_unsupported_algorithm_is_400, the_same_blob_twice_is_one],
        "POST then PUT" => [
            a_session_begins_with_202_and_a_location,
            locations_survive_a_reverse_proxy,
            every_session_has_a_name_of_its_own,
            put_ends_a_session_with_a_pullable_blob,
            put_of_other_bytes_stores_nothing,
        ],
        "Single POST" => [
            one_post_pushes_a_blob,
            one_post_of_other_bytes_stores_nothing,
        ],
        "Pushing a blob in chunks" => [
            a_chunk_is_202_with_location_and_range,
            the_last_chunk_may_come_with_put,
            a_chunk_may_be_as_small_as_the_registry_says,
            a_stream_needs_no_range,
            the_first_chunk_begins_at_0,
            a_chunk_out_of_order_is_416_and_the_session_goes_on,
            a_last_chunk_out_of_order_is_416_and_the_session_goes_on,
            a_range_outside_the_grammar_is_refused,
            a_chunk_of_another_length_than_its_range_is_refused,
            a_chunk_of_unknown_length_keeps_to_its_range,
            a_session_is_closed_with_the_digest_of_the_whole,
            a_session_is_not_closed_without_a_digest,
            sha512_may_be_announced,
            sha512_may_come_unannounced,
            an_announced_algorithm_must_be_known,
        ],
        "Status of an upload" => [
            the_status_is_204_with_location_and_range,
            the_status_of_a_fresh_session_is_204,
            the_status_of_an_unknown_session_is_404,
        ],
        "Cancel a blob upload" => [a_cancelled_session_is_gone, an_unknown_session_is_not_cancelled],
        "Mounting a blob from another repository" => [
            a_mounted_blob_is_201_and_pullable,
            a_blob_by_sha512_is_mounted,
            a_mount_may_name_no_source,
            a_mount_that_finds_nothing_begins_a_session,
        ],
    }
}

/// Pushing blobs: a digest that is none SHOULD be 400, in every way to push.
fn an_invalid_digest_is_400(case: &Case<'_>) {
    let upper = sha256(b"x").to_uppercase();
    for digest in ["sha256", "sha256:", "sha256:abc", "x", &upper] {
        case.post(&format!("?digest={digest}")).expect_error(400, "DIGEST_INVALID");
        case.post(&format!("?mount={digest}&from={}", case.beside())).expect_error(400, "DIGEST_INVALID");
        case.close(&case.begin(), digest, b"x").expect_error(400, "DIGEST_INVALID");
    }
}

/// Pushing blobs: a digest of an algorithm the registry does not support SHOULD be 400, in every way to push.
fn an_unsupported_algorithm_is_400(case: &Case<'_>) {
    for digest in ["md5:9dd4e461268c8034f5c8564e155c67a6", "sha384:abcd", "multihash+base58:QmRZxt2b"] {
        case.post(&format!("?digest={digest}")).expect_error(400, "DIGEST_INVALID");
        case.close(&case.begin(), digest, b"x").expect_error(400, "DIGEST_INVALID");
    }
}

/// Layer Upload De-duplication: two uploads of one blob at a time both go on to their end.
fn the_same_blob_twice_is_one(case: &Case<'_>) {
    let bytes = case.bytes("twice");
    let before = case.site.blob_bytes();
    let sessions = [case.begin(), case.begin()];
    for session in &sessions {
        case.close(session, &sha256(&bytes), &bytes).expect(201);
    }
    case.assert_blob(&sha256(&bytes), &bytes);
    assert_eq!(case.site.blob_bytes() - before, bytes.len() as u64, "it is stored once");
}

/// POST then PUT (end-4a): the answer MUST be 202 with the session's `Location`, which the registry then knows.
fn a_session_begins_with_202_and_a_location(case: &Case<'_>) {
    let begun = case.post("");
    let session = location(begun.expect(202));
    case.ada.get(&session).expect(204);
}

/// POST then PUT (end-4a): the location MAY be relative, and is: another name or scheme in front changes nothing.
fn locations_survive_a_reverse_proxy(case: &Case<'_>) {
    let bytes = case.bytes("relative");
    let session = case.post("").header("location");
    let status = case.ada.get(&session).header("location");
    let blob = case.close(&session, &sha256(&bytes), &bytes).header("location");
    let image = case.image("relative", "v");
    let manifest = case.put("v", OCI_IMAGE, &image.manifest()).header("location");
    for location in [session, status, blob, manifest] {
        assert!(location.starts_with("/v2/"), "{location}");
    }
}

/// POST then PUT (end-4a): the location MUST hold a UUID that names this session and no other.
fn every_session_has_a_name_of_its_own(case: &Case<'_>) {
    let names: BTreeSet<String> = (0..20)
        .map(|_| {
            let session = case.begin();
            let name = session.split(['/', '?', '=']).map(|part| part.replace('-', ""));
            let mut names = name.filter(|part| part.len() == 32);
            names.find(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit())).expect("a UUID")
        })
        .collect();
    assert_eq!(names.len(), 20);
}

/// POST then PUT (end-6): the answer to `PUT` MUST be 201 with a `Location` to pull the blob from.
fn put_ends_a_session_with_a_pullable_blob(case: &Case<'_>) {
    let bytes = case.bytes("put");
    let session = case.begin();
    let put = case.close(&session, &sha256(&bytes), &bytes);
    put.expect(201).expect_header("docker-content-digest", &sha256(&bytes));
    assert_eq!(case.ada.get(&location(&put)).expect(200).body, bytes);
    case.assert_blob(&sha256(&bytes), &bytes);
    case.ada.get(&session).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

/// POST then PUT (end-6): bytes of another digest are no blob, neither by that digest nor by their own.
fn put_of_other_bytes_stores_nothing(case: &Case<'_>) {
    case.ada.push_blob(&case.repository, b"the repository is there");
    let (bytes, other) = (case.bytes("came"), sha256(&case.bytes("promised")));
    case.close(&case.begin(), &other, &bytes).expect_error(400, "DIGEST_INVALID");
    for digest in [other, sha256(&bytes)] {
        case.get(&format!("blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
    }
}

/// Single POST (end-4b): MUST be 201 with a `Location` to pull the blob from.
fn one_post_pushes_a_blob(case: &Case<'_>) {
    for bytes in [case.bytes("posted"), Vec::new()] {
        for digest in [sha256(&bytes), sha512(&bytes)] {
            let path = case.path(&format!("blobs/uploads/?digest={digest}"));
            let posted = case.ada.send("POST", &path, &[BYTES], &bytes);
            posted.expect(201).expect_header("docker-content-digest", &digest);
            assert_eq!(case.ada.get(&location(&posted)).expect(200).body, bytes);
        }
    }
}

/// Single POST (end-4b): the digest MUST be the blob's.
fn one_post_of_other_bytes_stores_nothing(case: &Case<'_>) {
    case.ada.push_blob(&case.repository, b"the repository is there");
    let (bytes, other) = (case.bytes("came"), sha256(&case.bytes("promised")));
    let path = case.path(&format!("blobs/uploads/?digest={other}"));
    case.ada.send("POST", &path, &[BYTES], &bytes).expect_error(400, "DIGEST_INVALID");
    for digest in [other, sha256(&bytes)] {
        case.get(&format!("blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
    }
}

/// Pushing a blob in chunks (end-5): each `PATCH` MUST be 202 with where to go on and what there is. The last chunk
/// may be a `PATCH`; the `PUT` that MUST follow has no body then.
fn a_chunk_is_202_with_location_and_range(case: &Case<'_>) {
    let bytes = case.bytes("chunks");
    let mut session = case.begin();
    let mut sent = 0;
    for chunk in bytes.chunks(1000) {
        let end = sent + chunk.len() - 1;
        let answer = case.chunk(&session, &format!("{sent}-{end}"), chunk);
        answer.expect(202).expect_header("range", &format!("0-{end}"));
        session = location(&answer);
        sent = end + 1;
    }
    let closed = case.close(&session, &sha256(&bytes), b"");
    assert_eq!(case.ada.get(&location(closed.expect(201))).expect(200).body, bytes);
}

/// Pushing a blob in chunks (end-6): the last chunk may be the body of `PUT`, with or without its range.
fn the_last_chunk_may_come_with_put(case: &Case<'_>) {
    for range in [Some("content-range"), None] {
        let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
        let mut headers = vec![BYTES];
        headers.extend(range.map(|name| (name, "5-9")));
        let digest = sha256(b"0123456789");
        let closed = case.ada.send("PUT", &closing(&session, &digest), &headers, b"56789");
        assert_eq!(case.ada.get(&location(closed.expect(201))).expect(200).body, b"0123456789");
        case.delete(&format!("blobs/{digest}")).expect(202);
    }
}

/// Pushing a blob in chunks (end-4a): a smallest chunk size SHOULD be announced; without one there is none.
fn a_chunk_may_be_as_small_as_the_registry_says(case: &Case<'_>) {
    let begun = case.post("");
    assert!(!begun.expect(202).headers.contains_key("oci-chunk-min-length"));
    let mut session = location(&begun);
    for (place, byte) in b"small".iter().enumerate() {
        session = location(case.chunk(&session, &format!("{place}-{place}"), &[*byte]).expect(202));
    }
    case.close(&session, &sha256(b"small"), b"").expect(201);
}

/// Pushing a blob in chunks (end-5): clients that stream a blob in one `PATCH` send no range.
fn a_stream_needs_no_range(case: &Case<'_>) {
    let bytes = case.bytes("stream");
    let sent = case.ada.send("PATCH", &case.begin(), &[BYTES], &bytes);
    sent.expect(202).expect_header("range", &format!("0-{}", bytes.len() - 1));
    case.close(&location(&sent), &sha256(&bytes), b"").expect(201);
    case.assert_blob(&sha256(&bytes), &bytes);
}

/// Pushing a blob in chunks (end-5): the first chunk's range MUST begin with 0.
fn the_first_chunk_begins_at_0(case: &Case<'_>) {
    let session = case.begin();
    case.chunk(&session, "1-5", b"12345").expect(416);
    case.chunk(&session, "0-4", b"01234").expect(202);
}

/// Pushing a blob in chunks (end-5, end-13): a chunk out of order MUST be 416; the status then says where to go on.
fn a_chunk_out_of_order_is_416_and_the_session_goes_on(case: &Case<'_>) {
    let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
    for (range, bytes) in [("6-9", &b"6789"[..]), ("0-4", b"01234"), ("3-7", b"34567"), ("4-4", b"4")] {
        case.chunk(&session, range, bytes).expect(416);
    }
    let status = case.ada.get(&session);
    status.expect(204).expect_header("range", "0-4");
    let session = location(case.chunk(&location(&status), "5-9", b"56789").expect(202));
    case.close(&session, &sha256(b"0123456789"), b"").expect(201);
    case.assert_blob(&sha256(b"0123456789"), b"0123456789");
}

/// Pushing a blob in chunks (end-6): a last chunk out of order MUST be 416 in `PUT` as well.
fn a_last_chunk_out_of_order_is_416_and_the_session_goes_on(case: &Case<'_>) {
    let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
    let digest = sha256(b"0123456789");
    let close = |session: &str, range: &str, bytes: &[u8]| {
        case.ada.send("PUT", &closing(session, &digest), &[BYTES, ("content-range", range)], bytes)
    };
    close(&session, "6-9", b"6789").expect(416);
    close(&session, "0-4", b"01234").expect(416);
    let status = case.ada.get(&session);
    status.expect(204).expect_header("range", "0-4");
    close(&location(&status), "5-9", b"56789").expect(201);
    case.assert_blob(&digest, b"0123456789");
}

/// Pushing a blob in chunks (end-5): the range MUST be two numbers and a dash, both ends included.
fn a_range_outside_the_grammar_is_refused(case: &Case<'_>) {
    let session = case.begin();
    for range in ["x", "0", "0-", "-4", "4-0", "0-x", "0-3", "0-5"] {
        assert_eq!(case.chunk(&session, range, b"01234").status, 400, "{range}");
    }
    case.chunk(&session, "0-4", b"01234").expect(202);
}

/// Pushing a blob in chunks (end-5, end-6): `Content-Length` is the chunk's, as its range says; a chunk that says
/// otherwise is refused before anything of it is taken.
fn a_chunk_of_another_length_than_its_range_is_refused(case: &Case<'_>) {
    let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
    for range in ["5-8", "5-10"] {
        let close = closing(&session, &sha256(b"0123456789"));
        let headers = [BYTES, ("content-range", range)];
        for refused in
            [case.chunk(&session, range, b"56789"), case.ada.send("PUT", &close, &headers, b"56789")]
        {
            refused.expect_error(400, "SIZE_INVALID");
            refused.expect_header("range", "0-4");
            assert_eq!(refused.json()["errors"][0]["detail"]["received"], 5);
        }
    }
    case.ada.get(&session).expect(204).expect_header("range", "0-4");
    let session = location(case.chunk(&session, "5-9", b"56789").expect(202));
    case.close(&session, &sha256(b"0123456789"), b"").expect(201);
}

/// Pushing a blob in chunks (end-5): the same when the length is not told beforehand. What came of the range stays, as
/// of any chunk that breaks off, and nothing beyond it; the status says where to go on.
fn a_chunk_of_unknown_length_keeps_to_its_range(case: &Case<'_>) {
    let send = |session: &str, range: &str, chunk: &str| {
        let mut connection = case.ada.raw();
        let lines = format!("content-range: {range}\r\ntransfer-encoding: chunked\r\n");
        connection.head_with("PATCH", session, &lines);
        connection.send(format!("{:x}\r\n{chunk}\r\n0\r\n\r\n", chunk.len()).as_bytes());
        connection.answer()
    };
    let session = case.begin();
    assert_eq!(send(&session, "0-4", "01234").0, 202);
    for (range, chunk, received) in [("5-9", "567", "0-7"), ("8-8", "8x", "0-8")] {
        let (status, text) = send(&session, range, chunk);
        assert!(status == 400 && text.contains("SIZE_INVALID"), "{text}");
        assert!(text.contains(&format!("\r\nrange: {received}\r\n")), "{text}");
        case.ada.get(&session).expect(204).expect_header("range", received);
    }
    assert_eq!(send(&session, "5-9", "56789").0, 416);
    assert_eq!(send(&session, "9-9", "9").0, 202);
    case.close(&session, &sha256(b"0123456789"), b"").expect(201);
    case.assert_blob(&sha256(b"0123456789"), b"0123456789");
}

/// Pushing a blob in chunks (end-6): the digest in `PUT` MUST be that of all bytes, not of the last chunk.
fn a_session_is_closed_with_the_digest_of_the_whole(case: &Case<'_>) {
    let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
    case.close(&session, &sha256(b"56789"), b"56789").expect_error(400, "DIGEST_INVALID");
}

/// Pushing a blob in chunks (end-6): `PUT` MUST have the digest.
fn a_session_is_not_closed_without_a_digest(case: &Case<'_>) {
    let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
    case.ada.send("PUT", &session, &[BYTES], b"").expect_error(400, "DIGEST_INVALID");
    case.close(&session, &sha256(b"01234"), b"").expect(201);
}

/// Pushing a blob in chunks (end-4c): `digest-algorithm` SHOULD announce another algorithm than SHA-256.
fn sha512_may_be_announced(case: &Case<'_>) {
    let (bytes, digest) = (case.bytes("announced"), sha512(&case.bytes("announced")));
    let session = location(case.post("?digest-algorithm=sha512").expect(202));
    let session = location(case.chunk(&session, "0-9", &bytes[..10]).expect(202));
    let closed = case.close(&session, &digest, &bytes[10..]);
    closed.expect(201).expect_header("docker-content-digest", &digest);
    assert_eq!(case.ada.get(&location(&closed)).expect(200).body, bytes);
    case.head(&format!("blobs/{digest}")).expect(200).expect_header("docker-content-digest", &digest);
}

/// Pushing a blob in chunks (end-4a): the announcement is a SHOULD for clients; without it the blob is taken too.
fn sha512_may_come_unannounced(case: &Case<'_>) {
    let (bytes, digest) = (case.bytes("unannounced"), sha512(&case.bytes("unannounced")));
    let session = location(case.chunk(&case.begin(), "0-9", &bytes[..10]).expect(202));
    case.close(&session, &digest, &bytes[10..]).expect(201).expect_header("docker-content-digest", &digest);
    case.assert_blob(&digest, &bytes);
}

/// Pushing a blob in chunks (end-4c): an algorithm the registry does not support SHOULD be 400.
fn an_announced_algorithm_must_be_known(case: &Case<'_>) {
    case.post("?digest-algorithm=sha256").expect(202);
    case.post("?digest-algorithm=md5").expect_error(400, "DIGEST_INVALID");
}

/// Pushing a blob in chunks (end-13): the status of an active session MUST be 204 with its location and what it has.
fn the_status_is_204_with_location_and_range(case: &Case<'_>) {
    let begun = case.begin();
    let session = location(case.chunk(&begun, "0-4", b"01234").expect(202));
    for url in [begun, session] {
        let status = case.ada.get(&url);
        assert!(status.expect(204).expect_header("range", "0-4").body.is_empty());
        case.ada.get(&location(&status)).expect(204);
    }
}

/// Pushing a blob in chunks (end-13): the location from `POST` is active at once.
fn the_status_of_a_fresh_session_is_204(case: &Case<'_>) {
    let status = case.ada.get(&case.begin());
    assert!(status.expect(204).header("range").starts_with("0-"));
    case.chunk(&location(&status), "0-4", b"01234").expect(202);
}

/// Pushing a blob in chunks (end-13): the status of what is no session is 404.
fn the_status_of_an_unknown_session_is_404(case: &Case<'_>) {
    let unknown = case.path(&format!("blobs/uploads/{}", "0".repeat(32)));
    case.ada.get(&unknown).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

/// Cancel a blob upload (end-14): `DELETE` SHOULD be 204, and what the session had is released.
fn a_cancelled_session_is_gone(case: &Case<'_>) {
    let before = case.site.upload_bytes();
    let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
    assert_eq!(case.site.upload_bytes(), before + 5);
    assert!(case.ada.delete(&session).expect(204).body.is_empty());
    case.ada.get(&session).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    case.chunk(&session, "5-9", b"56789").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    case.close(&session, &sha256(b"01234"), b"").expect_error(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(case.site.upload_bytes(), before);
}

/// Cancel a blob upload (end-14): what is no session cannot be cancelled: 404.
fn an_unknown_session_is_not_cancelled(case: &Case<'_>) {
    let unknown = case.path(&format!("blobs/uploads/{}", "0".repeat(32)));
    case.ada.delete(&unknown).expect_error(404, "BLOB_UPLOAD_UNKNOWN");
}

/// Mounting a blob (end-11): MUST be 201 with a `Location`; from there on it is this repository's blob.
fn a_mounted_blob_is_201_and_pullable(case: &Case<'_>) {
    let bytes = case.bytes("mounted");
    let digest = case.ada.push_blob(&case.beside(), &bytes);
    let mounted = case.post(&format!("?mount={digest}&from={}", case.beside()));
    mounted.expect(201).expect_header("docker-content-digest", &digest);
    assert_eq!(case.ada.get(&location(&mounted)).expect(200).body, bytes);
    case.ada.delete(&format!("/v2/{}/blobs/{digest}", case.beside())).expect(202);
    case.assert_blob(&digest, &bytes);
}

/// Mounting a blob (end-11): the same by SHA-512.
fn a_blob_by_sha512_is_mounted(case: &Case<'_>) {
    let (bytes, digest) = (case.bytes("mounted"), sha512(&case.bytes("mounted")));
    let session = case.ada.begin_upload(&case.beside());
    case.close(&session, &digest, &bytes).expect(201);
    case.post(&format!("?mount={digest}&from={}", case.beside())).expect(201);
    case.assert_blob(&digest, &bytes);
}

/// Mounting a blob (end-11): a registry MAY do without `from` and find the blob itself.
fn a_mount_may_name_no_source(case: &Case<'_>) {
    let bytes = case.bytes("found");
    let digest = case.ada.push_blob(&case.beside(), &bytes);
    let mounted = case.post(&format!("?mount={digest}"));
    assert_eq!(case.ada.get(&location(mounted.expect(201))).expect(200).body, bytes);
}

/// Mounting a blob (end-11): what cannot be mounted SHOULD be 202, and the session takes the blob.
fn a_mount_that_finds_nothing_begins_a_session(case: &Case<'_>) {
    let unknown = sha256(&case.bytes("nobody has this"));
    case.ada.push_blob(&case.beside(), b"another blob");
    let bobs = case.site.http("bob").push_blob(&format!("{}/bobs", case.repository), &case.bytes("bob's"));
    let (beside, mine) = (case.beside(), &case.repository);
    for query in [
        format!("?mount={unknown}&from={beside}"),
        format!("?mount={unknown}&from={mine}/nowhere"),
        format!("?mount={unknown}&from=NO-NAME"),
        format!("?mount={unknown}"),
        format!("?mount={bobs}&from={mine}/bobs"),
        format!("?mount={bobs}"),
    ] {
        let session = location(case.post(&query).expect(202));
        let bytes = case.bytes(&query);
        case.close(&session, &sha256(&bytes), &bytes).expect(201);
        case.assert_blob(&sha256(&bytes), &bytes);
    }
}
