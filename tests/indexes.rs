//! Images and the indexes over them through every client that copies them, with what comes out compared byte for byte
//! with what went in.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};
use torno_tests::{
    Docker, Http, Image, NO_ENGINE, OCI_IMAGE, OCI_INDEX, PROJECTS, Site, Tools, index, layer, layout_blobs,
    sha256,
};

const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// A site whose runs stay queued.
fn site() -> Site {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "eve"]);
    site.start();
    site
}

fn registry(site: &Site, image: &str) -> String {
    format!("docker://{}/{image}", site.host())
}

/// The exact bytes that a reference names.
fn manifest(http: &Http, repository: &str, reference: &str) -> Vec<u8> {
    let answer = http.get(&format!("/v2/{repository}/manifests/{reference}"));
    answer.expect(200).expect_header("docker-content-digest", &sha256(&answer.body));
    answer.body
}

/// Images of the one and of the other architecture, pushed without a tag.
fn images(http: &Http, repository: &str, seed: &str) -> [Image; 2] {
    [Image::HERE, Image::ELSEWHERE].map(|architecture| {
        let bytes = layer(&format!("{seed} {architecture}"));
        let image = Image::built_for(architecture, &bytes, &json!({"Cmd": ["/x"]}));
        image.push(http, repository, &image.digest()).expect(201);
        image
    })
}

/// What Skopeo has put into a folder (`dir:`), by file name, but for the note of the format's version.
fn folder(tools: &Tools, name: &str) -> BTreeMap<String, Vec<u8>> {
    let entries =
        fs::read_dir(tools.path(name)).expect("a folder").map(|entry| entry.expect("an entry").path());
    let text = |path: &std::path::Path| path.file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    entries.map(|path| (text(&path), fs::read(&path).expect("a file"))).collect()
}

#[test]
fn skopeo_keeps_docker_and_oci_images_byte_for_byte() {
    let site = site();
    let ada = site.http("ada");
    let tools = Tools::login(&site, "ada");
    for (kind, tag) in [(DOCKER_IMAGE, "docker"), (OCI_IMAGE, "oci")] {
        let mut image = Image::new(&layer(tag));
        image.media_type = kind;
        image.push(&ada, "tools/x", tag).expect(201);
        let (first, second) = (format!("{tag}-1"), format!("{tag}-2"));
        let to = |name: &str| format!("dir:{}", tools.text(name));
        tools.copy(&registry(&site, &format!("tools/x:{tag}")), &to(&first), &[]);
        tools.copy(&to(&first), &registry(&site, &format!("copies/x:{tag}")), &["--preserve-digests"]);
        tools.copy(&registry(&site, &format!("copies/x:{tag}")), &to(&second), &[]);
        assert_eq!(manifest(&ada, "copies/x", tag), image.manifest(), "{tag}");
        assert_eq!(folder(&tools, &first), folder(&tools, &second), "{tag}");
        let files = folder(&tools, &first);
        for bytes in image.layers.iter().chain([&image.config]) {
            assert_eq!(files.get(sha256(bytes).trim_start_matches("sha256:")), Some(bytes), "{tag}");
        }
    }
}

#[test]
fn podman_pushes_and_pulls() {
    let site = site();
    let ada = site.http("ada");
    let docker = Docker::login(&site, "ada");
    let name = docker.build("tools/hello:1", "echo hello", "");
    docker.ok(&["push", "--quiet", &name]);
    let tools = Tools::anonymous();
    let pull = ["pull", "--quiet", "--tls-verify=false"];
    assert!(!tools.podman(&[&pull[..], &[&name]].concat()).status.success(), "nobody is logged in");
    tools.podman_ok(&["login", "--tls-verify=false", "-u", "ada", "-p", "pw-ada", site.host()]);
    let id = tools.podman_ok(&[&pull[..], &[&name]].concat()).trim().to_owned();
    assert_eq!(docker.ok(&["image", "inspect", "--format", "{{.Id}}", &name]).trim(), format!("sha256:{id}"));
    for (tag, format, kind) in [("docker", "v2s2", DOCKER_IMAGE), ("oci", "oci", OCI_IMAGE)] {
        let to = registry(&site, &format!("podman/x:{tag}"));
        let noted = tools.text("digest");
        let push =
            ["push", "--quiet", "--tls-verify=false", "--format", format, "--digestfile", &noted, &id, &to];
        tools.podman_ok(&push);
        let bytes = manifest(&ada, "podman/x", tag);
        assert_eq!(fs::read_to_string(&noted).expect("a digest").trim(), sha256(&bytes));
        let stored: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(ada.head(&format!("/v2/podman/x/manifests/{tag}")).header("content-type"), kind);
        let fresh = Tools::login(&site, "ada");
        let from = format!("{}/podman/x:{tag}", site.host());
        let pulled = fresh.podman_ok(&[&pull[..], &[&from]].concat());
        assert_eq!(stored["config"]["digest"], format!("sha256:{}", pulled.trim()));
        let digest = fresh.podman_ok(&["image", "inspect", "--format", "{{.Digest}}", &from]);
        assert_eq!(digest.trim(), sha256(&bytes));
    }
}

#[test]
fn indexes_nest_two_deep() {
    let site = site();
    let ada = site.http("ada");
    let docker = Docker::login(&site, "ada");
    for (kind, tag) in [(OCI_INDEX, "oci"), (DOCKER_LIST, "docker")] {
        let pair = images(&ada, "nested/x", tag);
        let manifests = pair.each_ref().map(Image::manifest);
        let inner = index(kind, &[(&manifests[0], Image::HERE), (&manifests[1], Image::ELSEWHERE)]);
        ada.push_manifest("nested/x", &sha256(&inner), kind, &inner).expect(201);
        let middle = index(kind, &[(&inner, Image::HERE)]);
        ada.push_manifest("nested/x", &sha256(&middle), kind, &middle).expect(201);
        let outer = index(kind, &[(&middle, Image::HERE), (&manifests[1], Image::ELSEWHERE)]);
        ada.push_manifest("nested/x", tag, kind, &outer).expect(201);

        assert_eq!(manifest(&ada, "nested/x", tag), outer);
        for child in [&inner, &middle, &manifests[0], &manifests[1]] {
            assert_eq!(&manifest(&ada, "nested/x", &sha256(child)), child);
        }
        // An engine goes down as deep as it is led. What it cannot unpack is not what is asked here.
        let name = docker.name(&format!("nested/x:{tag}"));
        docker.remember(&name);
        docker.docker(&["pull", "--quiet", &name]);
        for digest in [sha256(&middle), sha256(&inner), pair[0].digest()] {
            assert!(
                site.log().contains(&format!("/v2/nested/x/manifests/{digest}\" status=200 user=\"ada\"")),
                "{tag}"
            );
        }
    }
    // What an index names must be there, at every depth.
    let absent = index(OCI_INDEX, &[(&Image::new(b"absent").manifest(), Image::HERE)]);
    let over = index(OCI_INDEX, &[(&absent, Image::HERE)]);
    ada.push_manifest("nested/x", "bad", OCI_INDEX, &over).expect_error(404, "MANIFEST_BLOB_UNKNOWN");
}

/// What `docker buildx build --provenance --sbom --push` writes: beside each image a manifest of no platform whose
/// layers are in-toto statements.
fn attestation(http: &Http, repository: &str, image: &Image) -> (Vec<u8>, Value) {
    let subject =
        json!([{"name": "image", "digest": {"sha256": image.digest().trim_start_matches("sha256:")}}]);
    let statements = ["https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"].map(|predicate| {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1", "predicateType": predicate, "subject": subject,
            "predicate": {"builder": {"id": ""}},
        });
        (predicate, statement.to_string().into_bytes())
    });
    let diff_ids = statements.each_ref().map(|(_, bytes)| sha256(bytes));
    let config = json!({
        "architecture": "unknown", "os": "unknown", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let layers = statements.map(|(predicate, bytes)| {
        json!({
            "mediaType": "application/vnd.in-toto+json", "digest": http.push_blob(repository, &bytes),
            "size": bytes.len(), "annotations": {"in-toto.io/predicate-type": predicate},
        })
    });
    let kind = "application/vnd.oci.image.config.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE,
        "config": {"mediaType": kind, "digest": http.push_blob(repository, &config), "size": config.len()},
        "layers": layers,
    });
    let manifest = manifest.to_string().into_bytes();
    http.push_manifest(repository, &sha256(&manifest), OCI_IMAGE, &manifest).expect(201);
    let entry = json!({
        "mediaType": OCI_IMAGE, "digest": sha256(&manifest), "size": manifest.len(),
        "platform": {"architecture": "unknown", "os": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.digest(),
        },
    });
    (manifest, entry)
}

#[test]
fn docker_attestations_stay_with_their_images() {
    let site = site();
    let ada = site.http("ada");
    let tools = Tools::login(&site, "ada");
    let pair = images(&ada, "built/x", "attested");
    let manifests = pair.each_ref().map(Image::manifest);
    let plain = index(OCI_INDEX, &[(&manifests[0], Image::HERE), (&manifests[1], Image::ELSEWHERE)]);
    let mut all: Value = serde_json::from_slice(&plain).expect("JSON");
    let mut statements = Vec::new();
    for image in &pair {
        let (manifest, entry) = attestation(&ada, "built/x", image);
        statements.push(manifest);
        all["manifests"].as_array_mut().expect("an index").push(entry);
    }
    let all = all.to_string().into_bytes();
    ada.push_manifest("built/x", "1", OCI_INDEX, &all).expect(201);

    let layout = |name: &str| format!("oci:{}", tools.text(name));
    tools.copy(&registry(&site, "built/x:1"), &layout("pulled"), &["--all", "--preserve-digests"]);
    tools.copy(&layout("pulled"), &registry(&site, "copies/x:1"), &["--all", "--preserve-digests"]);
    tools.copy(&registry(&site, "copies/x:1"), &layout("again"), &["--all", "--preserve-digests"]);
    assert_eq!(manifest(&ada, "copies/x", "1"), all);
    for bytes in manifests.iter().chain(&statements) {
        assert_eq!(&manifest(&ada, "copies/x", &sha256(bytes)), bytes);
    }
    let pulled = layout_blobs(&tools.path("pulled"));
    assert_eq!(pulled, layout_blobs(&tools.path("again")));
    for (name, bytes) in &pulled {
        assert_eq!(format!("sha256:{name}"), sha256(bytes));
    }
    // The index, two images and two attestations; of each its config, and one and two layers.
    assert_eq!(pulled.len(), 1 + 2 * (1 + 1 + 1) + 2 * (1 + 1 + 2));

    // A push to run: the image runs, the attestations are passed over.
    tools.copy(&layout("pulled"), &registry(&site, "run/heart/x:1"), &["--all", "--preserve-digests"]);
    assert_eq!(site.runs(), 1);
    assert!(site.torno_ok(&["runs", "show", "1"]).contains(&pair[0].digest()));
}

#[test]
fn every_client_is_asked_to_log_in() {
    let site = site();
    let ada = site.http("ada");
    let image = Image::new(&layer("private"));
    image.push(&ada, "private/x", "1").expect(201);
    let name = format!("{}/private/x:1", site.host());
    let remote = registry(&site, "private/x:1");
    let tools = Tools::anonymous();
    let to = format!("dir:{}", tools.text("image"));
    let login = ["login", "--tls-verify=false", "-u", "ada", "-p"];
    let refused = |output: std::process::Output| {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(message.contains("unauthorized") || message.contains("authentication required"), "{message}");
    };
    refused(tools.skopeo(&["copy", "--src-tls-verify=false", &remote, &to]));
    refused(tools.buildah(&["pull", "--tls-verify=false", &name]));
    refused(tools.podman(&["pull", "--tls-verify=false", &name]));
    let wrong = [&login[..], &["wrong", site.host()]].concat();
    let right = [&login[..], &["pw-ada", site.host()]].concat();
    for client in ["skopeo", "buildah", "podman"] {
        let run = |arguments: &[&str]| match client {
            "skopeo" => tools.skopeo(arguments),
            "buildah" => tools.buildah(arguments),
            _ => tools.podman(arguments),
        };
        let told = run(&wrong);
        assert!(!told.status.success(), "{client}");
        assert!(run(&right).status.success(), "{client}");
        tools.copy(&remote, &to, &[]);
        assert!(run(&["logout", site.host()]).status.success(), "{client}");
        refused(tools.skopeo(&["copy", "--src-tls-verify=false", &remote, &to]));
    }
    let docker = Docker::login(&site, "eve");
    docker.ok(&["logout", site.host()]);
    let told = docker.fails(&["pull", "--quiet", &name]);
    assert!(told.contains("log in first") || told.contains("no basic auth credentials"), "{told}");
}
