//! `samples/<dataset>`: what may be given away, for whoever tries a program at home.

use std::{fs, os::unix::fs::symlink};

use torno_tests::{Docker, Image, Site, layer, tool, wait_until};

const PROJECTS: &str = "
[datasets.numbers]
path = 'confidential'
sample = 'given'
[datasets.words]
path = 'words'
[projects.one]
researchers = ['ada']
custodians = ['cora']
robots = ['ci']
datasets = ['numbers', 'words']
[projects.two]
researchers = ['eve']
datasets = ['words']
";

fn site() -> Site {
    let mut site = Site::new(PROJECTS);
    for (folder, content) in [("confidential", "secret\n"), ("given", "sample\n"), ("words", "words\n")] {
        site.write_data(folder, content);
    }
    fs::write(site.path("outside"), "outside\n").expect("file");
    fs::create_dir(site.path("given/deep")).expect("folder");
    fs::write(site.path("given/deep/file"), "deep\n").expect("file");
    symlink("../confidential/data.txt", site.path("given/out")).expect("link");
    symlink(site.path("outside"), site.path("given/absolute")).expect("link");
    site.add_users(&["admin", "ada", "cora", "eve"]);
    site.start();
    site
}

/// The digest of the sample, once there is one that `fits`.
fn published(site: &Site, fits: impl Fn(&str) -> bool) -> String {
    let http = site.http("ada");
    wait_until("the sample is published", || {
        let answer = http.get("/v2/samples/numbers/manifests/latest");
        (answer.status == 200).then(|| answer.header("docker-content-digest")).filter(|digest| fits(digest))
    })
}

#[test]
fn a_sample_is_pulled_by_whoever_belongs_to_its_projects() {
    let site = site();
    let first = published(&site, |_| true);
    let ada = Docker::login(&site, "ada");
    let image = ada.pull_result_of("samples/numbers");
    let files = tempfile::tempdir().expect("folder");
    let container = ada.ok(&["create", &image]).trim().to_owned();
    ada.ok(&["cp", &format!("{container}:/input"), files.path().to_str().expect("UTF-8")]);
    ada.ok(&["rm", &container]);
    let read = |name: &str| fs::read_to_string(files.path().join("input").join(name)).expect(name);
    assert_eq!(read("data.txt"), "sample\n");
    assert_eq!(read("deep/file"), "deep\n");
    let mut names: Vec<_> = fs::read_dir(files.path().join("input"))
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names, ["data.txt", "deep"], "links that lead out stay out");
    let inspected = tool(
        "skopeo",
        &["inspect", "--authfile", &ada.auth_file(), "--tls-verify=false", &format!("docker://{image}")],
    );
    assert!(inspected.contains("\"Layers\""));

    for (who, may) in [("cora", true), ("admin", true), ("eve", false)] {
        let http = site.http(who);
        let status = http.get("/v2/samples/numbers/manifests/latest").status;
        assert_eq!(status, if may { 200 } else { 404 }, "{who}");
        let listed = http.get("/v2/_catalog").json()["repositories"].to_string();
        assert_eq!(listed.contains("samples/numbers"), may, "{who}: {listed}");
        // Of data without a sample there is nothing, for anybody.
        http.get("/v2/samples/words/manifests/latest").expect_error(404, "NAME_UNKNOWN");
    }
    for who in ["ada", "cora", "admin"] {
        let pushed = site.http(who).post("/v2/samples/numbers/blobs/uploads/");
        pushed.expect_error(403, "DENIED");
    }

    // What changes is published again.
    fs::write(site.path("given/data.txt"), "another\n").expect("data");
    let second = published(&site, |digest| digest != first);
    let http = site.http("ada");
    http.get(&format!("/v2/samples/numbers/manifests/{first}")).expect(200);
    assert_ne!(first, second);
}

#[test]
fn a_sample_outlives_a_restart_and_goes_with_its_line() {
    let mut site = site();
    let first = published(&site, |_| true);
    site.stop();
    site.start();
    assert_eq!(published(&site, |_| true), first);
    assert_eq!(site.log().matches("a sample was published").count(), 1, "it is not packed again");
    let file = site.path("torno.toml");
    let text = fs::read_to_string(&file).expect("torno.toml");
    fs::write(&file, text.replace("sample = 'given'\n", "")).expect("torno.toml");
    site.signal("HUP");
    let ada = site.http("ada");
    wait_until("nobody may have it", || {
        (ada.get("/v2/samples/numbers/manifests/latest").status == 404).then_some(())
    });
    wait_until("it is withdrawn", || site.log().contains("a sample was withdrawn").then_some(()));
    // Nothing keeps its bytes.
    site.torno_ok(&["gc"]);
    assert_eq!(site.blob_bytes(), 0);
    Image::new(&layer("other")).push(&ada, "tools/x", "v").expect(201);
}
