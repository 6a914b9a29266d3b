//! OCI image layouts, in and out.

use std::{fs, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use torno_tests::{Image, OCI_IMAGE, OCI_INDEX, Site, Tools, index, layout_blobs, sha256};

fn site() -> Site {
    Site::start_with("", &["ada"])
}

/// A layer that Skopeo leaves as it is, large enough for a file of its own.
fn compressed(seed: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::none());
    let text: Vec<u8> = seed.bytes().cycle().take(100_000).collect();
    gzip.write_all(&text).expect("gzip");
    gzip.finish().expect("gzip")
}

/// An index of two images; the bytes of its manifest.
fn push_index(site: &Site, repository: &str, tag: &str) -> Vec<u8> {
    let ada = site.http("ada");
    let manifests = [Image::HERE, Image::ELSEWHERE].map(|architecture| {
        let image = Image::built_for(architecture, &compressed(architecture), &json!({"Cmd": ["/x"]}));
        ada.push_blob(repository, &image.config);
        ada.push_blob(repository, &image.layers[0]);
        ada.push_manifest(repository, &image.digest(), OCI_IMAGE, &image.manifest()).expect(201);
        image.manifest()
    });
    let all = index(OCI_INDEX, &[(&manifests[0], Image::HERE), (&manifests[1], Image::ELSEWHERE)]);
    ada.push_manifest(repository, tag, OCI_INDEX, &all).expect(201);
    all
}

fn listed(layout: &Path) -> Value {
    serde_json::from_slice(&fs::read(layout.join("index.json")).expect("read")).expect("JSON")
}

#[test]
fn an_image_goes_out_and_comes_back_the_same() {
    let site = site();
    let all = push_index(&site, "tools/x", "all");
    let small = Image::new(b"small");
    small.push(&site.http("ada"), "tools/x", "small").expect(201);
    let folder = tempfile::tempdir().expect("folder");
    let layout = folder.path().join("layout");
    let text = layout.to_str().expect("UTF-8");
    for _ in 0..2 {
        for image in ["tools/x:all", "tools/x:small"] {
            site.torno_ok(&["export", "--oci-layout", text, image]);
        }
    }
    let index = listed(&layout);
    assert_eq!(index["manifests"].as_array().expect("a list").len(), 2, "{index}");
    assert_eq!(index["manifests"][0]["digest"], sha256(&all));
    assert_eq!(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "all");
    // The index, two images with two blobs each, and the small one.
    assert_eq!(layout_blobs(&layout).len(), 1 + 4 + 2 + 3);
    for (hex, bytes) in layout_blobs(&layout) {
        assert_eq!(sha256(&bytes), format!("sha256:{hex}"));
    }

    let other = self::site();
    other.torno_ok(&["import", "--oci-layout", text, "--owner", "ada", "copies/x"]);
    let ada = other.http("ada");
    assert_eq!(ada.get("/v2/copies/x/manifests/all").expect(200).body, all);
    assert_eq!(ada.get("/v2/copies/x/manifests/small").expect(200).body, small.manifest());
    let one = other.torno_ok(&["import", "--oci-layout", text, "--owner", "ada", "copies/y:all"]);
    assert!(one.contains("3 manifests imported"), "{one}");
    ada.get("/v2/copies/y/manifests/small").expect(404);
    let again = folder.path().join("again");
    for image in ["copies/x:all", "copies/x:small"] {
        other.torno_ok(&["export", "--oci-layout", again.to_str().expect("UTF-8"), image]);
    }
    assert_eq!(layout_blobs(&again), layout_blobs(&layout), "byte for byte");
    assert_eq!(listed(&again), index);
}

#[test]
fn skopeo_reads_and_writes_the_same_layouts() {
    let site = site();
    let tools = Tools::login(&site, "ada");
    let all = push_index(&site, "tools/x", "all");
    let ours = tools.text("ours");
    site.torno_ok(&["export", "--oci-layout", &ours, "tools/x:all"]);
    let registry = |image: &str| format!("docker://{}/{image}", site.host());
    tools.copy(&format!("oci:{ours}:all"), &registry("copies/x:1"), &["--all"]);
    let ada = site.http("ada");
    assert_eq!(ada.get("/v2/copies/x/manifests/1").expect(200).body, all);
    let theirs = tools.text("theirs");
    tools.copy(&registry("tools/x:all"), &format!("oci:{theirs}:some-name"), &["--all"]);
    site.torno_ok(&["import", "--oci-layout", &theirs, "--owner", "ada", "copies/y"]);
    assert_eq!(ada.get("/v2/copies/y/manifests/some-name").expect(200).body, all);
    assert_eq!(layout_blobs(&tools.path("theirs")), layout_blobs(&tools.path("ours")));
}

#[test]
fn what_is_no_layout_or_no_image_is_refused() {
    let site = site();
    let fails = |arguments: &[&str]| {
        let output = site.torno(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let folder = tempfile::tempdir().expect("folder");
    let text = folder.path().to_str().expect("UTF-8");
    let import = |name| ["import", "--oci-layout", text, "--owner", "ada", name];
    fs::write(folder.path().join("mine"), "mine").expect("write");
    assert!(fails(&import("tools/x")).contains("it has no oci-layout"));
    push_index(&site, "tools/x", "all");
    assert!(fails(&["export", "--oci-layout", text, "tools/x:all"]).contains("nor empty"));
    fs::remove_file(folder.path().join("mine")).expect("removed");
    assert!(fails(&["export", "--oci-layout", text, "tools/x"]).contains("a tag must be given"));
    assert!(fails(&["export", "--oci-layout", text, "tools/x:none"]).contains("no manifest `none`"));
    site.torno_ok(&["export", "--oci-layout", text, "tools/x:all"]);
    assert!(fails(&import("run/heart/x")).contains("not imported into"));
    // The only one is meant by any name.
    site.torno_ok(&import("tools/y:other"));
    Image::new(b"small").push(&site.http("ada"), "tools/x", "small").expect(201);
    site.torno_ok(&["export", "--oci-layout", text, "tools/x:small"]);
    assert!(fails(&import("tools/y:none")).contains("all, small"));
    let digest = sha256(b"");
    let broken = format!(r#"{{"manifests":[{{"digest":"{digest}"}},{{"digest":"sha256:../../x"}}]}}"#);
    fs::write(folder.path().join("index.json"), &broken).expect("write");
    assert!(fails(&import("tools/z")).contains("is no index"));
    fs::write(folder.path().join("index.json"), broken.replace("sha256:../../x", &digest)).expect("write");
    assert!(fails(&import("tools/z")).contains("it is not there"));
    fs::write(folder.path().join("index.json"), "{}").expect("write");
    assert!(fails(&import("tools/z")).contains("is no index"));
}
