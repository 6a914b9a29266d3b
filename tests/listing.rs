//! What there is, page by page, and what there is not (distribution-spec: Content Discovery, Error Codes).

use serde_json::{Value, json};
use torno_tests::{Http, Image, OCI_IMAGE, OCI_INDEX, PROJECTS, Site, layer, sha256};

/// All pages behind a path, along the `Link`s; each page's entries.
fn pages(http: &Http, path: &str, field: &str) -> Vec<Vec<String>> {
    pages_of(http, path, field, |entry| entry.as_str().expect("a name").to_owned())
}

/// The same, of entries that are more than names.
fn pages_of(http: &Http, path: &str, field: &str, name: impl Fn(&Value) -> String) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(path) = next {
        let answer = http.get(&path);
        let entries = answer.expect(200).json()[field].as_array().expect("a list").clone();
        pages.push(entries.iter().map(&name).collect());
        assert!(pages.len() < 100, "the pages never end");
        next = answer.headers.get("link").map(|link| {
            let link = link.to_str().expect("ASCII");
            let path = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
            path.unwrap_or_else(|| panic!("{link}")).to_owned()
        });
    }
    pages
}

#[test]
fn tags_come_in_order_and_in_pages() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("tags"));
    image.push(&ada, "tools/x", "b").expect(201);
    for tag in ["v1", "a", "Z", "v10", "_x"] {
        ada.push_manifest("tools/x", tag, OCI_IMAGE, &image.manifest()).expect(201);
    }
    let all = ["Z", "_x", "a", "b", "v1", "v10"];
    let list = "/v2/tools/x/tags/list";
    assert_eq!(ada.get(list).expect(200).json(), json!({"name": "tools/x", "tags": all}));
    for (size, count) in [(1, 6), (2, 3), (4, 2), (6, 1), (7, 1)] {
        let pages = pages(&ada, &format!("{list}?n={size}"), "tags");
        assert_eq!(pages.len(), count, "{size}");
        assert_eq!(pages.concat(), all, "{size}");
    }
    assert_eq!(pages(&ada, &format!("{list}?last=b"), "tags"), [["v1", "v10"]]);
    assert_eq!(pages(&ada, &format!("{list}?n=1&last=between"), "tags").concat(), ["v1", "v10"]);
    assert_eq!(pages(&ada, &format!("{list}?n=0"), "tags"), [Vec::<String>::new()]);
    for bad in ["-1", "x", "99999999999999999999999"] {
        ada.get(&format!("{list}?n={bad}")).expect_error(400, "UNSUPPORTED");
    }
}

#[test]
fn the_catalog_shows_each_what_they_may_read() {
    let site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", torno_tests::NO_ENGINE);
    let mut site = site;
    site.add_users(&["ada", "bob", "cora", "eve", "admin"]);
    site.start();
    let image = Image::new(&layer("catalog"));
    let push = |who: &str, repository: &str| image.push(&site.http(who), repository, "v").expect(201).status;
    for repository in ["z/last", "a/first", "run/heart/ada"] {
        push("ada", repository);
    }
    for repository in ["m/middle", "run/heart/bob"] {
        push("bob", repository);
    }
    // Begun, but nothing to pull yet.
    site.http("ada").begin_upload("b/begun");
    let seen = |who: &str| pages(&site.http(who), "/v2/_catalog?n=1", "repositories").concat();
    assert_eq!(seen("ada"), ["a/first", "run/heart/ada", "z/last"]);
    assert_eq!(seen("bob"), ["m/middle", "run/heart/bob"]);
    assert_eq!(seen("cora"), ["run/heart/ada", "run/heart/bob"]);
    assert_eq!(seen("eve"), Vec::<String>::new());
    assert_eq!(seen("admin"), ["a/first", "m/middle", "z/last"]);
    let ada = site.http("ada");
    assert_eq!(pages(&ada, "/v2/_catalog?n=2", "repositories").len(), 2);
    assert_eq!(pages(&ada, "/v2/_catalog?last=a/first", "repositories"), [["run/heart/ada", "z/last"]]);
}

#[test]
fn referrers_are_found_by_what_they_speak_of() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("subject"));
    let subject = json!({"mediaType": OCI_IMAGE, "digest": image.digest(), "size": image.manifest().len()});
    let empty = ada.push_blob("tools/x", b"{}");
    let config = |kind: &str| json!({"mediaType": kind, "digest": empty, "size": 2});
    let signature = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "artifactType": "application/x.signature",
        "config": config("application/vnd.oci.empty.v1+json"), "layers": [], "subject": subject,
        "annotations": {"org.example.by": "ada"},
    });
    let old_style = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "config": config("application/x.sbom"), "layers": [],
        "subject": subject,
    });
    let list = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "artifactType": "application/x.list", "manifests": [],
        "subject": subject,
    });
    let path = format!("/v2/tools/x/referrers/{}", image.digest());
    let none = ada.get(&path);
    assert_eq!(none.expect(200).json()["manifests"], json!([]));
    none.expect_header("content-type", OCI_INDEX);

    // Before the subject itself is there.
    for (value, kind) in [(&signature, OCI_IMAGE), (&old_style, OCI_IMAGE), (&list, OCI_INDEX)] {
        let bytes = value.to_string().into_bytes();
        let pushed = ada.push_manifest("tools/x", &sha256(&bytes), kind, &bytes);
        pushed.expect(201).expect_header("oci-subject", &image.digest());
    }
    image.push(&ada, "tools/x", "v").expect(201);

    let found = |query: &str| {
        let answer = ada.get(&format!("{path}{query}"));
        let mut found = answer.expect(200).json()["manifests"].as_array().expect("a list").clone();
        found.sort_by_key(|entry| entry["artifactType"].as_str().map(str::to_owned));
        (found, answer.headers.get("oci-filters-applied").cloned())
    };
    let kinds =
        |entries: &[Value]| entries.iter().map(|entry| entry["artifactType"].clone()).collect::<Vec<_>>();
    let (all, filtered) = found("");
    assert_eq!(kinds(&all), ["application/x.list", "application/x.sbom", "application/x.signature"]);
    assert!(filtered.is_none());
    let bytes = signature.to_string();
    let expected = json!({
        "mediaType": OCI_IMAGE, "digest": sha256(bytes.as_bytes()), "size": bytes.len(),
        "artifactType": "application/x.signature", "annotations": {"org.example.by": "ada"},
    });
    assert_eq!(all[2], expected);
    let (sboms, filtered) = found("?artifactType=application%2Fx.sbom");
    assert_eq!(kinds(&sboms), ["application/x.sbom"]);
    assert_eq!(filtered.expect("a header"), "artifactType");
    assert!(found("?artifactType=application/x.other").0.is_empty());

    let gone = sha256(bytes.as_bytes());
    ada.delete(&format!("/v2/tools/x/manifests/{gone}")).expect(202);
    assert_eq!(kinds(&found("").0), ["application/x.list", "application/x.sbom"]);
}

/// One more than a page holds fits the filter, and as many do not.
#[test]
fn referrers_come_in_pages_of_what_fits() {
    const PAGE: usize = 100;
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let subject = sha256(b"never pushed");
    let mut pushed = [Vec::new(), Vec::new()];
    for number in 0..=2 * PAGE {
        let index = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [],
            "artifactType": if number % 2 == 0 { "application/x.a+json" } else { "application/x.b" },
            "subject": {"mediaType": OCI_IMAGE, "digest": subject, "size": 1},
            "annotations": {"number": number.to_string()},
        });
        let bytes = index.to_string().into_bytes();
        ada.push_manifest("tools/x", &sha256(&bytes), OCI_INDEX, &bytes).expect(201);
        pushed[number % 2].push(sha256(&bytes));
    }
    let found = |filter: &str| -> Vec<Vec<String>> {
        let path = format!("/v2/tools/x/referrers/{subject}{filter}");
        pages_of(&ada, &path, "manifests", |entry| entry["digest"].as_str().expect("a digest").to_owned())
    };
    let all = pushed.concat();
    let [fits, others] = pushed;
    for (filter, mut expected, sizes) in [
        ("", all, vec![PAGE, PAGE, 1]),
        ("?artifactType=application/x.a+json", fits, vec![PAGE, 1]),
        ("?artifactType=application%2Fx.b", others, vec![PAGE]),
        ("?artifactType=application/x.c", Vec::new(), vec![0]),
    ] {
        expected.sort();
        let found = found(filter);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{filter}");
        assert_eq!(found.concat(), expected, "{filter}");
    }
}

/// Whoever asks for no number of repositories gets 100, and a link to the others.
#[test]
fn the_catalog_comes_in_pages_unasked() {
    let site = Site::start_with("", &["ada", "bob"]);
    let image = Image::new(&layer("pages"));
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    let ada = site.http("ada");
    for number in 0..=100 {
        ada.push_manifest(&format!("tools/x{number:03}"), "v", OCI_INDEX, index.as_bytes()).expect(201);
    }
    image.push(&site.http("bob"), "tools/x050-bob", "v").expect(201);
    let found = pages(&ada, "/v2/_catalog", "repositories");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [100, 1]);
    assert!(found.concat().is_sorted());
    assert_eq!(pages(&site.http("bob"), "/v2/_catalog", "repositories"), [["tools/x050-bob"]]);
}

#[test]
fn what_is_malformed_is_named() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    Image::new(&layer("x")).push(&ada, "tools/x", "v").expect(201);
    let digest = sha256(b"x");
    let long = "a".repeat(256);
    let long_tag = "t".repeat(129);
    let cases = [
        ("GET", format!("/v2/Tools/x/blobs/{digest}"), 400, "NAME_INVALID"),
        ("GET", "/v2/tools//x/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", "/v2/tools/..%2f..%2fx/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", "/v2/a%00b/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", format!("/v2/{long}/tags/list"), 400, "NAME_INVALID"),
        ("POST", "/v2/-x/blobs/uploads/".into(), 400, "NAME_INVALID"),
        ("GET", "/v2/tags/list".into(), 400, "NAME_INVALID"),
        ("GET", "/v2/tools/x/blobs/sha256:abc".into(), 400, "DIGEST_INVALID"),
        ("GET", format!("/v2/tools/x/blobs/{}", digest.to_uppercase()), 400, "DIGEST_INVALID"),
        ("DELETE", "/v2/tools/x/blobs/latest".into(), 400, "DIGEST_INVALID"),
        ("GET", "/v2/tools/x/manifests/sha256:abc".into(), 400, "DIGEST_INVALID"),
        ("GET", "/v2/tools/x/referrers/v".into(), 400, "DIGEST_INVALID"),
        ("PUT", "/v2/tools/x/manifests/.x".into(), 400, "TAG_INVALID"),
        ("GET", format!("/v2/tools/x/manifests/{long_tag}"), 400, "TAG_INVALID"),
        ("GET", "/v2/tools/x/blobs/uploads/no-such-upload".into(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/tools/x/blobs/uploads/..%2f..%2ftorno.db".into(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/unknown".into(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/%ff/tags/list".into(), 404, "NAME_UNKNOWN"),
        ("POST", "/v2/".into(), 405, "UNSUPPORTED"),
        ("DELETE", "/v2/_catalog".into(), 405, "UNSUPPORTED"),
        ("PUT", format!("/v2/tools/x/blobs/{digest}"), 405, "UNSUPPORTED"),
        ("PATCH", "/v2/tools/x/manifests/v".into(), 405, "UNSUPPORTED"),
        ("GET", "/v2/tools/x/blobs/uploads/".into(), 405, "UNSUPPORTED"),
        ("POST", "/v2/tools/x/tags/list".into(), 405, "UNSUPPORTED"),
        ("BREW", "/v2/tools/x/tags/list".into(), 405, "UNSUPPORTED"),
    ];
    for (method, path, status, code) in cases {
        let answer = ada.send(method, &path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
        answer.expect_error(status, code);
        if status == 405 {
            assert!(!answer.header("allow").contains(method), "{method} {path}");
        }
    }
}

#[test]
fn what_is_not_there_is_unknown() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    Image::new(&layer("x")).push(&ada, "tools/x", "v").expect(201);
    let digest = sha256(b"nobody has this");
    let cases = [
        (format!("/v2/tools/x/blobs/{digest}"), "BLOB_UNKNOWN"),
        (format!("/v2/tools/x/manifests/{digest}"), "MANIFEST_UNKNOWN"),
        ("/v2/tools/x/manifests/other".into(), "MANIFEST_UNKNOWN"),
        ("/v2/tools/y/manifests/v".into(), "NAME_UNKNOWN"),
        (format!("/v2/tools/y/blobs/{digest}"), "NAME_UNKNOWN"),
    ];
    for (path, code) in cases {
        ada.get(&path).expect_error(404, code);
        assert!(ada.head(&path).expect(404).body.is_empty(), "{path}");
        ada.delete(&path).expect_error(404, code);
    }
    ada.get("/v2/tools/y/tags/list").expect_error(404, "NAME_UNKNOWN");
    // Referrers are never answered with 404.
    let none = ada.get(&format!("/v2/tools/y/referrers/{digest}")).expect(200).json();
    assert_eq!(none["manifests"], serde_json::json!([]));
    ada.get("/v1/_ping").expect(404);
    ada.get("/v2x/").expect(404);
}

#[test]
fn a_path_may_be_percent_encoded() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("encoded"));
    image.push(&ada, "tools/x", "v").expect(201);
    let encoded = image.digest().replace(':', "%3A");
    assert_eq!(ada.get(&format!("/v2/tools/x/manifests/{encoded}")).expect(200).body, image.manifest());
    let blob = sha256(&image.config).replace(':', "%3a");
    assert_eq!(ada.get(&format!("/v2/tools%2Fx/blobs/{blob}")).expect(200).body, image.config);
    let location = ada.begin_upload("tools/x");
    let bytes = b"by an encoded digest";
    let digest = sha256(bytes).replace(':', "%3A");
    ada.send("PUT", &format!("{location}?digest={digest}"), &[], bytes).expect(201);
    ada.head(&format!("/v2/tools/x/blobs/{}", sha256(bytes))).expect(200);
}

#[test]
fn the_pages_beside_the_registry_need_no_login() {
    let site = Site::start_with("", &["ada"]);
    let anyone = site.anonymous();
    let page = anyone.get("/");
    assert!(
        String::from_utf8_lossy(&page.expect(200).body).contains(&format!("docker login {}", site.host()))
    );
    anyone.get("/healthz").expect(200);
    let base = site.http("ada").get("/v2/");
    base.expect(200).expect_header("docker-distribution-api-version", "registry/2.0");
}
