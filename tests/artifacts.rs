//! What people keep in a registry beside images: files, charts, signatures. Each goes in and comes out with the client
//! that people use for it, and what comes out has the digests and the bytes of what went in.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use torno_tests::{
    Http, Image, NO_ENGINE, OCI_IMAGE, PROJECTS, Script, Site, Tools, layer, layout_blobs, sha256, tool,
};

/// A site whose runs stay queued.
fn site() -> Site {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "eve"]);
    site.start();
    site
}

/// A manifest as it is stored, whose digest is that of its bytes and is what the answer says.
fn manifest(http: &Http, repository: &str, reference: &str) -> (Value, String) {
    let answer = http.get(&format!("/v2/{repository}/manifests/{reference}"));
    answer.expect(200).expect_header("docker-content-digest", &sha256(&answer.body));
    (answer.json(), sha256(&answer.body))
}

fn blob(http: &Http, repository: &str, descriptor: &Value) -> Vec<u8> {
    let digest = descriptor["digest"].as_str().expect("a digest");
    let bytes = http.get(&format!("/v2/{repository}/blobs/{digest}")).expect(200).body.clone();
    assert_eq!((sha256(&bytes).as_str(), json!(bytes.len())), (digest, descriptor["size"].clone()));
    bytes
}

/// The digests of the referrers of a manifest, of an artifact type if one is given.
fn referrers(http: &Http, repository: &str, subject: &str, artifact_type: Option<&str>) -> Vec<String> {
    let filter = artifact_type.map(|kind| format!("?artifactType={kind}")).unwrap_or_default();
    let answer = http.get(&format!("/v2/{repository}/referrers/{subject}{filter}")).expect(200).json();
    let listed = answer["manifests"].as_array().expect("an index");
    listed.iter().map(|entry| entry["digest"].as_str().expect("a digest").to_owned()).collect()
}

#[test]
fn oras_pushes_attaches_and_pulls() {
    let site = site();
    let ada = site.http("ada");
    let oras = Script::new("oras_client.py");
    let target = |reference: &str| format!("{}/files/x:{reference}", site.host());
    fs::write(oras.path("table.csv"), "a,b\n1,2\n").expect("write");
    fs::write(oras.path("large.bin"), layer("chunks that differ").repeat(100)).expect("write");
    fs::create_dir(oras.path("back")).expect("a folder");

    assert_eq!(oras.ok(&["login", site.host(), "ada", "pw-ada"]), "Login Succeeded\n");
    let pushed = oras.ok(&["push", &target("1"), "table.csv:text/csv"]);
    let (stored, digest) = manifest(&ada, "files/x", "1");
    assert_eq!(pushed.trim(), digest);
    assert_eq!(stored["layers"][0]["mediaType"], "text/csv");
    let pushed = oras.ok(&["push-chunked", &target("2"), "large.bin"]);
    let (large, large_digest) = manifest(&ada, "files/x", "2");
    assert_eq!(pushed.trim(), large_digest);
    assert!(site.log().contains("method=PATCH"), "the file went in chunks");
    assert_eq!(oras.ok(&["tags", &target("1")]), "1\n2\n");

    let length = ada.get("/v2/files/x/manifests/1").body.len().to_string();
    fs::write(oras.path("note.txt"), "checked by hand\n").expect("write");
    let attached = oras.ok(&["attach", &target("note"), OCI_IMAGE, &digest, &length, "note.txt:text/plain"]);
    let attached: Value = serde_json::from_str(&attached).expect("JSON");
    assert_eq!(attached["OCI-Subject"], digest);
    assert_eq!(json!(referrers(&ada, "files/x", &digest, None)), json!([attached["Docker-Content-Digest"]]));

    for (tag, file) in [("1", "table.csv"), ("2", "large.bin"), ("note", "note.txt")] {
        oras.ok(&["pull", &target(tag), "back"]);
        let (before, after) = (fs::read(oras.path(file)), fs::read(oras.path("back").join(file)));
        assert_eq!(before.expect("what was pushed"), after.expect("what was pulled"), "{file}");
    }
    assert_eq!(
        blob(&ada, "files/x", &large["layers"][0]),
        fs::read(oras.path("large.bin")).expect("the file")
    );

    let eve = Script::new("oras_client.py");
    eve.ok(&["login", site.host(), "eve", "pw-eve"]);
    eve.fails(&["pull", &target("1"), "."]);
}

/// Helm's package on PyPI has no library for other machines.
#[cfg(target_arch = "x86_64")]
#[test]
fn helm_pushes_and_pulls_a_chart() {
    let site = site();
    let ada = site.http("ada");
    let helm = Script::new("helm_client.py");
    fs::create_dir_all(helm.path("vessels/templates")).expect("a folder");
    let chart = "apiVersion: v2\nname: vessels\nversion: 0.1.0\n";
    fs::write(helm.path("vessels/Chart.yaml"), chart).expect("write");
    let template = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vessels}\n";
    fs::write(helm.path("vessels/templates/map.yaml"), template).expect("write");
    let archive = helm.ok(&["package", "vessels", "."]).trim().to_owned();
    let remote = format!("oci://{}/charts", site.host());

    let refused = helm.fails(&["push", &archive, &remote]);
    assert!(refused.contains("401") || refused.contains("basic credential not found"), "{refused}");
    let wrong = helm.fails(&["login", site.host(), "ada", "wrong"]);
    assert!(wrong.contains("401"), "{wrong}");
    helm.ok(&["login", site.host(), "ada", "pw-ada"]);
    helm.ok(&["push", &archive, &remote]);

    let (stored, _) = manifest(&ada, "charts/vessels", "0.1.0");
    assert_eq!(stored["config"]["mediaType"], "application/vnd.cncf.helm.config.v1+json");
    assert_eq!(stored["layers"][0]["mediaType"], "application/vnd.cncf.helm.chart.content.v1.tar+gzip");
    let bytes = fs::read(&archive).expect("the chart");
    assert_eq!(blob(&ada, "charts/vessels", &stored["layers"][0]), bytes);
    let shown = helm.ok(&["show", &format!("{remote}/vessels:0.1.0")]);
    assert!(shown.contains("version: 0.1.0"), "{shown}");
    let digest = sha256(&bytes);
    let hex = digest.trim_start_matches("sha256:");
    let pulled = helm.path(".cache/helm/content").join(&hex[..2]).join(format!("{hex}.chart"));
    assert_eq!(fs::read(pulled).expect("Helm's cache"), bytes);
}

/// Signs as `cosign sign --key` does: the payload and its signature.
fn sign(tools: &Tools, image: &str, digest: &str) -> (Vec<u8>, String) {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": image},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let payload = payload.to_string().into_bytes();
    fs::write(tools.path("payload"), &payload).expect("write");
    let [key, public, signature, path] =
        ["key.pem", "public.pem", "signature", "payload"].map(|name| tools.text(name));
    tool(
        "openssl",
        &["genpkey", "-quiet", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key],
    );
    tool("openssl", &["pkey", "-in", &key, "-pubout", "-out", &public]);
    tool("openssl", &["dgst", "-sha256", "-sign", &key, "-out", &signature, &path]);
    (payload, STANDARD.encode(fs::read(signature).expect("a signature")))
}

/// Whether what came back is what the key of [`sign`] has signed.
fn verify(tools: &Tools, payload: &[u8], signature: &Value) {
    let signature = STANDARD.decode(signature.as_str().expect("a signature")).expect("base64");
    fs::write(tools.path("payload.back"), payload).expect("write");
    fs::write(tools.path("signature.back"), signature).expect("write");
    let [public, signature, payload] =
        ["public.pem", "signature.back", "payload.back"].map(|name| tools.text(name));
    let said = tool("openssl", &["dgst", "-sha256", "-verify", &public, "-signature", &signature, &payload]);
    assert_eq!(said, "Verified OK\n");
}

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// The manifest of a signature, as cosign writes it, after its blobs were pushed.
fn signature_manifest(http: &Http, repository: &str, payload: &[u8], signature: &str) -> Value {
    let digest = http.push_blob(repository, payload);
    let config = json!({
        "architecture": "", "config": {}, "created": "0001-01-01T00:00:00Z", "os": "",
        "history": [{"created": "0001-01-01T00:00:00Z"}], "rootfs": {"type": "layers", "diff_ids": [digest]},
    });
    let config = config.to_string().into_bytes();
    let kind = "application/vnd.oci.image.config.v1+json";
    json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE,
        "config": {"mediaType": kind, "size": config.len(), "digest": http.push_blob(repository, &config)},
        "layers": [{
            "mediaType": SIMPLE_SIGNING, "size": payload.len(), "digest": digest,
            "annotations": {SIGNATURE: signature},
        }],
    })
}

#[test]
fn cosign_signatures_travel_with_their_image() {
    let site = site();
    let ada = site.http("ada");
    let tools = Tools::login(&site, "ada");
    let image = Image::new(&layer("signed"));
    image.push(&ada, "signed/x", "1").expect(201);
    let name = format!("{}/signed/x:1", site.host());
    let (payload, signature) = sign(&tools, &name, &image.digest());
    let signed = signature_manifest(&ada, "signed/x", &payload, &signature);
    let tag = format!("{}.sig", image.digest().replace(':', "-"));
    ada.push_manifest("signed/x", &tag, OCI_IMAGE, signed.to_string().as_bytes()).expect(201);

    // Skopeo looks for the tag when it is told to, and takes what it finds along.
    fs::create_dir(tools.path("registries.d")).expect("a folder");
    let attachments = "default-docker:\n  use-sigstore-attachments: true\n";
    fs::write(tools.path("registries.d/all.yaml"), attachments).expect("write");
    let folder = tools.text("registries.d");
    let copy = format!("docker://{}/copies/x:1", site.host());
    let arguments =
        ["--registries.d", &folder, "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
    tools.skopeo_ok(&[&arguments[..], &[&format!("docker://{name}"), &copy]].concat());
    assert_eq!(manifest(&ada, "copies/x", "1").1, image.digest());
    let (copied, _) = manifest(&ada, "copies/x", &tag);
    assert_eq!(copied["layers"], signed["layers"]);
    verify(
        &tools,
        &blob(&ada, "copies/x", &copied["layers"][0]),
        &copied["layers"][0]["annotations"][SIGNATURE],
    );

    // And it is an image like others to who is not.
    let plain = format!("docker://{}/signed/x:{tag}", site.host());
    let layout = tools.path("layout");
    tools.copy(&plain, &format!("oci:{}:sig", tools.text("layout")), &[]);
    let blobs = layout_blobs(&layout);
    let bytes = signed.to_string().into_bytes();
    assert_eq!(blobs.get(sha256(&bytes).trim_start_matches("sha256:")), Some(&bytes), "byte for byte");
    assert_eq!(blobs.get(sha256(&payload).trim_start_matches("sha256:")), Some(&payload));
}

/// The form of OCI 1.1, which cosign writes and reads through the referrers API.
#[test]
fn cosign_signatures_are_found_as_referrers() {
    let site = site();
    let ada = site.http("ada");
    let tools = Tools::login(&site, "ada");
    let image = Image::new(&layer("referred to"));
    image.push(&ada, "signed/x", "1").expect(201);
    let (payload, signature) = sign(&tools, &format!("{}/signed/x:1", site.host()), &image.digest());
    let kind = "application/vnd.dev.cosign.artifact.sig.v1+json";
    let empty = ada.push_blob("signed/x", b"{}");
    let signed = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "artifactType": kind,
        "config": {"mediaType": kind, "digest": empty, "size": 2},
        "layers": [{
            "mediaType": SIMPLE_SIGNING, "size": payload.len(), "digest": ada.push_blob("signed/x", &payload),
            "annotations": {SIGNATURE: signature},
        }],
        "subject": {"mediaType": OCI_IMAGE, "digest": image.digest(), "size": image.manifest().len()},
    });
    let bytes = signed.to_string().into_bytes();
    let pushed = ada.push_manifest("signed/x", &sha256(&bytes), OCI_IMAGE, &bytes);
    pushed.expect(201).expect_header("oci-subject", &image.digest());

    let found = referrers(&ada, "signed/x", &image.digest(), Some(kind));
    assert_eq!(found, [sha256(&bytes)]);
    assert!(referrers(&ada, "signed/x", &image.digest(), Some("application/spdx+json")).is_empty());
    let (stored, _) = manifest(&ada, "signed/x", &found[0]);
    assert_eq!(stored, signed);
    verify(
        &tools,
        &blob(&ada, "signed/x", &stored["layers"][0]),
        &stored["layers"][0]["annotations"][SIGNATURE],
    );
    let oras = Script::new("oras_client.py");
    oras.ok(&["login", site.host(), "ada", "pw-ada"]);
    fs::create_dir(oras.path("back")).expect("a folder");
    oras.ok(&["pull", &format!("{}/signed/x@{}", site.host(), found[0]), "back"]);
    // A layer without a title is called by its digest.
    assert_eq!(fs::read(oras.path("back").join(sha256(&payload))).expect("the payload"), payload);
}
