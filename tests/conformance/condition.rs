//! Pushes with a condition, which the specification mentions for lists that several clients change (Pushing Manifests
//! with Subject; Referrers Tag Schema) and leaves to HTTP.

use serde_json::Value;
use torno_tests::{Answer, Image, OCI_IMAGE};

use crate::Case;

#[test]
fn condition() {
    requirements! {
        "API" => [
            a_push_may_replace_what_was_pulled_and_nothing_else,
            a_push_may_be_the_first_and_no_other,
            a_push_may_ask_for_anything_that_is_there,
            a_push_by_digest_may_have_a_condition,
            a_deletion_may_have_a_condition,
            of_two_pushes_with_a_condition_one_goes_on,
        ],
    }
}

#[track_caller]
fn put(case: &Case<'_>, reference: &str, image: &Image, condition: (&str, &str)) -> Answer {
    case.ada.push_blob(&case.repository, &image.config);
    case.ada.push_blob(&case.repository, &image.layers[0]);
    let headers = [("content-type", OCI_IMAGE), condition];
    case.ada.send("PUT", &case.path(&format!("manifests/{reference}")), &headers, &image.manifest())
}

#[track_caller]
fn assert_changed(case: &Case<'_>, refused: &Answer, found: Option<&Image>) {
    refused.expect_error(412, "DENIED");
    let digest = found.map_or(Value::Null, |image| image.digest().into());
    assert_eq!(refused.json()["errors"][0]["detail"]["found"], digest);
    match found {
        Some(image) => assert_eq!(case.get("manifests/v").expect(200).body, image.manifest()),
        None => drop(case.get("manifests/v").expect_error(404, "MANIFEST_UNKNOWN")),
    }
}

/// API (RFC 9110, section 13.1.1): with `If-Match`, a tag that points elsewhere MUST stay: 412.
fn a_push_may_replace_what_was_pulled_and_nothing_else(case: &Case<'_>) {
    let (first, second, third) =
        (case.image("first", "v"), Image::new(&case.bytes("2")), Image::new(&case.bytes("3")));
    let etag = case.get("manifests/v").header("etag");
    let pushed = put(case, "v", &second, ("if-match", &etag));
    let second_etag = pushed.expect(201).header("etag");
    assert_changed(case, &put(case, "v", &third, ("if-match", &etag)), Some(&second));
    for other in ["\"other\"", "", &format!("W/{second_etag}"), &second.digest()] {
        assert_changed(case, &put(case, "v", &third, ("if-match", other)), Some(&second));
    }
    put(case, "v", &third, ("if-match", &format!("\"x\", {second_etag}"))).expect(201);
    case.get(&format!("manifests/{}", first.digest())).expect(200);
}

/// API (RFC 9110, section 13.1.2): with `If-None-Match: *`, what is there MUST stay; with an `ETag`, that version.
fn a_push_may_be_the_first_and_no_other(case: &Case<'_>) {
    let (first, second) = (Image::new(&case.bytes("1")), Image::new(&case.bytes("2")));
    let etag = put(case, "v", &first, ("if-none-match", "*")).expect(201).header("etag");
    for known in ["*", &etag, &format!("W/{etag}")] {
        assert_changed(case, &put(case, "v", &second, ("if-none-match", known)), Some(&first));
    }
    put(case, "v", &second, ("if-none-match", "\"other\"")).expect(201);
}

/// API (RFC 9110, section 13.1.1): `If-Match: *` asks for anything that is there.
fn a_push_may_ask_for_anything_that_is_there(case: &Case<'_>) {
    let image = Image::new(&case.bytes("1"));
    assert_changed(case, &put(case, "v", &image, ("if-match", "*")), None);
    case.image("there", "v");
    put(case, "v", &image, ("if-match", "*")).expect(201);
}

/// API (RFC 9110, section 13.1): by digest, what is replaced is that manifest.
fn a_push_by_digest_may_have_a_condition(case: &Case<'_>) {
    let image = Image::new(&case.bytes("1"));
    put(case, &image.digest(), &image, ("if-none-match", "*")).expect(201);
    put(case, &image.digest(), &image, ("if-none-match", "*")).expect_error(412, "DENIED");
    put(case, &image.digest(), &image, ("if-match", "*")).expect(201);
}

/// API (RFC 9110, section 13.1.1): what has changed MUST NOT be deleted either, by tag or by digest.
fn a_deletion_may_have_a_condition(case: &Case<'_>) {
    let first = case.image("first", "v");
    let old = case.get("manifests/v").header("etag");
    let second = case.image("second", "v");
    let current = case.get("manifests/v").header("etag");
    let delete = |reference: &str, etag: &str| {
        case.ada.send("DELETE", &case.path(&format!("manifests/{reference}")), &[("if-match", etag)], b"")
    };
    assert_changed(case, &delete("v", &old), Some(&second));
    delete("other", "*").expect_error(412, "DENIED");
    delete("v", &current).expect(202);
    case.get("manifests/v").expect(404);
    delete(&first.digest(), &current).expect_error(412, "DENIED");
    delete(&first.digest(), &old).expect(202);
    case.get(&format!("manifests/{}", first.digest())).expect(404);
}

/// Referrers Tag Schema: of several clients that change a list at a time none overwrites another's change.
fn of_two_pushes_with_a_condition_one_goes_on(case: &Case<'_>) {
    case.image("base", "v");
    let etag = case.get("manifests/v").header("etag");
    let images: Vec<Image> = (0..8).map(|n| Image::new(&case.bytes(&n.to_string()))).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let etag = &etag;
        let push = |image| scope.spawn(move || put(case, "v", image, ("if-match", etag)).status);
        let pushes: Vec<_> = images.iter().map(push).collect();
        pushes.into_iter().map(|push| push.join().expect("no panic")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 7, "{statuses:?}");
}
