//! The clients people use, as they use them.

use std::fs;

use serde_json::Value;
use torno_tests::{
    Containerd, Docker, Image, NO_ENGINE, OCI_IMAGE, OCI_INDEX, PROJECTS, Site, Tools, index, layout_blobs,
};

/// A site whose runs stay queued.
fn site() -> Site {
    let mut site =
        Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE).with("TORNO_RESULTS_WAIT", "0s");
    site.add_users(&["ada", "eve"]);
    site.start();
    site
}

/// The digest of what a tag names.
fn digest(site: &Site, image: &str) -> String {
    let (repository, tag) = image.rsplit_once(':').expect("a tag");
    let head = site.http("ada").head(&format!("/v2/{repository}/manifests/{tag}"));
    head.expect(200).header("docker-content-digest")
}

#[test]
fn docker_pushes_and_pulls() {
    let site = site();
    let docker = Docker::login(&site, "ada");
    let name = docker.build("tools/hello:1", "echo hello", "");
    let id = |name: &str| docker.ok(&["image", "inspect", "--format", "{{.Id}}", name]);
    let before = id(&name);
    docker.ok(&["push", "--quiet", &name]);
    docker.ok(&["image", "rm", "--force", &name]);
    assert!(!docker.docker(&["image", "inspect", &name]).status.success());
    docker.ok(&["pull", "--quiet", &name]);
    assert_eq!(id(&name), before);
    assert_eq!(docker.ok(&["run", "--rm", "--network", "none", &name]), "hello\n");

    let by_digest = format!("{}@{}", docker.name("tools/hello"), digest(&site, "tools/hello:1"));
    docker.remember(&by_digest);
    docker.ok(&["pull", "--quiet", &by_digest]);
    // What is there is not sent again, and another repository's is mounted.
    let bytes = site.blob_bytes();
    let other = docker.name("tools/other:1");
    docker.remember(&other);
    docker.ok(&["tag", &name, &other]);
    let pushed = docker.ok(&["push", &other]);
    assert!(
        pushed.contains("Mounted from tools/hello") || pushed.contains("Layer already exists"),
        "{pushed}"
    );
    assert_eq!(site.blob_bytes(), bytes);
    assert_eq!(digest(&site, "tools/other:1"), digest(&site, "tools/hello:1"));
}

#[test]
fn docker_is_told_why_not() {
    let site = site();
    let docker = Docker::login(&site, "ada");
    let wrong = docker.fails(&["login", "--username", "ada", "--password", "wrong", site.host()]);
    assert!(wrong.contains("unauthorized") || wrong.contains("401"), "{wrong}");

    let push = |image: &str, script: &str, lines: &str| {
        let name = docker.build(image, script, lines);
        docker.fails(&["push", "--quiet", &name])
    };
    let liver = push("run/liver/x:1", "true", "");
    assert!(liver.contains("denied") && liver.contains("run/heart/<name>:<tag>"), "{liver}");
    let results = push("results/heart/x:1", "true", "");
    assert!(results.contains("nobody pushes to results/"), "{results}");
    let proc = push("run/heart/x:1", "true", "WORKDIR /proc/self");
    assert!(proc.contains("the image's WORKDIR is `/proc/self`"), "{proc}");
    let reserved = push("run/heart/x:run-7", "true", "");
    assert!(reserved.contains("`run-7` is kept for results"), "{reserved}");

    let elsewhere = format!("linux/{}", Image::ELSEWHERE);
    let foreign = docker.name("run/heart/foreign:1");
    let context = tempfile::tempdir().expect("a temporary folder");
    let dockerfile = context.path().join("Dockerfile");
    fs::write(&dockerfile, "FROM scratch\nCOPY Dockerfile /\nCMD [\"/x\"]\n").expect("write");
    let context = context.path().to_str().expect("UTF-8");
    docker.remember(&foreign);
    docker.ok(&["build", "--quiet", "--platform", &elsewhere, "--tag", &foreign, context]);
    let foreign = docker.fails(&["push", "--quiet", &foreign]);
    assert!(foreign.contains(&format!("docker build --platform linux/{}", Image::HERE)), "{foreign}");

    fs::write(&dockerfile, "FROM scratch\nCOPY Dockerfile /\n").expect("write");
    let silent = docker.name("run/heart/silent:1");
    docker.remember(&silent);
    docker.ok(&["build", "--quiet", "--tag", &silent, context]);
    let silent = docker.fails(&["push", "--quiet", &silent]);
    assert!(silent.contains("add a CMD or an ENTRYPOINT"), "{silent}");
    assert_eq!(site.runs(), 0);

    docker.run("heart/good:1", "true");
    assert_eq!(site.runs(), 1);
    let pending = docker.fails(&["pull", "--quiet", &docker.name("results/heart/good:1")]);
    assert!(pending.contains("run 1 is queued"), "{pending}");
    let unknown = docker.fails(&["pull", "--quiet", &docker.name("results/liver/good:1")]);
    assert!(unknown.contains("not known here, or not to you"), "{unknown}");
}

#[test]
fn skopeo_copies_inspects_and_deletes() {
    let site = site();
    let docker = Docker::login(&site, "ada");
    let tools = Tools::login(&site, "ada");
    let name = docker.build("tools/hello:1", "echo hello", "");
    let registry = |image: &str| format!("docker://{}", docker.name(image));

    let archive = tools.text("image.tar");
    docker.ok(&["save", "--output", &archive, &name]);
    tools.copy(&format!("docker-archive:{archive}"), &registry("tools/archive:1"), &[]);
    tools.copy(&registry("tools/archive:1"), &registry("copies/archive:1"), &[]);
    assert_eq!(digest(&site, "copies/archive:1"), digest(&site, "tools/archive:1"));
    let layout = format!("oci:{}:one", tools.text("layout"));
    tools.copy(&registry("tools/archive:1"), &layout, &["--format", "oci"]);
    tools.copy(&layout, &registry("tools/layout:1"), &[]);
    let again = format!("oci:{}:one", tools.text("again"));
    tools.copy(&registry("tools/layout:1"), &again, &[]);
    assert_eq!(layout_blobs(&tools.path("again")), layout_blobs(&tools.path("layout")), "byte for byte");
    tools.copy(&registry("tools/layout:1"), &registry("tools/zstd:1"), &["--dest-compress-format", "zstd"]);
    for image in ["tools/layout:1", "tools/zstd:1"] {
        let pulled = docker.name(image);
        docker.remember(&pulled);
        docker.ok(&["pull", "--quiet", &pulled]);
        assert_eq!(docker.ok(&["run", "--rm", "--network", "none", &pulled]), "hello\n", "{image}");
    }

    let inspected = tools.skopeo_ok(&["inspect", "--tls-verify=false", &registry("tools/archive:1")]);
    let inspected: Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected["Digest"], digest(&site, "tools/archive:1"));
    assert_eq!(inspected["RepoTags"], serde_json::json!(["1"]));
    tools.skopeo_ok(&["delete", "--tls-verify=false", &registry("copies/archive:1")]);
    site.http("ada").get("/v2/copies/archive/manifests/1").expect_error(404, "MANIFEST_UNKNOWN");
    let refused = tools.skopeo(&["inspect", "--tls-verify=false", &registry("copies/archive:1")]);
    assert!(!refused.status.success());
    let denied = tools.skopeo(&["copy", "--dest-tls-verify=false", &layout, &registry("run/liver/x:1")]);
    let denied = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(denied.contains("run/heart/<name>:<tag>"), "{denied}");
}

#[test]
fn skopeo_copies_all_of_an_index() {
    let site = site();
    let docker = Docker::login(&site, "ada");
    let tools = Tools::login(&site, "ada");
    let ada = site.http("ada");
    let command = serde_json::json!({"Cmd": ["/x"]});
    let images = [Image::HERE, Image::ELSEWHERE].map(|architecture| {
        let image = Image::built_for(architecture, &tar_gz(architecture), &command);
        ada.push_blob("tools/x", &image.config);
        ada.push_blob("tools/x", &image.layers[0]);
        ada.push_manifest("tools/x", &image.digest(), OCI_IMAGE, &image.manifest()).expect(201);
        image
    });
    let manifests = images.each_ref().map(Image::manifest);
    let all = index(OCI_INDEX, &[(&manifests[0], Image::HERE), (&manifests[1], Image::ELSEWHERE)]);
    ada.push_manifest("tools/x", "all", OCI_INDEX, &all).expect(201);

    let registry = |image: &str| format!("docker://{}", docker.name(image));
    tools.copy(&registry("tools/x:all"), &registry("copies/x:all"), &["--all"]);
    assert_eq!(ada.get("/v2/copies/x/manifests/all").expect(200).body, all);
    for image in &images {
        ada.get(&format!("/v2/copies/x/manifests/{}", image.digest())).expect(200);
    }
    let layout = format!("oci:{}", tools.text("layout"));
    tools.copy(&registry("tools/x:all"), &layout, &["--all"]);
    // Its children come first, by digest; the index is what queues the run.
    tools.copy(&layout, &registry("run/heart/x:all"), &["--all"]);
    assert_eq!(site.runs(), 1);
    assert!(site.torno_ok(&["runs", "show", "1"]).contains(&images[0].digest()));
    tools.skopeo_ok(&["inspect", "--tls-verify=false", &registry("copies/x:all")]);
}

#[test]
fn buildah_pushes_and_pulls() {
    let site = site();
    let docker = Docker::login(&site, "ada");
    let tools = Tools::login(&site, "ada");
    let name = docker.build("tools/hello:1", "echo hello", "");
    docker.ok(&["push", "--quiet", &name]);
    let id = tools.buildah_ok(&["pull", "--quiet", "--tls-verify=false", &name]);
    for (image, format) in [("tools/docker:1", "v2s2"), ("run/heart/oci:1", "oci")] {
        let to = format!("docker://{}", docker.name(image));
        tools.buildah_ok(&["push", "--quiet", "--tls-verify=false", "--format", format, id.trim(), &to]);
        let pulled = docker.name(image);
        docker.remember(&pulled);
        docker.ok(&["pull", "--quiet", &pulled]);
        assert_eq!(docker.ok(&["run", "--rm", "--network", "none", &pulled]), "hello\n", "{image}");
    }
    assert_eq!(site.runs(), 1);
}

#[test]
fn containerd_pulls_and_pushes() {
    let site = site();
    let containerd = Containerd::start();
    let image = Image::new(&tar_gz("containerd"));
    image.push(&site.http("ada"), "tools/x", "1").expect(201);
    containerd.ok(&site, "ada", &["content", "fetch"], &["tools/x:1"]);
    containerd.ok(&site, "ada", &["images", "push"], &["copies/x:1", "tools/x:1"]);
    assert_eq!(digest(&site, "copies/x:1"), digest(&site, "tools/x:1"));
    let foreign = format!("{}/tools/x:1", site.host());
    let refused = containerd.ctr(&["content", "fetch", "--plain-http", "--user", "eve:pw-eve", &foreign]);
    assert!(!refused.status.success(), "it is not eve's");
    let asked = |path: &str| site.log().contains(&format!("method=POST path=\"{path}\" status=200"));
    assert!(asked("/token"), "it has used the form for OAuth 2");
}

/// A layer with one file.
fn tar_gz(text: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "text", text.as_bytes()).expect("tar");
    tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("gzip")
}
