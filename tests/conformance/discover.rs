//! Content Discovery: tags and referrers.

use serde_json::{Value, json};
use torno_tests::{Answer, Image, OCI_IMAGE, OCI_INDEX, sha256};

use crate::{Case, EMPTY, descriptor, empty_index, sha512, with};

#[test]
fn discover() {
    requirements! {
        "Listing Tags" => [
            tags_are_listed_in_order,
            without_tags_the_list_is_empty,
            tags_of_an_unknown_repository_are_404,
            n_tags_are_listed,
            a_link_leads_to_the_next_tags,
            the_last_page_has_no_link,
            no_tags_are_listed_if_none_are_asked_for,
            more_than_all_tags_are_all,
            tags_after_a_tag_are_listed,
            n_tags_after_a_tag_are_listed,
            n_that_is_no_number_is_refused,
        ],
        "Listing Referrers" => [
            a_subject_without_referrers_has_an_empty_list,
            an_unknown_repository_has_an_empty_list,
            an_invalid_digest_is_400,
            referrers_come_as_an_index,
            a_referrer_is_described,
            annotations_are_those_of_the_manifest,
            without_an_artifact_type_it_is_the_configs,
            an_empty_artifact_type_is_none,
            an_index_tells_its_artifact_type,
            an_index_without_an_artifact_type_tells_none,
            referrers_are_of_one_repository,
            referrers_are_of_one_subject,
            a_referrer_may_have_referrers,
            a_deleted_referrer_is_not_listed,
            referrers_outlive_their_subject,
            referrers_of_a_subject_by_sha512_are_listed,
            referrers_pushed_by_sha512_are_listed,
            referrers_are_listed_beside_a_referrers_tag,
            referrers_are_filtered,
            a_filter_that_fits_nothing_leaves_nothing,
            without_a_filter_none_is_told,
            a_link_leads_to_the_next_referrers,
        ],
    }
}

/// Pushes an artifact once for each tag.
#[track_caller]
fn tagged(case: &Case<'_>, tags: &[&str]) {
    let manifest = case.artifact().to_string();
    for tag in tags {
        case.put(tag, OCI_IMAGE, manifest.as_bytes()).expect(201);
    }
}

#[track_caller]
fn tags(answer: &Answer) -> Vec<String> {
    serde_json::from_value(answer.expect(200).json()["tags"].clone()).expect("a list of tags")
}

/// Where the `Link` of an answer leads; it is the next page (RFC 8288).
#[track_caller]
fn next(answer: &Answer) -> Option<String> {
    let link = answer.headers.get("link")?.to_str().expect("ASCII");
    let (target, relation) = link.split_once('>').expect("a target");
    assert_eq!(relation.replace([' ', '"'], ""), ";rel=next");
    Some(target.strip_prefix('<').expect("a target").to_owned())
}

/// Listing Tags (end-8a): MUST be 200 with the name and all tags, in ASCII or lexical order.
fn tags_are_listed_in_order(case: &Case<'_>) {
    tagged(case, &["v10", "b", "_x", "Z", "v9", "a", "1.0", "v1"]);
    let all = ["1.0", "Z", "_x", "a", "b", "v1", "v10", "v9"];
    let answer = case.get("tags/list");
    assert_eq!(answer.expect(200).json(), json!({"name": case.repository, "tags": all}));
    answer.expect_header("content-type", "application/json");
}

/// Listing Tags (end-8a): a repository without tags is there all the same, with an empty list.
fn without_tags_the_list_is_empty(case: &Case<'_>) {
    case.put_json(&case.artifact()).1.expect(201);
    let empty = json!({"name": case.repository, "tags": []});
    assert_eq!(case.get("tags/list").expect(200).json(), empty);
    tagged(case, &["v"]);
    case.delete("manifests/v").expect(202);
    assert_eq!(case.get("tags/list").expect(200).json(), empty);
}

/// Listing Tags (end-8a): a repository that is not there is 404.
fn tags_of_an_unknown_repository_are_404(case: &Case<'_>) {
    case.get("tags/list").expect_error(404, "NAME_UNKNOWN");
    case.get("tags/list?n=0").expect_error(404, "NAME_UNKNOWN");
}

/// Listing Tags (end-8b): `n` MUST give that many tags, from the first on.
fn n_tags_are_listed(case: &Case<'_>) {
    tagged(case, &["d", "b", "a", "c"]);
    for (n, expected) in [(1, &["a"][..]), (3, &["a", "b", "c"]), (4, &["a", "b", "c", "d"])] {
        assert_eq!(tags(&case.get(&format!("tags/list?n={n}"))), expected);
    }
}

/// Listing Tags (end-8b): `Link` MAY tell of more tags, and MUST have the relation `next` then. Along the links every
/// tag comes once.
fn a_link_leads_to_the_next_tags(case: &Case<'_>) {
    tagged(case, &["a", "b", "c", "d", "e"]);
    for n in 1..=5 {
        let mut seen = Vec::new();
        let mut path = Some(case.path(&format!("tags/list?n={n}")));
        while let Some(here) = path {
            let answer = case.ada.get(&here);
            let page = tags(&answer);
            assert!(!page.is_empty() && page.len() <= n, "{page:?}");
            seen.extend(page);
            path = next(&answer);
        }
        assert_eq!(seen, ["a", "b", "c", "d", "e"], "{n} at a time");
    }
}

/// Listing Tags (end-8b): `Link` is for when there is more.
fn the_last_page_has_no_link(case: &Case<'_>) {
    tagged(case, &["a", "b"]);
    for query in ["", "?n=2", "?n=3", "?n=1&last=a", "?last=b"] {
        assert_eq!(next(&case.get(&format!("tags/list{query}"))), None, "{query}");
    }
}

/// Listing Tags (end-8b): `n=0` MUST give an empty list and no `Link`.
fn no_tags_are_listed_if_none_are_asked_for(case: &Case<'_>) {
    tagged(case, &["a", "b"]);
    for query in ["?n=0", "?n=0&last=a"] {
        let answer = case.get(&format!("tags/list{query}"));
        assert_eq!(answer.expect(200).json(), json!({"name": case.repository, "tags": []}));
        assert!(!answer.headers.contains_key("link"));
    }
}

/// Listing Tags (end-8b): fewer than `n` come only if there are no more, or with a `Link`.
fn more_than_all_tags_are_all(case: &Case<'_>) {
    tagged(case, &["a", "b"]);
    for n in ["3", "1000", "1001", "4294967296"] {
        assert_eq!(tags(&case.get(&format!("tags/list?n={n}"))), ["a", "b"]);
    }
}

/// Listing Tags (end-8b): `last` gives the tags after it, itself left out; `n` is OPTIONAL then.
fn tags_after_a_tag_are_listed(case: &Case<'_>) {
    tagged(case, &["Z", "a", "b", "v1", "v10"]);
    for (last, expected) in [
        ("Z", &["a", "b", "v1", "v10"][..]),
        ("b", &["v1", "v10"]),
        ("v1", &["v10"]),
        ("v10", &[]),
        ("between", &["v1", "v10"]),
        ("0", &["Z", "a", "b", "v1", "v10"]),
    ] {
        assert_eq!(tags(&case.get(&format!("tags/list?last={last}"))), expected, "{last}");
    }
}

/// Listing Tags (end-8b): `n` and `last` together give up to that many tags after that one.
fn n_tags_after_a_tag_are_listed(case: &Case<'_>) {
    tagged(case, &["a", "b", "c", "d"]);
    for (query, expected) in
        [("n=2&last=a", &["b", "c"][..]), ("last=b&n=1", &["c"]), ("n=9&last=c", &["d"]), ("n=1&last=d", &[])]
    {
        assert_eq!(tags(&case.get(&format!("tags/list?{query}"))), expected, "{query}");
    }
}

/// Listing Tags (end-8b): `n` is an integer.
fn n_that_is_no_number_is_refused(case: &Case<'_>) {
    tagged(case, &["a"]);
    for n in ["x", "-1", "1.5", ""] {
        assert_eq!(case.get(&format!("tags/list?n={n}")).status, 400, "{n}");
    }
}

/// The descriptors of a listing of referrers, in the order of their digests.
#[track_caller]
fn referrers(case: &Case<'_>, subject: &str) -> Vec<Value> {
    let answer = case.get(&format!("referrers/{subject}"));
    let mut found = answer.expect(200).json()["manifests"].as_array().expect("a list").clone();
    found.sort_by_key(|entry| entry["digest"].to_string());
    found
}

/// A subject that nobody pushes, and its descriptor.
fn absent_subject(case: &Case<'_>) -> (String, Value) {
    let subject = Image::new(&case.bytes("subject")).manifest();
    (sha256(&subject), descriptor(OCI_IMAGE, &subject))
}

/// Pushes a referrer; its descriptor as the listing must have it, but for artifact type and annotations.
#[track_caller]
fn refer(case: &Case<'_>, manifest: &Value, subject: &Value) -> Value {
    let manifest = with(manifest, "subject", subject);
    let (_, pushed) = case.put_json(&manifest);
    let subject = subject["digest"].as_str().expect("a digest");
    pushed.expect(201).expect_header("oci-subject", subject);
    descriptor(manifest["mediaType"].as_str().expect("a type"), manifest.to_string().as_bytes())
}

/// Listing Referrers (end-12a): a query without matches MUST give an empty index, and MUST NOT be 404.
fn a_subject_without_referrers_has_an_empty_list(case: &Case<'_>) {
    let image = case.image("lonely", "v");
    for subject in [image.digest(), sha256(b"nobody has this"), sha512(b"nor this")] {
        let answer = case.get(&format!("referrers/{subject}"));
        assert_eq!(answer.expect(200).json(), empty_index());
        answer.expect_header("content-type", OCI_INDEX);
    }
}

/// Listing Referrers (end-12a): a registry with this API MUST NOT answer 404.
fn an_unknown_repository_has_an_empty_list(case: &Case<'_>) {
    assert!(referrers(case, &sha256(b"nobody has this")).is_empty());
}

/// Listing Referrers (end-12a): a digest of the wrong syntax MUST be 400.
fn an_invalid_digest_is_400(case: &Case<'_>) {
    case.image("there", "v");
    let upper = sha256(b"x").to_uppercase();
    for digest in ["v", "sha256", "sha256:", "sha256:abc", &upper, "md5:9dd4e461268c8034f5c8564e155c67a6"] {
        case.get(&format!("referrers/{digest}")).expect_error(400, "DIGEST_INVALID");
    }
}

/// Listing Referrers (end-12a): MUST be 200 with an image index as JSON, and its media type as `Content-Type`.
fn referrers_come_as_an_index(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    refer(case, &case.artifact(), &subject);
    let answer = case.get(&format!("referrers/{digest}"));
    answer.expect(200).expect_header("content-type", OCI_INDEX);
    let index = answer.json();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&json!(2), &json!(OCI_INDEX)));
    assert_eq!(index["manifests"].as_array().expect("a list").len(), 1);
}

/// Listing Referrers (end-12a): each descriptor has type, size and digest, and MUST have the manifest's
/// `artifactType`.
fn a_referrer_is_described(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let artifact = with(&case.artifact(), "artifactType", &json!("application/vnd.example.sbom.v1"));
    let expected = refer(case, &artifact, &subject);
    let expected = with(&expected, "artifactType", &json!("application/vnd.example.sbom.v1"));
    assert_eq!(referrers(case, &digest), [expected]);
}

/// Listing Referrers (end-12a): annotations MUST be those of the manifest, for images and indexes.
fn annotations_are_those_of_the_manifest(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let annotations =
        json!({"org.opencontainers.image.created": "2022-01-01T14:42:55Z", "org.example": "é \"\n"});
    for manifest in [case.artifact(), empty_index()] {
        refer(case, &with(&manifest, "annotations", &annotations), &subject);
    }
    let found = referrers(case, &digest);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|entry| entry["annotations"] == annotations), "{found:?}");
}

/// Listing Referrers (end-12a): an image without `artifactType` MUST be listed with its config's media type.
fn without_an_artifact_type_it_is_the_configs(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let config = descriptor("application/vnd.example.config+json", b"{}");
    let expected = refer(case, &with(&case.artifact(), "config", &config), &subject);
    let expected = with(&expected, "artifactType", &json!("application/vnd.example.config+json"));
    assert_eq!(referrers(case, &digest), [expected]);
}

/// Listing Referrers (end-12a): an empty `artifactType` counts as none: an image MUST have its config's media type,
/// in an index it MUST be left out.
fn an_empty_artifact_type_is_none(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let image = refer(case, &with(&case.artifact(), "artifactType", &json!("")), &subject);
    let index = refer(case, &with(&empty_index(), "artifactType", &json!("")), &subject);
    let mut expected = [with(&image, "artifactType", &json!(EMPTY)), index];
    expected.sort_by_key(|entry| entry["digest"].to_string());
    assert_eq!(referrers(case, &digest), expected);
}

/// Listing Referrers (end-12a): an index MUST be listed with its `artifactType`.
fn an_index_tells_its_artifact_type(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let list = with(&empty_index(), "artifactType", &json!("application/x.list"));
    let expected = with(&refer(case, &list, &subject), "artifactType", &json!("application/x.list"));
    assert_eq!(referrers(case, &digest), [expected]);
}

/// Listing Referrers (end-12a): for an index without `artifactType` it MUST be left out.
fn an_index_without_an_artifact_type_tells_none(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let expected = refer(case, &empty_index(), &subject);
    assert_eq!(referrers(case, &digest), [expected]);
}

/// Listing Referrers (end-12a): each descriptor is of a manifest in the same repository.
fn referrers_are_of_one_repository(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    refer(case, &case.artifact(), &subject);
    case.ada.push_blob(&case.beside(), b"the repository is there");
    let beside = case.ada.get(&format!("/v2/{}/referrers/{digest}", case.beside()));
    assert_eq!(beside.expect(200).json(), empty_index());
}

/// Listing Referrers (end-12a): each descriptor is of a manifest whose subject is the one asked for.
fn referrers_are_of_one_subject(case: &Case<'_>) {
    let (first, second) = (case.image("first", "first"), case.image("second", "second"));
    let types = ["application/x.first", "application/x.second"];
    for (image, kind) in [&first, &second].into_iter().zip(types) {
        let artifact = with(&case.artifact(), "artifactType", &json!(kind));
        refer(case, &artifact, &descriptor(OCI_IMAGE, &image.manifest()));
    }
    for (image, kind) in [first, second].into_iter().zip(types) {
        let found = referrers(case, &image.digest());
        assert_eq!((found.len(), &found[0]["artifactType"]), (1, &json!(kind)));
    }
}

/// Listing Referrers (end-12a): a referrer is a manifest, and may be a subject itself.
fn a_referrer_may_have_referrers(case: &Case<'_>) {
    let (_, subject) = absent_subject(case);
    let sbom = refer(case, &case.artifact(), &subject);
    let signature = refer(case, &case.artifact(), &sbom);
    let found = referrers(case, sbom["digest"].as_str().expect("a digest"));
    assert_eq!(found, [with(&signature, "artifactType", &json!(EMPTY))]);
}

/// Listing Referrers (end-12a): a manifest that is deleted is no longer one of the repository's.
fn a_deleted_referrer_is_not_listed(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let kept = refer(case, &empty_index(), &subject);
    let gone = refer(case, &case.artifact(), &subject);
    case.delete(&format!("manifests/{}", gone["digest"].as_str().expect("a digest"))).expect(202);
    assert_eq!(referrers(case, &digest), [kept]);
}

/// Listing Referrers (end-12a): the subject need not be there, so its deletion changes nothing.
fn referrers_outlive_their_subject(case: &Case<'_>) {
    let image = case.image("subject", "v");
    let kept = refer(case, &empty_index(), &descriptor(OCI_IMAGE, &image.manifest()));
    case.delete(&format!("manifests/{}", image.digest())).expect(202);
    assert_eq!(referrers(case, &image.digest()), [kept]);
}

/// Listing Referrers (end-12a): the subject may be named by SHA-512; it is that name it is found by.
fn referrers_of_a_subject_by_sha512_are_listed(case: &Case<'_>) {
    let (by_sha256, subject) = absent_subject(case);
    let digest = sha512(b"the subject");
    let expected = refer(case, &empty_index(), &with(&subject, "digest", &json!(digest)));
    assert_eq!(referrers(case, &digest), [expected]);
    assert!(referrers(case, &by_sha256).is_empty());
}

/// Listing Referrers (end-12a): a referrer is listed by the digest it was pushed by.
fn referrers_pushed_by_sha512_are_listed(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let manifest = with(&empty_index(), "subject", &subject).to_string().into_bytes();
    case.put(&sha512(&manifest), OCI_INDEX, &manifest).expect(201).expect_header("oci-subject", &digest);
    let expected = with(&descriptor(OCI_INDEX, &manifest), "digest", &json!(sha512(&manifest)));
    assert_eq!(referrers(case, &digest), [expected]);
}

/// Enabling the Referrers API (end-12a): manifests that a referrers tag lists MUST be listed; the tag itself is one
/// like any other.
fn referrers_are_listed_beside_a_referrers_tag(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let referrer = refer(case, &case.artifact(), &subject);
    let list = with(&empty_index(), "manifests", &json!([referrer])).to_string();
    let tag = digest.replace(':', "-");
    case.put(&tag, OCI_INDEX, list.as_bytes()).expect(201);
    assert_eq!(case.get(&format!("manifests/{tag}")).expect(200).body, list.as_bytes());
    assert_eq!(referrers(case, &digest), [with(&referrer, "artifactType", &json!(EMPTY))]);
}

/// Listing Referrers (end-12b): filtering by `artifactType` SHOULD be there; applied, it MUST be told in
/// `OCI-Filters-Applied`.
fn referrers_are_filtered(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let artifact = case.artifact();
    for kind in ["application/x.sbom", "application/vnd.example.signature.v1+json"] {
        refer(case, &with(&artifact, "artifactType", &json!(kind)), &subject);
        refer(case, &with(&empty_index(), "artifactType", &json!(kind)), &subject);
    }
    refer(case, &artifact, &subject);
    for (filter, kind, count) in [
        ("application/x.sbom", "application/x.sbom", 2),
        ("application%2Fx.sbom", "application/x.sbom", 2),
        ("application/vnd.example.signature.v1%2Bjson", "application/vnd.example.signature.v1+json", 2),
        ("application/vnd.oci.empty.v1%2Bjson", EMPTY, 1),
    ] {
        let answer = case.get(&format!("referrers/{digest}?artifactType={filter}"));
        answer.expect(200).expect_header("oci-filters-applied", "artifactType");
        answer.expect_header("content-type", OCI_INDEX);
        let found = answer.json()["manifests"].as_array().expect("a list").clone();
        assert_eq!(found.len(), count, "{filter}");
        assert!(found.iter().all(|entry| entry["artifactType"] == kind), "{filter}");
    }
    assert_eq!(referrers(case, &digest).len(), 5);
}

/// Listing Referrers (end-12b): no match is an empty list, and the filter MUST be told all the same.
fn a_filter_that_fits_nothing_leaves_nothing(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    refer(case, &case.artifact(), &subject);
    refer(case, &empty_index(), &subject);
    let answer = case.get(&format!("referrers/{digest}?artifactType=application/x.other"));
    answer.expect(200).expect_header("oci-filters-applied", "artifactType");
    assert_eq!(answer.json(), empty_index());
}

/// Listing Referrers (end-12a): `OCI-Filters-Applied` is for filters that were asked for.
fn without_a_filter_none_is_told(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    refer(case, &case.artifact(), &subject);
    let answer = case.get(&format!("referrers/{digest}"));
    assert!(!answer.expect(200).headers.contains_key("oci-filters-applied"));
}

/// Listing Referrers (end-12a): `Link` MUST be there when the list does not fit into one manifest. Along the links
/// every referrer comes once, in indexes that a client reads, with the filter or without.
fn a_link_leads_to_the_next_referrers(case: &Case<'_>) {
    let (digest, subject) = absent_subject(case);
    let mut expected: Vec<String> = Vec::new();
    for number in 0..3 {
        // So long that no two of them fit into one manifest of 4 MiB.
        let long = json!({"number": number.to_string(), "long": "x".repeat(3 * 1024 * 1024)});
        let list = with(&empty_index(), "annotations", &long);
        let list = with(&list, "artifactType", &json!("application/x+long"));
        expected.push(refer(case, &list, &subject)["digest"].as_str().expect("a digest").to_owned());
    }
    expected.sort();
    for query in ["", "?artifactType=application/x%2Blong"] {
        let mut seen = Vec::new();
        let mut path = Some(case.path(&format!("referrers/{digest}{query}")));
        while let Some(here) = path {
            let answer = case.ada.get(&here);
            answer.expect(200).expect_header("content-type", OCI_INDEX);
            assert!(answer.body.len() <= 4 * 1024 * 1024 && seen.len() < expected.len());
            assert_eq!(answer.headers.contains_key("oci-filters-applied"), !query.is_empty());
            let page = answer.json()["manifests"].as_array().expect("a list").clone();
            seen.extend(page.iter().map(|entry| entry["digest"].as_str().expect("a digest").to_owned()));
            path = next(&answer);
        }
        assert_eq!(seen, expected, "{query}");
    }
}
