//! Error Codes and Warnings, and HTTP where the specification leaves a matter to it.
//!
//! code-14, `TOOMANYREQUESTS`, is not here: Torno bounds what it does at once by making requests wait, and never
//! answers 429.

use serde_json::{Value, json};
use torno_tests::{Answer, OCI_IMAGE, OCI_INDEX, sha256};

use crate::{BYTES, Case, descriptor, warnings, with};

/// code-1 to code-14, and the one of the two legacy codes (Legacy Docker support error codes) that Torno has.
const CODES: [&str; 15] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
    "TAG_INVALID",
];

#[test]
fn errors() {
    requirements! {
        "Error Codes" => [
            code_1_blob_unknown,
            code_2_blob_upload_invalid,
            code_3_blob_upload_unknown,
            code_4_digest_invalid,
            code_5_manifest_blob_unknown,
            code_6_manifest_invalid,
            code_7_manifest_unknown,
            code_8_name_invalid,
            code_9_name_unknown,
            code_10_size_invalid,
            code_11_unauthorized,
            code_12_denied,
            code_13_unsupported,
            a_malformed_tag_has_a_known_code,
            an_unknown_path_has_a_known_code,
        ],
        "API" => [
            who_is_unknown_is_told_how_to_log_in,
            a_wrong_method_is_told_the_right_ones,
            an_error_to_head_has_no_body,
            a_refused_body_ends_the_connection_as_announced,
        ],
        "Error Codes: detail" => [details_say_what_a_program_can_use, nothing_internal_is_told],
        "Warnings" => [warnings_have_their_form],
    }
}

/// Fails unless the answer is an error of this status and code, with a body as the specification has it.
#[track_caller]
fn assert_error(answer: &Answer, status: u16, code: &str) {
    let message = answer.expect_error(status, code);
    assert!(!message.is_empty());
    answer.expect_header("content-type", "application/json");
    let body = answer.json();
    let keys: Vec<&String> = body.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["errors"]);
    let errors = body["errors"].as_array().expect("a list");
    assert!(!errors.is_empty());
    for error in errors {
        let error = error.as_object().expect("an object");
        assert!(error.keys().all(|key| ["code", "message", "detail"].contains(&key.as_str())), "{error:?}");
        let code = error["code"].as_str().expect("a code");
        assert!(CODES.contains(&code), "{code}");
        assert!(error.get("message").is_none_or(Value::is_string));
    }
}

/// code-1 (end-2, end-10): a blob that is not there.
fn code_1_blob_unknown(case: &Case<'_>) {
    case.ada.push_blob(&case.repository, b"there");
    let rest = format!("blobs/{}", sha256(b"nobody has this"));
    assert_error(&case.get(&rest), 404, "BLOB_UNKNOWN");
    assert_error(&case.delete(&rest), 404, "BLOB_UNKNOWN");
}

/// code-2 (end-5, end-6): a chunk out of order, or with a range that is none.
fn code_2_blob_upload_invalid(case: &Case<'_>) {
    let session = case.begin();
    assert_error(&case.chunk(&session, "5-9", b"56789"), 416, "BLOB_UPLOAD_INVALID");
    assert_error(&case.chunk(&session, "x", b"56789"), 400, "BLOB_UPLOAD_INVALID");
}

/// code-3 (end-5, end-6, end-13, end-14): a session that is not there.
fn code_3_blob_upload_unknown(case: &Case<'_>) {
    for name in ["0".repeat(32), "no-such-session".into()] {
        let session = case.path(&format!("blobs/uploads/{name}"));
        assert_error(&case.ada.get(&session), 404, "BLOB_UPLOAD_UNKNOWN");
        assert_error(&case.ada.delete(&session), 404, "BLOB_UPLOAD_UNKNOWN");
        assert_error(&case.chunk(&session, "0-0", b"x"), 404, "BLOB_UPLOAD_UNKNOWN");
        assert_error(&case.close(&session, &sha256(b"x"), b"x"), 404, "BLOB_UPLOAD_UNKNOWN");
    }
}

/// code-4 (end-2, end-4b, end-6, end-7a, end-12a): a digest that is none, or not the content's.
fn code_4_digest_invalid(case: &Case<'_>) {
    let manifest = case.artifact().to_string();
    let other = sha256(b"other");
    assert_error(&case.close(&case.begin(), &other, b"x"), 400, "DIGEST_INVALID");
    let path = case.path(&format!("blobs/uploads/?digest={other}"));
    assert_error(&case.ada.send("POST", &path, &[BYTES], b"x"), 400, "DIGEST_INVALID");
    assert_error(&case.put(&other, OCI_IMAGE, manifest.as_bytes()), 400, "DIGEST_INVALID");
    for rest in ["blobs/sha256:abc", "manifests/sha256:abc", "referrers/sha256:abc"] {
        assert_error(&case.get(rest), 400, "DIGEST_INVALID");
    }
}

/// code-5 (end-7a): a manifest that names what is not there.
fn code_5_manifest_blob_unknown(case: &Case<'_>) {
    let missing = json!([descriptor("application/x.y", b"nobody has this")]);
    assert_error(&case.put_json(&with(&case.artifact(), "layers", &missing)).1, 404, "MANIFEST_BLOB_UNKNOWN");
}

/// code-6 (end-7a): bytes that are no manifest, or not of the type they are said to be.
fn code_6_manifest_invalid(case: &Case<'_>) {
    let artifact = case.artifact();
    let whole = artifact.to_string();
    let version_1 = with(&artifact, "schemaVersion", &json!(1)).to_string();
    let bad_digest =
        with(&artifact, "config", &json!({"mediaType": "a/b", "digest": "x", "size": 2})).to_string();
    for (media_type, bytes) in [
        (OCI_IMAGE, ""),
        (OCI_IMAGE, "no JSON"),
        (OCI_IMAGE, "{}"),
        (OCI_IMAGE, &whole[1..]),
        (OCI_IMAGE, &version_1),
        (OCI_IMAGE, &bad_digest),
        (OCI_INDEX, &whole),
        ("text/plain", &whole),
    ] {
        assert_error(&case.put("bad", media_type, bytes.as_bytes()), 400, "MANIFEST_INVALID");
        assert_error(&case.get("manifests/bad"), 404, "MANIFEST_UNKNOWN");
    }
}

/// code-7 (end-3, end-9): a manifest or a tag that is not there.
fn code_7_manifest_unknown(case: &Case<'_>) {
    case.image("there", "v");
    for reference in ["other", &sha256(b"nobody has this")] {
        let rest = format!("manifests/{reference}");
        assert_error(&case.get(&rest), 404, "MANIFEST_UNKNOWN");
        assert_error(&case.delete(&rest), 404, "MANIFEST_UNKNOWN");
    }
}

/// code-8 (all endpoints with a name): a repository name outside the grammar.
fn code_8_name_invalid(case: &Case<'_>) {
    let digest = sha256(b"x");
    for rest in [
        "tags/list".to_owned(),
        format!("blobs/{digest}"),
        "manifests/v".into(),
        format!("referrers/{digest}"),
    ] {
        assert_error(&case.ada.get(&format!("/v2/No-Name/{rest}")), 400, "NAME_INVALID");
    }
    assert_error(&case.ada.post("/v2/No-Name/blobs/uploads/"), 400, "NAME_INVALID");
}

/// code-9 (end-2, end-3, end-8a, end-9, end-10): a repository that is not there.
fn code_9_name_unknown(case: &Case<'_>) {
    let digest = sha256(b"x");
    for rest in ["tags/list".to_owned(), format!("blobs/{digest}"), "manifests/v".into()] {
        assert_error(&case.get(&rest), 404, "NAME_UNKNOWN");
    }
    for rest in [format!("blobs/{digest}"), "manifests/v".into(), format!("manifests/{digest}")] {
        assert_error(&case.delete(&rest), 404, "NAME_UNKNOWN");
    }
}

/// code-10 (end-5, end-6): a length that is not the content's.
fn code_10_size_invalid(case: &Case<'_>) {
    let session = case.begin();
    assert_error(&case.chunk(&session, "0-9", b"01234"), 400, "SIZE_INVALID");
    assert_error(&case.chunk(&session, "0-3", b"01234"), 400, "SIZE_INVALID");
}

/// code-11 (all endpoints): someone who has not logged in, or not with the right password.
fn code_11_unauthorized(case: &Case<'_>) {
    case.image("there", "v");
    for stranger in [case.site.anonymous(), case.site.http_with("ada", "wrong")] {
        for path in ["/v2/".to_owned(), case.path("manifests/v"), case.path("tags/list")] {
            assert_error(&stranger.get(&path), 401, "UNAUTHORIZED");
        }
        assert_error(&stranger.post(&case.path("blobs/uploads/")), 401, "UNAUTHORIZED");
    }
}

/// code-12 (end-4a, end-7a): someone who may not write here.
fn code_12_denied(case: &Case<'_>) {
    let image = case.image("ada's", "v");
    let bob = case.site.http("bob");
    assert_error(&bob.post(&case.path("blobs/uploads/")), 403, "DENIED");
    let pushed = bob.push_manifest(&case.repository, "v", OCI_IMAGE, &image.manifest());
    assert_error(&pushed, 403, "DENIED");
}

/// code-13 (all endpoints): a method that a path does not take.
fn code_13_unsupported(case: &Case<'_>) {
    for (method, rest) in [
        ("PUT", format!("blobs/{}", sha256(b"x"))),
        ("PATCH", "manifests/v".into()),
        ("DELETE", "tags/list".into()),
        ("GET", "blobs/uploads/".into()),
        ("POST", format!("referrers/{}", sha256(b"x"))),
    ] {
        assert_error(&case.ada.send(method, &case.path(&rest), &[], b""), 405, "UNSUPPORTED");
    }
}

/// Error Codes, Legacy Docker support error codes (end-7a, end-7b): a malformed tag MAY be `TAG_INVALID`.
fn a_malformed_tag_has_a_known_code(case: &Case<'_>) {
    let manifest = case.artifact().to_string();
    assert_error(&case.put(".bad", OCI_IMAGE, manifest.as_bytes()), 400, "TAG_INVALID");
    let digest = sha256(manifest.as_bytes());
    assert_error(
        &case.put(&format!("{digest}?tag=.bad"), OCI_IMAGE, manifest.as_bytes()),
        400,
        "TAG_INVALID",
    );
    case.get(&format!("manifests/{digest}")).expect(404);
}

/// Error Codes: a path that is none of the endpoints has an error of the same form.
fn an_unknown_path_has_a_known_code(case: &Case<'_>) {
    assert_error(&case.get("nothing"), 404, "NAME_UNKNOWN");
}

/// API (RFC 9110, section 15.5.2): 401 tells how to log in.
fn who_is_unknown_is_told_how_to_log_in(case: &Case<'_>) {
    let refused = case.site.anonymous().get("/v2/");
    assert!(refused.expect(401).header("www-authenticate").starts_with("Bearer realm="));
}

/// API (RFC 9110, section 15.5.6): 405 tells the methods that the path takes.
fn a_wrong_method_is_told_the_right_ones(case: &Case<'_>) {
    let refused = case.ada.send("PATCH", &case.path("manifests/v"), &[], b"");
    let allowed = refused.expect(405).header("allow");
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        assert!(allowed.split(", ").any(|one| one == method), "{allowed}");
    }
}

/// API (RFC 9110, section 9.3.2): an answer to `HEAD` has no body, of errors neither.
fn an_error_to_head_has_no_body(case: &Case<'_>) {
    for rest in ["manifests/v".to_owned(), format!("blobs/{}", sha256(b"x"))] {
        assert!(case.head(&rest).expect(404).body.is_empty());
    }
    assert!(case.head("manifests/.bad").expect(400).body.is_empty());
}

/// API (RFC 9112, section 9.6): who does not read a body to its end closes the connection, and SHOULD say so.
fn a_refused_body_ends_the_connection_as_announced(case: &Case<'_>) {
    let refused = case.put(".bad", OCI_IMAGE, b"a body");
    refused.expect(400).expect_header("connection", "close");
    assert!(!case.get("manifests/v").expect(404).headers.contains_key("connection"));
}

/// Error Codes: `detail` MAY be arbitrary JSON that helps to resolve the issue; where there is nothing to say it is
/// left out.
fn details_say_what_a_program_can_use(case: &Case<'_>) {
    let image = case.image("details", "v");
    let unknown = sha256(b"nobody has this");
    let session = case.begin();
    case.chunk(&session, "0-4", b"01234").expect(202);
    let blob = case.path(&format!("blobs/{}", sha256(&image.config)));
    let long = "x".repeat(5 * 1024 * 1024);
    let large = with(&case.artifact(), "annotations", &json!({"long": long})).to_string();
    for (answer, expected) in [
        (case.get(&format!("blobs/{unknown}")), json!({"digest": unknown})),
        (case.get("manifests/other"), json!({"reference": "other"})),
        (case.chunk(&session, "7-8", b"78"), json!({"received": 5, "offered": 7})),
        (case.chunk(&session, "5-8", b"56"), json!({"announced": 4, "came": 2, "received": 5})),
        (
            case.put(&unknown, OCI_IMAGE, &image.manifest()),
            json!({"expected": unknown, "found": image.digest()}),
        ),
        (case.close(&session, &unknown, b""), json!({"expected": unknown, "found": sha256(b"01234")})),
        (case.ada.send("GET", &blob, &[("range", "bytes=99999-")], b""), json!({"size": image.config.len()})),
        (case.put("w", OCI_IMAGE, large.as_bytes()), json!({"limit": 4 * 1024 * 1024})),
        (case.ada.send("POST", &blob, &[], b""), json!({"allowed": ["GET", "HEAD", "DELETE"]})),
    ] {
        assert_eq!(answer.json()["errors"][0]["detail"], expected);
    }
    for answer in [case.get("manifests/.x"), case.get("nothing"), case.site.anonymous().get("/v2/")] {
        assert!(answer.json()["errors"][0].get("detail").is_none());
    }
}

/// Error Codes: a message is for people; of paths, of the database and of the code it says nothing.
fn nothing_internal_is_told(case: &Case<'_>) {
    let session = case.begin();
    let answers = [
        case.put("v", OCI_IMAGE, b"{\"schemaVersion\": 2}"),
        case.put("v", OCI_IMAGE, b"\xff"),
        case.get("tags/list?n=x"),
        case.get("blobs/sha256:x"),
        case.chunk(&session, "9-9", b"9"),
        case.close(&session, &sha256(b"other"), b"0"),
        case.ada.get("/v2/%ff/tags/list"),
        case.ada.send("PUT", &case.path("manifests/v"), &[("content-type", "x")], b"{}"),
    ];
    for answer in answers {
        let text = String::from_utf8(answer.body.clone()).expect("UTF-8");
        assert!((400..500).contains(&answer.status), "{text}");
        for word in ["registry-data", "/tmp", ".rs", "sqlite", "SELECT", "crates", "panic", "os error"] {
            assert!(!text.contains(word), "{text}");
        }
    }
}

/// Warnings: if there are any, each MUST be `299 - "<text>"` without a date, and all together at most 4096 bytes.
fn warnings_have_their_form(case: &Case<'_>) {
    let image = case.image("warnings", "v");
    for answer in [
        case.ada.get("/v2/"),
        case.get("manifests/v"),
        case.get("manifests/other"),
        case.post(""),
        case.put("w", OCI_IMAGE, &image.manifest()),
        case.delete("manifests/w"),
    ] {
        assert!(warnings(&answer).is_empty(), "there is nothing to warn of");
    }
    let accept = [("accept", "application/x.\"quoted\"")];
    let pulled = case.ada.send("GET", &case.path("manifests/v"), &accept, b"");
    assert_eq!(warnings(pulled.expect(200)).len(), 1);
    let deleted = case.delete(&format!("blobs/{}", sha256(&image.config)));
    assert_eq!(warnings(deleted.expect(202)).len(), 1);
}
