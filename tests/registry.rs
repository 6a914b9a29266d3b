//! Blobs and manifests over HTTP, without any client's habits (distribution-spec: Pull, Pushing Manifests).

use serde_json::{Value, json};
use torno_tests::{Image, OCI_IMAGE, OCI_INDEX, Site, index, layer, sha256};

const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The most a manifest may have.
const MAX_MANIFEST: usize = 4 * 1024 * 1024;

#[test]
fn images_and_indexes_of_both_kinds_come_back_as_they_were() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    for (image_type, index_type) in [(OCI_IMAGE, OCI_INDEX), (DOCKER_IMAGE, DOCKER_LIST)] {
        let mut image = Image::new(&layer(image_type));
        image.media_type = image_type;
        image
            .push(&ada, "tools/x", "one")
            .expect(201)
            .expect_header("docker-content-digest", &image.digest());
        let manifest = image.manifest();
        let list = index(index_type, &[(&manifest, Image::HERE)]);
        ada.push_manifest("tools/x", "all", index_type, &list).expect(201);
        for (reference, media_type, bytes) in [
            ("one", image_type, &manifest),
            (&image.digest(), image_type, &manifest),
            ("all", index_type, &list),
            (&sha256(&list), index_type, &list),
        ] {
            let path = format!("/v2/tools/x/manifests/{reference}");
            let got = ada.get(&path);
            assert_eq!(&got.expect(200).body, bytes);
            let head = ada.head(&path);
            assert!(head.expect(200).body.is_empty());
            for answer in [got, head] {
                answer.expect_header("content-type", media_type);
                answer.expect_header("content-length", &bytes.len().to_string());
                answer.expect_header("docker-content-digest", &sha256(bytes));
                answer.expect_header("etag", &format!("\"{}\"", sha256(bytes)));
            }
        }
    }
}

#[test]
fn a_manifest_is_kept_byte_for_byte() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("unknown fields"));
    image.push(&ada, "tools/x", "plain").expect(201);
    let text = String::from_utf8(image.manifest()).expect("UTF-8");
    let odd = text.replacen('{', "\n{ \"x-unknown\" : [1.50, null, \"\\u00e9\"],\t", 1) + "\n\n";
    ada.push_manifest("tools/x", "odd", OCI_IMAGE, odd.as_bytes()).expect(201);
    let path = format!("/v2/tools/x/manifests/{}", sha256(odd.as_bytes()));
    assert_eq!(ada.get(&path).expect(200).body, odd.as_bytes());
}

#[test]
fn a_tag_moves_and_the_digest_stays() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let (first, second) = (Image::new(&layer("first")), Image::new(&layer("second")));
    first.push(&ada, "tools/x", "v").expect(201);
    second.push(&ada, "tools/x", "v").expect(201);
    assert_eq!(ada.get("/v2/tools/x/manifests/v").expect(200).body, second.manifest());
    let old = ada.get(&format!("/v2/tools/x/manifests/{}", first.digest()));
    assert_eq!(old.expect(200).body, first.manifest());
}

#[test]
fn what_is_no_manifest_is_refused_and_not_stored() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("good"));
    image.push(&ada, "tools/x", "good").expect(201);
    let good: Value = serde_json::from_slice(&image.manifest()).expect("JSON");
    let with = |path: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(path).expect("a field") = value;
        changed.to_string().into_bytes()
    };
    let schema_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let cases: [(&str, Vec<u8>, &str); 12] = [
        (OCI_IMAGE, b"".to_vec(), "cannot be read"),
        (OCI_IMAGE, b"{\"schemaVersion\": 2".to_vec(), "cannot be read"),
        (OCI_IMAGE, b"[]".to_vec(), "cannot be read"),
        (OCI_IMAGE, b"\xff\xfe".to_vec(), "cannot be read"),
        (OCI_IMAGE, "[".repeat(100_000).into_bytes(), "cannot be read"),
        (OCI_IMAGE, b"{\"schemaVersion\": 2}".to_vec(), "cannot be read"),
        (DOCKER_IMAGE, image.manifest(), "must be the same"),
        ("text/html", with("/mediaType", json!("text/html")), "not a manifest media type"),
        ("text", image.manifest(), "Content-Type"),
        (schema_1, b"{\"schemaVersion\": 1, \"name\": \"x\", \"tag\": \"y\"}".to_vec(), "current client"),
        (OCI_IMAGE, with("/config/digest", json!("sha256:abc")), "digest"),
        (OCI_IMAGE, with("/layers/0/size", json!(-1)), "cannot be read"),
    ];
    for (media_type, bytes, words) in cases {
        let refused = ada.push_manifest("tools/x", "bad", media_type, &bytes);
        let message = refused.expect_error(400, "MANIFEST_INVALID");
        assert!(message.contains(words), "{message}");
    }
    ada.get("/v2/tools/x/manifests/bad").expect_error(404, "MANIFEST_UNKNOWN");

    let by_digest = ada.push_manifest("tools/x", &sha256(b"other"), OCI_IMAGE, &image.manifest());
    by_digest.expect_error(400, "DIGEST_INVALID");
    let mut untyped = good.clone();
    untyped.as_object_mut().expect("an object").remove("mediaType");
    let path = "/v2/tools/x/manifests/untyped";
    ada.send("PUT", path, &[], untyped.to_string().as_bytes()).expect_error(400, "MANIFEST_INVALID");
    ada.push_manifest("tools/x", "untyped", OCI_IMAGE, untyped.to_string().as_bytes()).expect(201);
    let typed =
        ada.push_manifest("tools/x", "charset", &format!("{OCI_IMAGE}; charset=utf-8"), &image.manifest());
    typed.expect(201);
}

#[test]
fn a_manifest_has_at_most_four_mebibytes() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("size"));
    image.push(&ada, "tools/x", "small").expect(201);
    let mut bytes = image.manifest();
    bytes.resize(MAX_MANIFEST, b' ');
    ada.push_manifest("tools/x", "limit", OCI_IMAGE, &bytes).expect(201);
    assert_eq!(ada.get("/v2/tools/x/manifests/limit").expect(200).body, bytes);
    bytes.push(b' ');
    let refused = ada.push_manifest("tools/x", "past", OCI_IMAGE, &bytes);
    refused.expect_error(413, "MANIFEST_INVALID");
    ada.get("/v2/tools/x/manifests/past").expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn a_manifest_naming_what_is_not_there_is_not_stored() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("incomplete"));
    ada.push_blob("tools/x", &image.config);
    // It is in the registry, but not in this repository.
    ada.push_blob("tools/y", &image.layers[0]);
    let manifest = image.manifest();
    let message =
        ada.push_manifest("tools/x", "v", OCI_IMAGE, &manifest).expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    assert!(message.contains(&sha256(&image.layers[0])), "{message}");
    assert!(!message.contains(&sha256(&image.config)), "{message}");
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let list = index(media_type, &[(&manifest, Image::HERE)]);
        let message =
            ada.push_manifest("tools/x", "all", media_type, &list).expect_error(404, "MANIFEST_BLOB_UNKNOWN");
        assert!(message.contains(&image.digest()), "{message}");
        ada.get(&format!("/v2/tools/x/manifests/{}", sha256(&list))).expect_error(404, "MANIFEST_UNKNOWN");
    }
    for reference in ["v", "all", &image.digest()] {
        ada.get(&format!("/v2/tools/x/manifests/{reference}")).expect_error(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(ada.get("/v2/_catalog").json(), json!({"repositories": []}));
}

#[test]
fn a_blob_is_read_whole_in_ranges_and_not_again() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let digest = ada.push_blob("tools/x", b"0123456789");
    let path = format!("/v2/tools/x/blobs/{digest}");
    let etag = format!("\"{digest}\"");

    let whole = ada.get(&path);
    assert_eq!(whole.expect(200).body, b"0123456789");
    let head = ada.head(&path);
    assert!(head.expect(200).body.is_empty());
    for answer in [&whole, &head] {
        answer.expect_header("content-length", "10").expect_header("docker-content-digest", &digest);
        answer.expect_header("etag", &etag).expect_header("accept-ranges", "bytes");
    }

    for (range, bytes, content_range) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=4-", "456789", "bytes 4-9/10"),
        ("bytes=-3", "789", "bytes 7-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
    ] {
        let part = ada.send("GET", &path, &[("range", range)], b"");
        assert_eq!(part.expect(206).body, bytes.as_bytes(), "{range}");
        part.expect_header("content-range", content_range);
    }
    for range in ["bytes=10-", "bytes=-0", "bytes=99-100", "bytes=3-1"] {
        let refused = ada.send("GET", &path, &[("range", range)], b"");
        refused.expect_error(416, "UNSUPPORTED");
        refused.expect_header("content-range", "bytes */10");
    }
    for range in ["bytes=0-1,3-4", "lines=0-1", "bytes=x"] {
        let whole = ada.send("GET", &path, &[("range", range)], b"");
        assert_eq!(whole.expect(200).body, b"0123456789", "{range}");
    }

    for known in [&etag, &format!("W/{etag}"), &format!("\"x\", {etag}"), "*"] {
        let answer = ada.send("GET", &path, &[("if-none-match", known)], b"");
        assert!(answer.expect(304).expect_header("etag", &etag).body.is_empty());
    }
    assert_eq!(ada.send("GET", &path, &[("if-none-match", "\"x\"")], b"").expect(200).body.len(), 10);
}

#[test]
fn a_manifest_is_not_sent_again() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("not again"));
    image.push(&ada, "tools/x", "v").expect(201);
    let etag = format!("\"{}\"", image.digest());
    let answer = ada.send("GET", "/v2/tools/x/manifests/v", &[("if-none-match", &etag)], b"");
    assert!(answer.expect(304).body.is_empty());
    Image::new(&layer("moved")).push(&ada, "tools/x", "v").expect(201);
    ada.send("GET", "/v2/tools/x/manifests/v", &[("if-none-match", &etag)], b"").expect(200);
}

#[test]
fn a_blob_is_stored_once_whoever_pushes_it() {
    let site = Site::start_with("", &["ada", "bob"]);
    let bytes = layer("the same for all");
    site.http("ada").push_blob("ada/x", &bytes);
    site.http("ada").push_blob("ada/y", &bytes);
    site.http("bob").push_blob("bob/x", &bytes);
    assert_eq!(site.blob_bytes(), bytes.len() as u64);
}

#[test]
fn one_push_by_digest_may_set_several_tags() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("many tags"));
    image.push(&ada, "tools/x", &image.digest()).expect(201);
    let path = format!("/v2/tools/x/manifests/{}?tag=1.2.3&tag=1.2&tag=1&tag=1", image.digest());
    let headers = [("content-type", image.media_type)];
    let pushed = ada.send("PUT", &path, &headers, &image.manifest());
    let mut tags: Vec<_> = pushed.expect(201).headers.get_all("oci-tag").iter().collect();
    tags.sort_by_key(|value| value.to_str().map(str::to_owned).unwrap_or_default());
    assert_eq!(tags, ["1", "1.2", "1.2.3"]);
    for tag in ["1", "1.2", "1.2.3"] {
        ada.get(&format!("/v2/tools/x/manifests/{tag}"))
            .expect_header("docker-content-digest", &image.digest());
    }
    let bad = format!("/v2/tools/x/manifests/{}?tag=.bad", image.digest());
    ada.send("PUT", &bad, &headers, &image.manifest()).expect_error(400, "TAG_INVALID");
    let many: Vec<String> = (0..101).map(|n| format!("tag=t{n}")).collect();
    let many = format!("/v2/tools/x/manifests/{}?{}", image.digest(), many.join("&"));
    ada.send("PUT", &many, &headers, &image.manifest()).expect(414);
}

#[test]
fn a_range_of_other_bytes_is_the_whole() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let digest = ada.push_blob("tools/x", b"0123456789");
    let path = format!("/v2/tools/x/blobs/{digest}");
    let ask = |etag: &str| ada.send("GET", &path, &[("range", "bytes=2-4"), ("if-range", etag)], b"");
    assert_eq!(ask(&format!("\"{digest}\"")).expect(206).body, b"234");
    assert_eq!(ask("\"other\"").expect(200).body, b"0123456789");
}

#[test]
fn sha512_stands_wherever_a_digest_can() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let sha512 = |bytes: &[u8]| torno_oci::Digest::of(torno_oci::Algorithm::Sha512, bytes).to_string();
    let (config, layer) = (Image::new(b"x").config, b"a layer".to_vec());
    for bytes in [&config, &layer] {
        let begun =
            ada.post("/v2/tools/x/blobs/uploads/?digest-algorithm=sha512").expect(202).header("location");
        let put = ada.send("PUT", &format!("{begun}?digest={}", sha512(bytes)), &[], bytes);
        put.expect(201).expect_header("docker-content-digest", &sha512(bytes));
        assert_eq!(ada.get(&format!("/v2/tools/x/blobs/{}", sha512(bytes))).expect(200).body, *bytes);
    }
    ada.post("/v2/tools/x/blobs/uploads/?digest-algorithm=md5").expect_error(400, "DIGEST_INVALID");
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": sha512(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
    })
    .to_string();
    let digest = sha512(manifest.as_bytes());
    let pushed = ada.push_manifest("tools/x", &digest, OCI_IMAGE, manifest.as_bytes());
    pushed.expect(201).expect_header("docker-content-digest", &digest);
    assert_eq!(ada.get(&format!("/v2/tools/x/manifests/{digest}")).expect(200).body, manifest.as_bytes());
    let mounted = ada.post(&format!("/v2/tools/y/blobs/uploads/?mount={}&from=tools/x", sha512(&layer)));
    mounted.expect(201);
}
