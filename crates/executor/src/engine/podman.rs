//! Where Podman's answer to the Docker API is another than Docker's (seen with release 4.3.1).
//!
//! - `seccomp=` takes the path of a profile, not a profile: Podman reads the file.
//! - A variable without `=` is set to what it is in Podman's own environment, not taken away.
//! - With a read-only root it puts file systems in memory at `/run` and `/var/tmp`, which a run could write to.
//! - It copies the host's `/etc/hosts` into each container, and for one that shares a network makes one without the names
//!   that resolve there. So runs have one of Torno's.
//! - What is asked for as a device of a driver, as GPUs are, it leaves out without a word; from release 5.4 on it knows CDI
//!   devices there, which nobody has tried with Torno.
//! - Only its own API pulls from a registry without TLS, as Docker does from the loopback by itself.

use std::{
    collections::{BTreeMap, HashMap},
    fs::Permissions,
    io::{self, Write as _},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE};
use bollard::models::SystemVersion;
use hyper::Request;
use serde_json::{Value, json};
use torno_oci::{Digest, RunId};

use super::{EngineError, limit, seccomp, wire};

/// The file of the data directory that Podman reads the profile from.
const PROFILE: &str = "podman-seccomp.json";

/// What the names of the files begin with that runs have as `/etc/hosts`, one for each set of names.
const HOSTS: &str = "podman-hosts-";

/// What is put where Podman would put something to write to: a file system of one page that cannot be written to.
const CLOSED: &str = "ro,nosuid,nodev,noexec,size=4096,mode=0555";
const OPENED_BY_PODMAN: [&str; 2] = ["/run", "/var/tmp"];

/// Why a run of Podman's has no GPU.
pub(super) const NO_GPUS: &str =
    "Podman leaves out device requests without a word, so no run with GPUs is made there";

/// How an engine understands what it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// As Docker does.
    Docker,
    /// As Podman does; the data directory, an absolute path.
    Podman(PathBuf),
}

impl Dialect {
    /// What the engine calls itself decides. For Podman the profile is written into the data directory.
    pub(super) fn of(version: &SystemVersion, data: &Path) -> io::Result<Self> {
        let mut components = version.components.iter().flatten();
        if !components.any(|component| component.name == "Podman Engine") {
            return Ok(Self::Docker);
        }
        let data = std::path::absolute(data)?;
        keep(&data.join(PROFILE), &seccomp::profile().to_string(), 0o600)?;
        Ok(Self::Podman(data))
    }

    /// The file that a run is to have as `/etc/hosts`, if the engine does not make a fit one by itself.
    pub(super) fn hosts(&self, names: &BTreeMap<String, Ipv4Addr>) -> io::Result<Option<PathBuf>> {
        let Self::Podman(data) = self else { return Ok(None) };
        let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost\n".to_owned();
        text.extend(names.iter().map(|(name, address)| format!("{address}\t{name}\n")));
        let digest: String = Digest::sha256(text.as_bytes()).hex().chars().take(16).collect();
        let path = data.join(format!("{HOSTS}{digest}"));
        // Whoever the run is reads it.
        keep(&path, &text, 0o644)?;
        Ok(Some(path))
    }

    /// What follows `seccomp=`.
    pub(super) fn profile(&self) -> String {
        match self {
            Self::Docker => seccomp::profile().to_string(),
            Self::Podman(data) => data.join(PROFILE).display().to_string(),
        }
    }

    /// How a variable of the image is taken away.
    pub(super) fn without(&self, variable: &str) -> String {
        match self {
            Self::Docker => variable.to_owned(),
            Self::Podman(_) => format!("{variable}="),
        }
    }

    /// The file systems in memory of a plan, with what must be said beside them.
    pub(super) fn in_memory(&self, planned: BTreeMap<String, String>) -> HashMap<String, String> {
        let closed = match self {
            Self::Docker => &[][..],
            Self::Podman(_) => &OPENED_BY_PODMAN,
        };
        let closed = closed.iter().map(|path| ((*path).to_owned(), CLOSED.to_owned()));
        // What the plan says holds.
        closed.chain(planned).collect()
    }
}

/// Writes a file anew unless it says this already.
fn keep(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.persist(path)?;
    Ok(())
}

/// Pulls an image from the loopback. The secret goes to the engine and nowhere else.
pub(super) async fn pull(socket: &Path, image: &str, run: RunId, secret: &str) -> Result<(), EngineError> {
    let login = json!({"username": format!("run-{run}"), "password": secret});
    let query = format!("/v4.0.0/libpod/images/pull?reference={image}&tlsVerify=false&policy=always");
    let request = Request::post(query).header("x-registry-auth", BASE64_URL_SAFE.encode(login.to_string()));
    let answer = wire::call(socket, request, limit::PULL_SILENCE).await?;
    refusal(&answer).map_or(Ok(()), |reason| Err(EngineError::Refused { status: 0, reason }))
}

/// The answer is a line of JSON for each step; one that failed says so in a line, behind a status of success.
fn refusal(answer: &[u8]) -> Option<String> {
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let steps: Vec<Value> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let error = steps.iter().find_map(|step| step.get("error")?.as_str());
    match error.filter(|error| !error.is_empty()) {
        Some(error) => Some(error.to_owned()),
        None if steps.iter().any(|step| step.get("id").is_some_and(Value::is_string)) => None,
        None => Some("the pull ended without an image".into()),
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::SystemVersionComponents;

    use super::*;

    fn version(engine: &str) -> SystemVersion {
        let component = SystemVersionComponents { name: engine.into(), ..SystemVersionComponents::default() };
        SystemVersion { components: Some(vec![component]), ..SystemVersion::default() }
    }

    #[test]
    fn podman_reads_the_profile_that_docker_is_told() {
        let data = tempfile::tempdir().expect("a folder");
        let docker = Dialect::of(&version("Engine"), data.path()).expect("Docker");
        assert_eq!(std::fs::read_dir(data.path()).expect("a folder").count(), 0);
        for old in [None, Some("{}")] {
            if let Some(old) = old {
                std::fs::write(data.path().join(PROFILE), old).expect("write");
            }
            let podman = Dialect::of(&version("Podman Engine"), data.path()).expect("Podman");
            let read = std::fs::read_to_string(podman.profile()).expect("the file");
            assert_eq!(read, docker.profile());
        }
    }

    #[test]
    fn runs_know_the_names_they_may_reach_and_no_other() {
        let data = tempfile::tempdir().expect("a folder");
        let podman = Dialect::Podman(data.path().to_owned());
        let names = BTreeMap::from([("db.internal".to_owned(), Ipv4Addr::new(127, 0, 0, 2))]);
        assert_eq!(Dialect::Docker.hosts(&names).expect("nothing to do"), None);
        let path = |names: &BTreeMap<_, _>| podman.hosts(names).expect("written").expect("a file");
        let (reaching, plain) = (path(&names), path(&BTreeMap::new()));
        let read = |path: &Path| std::fs::read_to_string(path).expect("the file");
        assert_eq!(read(&plain), "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
        assert_eq!(read(&reaching), read(&plain) + "127.0.0.2\tdb.internal\n");
        let mode = std::fs::metadata(&plain).expect("the file").permissions().mode();
        assert_eq!((mode & 0o777, path(&names)), (0o644, reaching));
    }

    #[test]
    fn podman_neither_looks_variables_up_nor_opens_folders() {
        let podman = Dialect::Podman("/p".into());
        assert_eq!(
            (Dialect::Docker.without("LD_X"), podman.without("LD_X")),
            ("LD_X".into(), "LD_X=".into())
        );
        let mounts = BTreeMap::from([("/var/tmp".to_owned(), "rw".to_owned())]);
        assert_eq!(Dialect::Docker.in_memory(mounts.clone()), mounts.clone().into_iter().collect());
        let closed = podman.in_memory(mounts);
        assert_eq!(closed["/var/tmp"], "rw", "the image's volume stays one");
        assert!(closed["/run"].starts_with("ro,"));
    }

    #[test]
    fn a_pull_that_failed_says_so_in_a_line() {
        assert_eq!(refusal(b"{\"stream\":\"Trying\"}\n{\"images\":[\"x\"],\"id\":\"x\"}\n"), None);
        assert_eq!(refusal(b"{\"stream\":\"Trying\"}\n{\"error\":\"denied\"}\n").as_deref(), Some("denied"));
        for cut in [&b""[..], b"{\"stream\":\"Trying\"}\n{\"ima"] {
            assert!(refusal(cut).is_some_and(|reason| reason.contains("without an image")));
        }
    }
}
