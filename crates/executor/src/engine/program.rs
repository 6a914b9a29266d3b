//! Programs of Torno's own, as images of the engine's.

use std::pin::pin;

use bollard::query_parameters as query;
use bytes::Bytes;
use futures_util::StreamExt as _;
use torno_inside::PROBE;
use torno_oci::Digest;

use super::{Engine, EngineError, heard, limit};

/// Where a program stands in its image, which has nothing else.
const PROGRAM: &str = "program";

impl Engine {
    /// The image of the program that tries what a host keeps. It is in every engine that runs have been started on.
    pub(crate) async fn probe(&self) -> Result<String, EngineError> {
        self.program("probe", PROBE).await
    }

    /// The image that starts a program, made if the engine does not have it. Its tag is the program's digest, so that
    /// another version of Torno has images of its own.
    pub(crate) async fn program(&self, name: &str, program: &[u8]) -> Result<String, EngineError> {
        let docker = self.connected().await?;
        let digest = Digest::sha256(program);
        let tag: String = digest.hex().chars().take(16).collect();
        let image = format!("localhost/torno/{name}:{tag}");
        match self.call(limit::INSPECT, docker.inspect_image(&image)).await {
            Err(error) if error.is_not_found() => {}
            other => return other.map(|_| image),
        }
        let options = query::CreateImageOptionsBuilder::default()
            .from_src("-")
            // Podman looks for a name without a host at Docker Hub, and takes no heed of a tag beside the name.
            .repo(&image)
            .changes(vec![format!("ENTRYPOINT [\"/{PROGRAM}\"]")])
            .build();
        let root = bollard::body_full(root(program));
        let mut progress = pin!(docker.create_image(Some(options), Some(root), None));
        while let Some(step) = heard(limit::SILENCE, progress.next()).await? {
            step?;
        }
        Ok(image)
    }
}

/// A tar archive of one program.
fn root(program: &[u8]) -> Bytes {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(program.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    let written = archive.append_data(&mut header, PROGRAM, program);
    written
        .and_then(|()| archive.into_inner())
        .expect("a short name and bytes in memory fit into memory")
        .into()
}
