//! The clients that need no engine: Skopeo, Buildah and Podman, each with a login and a storage of its own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::Site;

/// Skopeo, Buildah and Podman with one login and one storage, all in a folder that goes when this is dropped.
#[derive(Debug)]
pub struct Tools {
    folder: TempDir,
}

impl Tools {
    /// Tools that are logged in nowhere.
    pub fn anonymous() -> Self {
        let tools = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        // Podman refuses to look for a login in a file that is not there.
        fs::write(tools.path("auth.json"), "{}").expect("write");
        tools
    }

    /// Tools that are logged in to a site as a user.
    pub fn login(site: &Site, user: &str) -> Self {
        let tools = Self::anonymous();
        let password = format!("pw-{user}");
        tools.skopeo_ok(&["login", "--tls-verify=false", "-u", user, "-p", &password, site.host()]);
        tools
    }

    /// A path in their folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("REGISTRY_AUTH_FILE", self.path("auth.json"));
        // What was pushed where is remembered there, and would make another test's copy a mount.
        command.env("XDG_DATA_HOME", self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs Skopeo.
    pub fn skopeo(&self, arguments: &[&str]) -> Output {
        self.command("skopeo").args(arguments).output().expect("skopeo")
    }

    /// Runs Skopeo, which must succeed; its standard output.
    #[track_caller]
    pub fn skopeo_ok(&self, arguments: &[&str]) -> String {
        checked(&self.skopeo(arguments), arguments)
    }

    /// Copies an image with Skopeo.
    #[track_caller]
    pub fn copy(&self, from: &str, to: &str, more: &[&str]) {
        let mut arguments = vec!["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
        arguments.extend(more);
        arguments.extend([from, to]);
        self.skopeo_ok(&arguments);
    }

    /// Runs Buildah.
    pub fn buildah(&self, arguments: &[&str]) -> Output {
        self.stored("buildah", arguments)
    }

    /// Runs Buildah, which must succeed; its standard output.
    #[track_caller]
    pub fn buildah_ok(&self, arguments: &[&str]) -> String {
        checked(&self.buildah(arguments), arguments)
    }

    /// Runs Podman.
    pub fn podman(&self, arguments: &[&str]) -> Output {
        self.stored("podman", arguments)
    }

    /// Runs Podman, which must succeed; its standard output.
    #[track_caller]
    pub fn podman_ok(&self, arguments: &[&str]) -> String {
        checked(&self.podman(arguments), arguments)
    }

    /// Runs a tool on a storage in the folder. A plain copy of each layer needs nothing of the kernel and leaves no
    /// mount behind.
    fn stored(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = self.command(program);
        command.args(
            ["root", "runroot"].map(|name| format!("--{name}={}", self.text(&format!("{program}-{name}")))),
        );
        command
            .arg("--storage-driver=vfs")
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }
}

/// What a client printed, if it succeeded.
#[track_caller]
fn checked(output: &Output, what: &[&str]) -> String {
    assert!(output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The blobs of an OCI layout, manifests among them, by the hexadecimal part of their digests.
pub fn layout_blobs(layout: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(layout.join("blobs/sha256")).expect("a layout");
    let read = |entry: fs::DirEntry| {
        (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a blob"))
    };
    entries.map(|entry| read(entry.expect("an entry"))).collect()
}
