//! Push: manifests.

use serde_json::{Value, json};
use torno_tests::{Answer, Image, OCI_IMAGE, OCI_INDEX, index, sha256};

use crate::{Case, EMPTY, descriptor, empty_index, location, sha512, warnings, with};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

#[test]
fn push_manifest() {
    requirements! {
        "Pushing Manifests" => [
            a_pushed_manifest_is_201_with_a_pullable_location,
            a_pushed_manifest_is_told_its_digest,
            a_manifest_is_stored_byte_for_byte,
            parameters_of_the_type_are_passed_over,
            the_type_may_stand_in_the_manifest_alone,
            the_type_may_stand_in_the_header_alone,
            a_manifest_may_have_no_layers,
            the_config_may_be_the_empty_descriptor,
            the_config_may_be_of_any_type,
            a_descriptor_may_say_more_than_it_must,
            an_index_may_be_empty,
            an_index_may_name_an_index,
            indexes_may_be_nested_two_deep,
            a_layer_may_be_kept_elsewhere,
            a_manifest_with_unknown_blobs_is_refused,
            an_index_with_unknown_manifests_is_refused,
            what_is_missing_is_listed,
            a_descriptor_of_another_size_is_refused,
            a_manifest_of_another_digest_is_refused,
            a_malformed_digest_is_400,
            a_tag_moves_to_what_is_pushed_last,
            the_same_manifest_may_be_pushed_again,
            a_manifest_of_four_megabytes_is_taken,
            a_larger_manifest_is_413,
        ],
        "Pushing Manifests: several tags" => [
            ten_tags_are_pushed_at_once,
            several_tags_may_stand_on_an_index,
            too_many_tags_are_414,
            no_tag_asked_for_is_no_tag_told,
        ],
        "Pushing Manifests: SHA-512" => [
            a_manifest_by_sha512_is_pushed_and_pulled,
            a_tag_of_a_manifest_by_sha512_tells_that_digest,
            an_index_names_manifests_by_sha512,
        ],
        "Pushing Manifests with Subject" => [
            the_subject_of_an_image_is_acknowledged,
            the_subject_of_an_index_is_acknowledged,
            a_subject_by_sha512_is_acknowledged,
            a_subject_may_come_later,
            without_a_subject_none_is_acknowledged,
        ],
    }
}

/// The `OCI-Tag` values of an answer, whether in one header or in several.
fn accepted_tags(answer: &Answer) -> Vec<String> {
    let values = answer.headers.get_all("oci-tag").iter().map(|value| value.to_str().expect("ASCII"));
    let mut tags: Vec<String> =
        values.flat_map(|value| value.split(',')).map(|tag| tag.trim().into()).collect();
    tags.sort();
    tags
}

/// A manifest that names its blobs, which are pushed, by SHA-512.
fn by_sha512(case: &Case<'_>) -> Vec<u8> {
    let (config, layer) = (b"{}".to_vec(), case.bytes("layer"));
    for bytes in [&config, &layer] {
        case.close(&case.begin(), &sha512(bytes), bytes).expect(201);
    }
    let named = |kind: &str, bytes: &[u8]| with(&descriptor(kind, bytes), "digest", &json!(sha512(bytes)));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE,
        "config": named(EMPTY, &config), "layers": [named(LAYER, &layer)], "artifactType": "application/x.test",
    });
    manifest.to_string().into_bytes()
}

/// Pushing Manifests (end-7a): MUST be 201 with a `Location` to pull the manifest from, by tag and by digest.
fn a_pushed_manifest_is_201_with_a_pullable_location(case: &Case<'_>) {
    let image = Image::new(&case.bytes("pushed"));
    for reference in ["v", &image.digest()] {
        let pushed = image.push(&case.ada, &case.repository, reference);
        assert_eq!(case.ada.get(&location(pushed.expect(201))).expect(200).body, image.manifest());
    }
}

/// Pushing Manifests (end-7a): `Docker-Content-Digest` MUST be the digest the client gave.
fn a_pushed_manifest_is_told_its_digest(case: &Case<'_>) {
    let image = Image::new(&case.bytes("pushed"));
    for reference in ["v", &image.digest()] {
        let pushed = image.push(&case.ada, &case.repository, reference);
        pushed.expect(201).expect_header("docker-content-digest", &image.digest());
    }
}

/// Pushing Manifests (end-7a): the bytes MUST be kept as they are: spaces, order and fields nobody knows.
fn a_manifest_is_stored_byte_for_byte(case: &Case<'_>) {
    let image = case.image("bytes", "v");
    let text = String::from_utf8(image.manifest()).expect("UTF-8");
    for odd in [
        text.replacen('{', "{\"org.example.unknown\": {\"a\": [1.50, null, \"\\u00e9é\"]},", 1),
        text.replacen('{', "\n {\t", 1) + "\r\n",
        text.replace("\"schemaVersion\":2", "\"schemaVersion\" : 2"),
    ] {
        case.put("odd", OCI_IMAGE, odd.as_bytes()).expect(201);
        for reference in ["odd", &sha256(odd.as_bytes())] {
            assert_eq!(case.get(&format!("manifests/{reference}")).expect(200).body, odd.as_bytes());
        }
    }
}

/// Pushing Manifests (end-7a): parameters of `Content-Type` SHOULD be passed over.
fn parameters_of_the_type_are_passed_over(case: &Case<'_>) {
    let image = case.image("parameters", "v");
    for media_type in [format!("{OCI_IMAGE}; charset=utf-8"), format!("{OCI_IMAGE};a=b;c=\"d\"")] {
        case.put("typed", &media_type, &image.manifest()).expect(201);
        case.get("manifests/typed").expect_header("content-type", OCI_IMAGE);
    }
}

/// Pushing Manifests (end-7a): `Content-Type` is a SHOULD for clients; `mediaType` says the same.
fn the_type_may_stand_in_the_manifest_alone(case: &Case<'_>) {
    let image = case.image("typed", "v");
    case.ada.send("PUT", &case.path("manifests/bare"), &[], &image.manifest()).expect(201);
    case.get("manifests/bare").expect(200).expect_header("content-type", OCI_IMAGE);
}

/// Pushing Manifests (end-7a): `mediaType` is a SHOULD for manifests; `Content-Type` says the same.
fn the_type_may_stand_in_the_header_alone(case: &Case<'_>) {
    let mut image = case.artifact();
    let mut list = empty_index();
    for (manifest, media_type) in [(&mut image, OCI_IMAGE), (&mut list, OCI_INDEX)] {
        manifest.as_object_mut().expect("an object").remove("mediaType");
        case.put("untyped", media_type, manifest.to_string().as_bytes()).expect(201);
        case.get("manifests/untyped").expect(200).expect_header("content-type", media_type);
    }
}

/// Pushing Manifests (end-7a): the list of blobs MAY be empty.
fn a_manifest_may_have_no_layers(case: &Case<'_>) {
    let config = case.bytes("config");
    case.ada.push_blob(&case.repository, &config);
    let manifest = with(&case.artifact(), "config", &descriptor(CONFIG, &config));
    case.put_json(&manifest).1.expect(201);
}

/// Pushing Manifests (end-7a; image-spec, Manifest): an artifact has the empty descriptor as its config and as its
/// only layer, and an `artifactType`.
fn the_config_may_be_the_empty_descriptor(case: &Case<'_>) {
    let artifact = with(&case.artifact(), "artifactType", &json!("application/x.test"));
    let embedded = with(&descriptor(EMPTY, b"{}"), "data", &json!("e30="));
    case.put_json(&artifact).1.expect(201);
    case.put_json(&with(&artifact, "layers", &json!([descriptor(EMPTY, b"{}")]))).1.expect(201);
    let artifact = with(&artifact, "layers", &json!([embedded]));
    case.put_json(&with(&artifact, "config", &embedded)).1.expect(201);
}

/// Pushing Manifests (end-7a; image-spec, Manifest): the config's type says what the artifact is, without an
/// `artifactType`; layers may be of any type too.
fn the_config_may_be_of_any_type(case: &Case<'_>) {
    let bytes = case.bytes("chart");
    case.ada.push_blob(&case.repository, &bytes);
    let manifest = with(&case.artifact(), "config", &descriptor("application/vnd.example.chart+json", b"{}"));
    let layers = json!([descriptor("text/plain", &bytes), descriptor("application/x.y", &bytes)]);
    case.put_json(&with(&manifest, "layers", &layers)).1.expect(201);
}

/// Pushing Manifests (end-7a; image-spec, Descriptor): optional and unknown fields of descriptors are no obstacle.
fn a_descriptor_may_say_more_than_it_must(case: &Case<'_>) {
    let mut layer = descriptor(LAYER, b"{}");
    layer["urls"] = json!(["https://example.org/layer"]);
    layer["annotations"] = json!({"org.example.key": "value", "empty": ""});
    layer["artifactType"] = json!("application/x.test");
    layer["org.example.unknown"] = json!([{"a": 1}]);
    let manifest = with(&case.artifact(), "layers", &json!([layer]));
    let (digest, pushed) = case.put_json(&manifest);
    pushed.expect(201);
    let mut child = descriptor(OCI_IMAGE, manifest.to_string().as_bytes());
    assert_eq!(child["digest"], json!(digest));
    child["platform"] = json!({
        "os": "example", "architecture": "unknown", "os.version": "1", "os.features": ["x"], "variant": "v9",
        "features": ["y"],
    });
    child["data"] = json!("e30=");
    case.put_json(&with(&empty_index(), "manifests", &json!([child]))).1.expect(201);
}

/// Pushing Manifests (end-7a; image-spec, Image Index): the list of manifests may be empty.
fn an_index_may_be_empty(case: &Case<'_>) {
    let (digest, pushed) = case.put_json(&empty_index());
    pushed.expect(201);
    case.get(&format!("manifests/{digest}")).expect(200).expect_header("content-type", OCI_INDEX);
}

/// Pushing Manifests (end-7a; image-spec, Image Index): an index may name indexes beside images, without platforms.
fn an_index_may_name_an_index(case: &Case<'_>) {
    let image = case.image("inner", "v");
    let inner = index(OCI_INDEX, &[(&image.manifest(), Image::HERE)]);
    case.put(&sha256(&inner), OCI_INDEX, &inner).expect(201);
    let named = json!([descriptor(OCI_INDEX, &inner), descriptor(OCI_IMAGE, &image.manifest())]);
    case.put_json(&with(&empty_index(), "manifests", &named)).1.expect(201);
}

/// Pushing Manifests (end-7a; image-spec, Image Index): an index may name indexes that name indexes; each is pulled by
/// its digest down to the images.
fn indexes_may_be_nested_two_deep(case: &Case<'_>) {
    let image = case.image("innermost", "v");
    let mut inside = (OCI_IMAGE, image.manifest());
    let mut digests = vec![image.digest()];
    for _ in 0..3 {
        let list = with(&empty_index(), "manifests", &json!([descriptor(inside.0, &inside.1)]));
        let (digest, pushed) = case.put_json(&list);
        pushed.expect(201);
        inside = (OCI_INDEX, list.to_string().into_bytes());
        digests.push(digest);
    }
    for digest in digests.iter().skip(1).rev() {
        let pulled = case.get(&format!("manifests/{digest}")).expect(200).json();
        let next = pulled["manifests"][0]["digest"].as_str().expect("a digest");
        case.get(&format!("manifests/{next}")).expect(200).expect_header("docker-content-digest", next);
    }
    let outermost = digests.last().expect("an index");
    case.put("nested", OCI_INDEX, &inside.1).expect(201).expect_header("docker-content-digest", outermost);
}

/// Pushing Manifests (end-7a; image-spec, Layer: Non-Distributable Layers): such layers SHOULD NOT be uploaded, so the
/// manifest is taken without them; pushed all the same they are the repository's, with the size they are said to have.
fn a_layer_may_be_kept_elsewhere(case: &Case<'_>) {
    for (place, media_type) in [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = case.bytes(&place.to_string());
        let mut layer = descriptor(media_type, &bytes);
        layer["urls"] = json!(["https://example.org/layer"]);
        let manifest = with(&case.artifact(), "layers", &json!([layer]));
        let (digest, pushed) = case.put_json(&manifest);
        let told = warnings(pushed.expect(201));
        assert!(told.len() == 1 && told[0].contains(&sha256(&bytes)), "{told:?}");
        assert_eq!(
            case.get(&format!("manifests/{digest}")).expect(200).body,
            manifest.to_string().as_bytes()
        );
        case.ada.push_blob(&case.repository, &bytes);
        assert!(warnings(case.put_json(&manifest).1.expect(201)).is_empty());
        let shorter = with(&layer, "size", &json!(1));
        let wrong = with(&manifest, "layers", &json!([shorter]));
        case.put_json(&wrong).1.expect_error(400, "SIZE_INVALID");
    }
}

/// Push (end-7a): one or more `MANIFEST_BLOB_UNKNOWN`; the detail lists all that is missing, and nothing else.
fn what_is_missing_is_listed(case: &Case<'_>) {
    let layers: Vec<Value> = ["one", "two"].iter().map(|seed| descriptor(LAYER, &case.bytes(seed))).collect();
    let manifest = with(&case.artifact(), "layers", &json!(layers));
    let (_, refused) = case.put_json(&manifest);
    refused.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    let detail = &refused.json()["errors"][0]["detail"];
    let mut expected: Vec<&str> = layers.iter().filter_map(|layer| layer["digest"].as_str()).collect();
    expected.sort_unstable();
    assert_eq!(detail, &json!({"missing": expected, "count": 2}));
}

/// Pushing Manifests (end-7a; image-spec, Descriptor): `size` is the content's, and clients refuse content of another
/// one, so a manifest that says otherwise of what is there is refused: of its config, its layers and its manifests.
fn a_descriptor_of_another_size_is_refused(case: &Case<'_>) {
    let artifact = case.artifact();
    let of = |size: u64| with(&descriptor(EMPTY, b"{}"), "size", &json!(size));
    for size in [0, 1, 3] {
        for manifest in [
            with(&artifact, "config", &of(size)),
            with(&artifact, "layers", &json!([of(size)])),
            with(&artifact, "layers", &json!([of(2), of(size)])),
        ] {
            let (digest, refused) = case.put_json(&manifest);
            refused.expect_error(400, "SIZE_INVALID");
            let expected = json!({"digest": sha256(b"{}"), "announced": size, "found": 2});
            assert_eq!(refused.json()["errors"][0]["detail"], expected);
            case.get(&format!("manifests/{digest}")).expect(404);
        }
    }
    case.put_json(&with(&artifact, "layers", &json!([of(2), of(2)]))).1.expect(201);
    case.put_json(&artifact).1.expect(201);
    let child = descriptor(OCI_IMAGE, artifact.to_string().as_bytes());
    let longer = with(&child, "size", &json!(artifact.to_string().len() + 1));
    let list = |child: &Value| with(&empty_index(), "manifests", &json!([child]));
    case.put_json(&list(&longer)).1.expect_error(400, "SIZE_INVALID");
    case.put_json(&list(&child)).1.expect(201);
}

/// Push (end-7a): a manifest MAY be refused for blobs that are not there, and then MUST be with
/// `MANIFEST_BLOB_UNKNOWN`.
fn a_manifest_with_unknown_blobs_is_refused(case: &Case<'_>) {
    let missing = case.bytes("missing");
    let manifest = case.artifact();
    for manifest in [
        with(&manifest, "layers", &json!([descriptor(LAYER, &missing)])),
        with(&manifest, "config", &descriptor(CONFIG, &missing)),
    ] {
        let (digest, refused) = case.put_json(&manifest);
        refused.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
        case.get(&format!("manifests/{digest}")).expect(404);
    }
}

/// Push (end-7a): the same for an index and manifests that are not there.
fn an_index_with_unknown_manifests_is_refused(case: &Case<'_>) {
    let missing = Image::new(&case.bytes("missing")).manifest();
    let list = with(&empty_index(), "manifests", &json!([descriptor(OCI_IMAGE, &missing)]));
    let (digest, refused) = case.put_json(&list);
    refused.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    case.get(&format!("manifests/{digest}")).expect(404);
}

/// Pushing Manifests (end-7a): the digest told MUST be the one given, so one that the bytes do not have is refused.
fn a_manifest_of_another_digest_is_refused(case: &Case<'_>) {
    let manifest = case.artifact().to_string();
    for digest in [sha256(b"other"), sha512(b"other")] {
        case.put(&digest, OCI_IMAGE, manifest.as_bytes()).expect_error(400, "DIGEST_INVALID");
        case.get(&format!("manifests/{digest}")).expect(404);
    }
}

/// Pushing Manifests (end-7a): where a reference is neither a digest nor a tag, nothing is stored.
fn a_malformed_digest_is_400(case: &Case<'_>) {
    let manifest = case.artifact().to_string();
    for digest in ["sha256:", "sha256:abc", "md5:9dd4e461268c8034f5c8564e155c67a6", ":x"] {
        case.put(digest, OCI_IMAGE, manifest.as_bytes()).expect_error(400, "DIGEST_INVALID");
    }
}

/// Definitions: a tag points to one manifest, and a manifest may have many tags.
fn a_tag_moves_to_what_is_pushed_last(case: &Case<'_>) {
    let first = case.image("first", "v");
    let second = case.image("second", "v");
    case.get("manifests/v").expect_header("docker-content-digest", &second.digest());
    case.get(&format!("manifests/{}", first.digest())).expect(200);
    case.put("w", OCI_IMAGE, &second.manifest()).expect(201);
    assert_eq!(case.get("tags/list").json()["tags"], json!(["v", "w"]));
}

/// Pushing Manifests (end-7a): a manifest that is there already is pushed with success.
fn the_same_manifest_may_be_pushed_again(case: &Case<'_>) {
    let image = case.image("again", "v");
    for reference in ["v", "v", &image.digest(), &image.digest()] {
        case.put(reference, OCI_IMAGE, &image.manifest()).expect(201);
    }
}

/// Pushing Manifests (end-7a): registries SHOULD be able to take manifests of 4 megabytes.
fn a_manifest_of_four_megabytes_is_taken(case: &Case<'_>) {
    let mut manifest = with(&case.artifact(), "annotations", &json!({"long": "x".repeat(3_000_000)}));
    let missing = 4_000_000 - manifest.to_string().len();
    manifest["annotations"]["more"] = json!("y".repeat(missing));
    let bytes = manifest.to_string().into_bytes();
    assert!(bytes.len() >= 4_000_000);
    case.put("large", OCI_IMAGE, &bytes).expect(201);
    assert!(case.get("manifests/large").expect(200).body == bytes, "other bytes came back");
}

/// Pushing Manifests (end-7a): there SHOULD be a limit, and past it the answer SHOULD be 413.
fn a_larger_manifest_is_413(case: &Case<'_>) {
    let manifest = with(&case.artifact(), "annotations", &json!({"long": "x".repeat(5 * 1024 * 1024)}));
    case.put("larger", OCI_IMAGE, manifest.to_string().as_bytes()).expect(413);
    case.get("manifests/larger").expect(404);
}

fn put_with_tags(case: &Case<'_>, digest: &str, tags: &[String], manifest: &Value) -> Answer {
    let query: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
    let media_type = manifest["mediaType"].as_str().expect("a mediaType");
    case.put(&format!("{digest}?{}", query.join("&")), media_type, manifest.to_string().as_bytes())
}

/// Pushing Manifests (end-7b): at least 10 tags SHOULD be taken, and each MUST be told in `OCI-Tag`.
fn ten_tags_are_pushed_at_once(case: &Case<'_>) {
    let manifest = case.artifact();
    let digest = sha256(manifest.to_string().as_bytes());
    let tags: Vec<String> = (0..10).map(|n| format!("1.{n}")).collect();
    let pushed = put_with_tags(case, &digest, &tags, &manifest);
    pushed.expect(201).expect_header("docker-content-digest", &digest);
    assert_eq!(accepted_tags(&pushed), tags);
    for tag in &tags {
        case.get(&format!("manifests/{tag}")).expect(200).expect_header("docker-content-digest", &digest);
    }
    assert_eq!(case.get("tags/list").json()["tags"], json!(tags));
}

/// Pushing Manifests (end-7b): the same for an index.
fn several_tags_may_stand_on_an_index(case: &Case<'_>) {
    let digest = sha256(empty_index().to_string().as_bytes());
    let tags = ["all".to_owned(), "latest".to_owned()];
    let pushed = put_with_tags(case, &digest, &tags, &empty_index());
    assert_eq!(accepted_tags(pushed.expect(201)), tags);
}

/// Pushing Manifests (end-7b): more tags than a registry takes MAY be 414; none of them is set then.
fn too_many_tags_are_414(case: &Case<'_>) {
    let manifest = case.artifact();
    let digest = sha256(manifest.to_string().as_bytes());
    let tags: Vec<String> = (0..1000).map(|n| format!("t{n}")).collect();
    put_with_tags(case, &digest, &tags, &manifest).expect(414);
    case.get("manifests/t0").expect(404);
}

/// Pushing Manifests (end-7b): `OCI-Tag` is for tags that were asked for.
fn no_tag_asked_for_is_no_tag_told(case: &Case<'_>) {
    let (_, pushed) = case.put_json(&case.artifact());
    assert!(accepted_tags(pushed.expect(201)).is_empty());
    assert_eq!(case.get("tags/list").expect(200).json()["tags"], json!([]));
}

/// Pushing Manifests (end-7a): a digest by SHA-512 MUST be told as it was given.
fn a_manifest_by_sha512_is_pushed_and_pulled(case: &Case<'_>) {
    let manifest = by_sha512(case);
    let digest = sha512(&manifest);
    let pushed = case.put(&digest, OCI_IMAGE, &manifest);
    pushed.expect(201).expect_header("docker-content-digest", &digest);
    for path in [location(&pushed), case.path(&format!("manifests/{digest}"))] {
        let pulled = case.ada.get(&path);
        assert_eq!(pulled.expect(200).body, manifest);
        pulled.expect_header("docker-content-digest", &digest);
        case.ada.head(&path).expect(200).expect_header("docker-content-digest", &digest);
    }
}

/// Pushing Manifests (end-7b): a tag set beside a digest by SHA-512 is of that digest.
fn a_tag_of_a_manifest_by_sha512_tells_that_digest(case: &Case<'_>) {
    let manifest = by_sha512(case);
    let digest = sha512(&manifest);
    let pushed = case.put(&format!("{digest}?tag=v"), OCI_IMAGE, &manifest);
    assert_eq!(accepted_tags(pushed.expect(201)), ["v"]);
    let pulled = case.get("manifests/v");
    assert_eq!(pulled.expect(200).body, manifest);
    pulled.expect_header("docker-content-digest", &digest);
}

/// Pushing Manifests (end-7a): an index may name what it names by SHA-512, and is refused if that is not there.
fn an_index_names_manifests_by_sha512(case: &Case<'_>) {
    let manifest = by_sha512(case);
    let named = with(&descriptor(OCI_IMAGE, &manifest), "digest", &json!(sha512(&manifest)));
    let list = with(&empty_index(), "manifests", &json!([named]));
    case.put_json(&list).1.expect_error(404, "MANIFEST_BLOB_UNKNOWN");
    case.put(&sha512(&manifest), OCI_IMAGE, &manifest).expect(201);
    case.put_json(&list).1.expect(201);
}

/// Pushing Manifests with Subject (end-7a): `OCI-Subject` MUST tell the subject of an image manifest, by digest or tag.
fn the_subject_of_an_image_is_acknowledged(case: &Case<'_>) {
    let image = case.image("subject", "v");
    let artifact = with(&case.artifact(), "subject", &descriptor(OCI_IMAGE, &image.manifest()));
    case.put_json(&artifact).1.expect(201).expect_header("oci-subject", &image.digest());
    let tagged = case.put("signature", OCI_IMAGE, artifact.to_string().as_bytes());
    tagged.expect(201).expect_header("oci-subject", &image.digest());
}

/// Pushing Manifests with Subject (end-7a): the same for an index.
fn the_subject_of_an_index_is_acknowledged(case: &Case<'_>) {
    let image = case.image("subject", "v");
    let list = with(&empty_index(), "subject", &descriptor(OCI_IMAGE, &image.manifest()));
    case.put_json(&list).1.expect(201).expect_header("oci-subject", &image.digest());
}

/// Pushing Manifests with Subject (end-7a): the same for a subject by SHA-512.
fn a_subject_by_sha512_is_acknowledged(case: &Case<'_>) {
    let digest = sha512(b"a subject");
    let subject = with(&descriptor(OCI_IMAGE, b"a subject"), "digest", &json!(digest));
    let artifact = with(&case.artifact(), "subject", &subject);
    case.put_json(&artifact).1.expect(201).expect_header("oci-subject", &digest);
}

/// Push (end-7a): a manifest whose subject is not there MUST be taken; the subject may come afterwards.
fn a_subject_may_come_later(case: &Case<'_>) {
    let image = Image::new(&case.bytes("later"));
    let subject = descriptor(OCI_IMAGE, &image.manifest());
    for manifest in [case.artifact(), empty_index()] {
        let (_, pushed) = case.put_json(&with(&manifest, "subject", &subject));
        pushed.expect(201).expect_header("oci-subject", &image.digest());
    }
    image.push(&case.ada, &case.repository, "v").expect(201);
    let referrers = case.get(&format!("referrers/{}", image.digest())).expect(200).json();
    assert_eq!(referrers["manifests"].as_array().expect("a list").len(), 2);
}

/// Pushing Manifests with Subject (end-7a): `OCI-Subject` speaks of a subject; without one it is not there.
fn without_a_subject_none_is_acknowledged(case: &Case<'_>) {
    let (_, pushed) = case.put_json(&case.artifact());
    assert!(!pushed.expect(201).headers.contains_key("oci-subject"));
}
