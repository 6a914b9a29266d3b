//! Taking over what the reference registry has written.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::{Value, json};
use torno_tests::{
    Distribution, Http, Image, NO_ENGINE, OCI_IMAGE, OCI_INDEX, PROJECTS, Site, index, layer, sha256,
};

const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn site() -> Site {
    let mut site = Site::new(PROJECTS).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "eve"]);
    site.start();
    site
}

fn import(site: &Site, from: &Distribution, more: &[&str]) -> Output {
    let data = from.data();
    let mut arguments = vec!["import", "--from", data.to_str().expect("UTF-8"), "--owner", "ada"];
    arguments.extend(more);
    site.torno(&arguments)
}

#[track_caller]
fn import_ok(site: &Site, from: &Distribution, more: &[&str]) -> String {
    let output = import(site, from, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What an import that left something out says of that, a line each.
#[track_caller]
fn import_some(site: &Site, from: &Distribution) -> Vec<String> {
    let output = import(site, from, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said.lines().filter(|line| line.starts_with("left out: ")).map(str::to_owned).collect()
}

/// Some bytes that go to a file of their own.
fn large(seed: &str) -> Vec<u8> {
    seed.bytes().cycle().take(100_000).collect()
}

/// A manifest that was pushed.
struct Pushed {
    repository: &'static str,
    reference: String,
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Pushed {
    /// Fails unless this registry gives it back as it was, with all its blobs.
    #[track_caller]
    fn check(&self, http: &Http, prefix: &str) {
        let repository = format!("{prefix}{}", self.repository);
        let path = format!("/v2/{repository}/manifests/{}", self.reference);
        let accept = [("accept", "*/*")];
        let found = http.send("GET", &path, &accept, &[]);
        assert_eq!(found.expect(200).body, self.bytes, "{path}");
        assert_eq!(found.header("content-type"), self.media_type, "{path}");
        let manifest: Value = serde_json::from_slice(&self.bytes).expect("JSON");
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        for blob in layers.iter().chain(manifest.get("config")) {
            let digest = blob["digest"].as_str().expect("a digest");
            let blob = http.get(&format!("/v2/{repository}/blobs/{digest}"));
            assert_eq!(sha256(&blob.expect(200).body), digest);
        }
    }
}

/// Pushes all kinds of manifests; what there is then.
fn fill(http: &Http) -> Vec<Pushed> {
    let mut all = Vec::new();
    let mut put = |repository, reference: &str, media_type, bytes: &[u8]| {
        http.push_manifest(repository, reference, media_type, bytes).expect(201);
        all.push(Pushed { repository, reference: reference.into(), media_type, bytes: bytes.to_vec() });
    };
    let blobs = |repository: &str, image: &Image| {
        for blob in image.layers.iter().chain([&image.config]) {
            http.push_blob(repository, blob);
        }
    };
    let mut oci = Image::new(&large("shared"));
    oci.layers.push(layer("small"));
    blobs("tools/oci", &oci);
    put("tools/oci", "1", OCI_IMAGE, &oci.manifest());
    put("tools/oci", "latest", OCI_IMAGE, &oci.manifest());
    let mut docker = Image::new(&large("shared"));
    docker.media_type = DOCKER_IMAGE;
    blobs("deep/er/and/deeper", &docker);
    put("deep/er/and/deeper", "v", DOCKER_IMAGE, &docker.manifest());
    blobs("single", &docker);
    put("single", &docker.digest(), DOCKER_IMAGE, &docker.manifest());

    // Whoever keeps the bytes alone must see what they are.
    let mut silent: Value = serde_json::from_slice(&oci.manifest()).expect("JSON");
    silent.as_object_mut().expect("an object").remove("mediaType");
    put("tools/oci", "silent", OCI_IMAGE, silent.to_string().as_bytes());

    for (repository, kind, of) in
        [("multi/oci", OCI_INDEX, OCI_IMAGE), ("multi/docker", DOCKER_LIST, DOCKER_IMAGE)]
    {
        let images = [Image::HERE, Image::ELSEWHERE].map(|architecture| {
            let mut image = Image::built_for(architecture, &large(architecture), &json!({"Cmd": ["/x"]}));
            image.media_type = of;
            blobs(repository, &image);
            put(repository, &image.digest(), of, &image.manifest());
            image.manifest()
        });
        let list = index(kind, &[(&images[0], Image::HERE), (&images[1], Image::ELSEWHERE)]);
        put(repository, "all", kind, &list);
        if kind == OCI_INDEX {
            let nested = index(kind, &[(&list, Image::HERE)]);
            put(repository, "nested", kind, &nested);
        }
    }

    let mut about: Value = serde_json::from_slice(&oci.manifest()).expect("JSON");
    about["subject"] = json!({"mediaType": OCI_IMAGE, "digest": oci.digest(), "size": oci.manifest().len()});
    about["artifactType"] = json!("application/x-about");
    let about = about.to_string();
    put("tools/oci", &sha256(about.as_bytes()), OCI_IMAGE, about.as_bytes());

    let gone = Image::new(&layer("gone"));
    gone.push(http, "tools/oci", "gone").expect(201);
    http.delete(&format!("/v2/tools/oci/manifests/{}", gone.digest())).expect(202);
    all
}

/// Every file below a folder: its bytes, time, mode and number.
fn state(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, u32, u64)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).expect("folder") {
            let path = entry.expect("entry").path();
            let of = fs::symlink_metadata(&path).expect("entry");
            if of.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.clone(), (fs::read(&path).expect("read"), of.mtime(), of.mode(), of.ino()));
            }
        }
    }
    found
}

#[test]
fn everything_comes_byte_for_byte_and_nothing_twice() {
    let mut from = Distribution::start();
    let pushed = fill(&from.http());
    from.stop();
    let before = state(&from.data());
    let mut site = site();
    let said = import_ok(&site, &from, &[]);
    // Two tags of one image count once.
    let manifests = pushed.len() - 1;
    assert!(
        said.contains(&format!("5 repositories; {manifests} manifests imported, 0 were there")),
        "{said}"
    );
    let ada = site.http("ada");
    for one in &pushed {
        one.check(&ada, "");
    }
    let oci = &pushed[0];
    let listed = ada.get("/v2/tools/oci/tags/list").expect(200).json();
    assert_eq!(listed["tags"], json!(["1", "latest", "silent"]), "what was deleted stays away");
    let about = ada.get(&format!("/v2/tools/oci/referrers/{}", sha256(&oci.bytes))).expect(200).json();
    assert_eq!(about["manifests"][0]["artifactType"], "application/x-about");
    site.http("eve").get("/v2/tools/oci/manifests/1").expect(404);

    // A large blob is the same file under a second name, and what happens here does not touch it.
    let shared = sha256(&large("shared"));
    let hex = &shared["sha256:".len()..];
    let mine = site.path(&format!("registry-data/blobs/sha256/{}/{hex}", &hex[..2]));
    let inode = |path: &Path| fs::metadata(path).expect("file").ino();
    assert_eq!(inode(&mine), inode(&from.blob(&shared)));

    let again = import_ok(&site, &from, &[]);
    assert!(again.contains(&format!("0 manifests imported, {manifests} were there; 0 blobs")), "{again}");

    ada.push_blob("tools/oci", &large("shared"));
    assert_ne!(inode(&mine), inode(&from.blob(&shared)), "pushed anew");
    for one in &pushed {
        ada.delete(&format!("/v2/{}/manifests/{}", one.repository, sha256(&one.bytes)));
    }
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(site.blob_bytes(), 0);
    assert!(state(&from.data()) == before, "the source is as it was");

    let copied = import_ok(&site, &from, &["--copy"]);
    assert!(copied.contains(&format!("{manifests} manifests imported")), "{copied}");
    assert_ne!(inode(&mine), inode(&from.blob(&shared)));
    site.stop();
    site.start();
    for one in &pushed {
        one.check(&site.http("ada"), "");
    }
}

#[test]
fn names_that_mean_something_here_are_refused_or_put_elsewhere() {
    let mut from = Distribution::start();
    let http = from.http();
    let image = Image::new(&layer("image"));
    for repository in ["run/heart/x", "results/heart/x", "try/x", "samples/x", "tools/x"] {
        image.push(&http, repository, "v").expect(201);
    }
    from.stop();
    let site = site();
    let taken = Image::new(&layer("another's"));
    taken.push(&site.http("eve"), "tools/x", "v").expect(201);
    let left_out = import_some(&site, &from);
    assert_eq!(left_out.len(), 5, "{left_out:#?}");
    for name in ["run/heart/x", "results/heart/x", "try/x", "samples/x"] {
        assert!(left_out.iter().any(|line| line.contains(&format!("{name}: ")) && line.contains("--prefix")));
    }
    assert!(
        left_out.iter().any(|line| line.contains("tools/x: ") && line.contains("taken by somebody else"))
    );
    let eve = site.http("eve").get("/v2/tools/x/manifests/v");
    assert_eq!(eve.expect(200).body, taken.manifest());
    import_ok(&site, &from, &["--prefix", "old"]);
    let found = site.http("ada").get("/v2/old/run/heart/x/manifests/v");
    assert_eq!(found.expect(200).body, image.manifest());
    assert_eq!(site.runs(), 0);
    let output = site.torno(&["import", "--from", site.path("").to_str().expect("UTF-8"), "--owner", "ada"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("it has no docker/registry/v2"), "{said}");
}

#[test]
fn what_is_broken_is_told_and_the_rest_is_imported() {
    let mut from = Distribution::start();
    let http = from.http();
    let push = |seed: &str| {
        let image = Image::new(&large(seed));
        image.push(&http, "tools/x", seed).expect(201);
        image
    };
    let [good, lacking, flipped, linked, cut, huge, other] =
        ["good", "lacking", "flipped", "linked", "cut", "huge", "other"].map(push);
    let all = index(OCI_INDEX, &[(&good.manifest(), Image::HERE), (&lacking.manifest(), Image::ELSEWHERE)]);
    http.push_manifest("tools/x", "all", OCI_INDEX, &all).expect(201);
    from.stop();

    let layer_of = |image: &Image| from.blob(&sha256(&image.layers[0]));
    let kept = fs::read(layer_of(&lacking)).expect("read");
    fs::remove_file(layer_of(&lacking)).expect("removed");
    let mut bytes = fs::read(layer_of(&flipped)).expect("read");
    bytes[50_000] ^= 1;
    fs::write(layer_of(&flipped), bytes).expect("write");
    let outside = tempfile::tempdir().expect("folder");
    fs::rename(layer_of(&linked), outside.path().join("layer")).expect("moved");
    symlink(outside.path().join("layer"), layer_of(&linked)).expect("link");
    fs::write(from.blob(&cut.digest()), &cut.manifest()[..100]).expect("write");
    fs::write(from.blob(&huge.digest()), vec![b' '; 4 * 1024 * 1024 + 1]).expect("write");
    let revision = |image: &Image| {
        let digest = image.digest();
        from.path(&format!(
            "repositories/tools/x/_manifests/revisions/sha256/{}/link",
            &digest["sha256:".len()..]
        ))
    };
    fs::write(revision(&other), good.digest()).expect("write");
    let tag = |name: &str, content: &str| {
        let folder = from.path(&format!("repositories/tools/x/_manifests/tags/{name}/current"));
        fs::create_dir_all(&folder).expect("folder");
        fs::write(folder.join("link"), content).expect("write");
    };
    tag("nowhere", &sha256(b"nowhere"));
    tag("nonsense", "../../../../etc/passwd");
    tag("long", &"sha256:".repeat(100_000));
    tag(".hidden", &good.digest());
    let text = "schema 1";
    for (name, bytes) in
        [("list", "[]".to_owned()), ("old", json!({"schemaVersion": 1, "name": text}).to_string())]
    {
        let digest = sha256(bytes.as_bytes());
        let hex = &digest["sha256:".len()..];
        for (path, content) in [
            (from.blob(&digest), bytes.as_str()),
            (from.path(&format!("repositories/tools/x/_manifests/revisions/sha256/{hex}/link")), &digest),
        ] {
            fs::create_dir_all(path.parent().expect("folder")).expect("folder");
            fs::write(path, content).expect("write");
        }
        tag(name, &digest);
    }
    fs::create_dir_all(from.path("repositories/Upper/\u{1b}[2J/_manifests/revisions/sha256"))
        .expect("folder");
    symlink(from.path("repositories/tools"), from.path("repositories/loop")).expect("link");

    let site = site();
    let left_out = import_some(&site, &from);
    let told = |start: &str, why: &str| {
        let found = left_out.iter().filter(|line| line.contains(start) && line.contains(why)).count();
        assert_eq!(found, 1, "`{start}` because of `{why}` in {left_out:#?}");
    };
    let layer = |image: &Image| sha256(&image.layers[0]);
    told("(lacking)", &format!("{}: it is not there", layer(&lacking)));
    told("(flipped)", &format!("{}: its bytes have digest", layer(&flipped)));
    told("(linked)", &format!("{}: it is neither a file nor a folder", layer(&linked)));
    told("(cut)", "its bytes have digest");
    told("(huge)", "it is larger than 4194304 bytes");
    told(
        &format!("revisions/{}", &other.digest()["sha256:".len()..]),
        &format!("it leads to {}", good.digest()),
    );
    told("tag other", "which is not there");
    told("(all)", &lacking.digest());
    told("tag nowhere", "which is not there");
    told("tag nonsense", "it holds no digest");
    told("tag long", "it is larger than");
    told("tag .hidden", "it is no tag");
    told("(list)", "");
    told("(old)", "schemaVersion is 1");
    told("Upper/\u{fffd}[2J", "no repository can be named so");
    told("loop", "links are not followed");
    assert_eq!(left_out.len(), 16, "{left_out:#?}");
    let ada = site.http("ada");
    let tags = ada.get("/v2/tools/x/tags/list").expect(200).json();
    assert_eq!(tags["tags"], json!(["good"]));
    assert_eq!(ada.get("/v2/tools/x/manifests/good").expect(200).body, good.manifest());
    assert_eq!(ada.get(&format!("/v2/tools/x/blobs/{}", layer(&good))).expect(200).body, good.layers[0]);

    // Repaired, what lacked it comes too.
    fs::write(layer_of(&lacking), kept).expect("write");
    let left_out = import_some(&site, &from);
    assert_eq!(left_out.len(), 14, "{left_out:#?}");
    let tags = ada.get("/v2/tools/x/tags/list").expect(200).json();
    assert_eq!(tags["tags"], json!(["all", "good", "lacking"]));
    assert_eq!(ada.get("/v2/tools/x/manifests/all").expect(200).body, all);
    assert_eq!(
        ada.get(&format!("/v2/tools/x/blobs/{}", layer(&lacking))).expect(200).body,
        lacking.layers[0]
    );
}

#[test]
fn an_import_that_was_killed_goes_on() {
    let mut from = Distribution::start();
    let http = from.http();
    let images: Vec<Image> = (0..30)
        .map(|number| {
            let image = Image::new(&large(&format!("image {number}")));
            image.push(&http, &format!("tools/x{}", number % 3), &format!("v{number}")).expect(201);
            image
        })
        .collect();
    from.stop();
    let site = site();
    let ada = site.http("ada");
    let data = from.data();
    for enough in [1, 8] {
        let arguments = ["import", "--from", data.to_str().expect("UTF-8"), "--owner", "ada"];
        let mut child = site.command(&arguments).spawn().expect("torno");
        torno_tests::wait_until("some blobs are there", || {
            let files = site.blob_bytes() / 100_000;
            let ended = child.try_wait().expect("wait").is_some();
            (files >= enough || ended).then_some(())
        });
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().expect("wait");
    }
    import_ok(&site, &from, &[]);
    for (number, image) in images.iter().enumerate() {
        let repository = format!("tools/x{}", number % 3);
        let found = ada.get(&format!("/v2/{repository}/manifests/v{number}"));
        assert_eq!(found.expect(200).body, image.manifest());
        let blob = ada.get(&format!("/v2/{repository}/blobs/{}", sha256(&image.layers[0])));
        assert_eq!(blob.expect(200).body, image.layers[0]);
    }
    assert!(!site.path("registry-data/imports").exists(), "nothing is left over");
}
