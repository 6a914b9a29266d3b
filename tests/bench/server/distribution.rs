//! The reference registry, without authentication and without an access log, which costs it least.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Programs, Started, await_start, free_address, listens, log_to, write};
use crate::{failure::Failure, load::digest, process::Process};

pub(super) fn start(programs: &Programs, folder: &Path) -> Result<Started, Failure> {
    let address = free_address()?;
    let (file, log) = (configure(folder, address)?, folder.join("log"));
    let mut command = Command::new(&programs.distribution);
    command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
    log_to(&mut command, &log)?;
    let mut process = Process::start(&mut command)?;
    await_start(&mut process, "distribution", &log, || listens(address))?;
    Ok(Started { address, authorization: None, process })
}

/// Writes the configuration of a registry with its state below `folder`; its path.
fn configure(folder: &Path, address: SocketAddr) -> Result<PathBuf, Failure> {
    let config = format!(
        "version: 0.1\n\
         log: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n\
         \x20 filesystem: {{rootdirectory: \"{}\"}}\n\
         \x20 cache: {{blobdescriptor: inmemory}}\n\
         \x20 maintenance: {{uploadpurging: {{enabled: false}}}}\n\
         http: {{addr: \"{address}\"}}\n",
        folder.join("data").display()
    );
    let file = folder.join("config.yml");
    write(&file, config)?;
    Ok(file)
}

/// The state of a registry, written without it, as it would itself.
pub(crate) struct Store {
    folder: PathBuf,
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), root: folder.join("data/docker/registry/v2") }
    }

    /// The folder of blobs, spread over others.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// A blob and its link in a repository.
    pub(crate) fn blob(&self, repository: &str, bytes: &[u8]) -> Result<(), Failure> {
        let hex = self.content(bytes)?;
        let layers = self.root.join("repositories").join(repository).join("_layers/sha256");
        link(&layers.join(&hex), &hex)
    }

    /// A manifest, linked in a repository under a tag or nowhere.
    pub(crate) fn manifest(&self, links: Option<(&str, &str)>, bytes: &[u8]) -> Result<(), Failure> {
        let hex = self.content(bytes)?;
        let Some((repository, tag)) = links else { return Ok(()) };
        let manifests = self.root.join("repositories").join(repository).join("_manifests");
        link(&manifests.join("revisions/sha256").join(&hex), &hex)?;
        let tag = manifests.join("tags").join(tag);
        link(&tag.join("current"), &hex)?;
        link(&tag.join("index/sha256").join(&hex), &hex)
    }

    /// What collects its garbage.
    pub(crate) fn collect(&self, programs: &Programs) -> Result<Command, Failure> {
        let file = configure(&self.folder, free_address()?)?;
        let mut command = Command::new(&programs.distribution);
        command.arg("garbage-collect").arg(file).env("OTEL_TRACES_EXPORTER", "none");
        Ok(command)
    }

    fn content(&self, bytes: &[u8]) -> Result<String, Failure> {
        let digest = digest(bytes);
        let hex = digest.trim_start_matches("sha256:").to_owned();
        let shard = hex.get(..2).unwrap_or_default();
        let folder = self.blobs().join(shard).join(&hex);
        if !folder.exists() {
            super::make_folder(&folder)?;
            write(&folder.join("data"), bytes)?;
        }
        Ok(hex)
    }
}

fn link(folder: &Path, hex: &str) -> Result<(), Failure> {
    super::make_folder(folder)?;
    write(&folder.join("link"), format!("sha256:{hex}"))
}
