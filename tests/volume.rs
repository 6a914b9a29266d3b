//! Data in a volume of the engine's: read-only, nothing copied into it, and never made by a run.

use std::{
    fs,
    path::Path,
    process::{self, Command},
};

use torno_tests::{Docker, Site, tool};

/// Volumes of the engine's that go with the test.
struct Volumes([String; 2]);

impl Volumes {
    /// Names that nobody else has.
    fn new() -> Self {
        Self(["numbers", "hollow"].map(|name| format!("test-{}-{name}", process::id())))
    }

    fn there(&self) -> [bool; 2] {
        self.0.each_ref().map(|name| {
            let found = Command::new("docker").args(["volume", "inspect", name]).output().expect("docker");
            found.status.success()
        })
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("docker").args(["volume", "rm", "--force", name]).output();
        }
    }
}

#[test]
fn a_volume_is_seen_as_it_is_and_one_that_is_not_there_is_not_made() {
    let mut site = Site::new("");
    let volumes = Volumes::new();
    let [numbers, hollow] = &volumes.0;
    site.append(&format!(
        "[datasets.numbers]
        volume = '{numbers}'
        sample = 'given'
        [datasets.hollow]
        volume = '{hollow}'
        [projects.p]
        researchers = ['ada']
        datasets = ['numbers', 'hollow']
        [projects.sampled]
        researchers = ['ada']
        datasets = ['numbers']"
    ));
    site.write_data("given", "given");
    site.add_users(&["ada"]);
    site.start();
    let ada = Docker::login(&site, "ada");
    // An image with files of its own where the data will be: an engine likes to copy those into an empty volume.
    let root = tempfile::tempdir().expect("folder");
    for name in ["numbers", "hollow"] {
        fs::create_dir_all(root.path().join("input").join(name)).expect("folder");
        fs::write(root.path().join("input").join(name).join("own"), "the image's").expect("file");
    }
    let script = "cat /input/numbers/data.txt > /output/seen || exit 9
        ls /input/numbers /input/hollow >> /output/seen
        for name in numbers hollow; do echo x > /input/$name/x && exit 8; done
        grep -c ' /input/[a-z]* ro' /proc/self/mountinfo >> /output/seen";
    let push = |image: &str| {
        let image = ada.build_on(&root, image, script, "");
        ada.ok(&["push", "--quiet", &image]);
    };

    // Neither is there, then only one is.
    push("run/p/look:1");
    assert_eq!(site.wait_for_run(1), "something failed at this site; tell its admin the run's number");
    assert!(site.log().contains("the engine has no such volume"), "{}", site.log());
    assert_eq!(volumes.there(), [false, false]);
    tool("docker", &["volume", "create", numbers]);
    push("run/p/look:2");
    assert_eq!(site.wait_for_run(2), "something failed at this site; tell its admin the run's number");
    assert_eq!(volumes.there(), [true, false]);

    tool("docker", &["volume", "create", hollow]);
    let file = tempfile::NamedTempFile::new().expect("file");
    fs::write(file.path(), "confidential\n").expect("write");
    tool("chmod", &["644", file.path().to_str().expect("UTF-8")]);
    let filler = ada.build("filler:1", "", "");
    let mount = format!("type=volume,source={numbers},target=/v,volume-nocopy");
    let container = tool("docker", &["create", "--mount", &mount, &filler]).trim().to_owned();
    tool("docker", &["cp", file.path().to_str().expect("UTF-8"), &format!("{container}:/v/data.txt")]);
    tool("docker", &["rm", &container]);
    push("run/p/look:3");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result("p/look:3"), files.path());
    let read = |path: &str| fs::read_to_string(files.path().join(path)).expect("a file");
    assert_eq!(read("output/seen"), "confidential\n/input/hollow:\n\n/input/numbers:\ndata.txt\n2\n");
    // What it was computed from is named, and not said to be known exactly.
    let report: serde_json::Value = serde_json::from_str(&read("run/run.json")).expect("JSON");
    let datasets = serde_json::json!([
        {"name": "numbers", "mount": "/input/numbers"}, {"name": "hollow", "mount": "/input/hollow"},
    ]);
    assert_eq!(report["datasets"], datasets);
    let listed = site.torno_ok(&["datasets", "list"]);
    assert!(listed.contains(&format!("numbers  volume {numbers}  no fingerprint\n")), "{listed}");
    assert!(!site.torno(&["datasets", "fingerprint", "numbers"]).status.success());
    assert!(site.torno_ok(&["projects", "list"]).contains("numbers (a volume) (with a sample)"));

    // The runs have ended and been tidied away, and the volumes are as they were.
    assert_eq!(volumes.there(), [true, true]);
    let folder = tool("docker", &["volume", "inspect", "--format", "{{.Mountpoint}}", hollow]);
    if let Ok(entries) = fs::read_dir(Path::new(folder.trim())) {
        assert_eq!(entries.count(), 0);
    }

    // A try sees the sample.
    let tried = ada.build("try/sampled/look:1", "cat /input/data.txt > /output/seen", "");
    ada.ok(&["push", "--quiet", &tried]);
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result_of("try-results/sampled/look:1"), files.path());
    assert_eq!(fs::read_to_string(files.path().join("output/seen")).expect("seen"), "given");
}
