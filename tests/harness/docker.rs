//! The Docker client, and an engine that is left as it was found.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Mutex,
};

use tempfile::TempDir;

use crate::{Site, busybox};

/// A Docker client logged in to a site, with a configuration folder of its own. Images it made or pulled are
/// removed when it is dropped.
#[derive(Debug)]
pub struct Docker {
    folder: TempDir,
    host: String,
    engine: Option<String>,
    images: Mutex<BTreeSet<String>>,
}

impl Docker {
    /// Logs in to a site as a user.
    pub fn login(site: &Site, user: &str) -> Self {
        Self::log_in(site, user, None)
    }

    /// Logs in to a site as a user, through another engine than the machine's own.
    pub fn login_at(engine: &str, site: &Site, user: &str) -> Self {
        Self::log_in(site, user, Some(engine.to_owned()))
    }

    fn log_in(site: &Site, user: &str, engine: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let this = Self { folder, host: site.host().to_owned(), engine, images: Mutex::default() };
        let password = format!("pw-{user}");
        this.ok(&["login", "--username", user, "--password", &password, site.host()]);
        this
    }

    /// The file with the login, for other clients.
    pub fn auth_file(&self) -> String {
        self.folder.path().join("config.json").to_str().expect("UTF-8").to_owned()
    }

    /// The full name of an image in the site's registry.
    pub fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// Makes an image of nothing but busybox, at `/bin/busybox` and `/bin/sh`, whose command is `sh` on `script`;
    /// `lines` are further lines of a Dockerfile, of those that change the configuration only.
    pub fn build(&self, image: &str, script: &str, lines: &str) -> String {
        self.build_with(image, script, lines, &[])
    }

    /// The same with a file `/ballast` of these bytes.
    ///
    /// `docker import` rather than `docker build`: the builder's cache is shared, and one test's cleaning takes from
    /// under another's feet what it was about to build upon.
    pub fn build_with(&self, image: &str, script: &str, lines: &str, ballast: &[u8]) -> String {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::write(root.path().join("ballast"), ballast).expect("ballast");
        self.build_on(&root, image, script, lines)
    }

    /// The same on top of the files of a folder.
    pub fn build_on(&self, root: &TempDir, image: &str, script: &str, lines: &str) -> String {
        fs::create_dir_all(root.path().join("bin")).expect("bin");
        fs::copy(busybox(), root.path().join("bin/busybox")).expect("busybox");
        if !root.path().join("bin/sh").exists() {
            symlink("busybox", root.path().join("bin/sh")).expect("sh");
        }
        fs::write(root.path().join("script.sh"), script).expect("script");
        let archive = tempfile::NamedTempFile::new().expect("a temporary file");
        let (root, path) = (root.path().to_str().expect("UTF-8"), archive.path().to_str().expect("UTF-8"));
        tool(
            "tar",
            &["--create", "--owner=0", "--group=0", "--mode=a+rX", "--file", path, "--directory", root, "."],
        );
        let label = format!("LABEL {}", self.label());
        let mut arguments = vec!["import"];
        let fixed = ["ENV PATH=/bin", "CMD [\"/bin/sh\", \"/script.sh\"]", &label];
        for change in fixed.into_iter().chain(lines.lines()).filter(|line| !line.is_empty()) {
            arguments.extend(["--change", change]);
        }
        let name = self.name(image);
        arguments.extend([path, &name]);
        self.ok(&arguments);
        self.remember(&name);
        name
    }

    /// Marks what is built here, so that it is found again.
    fn label(&self) -> String {
        format!("org.torno.test={}", self.folder.path().display())
    }

    /// Removes an image when this is dropped.
    pub fn remember(&self, name: &str) {
        self.images.lock().expect("no panic").insert(name.to_owned());
    }

    /// Builds such an image under `run/` and pushes it.
    pub fn run(&self, image: &str, script: &str) {
        let name = self.build(&format!("run/{image}"), script, "");
        self.ok(&["push", "--quiet", &name]);
    }

    /// Pulls a result, waiting as a person would by pulling again; its full name.
    pub fn pull_result(&self, image: &str) -> String {
        self.pull_result_of(&format!("results/{image}"))
    }

    /// The same for a result wherever it is, such as `try-results/p/n:1`.
    pub fn pull_result_of(&self, image: &str) -> String {
        let name = self.name(image);
        for _ in 0..4 {
            let pulled = self.docker(&["pull", "--quiet", &name]);
            self.remember(&name);
            if pulled.status.success() {
                return name;
            }
            let message = String::from_utf8_lossy(&pulled.stderr).into_owned();
            let pending = ["is queued", "has been running", "is being prepared"];
            assert!(pending.iter().any(|words| message.contains(words)), "{message}");
        }
        panic!("no result after four pulls");
    }

    /// Copies the files of a result to a folder.
    pub fn files(&self, image: &str, to: &Path) {
        let container = self.ok(&["create", image]).trim().to_owned();
        for part in ["output", "run"] {
            self.ok(&["cp", &format!("{container}:/{part}"), to.to_str().expect("UTF-8")]);
        }
        self.ok(&["rm", &container]);
    }

    /// Runs the Docker client.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("docker");
        command.env("DOCKER_CONFIG", self.folder.path()).env("DOCKER_BUILDKIT", "0");
        if let Some(engine) = &self.engine {
            command.env("DOCKER_HOST", engine);
        }
        command.args(arguments).stdin(Stdio::null()).output().expect("docker")
    }

    /// Runs the Docker client, which must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        checked(&self.docker(arguments), &format!("docker {arguments:?}"))
    }

    /// Runs the Docker client, which must fail; its standard error.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        assert!(!output.status.success(), "docker {arguments:?} succeeded");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Best effort: what is not there any more cannot be removed.
        for image in self.images.lock().expect("no panic").iter() {
            let _ = self.docker(&["image", "rm", "--force", image]);
        }
        // Whatever else came from or was meant for this site: by name, since other sites may have the same images.
        let prefix = format!("{}/", self.host);
        for name in image_names().into_iter().filter(|name| name.starts_with(&prefix)) {
            let _ = self.docker(&["image", "rm", "--force", &name]);
        }
        let built = format!("label={}", self.label());
        let listed =
            self.docker(&["image", "ls", "--quiet", "--filter", &built, "--filter", "dangling=true"]);
        for id in String::from_utf8_lossy(&listed.stdout).lines() {
            let _ = self.docker(&["image", "rm", "--force", id]);
        }
    }
}

/// Runs another tool, which must succeed; its standard output.
#[track_caller]
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    checked(&output.unwrap_or_else(|error| panic!("{program}: {error}")), &format!("{program} {arguments:?}"))
}

#[track_caller]
fn checked(output: &Output, what: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The lines that the Docker client prints; none without an engine.
fn lines(arguments: &[&str]) -> Vec<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Every name of every image in the engine, by tag and by digest.
fn image_names() -> Vec<String> {
    let names = |separator: &str, field: &str| {
        let format = format!("{{{{.Repository}}}}{separator}{{{{.{field}}}}}");
        lines(&["image", "ls", "--digests", "--format", &format])
    };
    let mut all = names(":", "Tag");
    all.extend(names("@", "Digest"));
    all.retain(|name| !name.contains("<none>"));
    all
}

/// What the engine holds of a site: containers, volumes and images, each with what removes it.
pub fn leftovers(instance: &str) -> Vec<Vec<String>> {
    let words =
        |words: &[&str], last: String| words.iter().map(|word| (*word).to_owned()).chain([last]).collect();
    let filter = format!("label=org.torno.instance={instance}");
    let containers = lines(&["ps", "--all", "--quiet", "--no-trunc", "--filter", &filter]);
    let volumes = lines(&["volume", "ls", "--quiet", "--filter", &filter]);
    let mine = format!("/torno-{instance}/");
    let images = image_names().into_iter().filter(|name| name.contains(&mine));
    let containers = containers.into_iter().map(|id| words(&["rm", "--force", "--volumes"], id));
    let volumes = volumes.into_iter().map(|name| words(&["volume", "rm", "--force"], name));
    containers.chain(volumes).chain(images.map(|name| words(&["image", "rm", "--force"], name))).collect()
}

/// Removes what [`leftovers`] found.
pub fn remove(leftovers: &[Vec<String>]) {
    for command in leftovers {
        lines(&command.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// The number that the look at a host bears, and no run.
const EXAMINATION: &str = "9223372036854775807";

/// Removes what the look at a host leaves that a server takes beside serving, when it is killed in the middle of it: as its
/// next start would.
pub(crate) fn remove_examination(instance: &str) {
    let mine = format!("label=org.torno.instance={instance}");
    let run = format!("label=org.torno.run={EXAMINATION}");
    let filters = ["--filter", &mine, "--filter", &run];
    for id in lines(&[&["ps", "--all", "--quiet", "--no-trunc"][..], &filters].concat()) {
        lines(&["rm", "--force", "--volumes", &id]);
    }
    for name in lines(&[&["volume", "ls", "--quiet"][..], &filters].concat()) {
        lines(&["volume", "rm", "--force", &name]);
    }
}
