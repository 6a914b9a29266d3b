//! Pull, and the check for the API itself.

use torno_tests::{Image, OCI_IMAGE, OCI_INDEX, index, sha256};

use crate::{Case, sha512, warnings};

const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

#[test]
fn pull() {
    requirements! {
        "Determining Support" => [the_base_says_that_this_is_a_registry],
        "Pulling manifests" => [
            a_manifest_comes_by_tag_and_by_digest,
            a_manifest_comes_with_its_digest,
            a_manifest_has_the_type_it_was_pushed_with,
            a_manifest_comes_whatever_types_are_accepted,
            a_manifest_of_a_type_that_is_not_accepted_comes_with_a_warning,
            an_unknown_manifest_is_404,
            an_unknown_repository_is_404,
            names_of_the_grammar_are_taken,
            names_outside_the_grammar_are_not,
            tags_of_the_grammar_are_taken,
            tags_outside_the_grammar_are_not,
        ],
        "Pulling blobs" => [
            a_blob_comes_whole,
            a_blob_comes_with_its_digest,
            an_empty_blob_is_a_blob,
            an_unknown_blob_is_404,
            a_range_of_a_blob_is_206,
            a_broken_off_pull_goes_on,
            a_range_past_the_end_is_416,
            a_range_that_ends_before_it_begins_is_416,
            a_range_of_other_bytes_is_the_whole,
        ],
        "Checking if content exists in the registry" => [
            head_of_a_manifest_tells_digest_and_size,
            head_of_a_blob_tells_digest_and_size,
            head_of_an_unknown_manifest_is_404,
            head_of_an_unknown_blob_is_404,
            head_knows_no_ranges,
        ],
        "API" => [what_is_known_is_not_sent_again, what_is_not_known_is_sent],
        "Registry Proxying" => [a_namespace_in_the_query_is_passed_over],
    }
}

/// Determining Support (end-1): `GET /v2/` is 200 on a registry that speaks this protocol.
fn the_base_says_that_this_is_a_registry(case: &Case<'_>) {
    case.ada.get("/v2/").expect(200);
}

/// Pulling manifests (end-3): `GET` of a manifest that is there MUST be 200 with the very manifest.
fn a_manifest_comes_by_tag_and_by_digest(case: &Case<'_>) {
    let image = case.image("pulled", "v");
    for reference in ["v", &image.digest()] {
        assert_eq!(case.get(&format!("manifests/{reference}")).expect(200).body, image.manifest());
    }
}

/// Pulling manifests (end-3): the answer MUST have the manifest's digest in `Docker-Content-Digest`.
fn a_manifest_comes_with_its_digest(case: &Case<'_>) {
    let image = case.image("pulled", "v");
    for reference in ["v", &image.digest()] {
        case.get(&format!("manifests/{reference}")).expect_header("docker-content-digest", &image.digest());
    }
}

/// Pulling manifests (end-3): `Content-Type` SHOULD be what the manifest was pushed as, and SHOULD have no parameters.
fn a_manifest_has_the_type_it_was_pushed_with(case: &Case<'_>) {
    for (image_type, index_type) in [(OCI_IMAGE, OCI_INDEX), (DOCKER_IMAGE, DOCKER_LIST)] {
        let mut image = Image::new(&case.bytes("typed"));
        image.media_type = image_type;
        image.push(&case.ada, &case.repository, "image").expect(201);
        case.get("manifests/image").expect_header("content-type", image_type);
        let list = index(index_type, &[(&image.manifest(), Image::HERE)]);
        case.put("index", &format!("{index_type}; charset=utf-8"), &list).expect(201);
        case.get("manifests/index").expect_header("content-type", index_type);
    }
}

/// Pulling manifests (end-3): a client SHOULD say which types it accepts; a manifest of such a type comes as it is.
fn a_manifest_comes_whatever_types_are_accepted(case: &Case<'_>) {
    let image = case.image("accepted", "v");
    let all = [OCI_INDEX, DOCKER_LIST, OCI_IMAGE, DOCKER_IMAGE].join(", ");
    for accept in [OCI_IMAGE, &all, "*/*"] {
        let pulled = case.ada.send("GET", &case.path("manifests/v"), &[("accept", accept)], b"");
        assert_eq!(pulled.expect(200).body, image.manifest(), "{accept}");
    }
}

/// Pulling manifests (end-3; RFC 9110, section 12.5.1): `Accept` is a SHOULD for clients, and a manifest has one
/// representation. It comes with the type it has, and a warning; a type that is accepted brings none.
fn a_manifest_of_a_type_that_is_not_accepted_comes_with_a_warning(case: &Case<'_>) {
    let image = case.image("not accepted", "v");
    for (accept, warned) in [
        (DOCKER_IMAGE, true),
        ("application/json, text/*", true),
        ("*/*;q=0", true),
        (OCI_IMAGE, false),
        ("application/*", false),
        ("text/html, */*;q=0.1", false),
    ] {
        for method in ["GET", "HEAD"] {
            let pulled = case.ada.send(method, &case.path("manifests/v"), &[("accept", accept)], b"");
            pulled.expect(200).expect_header("content-type", OCI_IMAGE);
            pulled.expect_header("docker-content-digest", &image.digest());
            let told = warnings(&pulled);
            assert_eq!(told.iter().any(|text| text.contains(OCI_IMAGE)), warned, "{accept}: {told:?}");
        }
    }
}

/// Pulling manifests (end-3): a manifest the repository lacks MUST be 404, even if another repository has it.
fn an_unknown_manifest_is_404(case: &Case<'_>) {
    case.image("known", "v");
    let elsewhere = Image::new(&case.bytes("elsewhere"));
    elsewhere.push(&case.ada, &case.beside(), "other").expect(201);
    for reference in ["other", &elsewhere.digest(), &sha256(b"nobody has this"), &sha512(b"nor this")] {
        case.get(&format!("manifests/{reference}")).expect_error(404, "MANIFEST_UNKNOWN");
    }
}

/// Pushing Manifests: pulling from a repository that does not exist MUST be 404.
fn an_unknown_repository_is_404(case: &Case<'_>) {
    for rest in ["manifests/v".to_owned(), format!("manifests/{}", sha256(b"x")), "tags/list".into()] {
        case.get(&rest).expect_error(404, "NAME_UNKNOWN");
    }
}

/// Pulling manifests: every repository name of the specification's grammar can be used.
fn names_of_the_grammar_are_taken(case: &Case<'_>) {
    for name in ["x", "0/1/2", "a.b", "a_b", "a__b", "a---b", "a.b_c__d-e", "blobs/uploads", "a/tags/list/b"]
    {
        let repository = format!("{}/{name}", case.repository);
        let digest = case.ada.push_blob(&repository, b"a name");
        case.ada.get(&format!("/v2/{repository}/blobs/{digest}")).expect(200);
    }
}

/// Pulling manifests: a repository name MUST match the grammar.
fn names_outside_the_grammar_are_not(case: &Case<'_>) {
    for name in ["A", "a..b", "a___b", "a._b", "-a", "a-", ".a", "a_", "a//b", "a%20b", "%C3%A9"] {
        let repository = format!("{}/{name}", case.repository);
        case.ada.post(&format!("/v2/{repository}/blobs/uploads/")).expect_error(400, "NAME_INVALID");
        case.ada.get(&format!("/v2/{repository}/manifests/v")).expect_error(400, "NAME_INVALID");
    }
}

/// Pulling manifests: every tag of the specification's grammar can be used, up to 128 characters.
fn tags_of_the_grammar_are_taken(case: &Case<'_>) {
    let image = case.image("tags", "v");
    for tag in ["a", "Z", "0", "_", "__x", "v1.2.3-rc.1_x", "a..b--c", "run-1", &"t".repeat(128)] {
        case.put(tag, OCI_IMAGE, &image.manifest()).expect(201);
        case.get(&format!("manifests/{tag}")).expect(200);
    }
}

/// Pulling manifests: what is neither a digest nor a tag of the grammar MUST NOT stand in that place.
fn tags_outside_the_grammar_are_not(case: &Case<'_>) {
    let image = case.image("tags", "v");
    for tag in [".a", "-a", "a%20b", "a+b", "%C3%A9", "a@b", &"t".repeat(129)] {
        assert_eq!(case.put(tag, OCI_IMAGE, &image.manifest()).status, 400, "{tag}");
        let status = case.get(&format!("manifests/{tag}")).status;
        assert!([400, 404].contains(&status), "{tag}: {status}");
    }
}

/// Pulling blobs (end-2): `GET` of a blob that is there MUST be 200 with the very bytes.
fn a_blob_comes_whole(case: &Case<'_>) {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(3 * 1024 * 1024 + 7).collect();
    let digest = case.ada.push_blob(&case.repository, &bytes);
    case.assert_blob(&digest, &bytes);
}

/// Pulling blobs (end-2): `Docker-Content-Digest` MUST be there and match the body.
fn a_blob_comes_with_its_digest(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, &case.bytes("digest"));
    let pulled = case.get(&format!("blobs/{digest}"));
    pulled.expect(200).expect_header("docker-content-digest", &sha256(&pulled.body));
}

/// Pulling blobs (end-2): no bytes have a digest too.
fn an_empty_blob_is_a_blob(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, b"");
    case.assert_blob(&digest, b"");
    case.head(&format!("blobs/{digest}")).expect(200).expect_header("content-length", "0");
}

/// Pulling blobs (end-2): a blob the repository lacks MUST be 404, even if another repository has it.
fn an_unknown_blob_is_404(case: &Case<'_>) {
    case.ada.push_blob(&case.repository, b"something");
    let elsewhere = case.ada.push_blob(&case.beside(), &case.bytes("elsewhere"));
    for digest in [elsewhere, sha256(b"nobody has this"), sha512(b"nor this")] {
        case.get(&format!("blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
    }
}

/// Pulling blobs (end-2): `Range` SHOULD be served as HTTP says: 206 with the bytes and their place.
fn a_range_of_a_blob_is_206(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, b"0123456789");
    for (range, bytes, place) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=2-5", "2345", "bytes 2-5/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=-99", "0123456789", "bytes 0-9/10"),
        ("bytes=5-99", "56789", "bytes 5-9/10"),
    ] {
        let path = case.path(&format!("blobs/{digest}"));
        let part = case.ada.send("GET", &path, &[("range", range)], b"");
        assert_eq!(part.expect(206).body, bytes.as_bytes(), "{range}");
        part.expect_header("content-range", place).expect_header("content-length", &bytes.len().to_string());
    }
}

/// Pulling blobs (end-2): with `Range`, a pull that broke off SHOULD go on where it stopped.
fn a_broken_off_pull_goes_on(case: &Case<'_>) {
    let bytes = case.bytes("broken off");
    let digest = case.ada.push_blob(&case.repository, &bytes);
    let path = case.path(&format!("blobs/{digest}"));
    let mut pulled = case.ada.send("GET", &path, &[("range", "bytes=0-99")], b"").expect(206).body.clone();
    pulled.extend(&case.ada.send("GET", &path, &[("range", "bytes=100-")], b"").expect(206).body);
    assert_eq!(sha256(&pulled), digest);
}

/// Pulling blobs (end-2): a range without any byte of the blob SHOULD be 416 with the blob's size, as HTTP says.
fn a_range_past_the_end_is_416(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, b"0123456789");
    let path = case.path(&format!("blobs/{digest}"));
    let refused = case.ada.send("GET", &path, &[("range", "bytes=10-")], b"");
    refused.expect(416).expect_header("content-range", "bytes */10");
}

/// Pulling blobs (end-2; RFC 9110, section 14.2): a range that is none may be refused, and is.
fn a_range_that_ends_before_it_begins_is_416(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, b"0123456789");
    let path = case.path(&format!("blobs/{digest}"));
    let refused = case.ada.send("GET", &path, &[("range", "bytes=5-0")], b"");
    refused.expect(416).expect_header("content-range", "bytes */10");
}

/// Pulling blobs (end-2; RFC 9110, section 13.1.5): with an `If-Range` of other bytes the whole is wanted.
fn a_range_of_other_bytes_is_the_whole(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, b"0123456789");
    let path = case.path(&format!("blobs/{digest}"));
    let etag = case.get(&format!("blobs/{digest}")).header("etag");
    let ask = |etag: &str| case.ada.send("GET", &path, &[("range", "bytes=2-4"), ("if-range", etag)], b"");
    assert_eq!(ask(&etag).expect(206).body, b"234");
    for other in ["\"other\"", &format!("W/{etag}"), "Sat, 01 Jan 2022 00:00:00 GMT"] {
        assert_eq!(ask(other).expect(200).body, b"0123456789", "{other}");
    }
}

/// API (RFC 9110, section 13.1.2): what the client has by its `ETag` is 304, to `GET` and `HEAD`, for blobs and
/// manifests, with the headers that tell what it is.
fn what_is_known_is_not_sent_again(case: &Case<'_>) {
    let image = case.image("known", "v");
    let blob = format!("blobs/{}", sha256(&image.config));
    for rest in ["manifests/v", &format!("manifests/{}", image.digest()), &blob] {
        let pulled = case.get(rest);
        let (etag, digest) = (pulled.expect(200).header("etag"), pulled.header("docker-content-digest"));
        for known in [&etag, &format!("W/{etag}"), &format!("\"x\" , {etag}"), "*"] {
            for method in ["GET", "HEAD"] {
                let answer = case.ada.send(method, &case.path(rest), &[("if-none-match", known)], b"");
                assert!(answer.expect(304).expect_header("etag", &etag).body.is_empty(), "{method} {rest}");
                answer.expect_header("docker-content-digest", &digest);
            }
        }
    }
}

/// API (RFC 9110, section 13.1.2): a tag that has moved and an `ETag` of something else are sent in full, and what is
/// not there is 404 whatever the client knows.
fn what_is_not_known_is_sent(case: &Case<'_>) {
    let first = case.image("first", "v");
    let etag = case.get("manifests/v").header("etag");
    let second = case.image("second", "v");
    let ask =
        |method: &str, rest: &str| case.ada.send(method, &case.path(rest), &[("if-none-match", &etag)], b"");
    assert_eq!(ask("GET", "manifests/v").expect(200).body, second.manifest());
    ask("HEAD", "manifests/v").expect(200).expect_header("docker-content-digest", &second.digest());
    ask("HEAD", &format!("manifests/{}", first.digest())).expect(304);
    ask("GET", &format!("blobs/{}", sha256(&first.config))).expect(200);
    for method in ["GET", "HEAD"] {
        ask(method, "manifests/other").expect(404);
        ask(method, &format!("blobs/{}", sha256(b"nobody has this"))).expect(404);
    }
}

/// Checking if content exists (end-3): `HEAD` of a manifest MUST be 200 with its digest and its size.
fn head_of_a_manifest_tells_digest_and_size(case: &Case<'_>) {
    let image = case.image("head", "v");
    for reference in ["v", &image.digest()] {
        let head = case.head(&format!("manifests/{reference}"));
        assert!(head.expect(200).body.is_empty());
        head.expect_header("docker-content-digest", &image.digest());
        head.expect_header("content-length", &image.manifest().len().to_string());
        head.expect_header("content-type", OCI_IMAGE);
    }
}

/// Checking if content exists (end-2): `HEAD` of a blob MUST be 200 with its digest and its size.
fn head_of_a_blob_tells_digest_and_size(case: &Case<'_>) {
    let bytes = case.bytes("head");
    let digest = case.ada.push_blob(&case.repository, &bytes);
    let head = case.head(&format!("blobs/{digest}"));
    assert!(head.expect(200).body.is_empty());
    head.expect_header("docker-content-digest", &digest);
    head.expect_header("content-length", &bytes.len().to_string());
}

/// Checking if content exists (end-3): `HEAD` of a manifest the repository lacks MUST be 404.
fn head_of_an_unknown_manifest_is_404(case: &Case<'_>) {
    let unknown = format!("manifests/{}", sha256(b"nobody has this"));
    for _ in 0..2 {
        for rest in ["manifests/other", &unknown] {
            assert!(case.head(rest).expect(404).body.is_empty());
        }
        // And once more in a repository that is there.
        case.image("known", "v");
    }
}

/// Checking if content exists (end-2): `HEAD` of a blob the repository lacks MUST be 404.
fn head_of_an_unknown_blob_is_404(case: &Case<'_>) {
    let unknown = format!("blobs/{}", sha256(b"nobody has this"));
    for _ in 0..2 {
        assert!(case.head(&unknown).expect(404).body.is_empty());
        // And once more in a repository that is there.
        case.ada.push_blob(&case.repository, b"known");
    }
}

/// Checking if content exists (end-2): the size MUST be the whole blob's; HTTP has ranges for `GET` alone.
fn head_knows_no_ranges(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, b"0123456789");
    let path = case.path(&format!("blobs/{digest}"));
    let head = case.ada.send("HEAD", &path, &[("range", "bytes=0-3")], b"");
    head.expect(200).expect_header("content-length", "10");
}

/// Registry Proxying: a registry MAY pass over `ns`; then it must not say that it went by it.
fn a_namespace_in_the_query_is_passed_over(case: &Case<'_>) {
    let image = case.image("namespace", "v");
    let pulled = case.get("manifests/v?ns=registry.example.org");
    assert_eq!(pulled.expect(200).body, image.manifest());
    assert!(!pulled.headers.contains_key("oci-namespace"));
}
