//! Images made by hand, byte by byte.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{Answer, Http};

/// An image manifest with the config and the layers it names.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration, JSON.
    pub config: Vec<u8>,
    /// The layers.
    pub layers: Vec<Vec<u8>>,
    /// The manifest's media type.
    pub media_type: &'static str,
}

impl Image {
    /// One that could run on this machine: a layer of any bytes and a command.
    pub fn new(layer: &[u8]) -> Self {
        Self::with_config(layer, &json!({"Cmd": ["/busybox", "true"]}))
    }

    /// One with this `config` object.
    pub fn with_config(layer: &[u8], config: &Value) -> Self {
        Self::built_for(Self::HERE, layer, config)
    }

    /// The architecture of this machine, in the words of images.
    pub const HERE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

    /// The architecture of other machines.
    pub const ELSEWHERE: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };

    /// One for machines of an architecture.
    pub fn built_for(architecture: &str, layer: &[u8], config: &Value) -> Self {
        let config = json!({
            "os": "linux", "architecture": architecture, "config": config,
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]},
        });
        Self { config: config.to_string().into_bytes(), layers: vec![layer.to_vec()], media_type: OCI_IMAGE }
    }

    /// The bytes of its manifest.
    pub fn manifest(&self) -> Vec<u8> {
        let docker = self.media_type.contains("docker");
        let config = if docker {
            "application/vnd.docker.container.image.v1+json"
        } else {
            "application/vnd.oci.image.config.v1+json"
        };
        let layer = if docker {
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        } else {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        };
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": sha256(bytes), "size": bytes.len()});
        let layers: Vec<Value> = self.layers.iter().map(|bytes| descriptor(layer, bytes)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": self.media_type,
            "config": descriptor(config, &self.config), "layers": layers,
        });
        manifest.to_string().into_bytes()
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> String {
        sha256(&self.manifest())
    }

    /// Pushes the blobs and then the manifest; the answer to the manifest.
    pub fn push(&self, http: &Http, repository: &str, reference: &str) -> Answer {
        http.push_blob(repository, &self.config);
        for layer in &self.layers {
            http.push_blob(repository, layer);
        }
        http.push_manifest(repository, reference, self.media_type, &self.manifest())
    }
}

/// An image manifest's media type.
pub const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

/// An index's media type.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The bytes of an index of these image manifests, each with its architecture.
pub fn index(media_type: &str, children: &[(&[u8], &str)]) -> Vec<u8> {
    let entry = |(bytes, architecture): &(&[u8], &str)| {
        let inside: Value = serde_json::from_slice(bytes).expect("JSON");
        json!({
            "mediaType": inside["mediaType"], "digest": sha256(bytes), "size": bytes.len(),
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let manifests: Vec<Value> = children.iter().map(entry).collect();
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).to_string().into_bytes()
}

/// `sha256:<hex>` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Some bytes that no other test uses, for layers nobody unpacks.
pub fn layer(seed: &str) -> Vec<u8> {
    seed.bytes().cycle().take(seed.len().max(1) * 100).collect()
}

/// A tar archive of one program.
pub fn program(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(bytes.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, path, bytes).expect("in memory");
    archive.into_inner().expect("in memory")
}

/// The static busybox of this machine (Debian's `busybox-static`).
pub fn busybox() -> &'static std::path::Path {
    let path = std::path::Path::new("/bin/busybox");
    assert!(path.exists(), "install busybox-static (scripts/setup does)");
    path
}
