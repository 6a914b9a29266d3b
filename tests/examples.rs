//! The examples, as a researcher would push them: real patients, a real engine.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use torno_tests::{Docker, Site, tool};

/// What the nearest centroid gets right of the confidential part of the data; a brute-force computation agrees.
const ACCURACY: &str = "\"accuracy\": 0.936404";

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/breast-cancer").join(path)
}

/// A site that has the confidential patients, and a researcher.
fn site() -> Site {
    let mut site = Site::new(
        "
        [datasets.wdbc]
        path = 'patients/confidential'
        [projects.breast-cancer]
        researchers = ['ada']
        datasets = ['wdbc']
        ",
    );
    let patients = site.path("patients");
    tool(example("split").to_str().expect("UTF-8"), &[patients.to_str().expect("UTF-8")]);
    site.add_users(&["ada"]);
    site.start();
    site
}

fn push_and_pull(ada: &Docker, image: &str) -> String {
    ada.ok(&["push", "--quiet", &ada.name(&format!("run/{image}"))]);
    let result = ada.pull_result(image);
    let folder = tempfile::tempdir().expect("folder");
    ada.files(&result, folder.path());
    fs::read_to_string(folder.path().join("output/metrics.json")).expect("metrics.json")
}

#[test]
fn awk_in_an_image_from_scratch() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let name = ada.name("run/breast-cancer/awk:1");
    ada.remember(&name);
    tool(example("awk-image/build").to_str().expect("UTF-8"), &[&name]);
    let metrics = push_and_pull(&ada, "breast-cancer/awk:1");
    assert!(metrics.contains(ACCURACY), "{metrics}");
}

#[test]
fn python_on_debian() {
    let Some(base) = debian_with_python() else { return };
    let site = site();
    let ada = Docker::login(&site, "ada");
    let name = ada.name("run/breast-cancer/python:1");
    ada.remember(&name);
    // The researcher's own Dockerfile, on the base at hand.
    let parent = ada.name("base/python:3-slim");
    ada.remember(&parent);
    ada.ok(&["import", base.to_str().expect("UTF-8"), &parent]);
    let context = tempfile::tempdir().expect("folder");
    fs::copy(example("python-image/classify.py"), context.path().join("classify.py")).expect("classify.py");
    let dockerfile = fs::read_to_string(example("python-image/Dockerfile")).expect("Dockerfile");
    assert!(dockerfile.contains("FROM python:3-slim\n"));
    let dockerfile = dockerfile.replace("FROM python:3-slim\n", &format!("FROM {parent}\n"));
    fs::write(context.path().join("Dockerfile"), dockerfile).expect("Dockerfile");
    ada.ok(&["build", "--quiet", "--tag", &name, context.path().to_str().expect("UTF-8")]);
    let metrics = push_and_pull(&ada, "breast-cancer/python:1");
    assert!(metrics.contains(ACCURACY), "{metrics}");
}

/// A Debian with Python, made with `debootstrap` once and kept beside the build. `None`, said aloud, where Debian's
/// packages cannot be had.
fn debian_with_python() -> Option<PathBuf> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-python.tar");
    if kept.exists() {
        return Some(kept);
    }
    let folder = tempfile::tempdir().expect("folder");
    let root = folder.path().join("root");
    let log = File::create(folder.path().join("log")).expect("log");
    let made = Command::new("debootstrap")
        .args(["--variant=minbase", "--include=python3-minimal", "bookworm"])
        .arg(&root)
        .stdin(Stdio::null())
        .stdout(log)
        .status()
        .expect("install debootstrap (scripts/setup does)");
    if !made.success() {
        eprintln!("the Python image is not tested: debootstrap could not make a Debian here");
        return None;
    }
    let part = kept.with_extension("part");
    let names = ["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "--exclude=./dev/*"];
    let (root, to) = (root.to_str().expect("UTF-8"), part.to_str().expect("UTF-8"));
    tool("tar", &["--create", "--file", to, "--directory", root, names[0], names[1], names[2], "."]);
    fs::rename(&part, &kept).expect("rename");
    Some(kept)
}
