//! Content Management: deleting tags, manifests and blobs.

use serde_json::json;
use torno_tests::{Image, OCI_IMAGE, sha256};

use crate::{Case, descriptor, empty_index, sha512, warnings, with};

#[test]
fn manage() {
    requirements! {
        "Deleting tags" => [
            a_deleted_tag_is_202_and_then_404,
            a_deleted_tag_leaves_the_manifest_and_its_other_tags,
            a_deleted_tag_may_be_pushed_again,
            an_unknown_tag_is_404,
        ],
        "Deleting Manifests" => [
            a_deleted_manifest_is_202_and_then_404,
            a_deleted_manifest_takes_its_tags_along,
            a_deleted_manifest_by_sha512_is_gone,
            a_deleted_index_is_gone_and_its_manifests_stay,
            a_deleted_manifest_stays_in_other_repositories,
            a_deleted_manifest_may_be_pushed_again,
            an_unknown_manifest_is_404,
            a_manifest_of_an_unknown_repository_is_404,
        ],
        "Deleting Blobs" => [
            a_deleted_blob_is_202_and_then_404,
            a_deleted_blob_by_sha512_is_gone,
            a_deleted_blob_stays_in_other_repositories,
            a_deleted_blob_may_be_pushed_again,
            an_unknown_blob_is_404,
        ],
        "Warnings" => [
            deleting_a_blob_that_is_named_is_warned_of,
            deleting_a_manifest_that_is_named_is_warned_of,
            deleting_what_nothing_names_is_not_warned_of,
        ],
    }
}

#[track_caller]
fn assert_gone(case: &Case<'_>, rest: &str) {
    case.get(rest).expect(404);
    case.head(rest).expect(404);
    case.delete(rest).expect(404);
}

/// Deleting tags (end-9): MUST be 202, and pulling the tag is 404 from then on.
fn a_deleted_tag_is_202_and_then_404(case: &Case<'_>) {
    case.image("tagged", "v");
    case.delete("manifests/v").expect(202);
    assert_gone(case, "manifests/v");
}

/// Deleting tags (end-9): it is the tag that goes.
fn a_deleted_tag_leaves_the_manifest_and_its_other_tags(case: &Case<'_>) {
    let image = case.image("tagged", "v");
    case.put("w", OCI_IMAGE, &image.manifest()).expect(201);
    case.delete("manifests/v").expect(202);
    for reference in ["w", &image.digest()] {
        assert_eq!(case.get(&format!("manifests/{reference}")).expect(200).body, image.manifest());
    }
    assert_eq!(case.get("tags/list").expect(200).json()["tags"], json!(["w"]));
}

/// Deleting tags (end-9): the name is free again.
fn a_deleted_tag_may_be_pushed_again(case: &Case<'_>) {
    case.image("first", "v");
    case.delete("manifests/v").expect(202);
    let second = case.image("second", "v");
    case.get("manifests/v").expect(200).expect_header("docker-content-digest", &second.digest());
}

/// Deleting tags (end-9): a tag that is not there is 404.
fn an_unknown_tag_is_404(case: &Case<'_>) {
    case.delete("manifests/v").expect_error(404, "NAME_UNKNOWN");
    case.image("there", "v");
    case.delete("manifests/other").expect_error(404, "MANIFEST_UNKNOWN");
}

/// Deleting Manifests (end-9): MUST be 202, and pulling the digest is 404 from then on.
fn a_deleted_manifest_is_202_and_then_404(case: &Case<'_>) {
    let (digest, pushed) = case.put_json(&case.artifact());
    pushed.expect(201);
    case.delete(&format!("manifests/{digest}")).expect(202);
    assert_gone(case, &format!("manifests/{digest}"));
}

/// Deleting Manifests (end-9): every tag that pointed to it is 404 as well.
fn a_deleted_manifest_takes_its_tags_along(case: &Case<'_>) {
    let image = case.image("tagged", "v");
    case.put("w", OCI_IMAGE, &image.manifest()).expect(201);
    case.image("another", "kept");
    case.delete(&format!("manifests/{}", image.digest())).expect(202);
    assert_gone(case, "manifests/v");
    assert_gone(case, "manifests/w");
    assert_eq!(case.get("tags/list").expect(200).json()["tags"], json!(["kept"]));
}

/// Deleting Manifests (end-9): the same by SHA-512, with its tags.
fn a_deleted_manifest_by_sha512_is_gone(case: &Case<'_>) {
    let manifest = case.artifact().to_string().into_bytes();
    let digest = sha512(&manifest);
    case.put(&format!("{digest}?tag=v"), OCI_IMAGE, &manifest).expect(201);
    case.delete(&format!("manifests/{digest}")).expect(202);
    assert_gone(case, &format!("manifests/{digest}"));
    assert_gone(case, "manifests/v");
}

/// Deleting Manifests (end-9): it is this manifest that goes, not what it names.
fn a_deleted_index_is_gone_and_its_manifests_stay(case: &Case<'_>) {
    let image = case.image("inner", "v");
    let named = json!([descriptor(OCI_IMAGE, &image.manifest())]);
    let (digest, pushed) = case.put_json(&with(&empty_index(), "manifests", &named));
    pushed.expect(201);
    case.delete(&format!("manifests/{digest}")).expect(202);
    assert_gone(case, &format!("manifests/{digest}"));
    case.get("manifests/v").expect(200);
    case.assert_blob(&sha256(&image.config), &image.config);
}

/// Deleting Manifests (end-9): a repository is a scope of its own.
fn a_deleted_manifest_stays_in_other_repositories(case: &Case<'_>) {
    let image = case.image("both", "v");
    image.push(&case.ada, &case.beside(), "v").expect(201);
    case.delete(&format!("manifests/{}", image.digest())).expect(202);
    case.ada.get(&format!("/v2/{}/manifests/v", case.beside())).expect(200);
    case.ada.get(&format!("/v2/{}/manifests/{}", case.beside(), image.digest())).expect(200);
}

/// Deleting Manifests (end-9): what was deleted can be pushed anew, and its old tags do not come back.
fn a_deleted_manifest_may_be_pushed_again(case: &Case<'_>) {
    let image = case.image("again", "v");
    case.delete(&format!("manifests/{}", image.digest())).expect(202);
    image.push(&case.ada, &case.repository, &image.digest()).expect(201);
    case.get(&format!("manifests/{}", image.digest())).expect(200);
    case.get("manifests/v").expect_error(404, "MANIFEST_UNKNOWN");
}

/// Deleting Manifests (end-9): a manifest that is not there is 404.
fn an_unknown_manifest_is_404(case: &Case<'_>) {
    case.image("there", "v");
    for digest in [sha256(b"nobody has this"), sha512(b"nor this")] {
        case.delete(&format!("manifests/{digest}")).expect_error(404, "MANIFEST_UNKNOWN");
    }
}

/// Deleting Manifests (end-9): a repository that does not exist MUST be 404.
fn a_manifest_of_an_unknown_repository_is_404(case: &Case<'_>) {
    let elsewhere = Image::new(&case.bytes("elsewhere"));
    elsewhere.push(&case.ada, &case.beside(), "v").expect(201);
    case.delete(&format!("manifests/{}", elsewhere.digest())).expect_error(404, "NAME_UNKNOWN");
}

/// Deleting Blobs (end-10): MUST be 202, and the blob is not there from then on.
fn a_deleted_blob_is_202_and_then_404(case: &Case<'_>) {
    let digest = case.ada.push_blob(&case.repository, &case.bytes("deleted"));
    case.delete(&format!("blobs/{digest}")).expect(202);
    assert_gone(case, &format!("blobs/{digest}"));
}

/// Deleting Blobs (end-10): the same by SHA-512.
fn a_deleted_blob_by_sha512_is_gone(case: &Case<'_>) {
    let (bytes, digest) = (case.bytes("deleted"), sha512(&case.bytes("deleted")));
    case.close(&case.begin(), &digest, &bytes).expect(201);
    case.delete(&format!("blobs/{digest}")).expect(202);
    assert_gone(case, &format!("blobs/{digest}"));
}

/// Deleting Blobs (end-10): a repository is a scope of its own.
fn a_deleted_blob_stays_in_other_repositories(case: &Case<'_>) {
    let bytes = case.bytes("both");
    let digest = case.ada.push_blob(&case.repository, &bytes);
    case.ada.push_blob(&case.beside(), &bytes);
    case.delete(&format!("blobs/{digest}")).expect(202);
    let beside = case.ada.get(&format!("/v2/{}/blobs/{digest}", case.beside()));
    assert_eq!(beside.expect(200).body, bytes);
}

/// Deleting Blobs (end-10): what was deleted can be pushed anew.
fn a_deleted_blob_may_be_pushed_again(case: &Case<'_>) {
    let bytes = case.bytes("again");
    for _ in 0..2 {
        let digest = case.ada.push_blob(&case.repository, &bytes);
        case.assert_blob(&digest, &bytes);
        case.delete(&format!("blobs/{digest}")).expect(202);
    }
}

/// Deleting Blobs (end-10): a blob that is not there MUST be 404.
fn an_unknown_blob_is_404(case: &Case<'_>) {
    let digest = sha256(b"nobody has this");
    case.delete(&format!("blobs/{digest}")).expect_error(404, "NAME_UNKNOWN");
    case.ada.push_blob(&case.repository, b"there");
    case.delete(&format!("blobs/{digest}")).expect_error(404, "BLOB_UNKNOWN");
}

/// Warnings (end-10): what is deleted although a manifest names it MAY be warned of, in the header's form.
fn deleting_a_blob_that_is_named_is_warned_of(case: &Case<'_>) {
    let first = case.image("named", "v");
    let mut second = Image::new(&case.bytes("named"));
    second.layers.push(case.bytes("another"));
    second.push(&case.ada, &case.repository, "w").expect(201);
    let deleted = case.delete(&format!("blobs/{}", sha256(&first.layers[0])));
    let told = warnings(deleted.expect(202));
    assert!(told.len() == 1 && told[0].starts_with("2 manifests of this repository"), "{told:?}");
}

/// Warnings (end-9): the same for a manifest that an index names.
fn deleting_a_manifest_that_is_named_is_warned_of(case: &Case<'_>) {
    let image = case.image("inner", "v");
    let named = json!([descriptor(OCI_IMAGE, &image.manifest())]);
    let (index, pushed) = case.put_json(&with(&empty_index(), "manifests", &named));
    pushed.expect(201);
    let deleted = case.delete(&format!("manifests/{}", image.digest()));
    let told = warnings(deleted.expect(202));
    assert!(told.len() == 1 && told[0].starts_with("1 index of this repository"), "{told:?}");
    assert!(warnings(case.delete(&format!("manifests/{index}")).expect(202)).is_empty());
}

/// Warnings (end-9, end-10): there is nothing to say of tags, of what no manifest names, and of other repositories.
fn deleting_what_nothing_names_is_not_warned_of(case: &Case<'_>) {
    let image = case.image("unnamed", "v");
    image.push(&case.ada, &case.beside(), "v").expect(201);
    for rest in [
        "manifests/v".to_owned(),
        format!("manifests/{}", image.digest()),
        format!("blobs/{}", sha256(&image.layers[0])),
    ] {
        assert!(warnings(case.delete(&rest).expect(202)).is_empty(), "{rest}");
    }
}
