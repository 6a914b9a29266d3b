//! What the specification leaves to the registry and Torno to its configuration.

use serde_json::{Value, json};
use torno_tests::{Image, OCI_IMAGE, OCI_INDEX, index, sha256};

use crate::{Case, descriptor, empty_index, location, warnings, with};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

#[test]
fn configured() {
    requirements! {
        configured [
            ("TORNO_REGISTRY_SPARSE_INDEXES", "true"),
            ("TORNO_REGISTRY_SPARSE_IMAGES", "true"),
            ("TORNO_REGISTRY_CHUNK_MIN_LENGTH", "1KiB"),
        ];
        "Push: sparse manifests" => [
            a_sparse_index_is_stored_and_pulled,
            what_a_sparse_index_lacks_may_come_later,
            a_sparse_index_may_be_a_referrer,
            a_sparse_image_is_stored_and_pulled,
            what_is_there_has_the_size_that_is_told,
        ],
        "Pushing a blob in chunks" => [a_smallest_chunk_is_announced, a_smaller_chunk_is_taken_all_the_same],
    }
}

/// An index of one image that is pushed and one that is not; the two and the index.
fn sparse_index(case: &Case<'_>) -> (Image, Image, Vec<u8>) {
    let there = Image::new(&case.bytes("there"));
    there.push(&case.ada, &case.repository, &there.digest()).expect(201);
    let missing = Image::new(&case.bytes("missing"));
    let bytes =
        index(OCI_INDEX, &[(&there.manifest(), Image::HERE), (&missing.manifest(), Image::ELSEWHERE)]);
    (there, missing, bytes)
}

/// Push (end-7a): a manifest that names manifests that are not there MAY be refused; where the configuration says so
/// it is stored, with a warning, and what is missing stays 404.
fn a_sparse_index_is_stored_and_pulled(case: &Case<'_>) {
    let (there, missing, bytes) = sparse_index(case);
    let pushed = case.put("all", OCI_INDEX, &bytes);
    let told = warnings(pushed.expect(201));
    assert!(told.len() == 1 && told[0].contains(&missing.digest()), "{told:?}");
    assert_eq!(case.get("manifests/all").expect(200).body, bytes);
    case.get(&format!("manifests/{}", there.digest())).expect(200);
    case.get(&format!("manifests/{}", missing.digest())).expect_error(404, "MANIFEST_UNKNOWN");
    case.delete("manifests/all").expect(202);
}

/// Push (end-7a): manifests may be pushed in any order then.
fn what_a_sparse_index_lacks_may_come_later(case: &Case<'_>) {
    let (_, missing, bytes) = sparse_index(case);
    case.put("all", OCI_INDEX, &bytes).expect(201);
    missing.push(&case.ada, &case.repository, &missing.digest()).expect(201);
    let again = case.put("all", OCI_INDEX, &bytes);
    assert!(warnings(again.expect(201)).is_empty());
    case.delete(&format!("manifests/{}", sha256(&bytes))).expect(202);
    assert_eq!(case.get(&format!("manifests/{}", missing.digest())).expect(200).body, missing.manifest());
}

/// Listing Referrers (end-12a): whether a referrer is sparse is no matter.
fn a_sparse_index_may_be_a_referrer(case: &Case<'_>) {
    let (there, _, bytes) = sparse_index(case);
    let list: Value = serde_json::from_slice(&bytes).expect("JSON");
    let list = with(&list, "subject", &descriptor(OCI_IMAGE, &there.manifest()));
    case.put_json(&list).1.expect(201).expect_header("oci-subject", &there.digest());
    let referrers = case.get(&format!("referrers/{}", there.digest())).expect(200).json();
    assert_eq!(referrers["manifests"][0]["digest"], sha256(list.to_string().as_bytes()));
}

/// Push (end-7a): the same for an image and its layers.
fn a_sparse_image_is_stored_and_pulled(case: &Case<'_>) {
    let image = Image::new(&case.bytes("sparse"));
    case.ada.push_blob(&case.repository, &image.config);
    let layer = sha256(&image.layers[0]);
    let pushed = case.put("v", OCI_IMAGE, &image.manifest());
    let told = warnings(pushed.expect(201));
    assert!(told.len() == 1 && told[0].contains(&layer), "{told:?}");
    assert_eq!(case.get("manifests/v").expect(200).body, image.manifest());
    case.get(&format!("blobs/{layer}")).expect_error(404, "BLOB_UNKNOWN");
    case.ada.push_blob(&case.repository, &image.layers[0]);
    case.assert_blob(&layer, &image.layers[0]);
}

/// image-spec, Descriptor: `size` is that of the content; of what is there it is compared in a sparse manifest too.
fn what_is_there_has_the_size_that_is_told(case: &Case<'_>) {
    let artifact = case.artifact();
    let absent = descriptor(LAYER, b"nobody has this");
    let wrong = with(&descriptor("application/x.y", b"{}"), "size", &json!(3));
    let manifest = with(&artifact, "layers", &json!([absent, wrong]));
    case.put_json(&manifest).1.expect_error(400, "SIZE_INVALID");
    let child = with(&descriptor(OCI_IMAGE, artifact.to_string().as_bytes()), "size", &json!(1));
    case.put_json(&artifact).1.expect(201);
    let list = with(&empty_index(), "manifests", &json!([child]));
    case.put_json(&list).1.expect_error(400, "SIZE_INVALID");
}

/// Pushing a blob in chunks (end-4a): a smallest chunk size SHOULD be told when a session begins.
fn a_smallest_chunk_is_announced(case: &Case<'_>) {
    case.post("").expect(202).expect_header("oci-chunk-min-length", "1024");
    let unknown = sha256(b"nobody has this");
    case.post(&format!("?mount={unknown}")).expect(202).expect_header("oci-chunk-min-length", "1024");
}

/// Pushing a blob in chunks (end-5): the size is a SHOULD for clients, and the last chunk MAY have any length.
fn a_smaller_chunk_is_taken_all_the_same(case: &Case<'_>) {
    let session = location(case.chunk(&case.begin(), "0-4", b"01234").expect(202));
    let session = location(case.chunk(&session, "5-9", b"56789").expect(202));
    case.close(&session, &sha256(b"0123456789"), b"").expect(201);
    case.assert_blob(&sha256(b"0123456789"), b"0123456789");
}
