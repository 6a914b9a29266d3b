//! Where results come from: what is signed of them and attached to them, and what is found out when something was
//! changed.

use std::{fs, path::Path, process::Output};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use torno_tests::{Docker, Script, Site, sha256, tool};

const PROJECT: &str = "
[datasets.numbers]
path = 'numbers'
[projects.one]
researchers = ['ada', 'bob']
datasets = ['numbers']
limits = { memory = '64MiB', time = '1m' }
";

const STATEMENT: &str = "application/vnd.in-toto+json";
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
const RO_CRATE: &str = "application/vnd.torno.ro-crate.v1+json";
const RESULT: &str = "results/one/sum:1";

/// A site with the result of a run.
fn site() -> (Site, Docker) {
    let mut site = Site::new(PROJECT);
    fs::create_dir(site.path("numbers")).expect("folder");
    fs::write(site.path("numbers/data.txt"), "1\n2\n3\n").expect("data");
    site.add_users(&["ada", "bob"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    ada.run(
        "one/sum:1",
        "awk '{s += $1} END {print s}' /input/data.txt > /output/sum; echo ä > '/output/a b'",
    );
    ada.pull_result("one/sum:1");
    (site, ada)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// The digest of what a tag of the results names.
fn digest(site: &Site, tag: &str) -> String {
    let path = format!("/v2/results/one/sum/manifests/{tag}");
    site.http("ada").head(&path).expect(200).header("docker-content-digest")
}

/// What speaks of a manifest in the results, of one type or of all.
fn referrers(site: &Site, subject: &str, artifact_type: &str) -> Vec<Value> {
    let filter =
        if artifact_type.is_empty() { String::new() } else { format!("?artifactType={artifact_type}") };
    let path = format!("/v2/results/one/sum/referrers/{subject}{}", filter.replace('+', "%2B"));
    site.http("ada").get(&path).expect(200).json()["manifests"].as_array().expect("a list").clone()
}

/// The digest of the blob of the one attachment of a type, and its manifest.
fn attached(site: &Site, artifact_type: &str) -> (String, Value) {
    let found = referrers(site, &digest(site, "1"), artifact_type);
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(only["artifactType"], artifact_type);
    let path = format!("/v2/results/one/sum/manifests/{}", text(&only["digest"]));
    let manifest = site.http("ada").get(&path).expect(200).json();
    (text(&manifest["layers"][0]["digest"]).to_owned(), manifest)
}

fn blob(site: &Site, digest: &str) -> Vec<u8> {
    site.http("ada").get(&format!("/v2/results/one/sum/blobs/{digest}")).expect(200).body.clone()
}

fn verify(site: &Site, more: &[&str]) -> Output {
    site.torno(&[&["provenance", "verify", RESULT], more].concat())
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it was believed");
    assert!(said.contains(words), "{said}");
}

#[test]
fn a_result_says_who_computed_it_from_what_and_anybody_can_check_that() {
    let (site, _ada) = site();
    let (envelope, manifest) = attached(&site, STATEMENT);
    let result = digest(&site, "1");
    assert_eq!(manifest["subject"]["digest"], result.as_str());
    assert_eq!(manifest["layers"][0]["mediaType"], ENVELOPE);
    let annotations = &manifest["layers"][0]["annotations"];
    assert_eq!(annotations["in-toto.io/predicate-type"], "https://slsa.dev/provenance/v1");
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.empty.v1+json");

    let envelope: Value = serde_json::from_slice(&blob(&site, &envelope)).expect("JSON");
    assert_eq!(envelope["payloadType"], STATEMENT);
    let payload = BASE64_STANDARD.decode(text(&envelope["payload"])).expect("base64");
    let statement: Value = serde_json::from_slice(&payload).expect("JSON");
    let hex = |digest: &str| json!({"sha256": digest.trim_start_matches("sha256:")});
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["subject"], json!([{"name": "results/one/sum:run-1", "digest": hex(&result)}]));
    let definition = &statement["predicate"]["buildDefinition"];
    let image = site.http("ada").head("/v2/run/one/sum/manifests/1").header("docker-content-digest");
    let external = json!({"reference": "run/one/sum:1", "image": image, "project": "one", "owner": "ada"});
    assert_eq!(definition["externalParameters"], external);
    assert_eq!(definition["resolvedDependencies"][0]["digest"], hex(&image));
    assert_eq!(definition["resolvedDependencies"][1]["name"], "dataset:numbers");
    let parts = &statement["predicate"]["runDetails"]["byproducts"];
    let published = site.http("ada").get("/v2/results/one/sum/manifests/1").json();
    for (number, title) in ["output", "run"].into_iter().enumerate() {
        assert_eq!(parts[number]["name"], title);
        assert_eq!(parts[number]["digest"], hex(text(&published["layers"][number]["digest"])));
    }
    let whole = statement.to_string();
    for secret in [site.path("").to_str().expect("UTF-8"), site.host()] {
        assert!(!whole.contains(secret), "{secret} in {whole}");
    }

    // Without Torno: the signature by openssl, over what DSSE says is signed.
    let file = |name: &str, bytes: &[u8]| {
        let path = site.path(name);
        fs::write(&path, bytes).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let key = file("public.pem", site.torno_ok(&["provenance", "key"]).as_bytes());
    let head = format!("DSSEv1 {} {STATEMENT} {} ", STATEMENT.len(), payload.len());
    let signed = file("signed", &[head.as_bytes(), &payload].concat());
    let signature = BASE64_STANDARD.decode(text(&envelope["signatures"][0]["sig"])).expect("base64");
    let signature = file("signature", &signature);
    let check =
        ["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey", &key, "-in", &signed, "-sigfile", &signature];
    tool("openssl", &check);
    let der = site.path("public.der");
    let der = der.to_str().expect("UTF-8");
    tool("openssl", &["pkey", "-pubin", "-in", &key, "-outform", "DER", "-out", der]);
    let id = sha256(&fs::read(der).expect("DER"));
    assert_eq!(format!("sha256:{}", text(&envelope["signatures"][0]["keyid"])), id);

    // With Torno, in words; by either tag, by digest, and by the exported key alone.
    let by_digest = format!("{}/results/one/sum@{result}", site.host());
    for arguments in [&[RESULT][..], &["results/one/sum:run-1"], &[&by_digest], &[RESULT, "--key", &key]] {
        let said = site.torno_ok(&[&["provenance", "verify"], arguments].concat());
        let lines = [
            format!("result     {result}"),
            "run        1 (succeeded)".into(),
            format!("image      {image} (run/one/sum:1)"),
            "data       numbers (".into(),
            format!("signed by  key {}", id.trim_start_matches("sha256:")),
        ];
        for line in lines {
            assert!(said.contains(&line), "{line} in {said}");
        }
    }
}

#[test]
fn what_was_changed_is_named() {
    let (mut site, ada) = site();
    let (envelope, _) = attached(&site, STATEMENT);
    let published = site.http("ada").get("/v2/results/one/sum/manifests/1").json();
    let part = |number: usize| text(&published["layers"][number]["digest"]).to_owned();
    let config = text(&published["config"]["digest"]).to_owned();
    // Stopping settles the journal, so that the files alone have the bytes.
    site.stop();
    assert!(verify(&site, &[]).status.success());
    for (digest, what) in [
        (config, "the configuration was changed"),
        (part(0), "layer 1 was changed"),
        (part(1), "layer 2 was changed"),
        (envelope, "the signed statement was changed"),
    ] {
        site.flip_bit(&digest, 20);
        refused(&verify(&site, &[]), what);
        site.flip_bit(&digest, 20);
        assert!(verify(&site, &[]).status.success(), "{what}");
    }

    // The manifest itself, which is in the database.
    let database = site.database();
    let change = "UPDATE manifests SET bytes = CAST(replace(CAST(bytes AS TEXT), 'org.torno.run', 'org.torno.ruN') AS BLOB)";
    database
        .execute(&format!("{change} WHERE CAST(bytes AS TEXT) LIKE '%vnd.torno.result%'"), [])
        .expect("SQL");
    refused(&verify(&site, &[]), "not verified");
    drop(database);

    // Another result of the same site, with other keys.
    site.start();
    ada.run("one/sum:1", "echo 7 > /output/sum");
    ada.pull_result("one/sum:1");
    let file = |name: &str| site.path(name).to_str().expect("UTF-8").to_owned();
    let (private, public) = (file("other.key"), file("other.pem"));
    tool("openssl", &["genpkey", "-algorithm", "ed25519", "-out", &private]);
    tool("openssl", &["pkey", "-in", &private, "-pubout", "-out", &public]);
    refused(&verify(&site, &["--key", &public]), "not by one that is trusted here");
    fs::write(&public, site.torno_ok(&["provenance", "key"]).replace("MCow", "MCox")).expect("written");
    refused(&verify(&site, &["--key", &public]), "holds no Ed25519 public key");
    let key = site.path("registry-data/keys/provenance/key.pk8");
    let bytes = fs::read(&key).expect("the key");
    let changed: Vec<u8> = bytes.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 40)).collect();
    fs::write(&key, changed).expect("written");
    refused(&verify(&site, &[]), "is no key that Torno made");
    fs::write(&key, bytes).expect("written");
    assert!(verify(&site, &[]).status.success());

    // A statement that was deleted.
    let statement = referrers(&site, &digest(&site, "1"), STATEMENT).remove(0);
    let path = format!("/v2/results/one/sum/manifests/{}", text(&statement["digest"]));
    site.http("ada").delete(&path).expect(202);
    refused(&verify(&site, &[]), "nothing signed speaks of");
}

#[test]
fn what_is_attached_is_for_those_who_may_have_the_result_and_goes_with_it() {
    let (site, ada) = site();
    let first = digest(&site, "1");
    let attached = referrers(&site, &first, "");
    assert!(!attached.is_empty());
    let path = |referrer: &Value| format!("/v2/results/one/sum/manifests/{}", text(&referrer["digest"]));
    // As of a repository that nobody has: nothing refers to anything there.
    let none = site.http("bob").get(&format!("/v2/results/one/sum/referrers/{first}"));
    assert_eq!(none.expect(200).json()["manifests"], serde_json::json!([]));
    for referrer in &attached {
        site.http("bob").get(&path(referrer)).expect(404);
        site.anonymous().get(&path(referrer)).expect(401);
    }

    // Another push takes the tag away, and `run-1` keeps the result with all that speaks of it.
    ada.run("one/sum:1", "echo 7 > /output/sum");
    ada.pull_result("one/sum:1");
    let second = digest(&site, "1");
    assert_ne!(first, second);
    site.torno_ok(&["gc"]);
    site.torno_ok(&["provenance", "verify", "results/one/sum:run-1"]);
    assert_eq!(referrers(&site, &first, ""), attached);

    // The image has both.
    let image = site.http("ada").head("/v2/run/one/sum/manifests/1").header("docker-content-digest");
    let of_image = referrers(&site, &image, "application/vnd.torno.result.v1");
    assert_eq!(of_image.len(), 1, "the second image is another one");
    assert_eq!(of_image[0]["digest"], second.as_str());

    // At once with the manifest; with its last tag as soon as gc comes.
    site.http("ada").delete(&format!("/v2/results/one/sum/manifests/{first}")).expect(202);
    for referrer in &attached {
        site.http("ada").get(&path(referrer)).expect(404);
    }
    let attached = referrers(&site, &second, "");
    for tag in ["1", "run-2"] {
        site.http("ada").delete(&format!("/v2/results/one/sum/manifests/{tag}")).expect(202);
    }
    let told =
        |arguments: &[&str]| -> Value { serde_json::from_str(&site.torno_ok(arguments)).expect("JSON") };
    // A dry run counts them too.
    let planned = told(&["gc", "--dry-run", "--json"]);
    let done = told(&["gc", "--json"]);
    assert_eq!(planned["manifests"], done["manifests"]);
    // What else nothing needs any more, such as the images that were pushed over, goes too.
    assert!(done["manifests"].as_u64() > Some(attached.len() as u64), "{done}");
    for referrer in &attached {
        site.http("ada").get(&path(referrer)).expect(404);
    }
}

#[test]
fn a_backup_has_the_key() {
    let (mut site, _ada) = site();
    site.stop();
    let key = site.torno_ok(&["provenance", "key"]);
    let folder = site.path("backup");
    site.torno_ok(&["backup", folder.to_str().expect("UTF-8")]);
    fs::remove_dir_all(site.path("registry-data")).expect("lost");
    site.torno_ok(&["restore", folder.to_str().expect("UTF-8")]);
    assert_eq!(site.torno_ok(&["provenance", "key"]), key);
    site.torno_ok(&["provenance", "verify", RESULT]);
}

/// The files of what is attached to a result, as oras pulls them.
fn pull(site: &Site, tag: &str, artifact_type: &str, oras: &Script, to: &Path) {
    let found = referrers(site, &digest(site, tag), artifact_type);
    let target = format!("{}/results/one/sum@{}", site.host(), text(&found[0]["digest"]));
    oras.ok(&["login", site.host(), "ada", "pw-ada"]);
    oras.ok(&["pull", &target, to.to_str().expect("UTF-8")]);
}

#[test]
fn oras_pulls_what_is_attached() {
    let (site, _ada) = site();
    let oras = Script::new("oras_client.py");
    let folder = tempfile::tempdir().expect("folder");
    pull(&site, "1", STATEMENT, &oras, folder.path());
    let envelope: Value =
        serde_json::from_slice(&fs::read(folder.path().join("provenance.dsse.json")).expect("pulled"))
            .expect("JSON");
    assert_eq!(envelope["payloadType"], STATEMENT);
}

#[test]
fn a_result_is_a_process_run_crate() {
    let (site, ada) = site();
    let folder = tempfile::tempdir().expect("folder");
    pull(&site, "1", RO_CRATE, &Script::new("oras_client.py"), folder.path());
    ada.files(&ada.name(RESULT), folder.path());
    let read = |name: &str| fs::read(folder.path().join(name)).expect(name);
    // Whoever knows docker alone has it too.
    assert_eq!(read("ro-crate-metadata.json"), read("run/ro-crate-metadata.json"));
    let reader = Script::new("ro_crate.py");
    let path = folder.path().to_str().expect("UTF-8");
    let told = reader.ok(&[path]);
    let status = "status http://schema.org/CompletedActionStatus";
    for line in ["ran run/one/sum:1", "by ada", status, "on numbers", "gave output/sum", "gave output/a%20b"]
    {
        assert!(told.lines().any(|told| told == line), "{line} in {told}");
    }
    // The reader would have seen it.
    fs::write(folder.path().join("output/sum"), "7\n").expect("written");
    assert!(reader.fails(&[path]).contains("output/sum"));

    // What failed is described as well.
    ada.run("one/sum:2", "exit 3");
    assert_eq!(site.wait_for_run(2), "exit status 3");
    let folder = tempfile::tempdir().expect("folder");
    pull(&site, "2.log", RO_CRATE, &Script::new("oras_client.py"), folder.path());
    let told = reader.ok(&[folder.path().to_str().expect("UTF-8")]);
    assert!(told.contains("status http://schema.org/FailedActionStatus") && !told.contains("gave"), "{told}");
}

#[test]
fn the_same_files_are_the_same_layer_in_whatever_order_and_when_they_were_written() {
    let (site, ada) = site();
    let folders = "mkdir -p /output/b /output/a";
    let orders = [
        format!("{folders}; echo 1 > /output/a/x; echo 2 > /output/b/y; echo 3 > /output/Z"),
        format!(
            "echo 3 > /output/Z; {folders}; echo 2 > /output/b/y; touch -d 2001-02-03 /output/b; echo 1 > /output/a/x"
        ),
    ];
    for (name, script) in ["one", "other"].iter().zip(orders) {
        ada.run(&format!("one/{name}:1"), &script);
        ada.pull_result(&format!("one/{name}:1"));
    }
    let layers = |name: &str| {
        let path = format!("/v2/results/one/{name}/manifests/1");
        site.http("ada").get(&path).expect(200).json()["layers"].as_array().expect("layers").clone()
    };
    let (one, other) = (layers("one"), layers("other"));
    assert_eq!(one[0], other[0]);
    // The layer that tells of the run differs.
    assert_ne!(one[1]["digest"], other[1]["digest"]);
}
