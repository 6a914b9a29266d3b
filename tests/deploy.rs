//! What is in `deploy/`: the units of systemd, and the two containers of compose.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use torno_tests::{Docker, Site, binary, free_port, leftovers, wait_until};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn the_units_are_right_and_leave_little_open() {
    for unit in ["torno-serve.service", "torno-execute.service"] {
        let path = deploy().join("systemd").join(unit);
        let verified =
            Command::new("systemd-analyze").arg("verify").arg(&path).output().expect("systemd-analyze");
        // Only what the machine of a test lacks may be missing: the binary where a site has it.
        let verified = text(&verified);
        let complaints: Vec<_> = verified.lines().filter(|line| line.contains(unit)).collect();
        let known = |line: &&str| line.contains("/usr/local/bin/torno is not executable");
        assert!(complaints.iter().all(known), "{complaints:?}");
        // Tenths: 0 is none, 100 all that a service can be exposed to.
        let security = ["security", "--offline=true", "--no-pager", "--threshold=20"];
        let security =
            Command::new("systemd-analyze").args(security).arg(&path).output().expect("systemd-analyze");
        assert!(security.status.success(), "{}", text(&security));
    }
}

/// The two containers, and what they leave, for as long as a test needs them.
struct Compose {
    project: String,
    image: String,
    folder: tempfile::TempDir,
    socket_group: u32,
}

impl Compose {
    fn new(address: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let project = format!("torno-test-{}", std::process::id());
        let image = format!("{project}:local");
        let made =
            Command::new(deploy().join("image")).arg(binary()).arg(&image).output().expect("deploy/image");
        assert!(made.status.success(), "{}", text(&made));
        let socket_group = fs::metadata("/var/run/docker.sock").expect("the engine's socket").gid();
        let data = folder.path().join("data/numbers");
        fs::create_dir_all(&data).expect("folder");
        fs::write(data.join("data.txt"), "1\n2\n3\n").expect("data");
        let configuration = format!(
            "data = '{}'\n[listen]\naddress = '{address}'\n[executor]\nwithin = 'execute'\nkeep_cache = '0B'\n\
             [datasets.numbers]\npath = '{}'\n[projects.p]\nresearchers = ['ada']\ndatasets = ['numbers']\n",
            folder.path().join("torno").display(),
            data.display()
        );
        let torno = folder.path().join("torno");
        fs::create_dir(&torno).expect("folder");
        std::os::unix::fs::chown(&torno, Some(64_201), Some(64_200)).expect("chown");
        fs::set_permissions(&torno, fs::Permissions::from_mode(0o2770)).expect("chmod");
        fs::write(folder.path().join("torno.toml"), configuration).expect("torno.toml");
        for path in [folder.path(), &folder.path().join("data")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        Self { project, image, folder, socket_group }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker-compose");
        command.arg("--file").arg(deploy().join("compose.yaml")).args(["--project-name", &self.project]);
        command
            .args(arguments)
            .env("TORNO_IMAGE", &self.image)
            .env("DOCKER_GID", self.socket_group.to_string());
        command.env("TORNO_DATA", self.folder.path().join("torno"));
        command.env("TORNO_CONFIG", self.folder.path().join("torno.toml"));
        command.env("TORNO_DATASETS", self.folder.path().join("data")).env("TORNO_NOFILE", "16384");
        command
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("docker-compose");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        text(&output)
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                self.command(&["logs", "--no-color"]).output().map(|logs| text(&logs)).unwrap_or_default()
            );
        }
        // Best effort, after the test.
        let _ = self.command(&["down", "--volumes", "--timeout", "5"]).output();
        let _ = Command::new("docker").args(["rmi", &self.image]).output();
    }
}

#[test]
fn compose_serves_and_executes() {
    let address = format!("127.0.0.1:{}", free_port());
    let compose = Compose::new(&address);
    let mut add = compose.command(&["run", "--rm", "-T", "serve", "user", "add", "ada", "--password-stdin"]);
    add.args(["--config", "/etc/torno/torno.toml"]);
    add.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut add = add.spawn().expect("docker-compose");
    add.stdin.take().expect("stdin").write_all(b"pw-ada").expect("the password");
    let added = add.wait_with_output().expect("docker-compose");
    assert!(added.status.success(), "{}", text(&added));
    compose.ok(&["up", "--detach"]);
    let logs = || compose.ok(&["logs", "--no-color"]);
    wait_until("both are there", || {
        let logs = logs();
        (logs.contains("listening on") && logs.contains("carrying out what is pushed")).then_some(())
    });

    let mut site = Site::new("");
    site.served_at(&address);
    let ada = Docker::login(&site, "ada");
    ada.run("p/sum:1", "awk '{s += $1} END {print s}' /input/data.txt > /output/sum");
    let files = tempfile::tempdir().expect("folder");
    ada.files(&ada.pull_result("p/sum:1"), files.path());
    assert_eq!(fs::read_to_string(files.path().join("output/sum")).expect("the result"), "6\n");
    // As the docs say to look at it.
    let listed = ["exec", "-T", "execute", "/bin/torno", "runs", "list", "--config", "/etc/torno/torno.toml"];
    let runs = compose.ok(&listed);
    assert!(runs.contains("succeeded"), "{runs}");
    let instance =
        fs::read_to_string(compose.folder.path().join("torno/instance")).expect("whose runs they are");
    wait_until("nothing of the run is left", || leftovers(instance.trim()).is_empty().then_some(()));
}
