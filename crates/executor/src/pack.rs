//! A result as an image: fresh layers, a config and a manifest, pushed like any other (image-spec: Image Manifest,
//! Image Layer, Image Configuration).
//!
//! The same output gives the same layer, byte for byte: nothing of the container but names and contents is in it.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use jiff::Timestamp;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, Digest as SpecDigest, ImageConfigurationBuilder, ImageManifestBuilder,
    MediaType as SpecMediaType, Os, RootFsBuilder, SCHEMA_VERSION,
};
use tokio::{sync::mpsc, task::spawn_blocking};
use torno_auth::PushPermit;
use torno_oci::{Algorithm, Digest, Hasher, Platform, media_types};
use torno_registry::{Outcome, Registry, Run, StoredManifest};

use crate::{
    ExecutorError,
    collect::{Collected, Entry},
    moment, report,
};

/// Bytes handed over to the registry at a time.
const CHUNK: usize = 256 * 1024;
/// How many of them may wait: while one is written to the disk, the next are compressed.
const WAITING: usize = 4;

/// The name of a layer, for people and for clients that make a file or a folder of it.
const TITLE: &str = "org.opencontainers.image.title";

/// The config of what has none (image-spec: Guidance for an Empty Descriptor).
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// What goes into the layer `run`, by name.
pub(crate) type Files = Vec<(&'static str, Vec<u8>)>;

/// A result whose blobs are in the registry; what is left to do is to publish its manifest.
#[derive(Debug)]
pub(crate) struct Packed {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// What is in it, each part by its title.
    pub parts: Vec<(&'static str, Digest)>,
}

/// What is attached to a result: one document.
#[derive(Debug)]
pub(crate) struct Attachment {
    /// What kind of attachment it is.
    pub artifact_type: &'static str,
    /// What the document is.
    pub media_type: &'static str,
    /// The name of the file that clients make of it.
    pub title: &'static str,
    /// What else is said of the document.
    pub annotations: Vec<(&'static str, &'static str)>,
    /// The document.
    pub bytes: Vec<u8>,
}

/// What is published of a run.
#[derive(Debug)]
pub(crate) struct Package<'a> {
    /// The run.
    pub run: &'a Run,
    /// The image manifest that ran.
    pub image: &'a StoredManifest,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// When it was over.
    pub finished: Timestamp,
    /// What it left; `None` when it failed.
    pub output: Option<Arc<Collected>>,
    /// What is said of it, in the order in which it stands there.
    pub files: Files,
}

/// A layer in the registry.
pub(crate) struct Layer {
    pub(crate) title: &'static str,
    pub(crate) descriptor: Descriptor,
    pub(crate) diff_id: Digest,
}

impl Layer {
    /// Its title and its digest.
    fn part(&self) -> Result<(&'static str, Digest), ExecutorError> {
        let digest = self.descriptor.digest().as_ref().parse().map_err(ExecutorError::pack)?;
        Ok((self.title, digest))
    }
}

impl Package<'_> {
    /// Pushes the layers and the config.
    ///
    /// Cancelled, it leaves blobs that nothing names, which gc removes.
    pub(crate) async fn push(
        self,
        registry: &Registry,
        permit: &PushPermit,
    ) -> Result<Packed, ExecutorError> {
        let mut layers = Vec::new();
        let output = self.output.clone();
        if let Some(output) = output {
            layers.push(push_layer(registry, permit, "output", move |tar| write_output(tar, &output)).await?);
        }
        let files = self.files.clone();
        layers.push(push_layer(registry, permit, "run", move |tar| write_files(tar, &files)).await?);
        let command = if self.output.is_some() { "/output" } else { "/run" };
        let config = config(&layers, command, self.finished).map_err(ExecutorError::pack)?;
        let config = push_bytes(registry, permit, media_types::OCI_CONFIG, config).await?;
        let parts: Result<_, ExecutorError> = layers.iter().map(Layer::part).collect();
        let parts = parts?;
        let manifest = self.manifest(config, layers).map_err(ExecutorError::pack)?;
        Ok(Packed { digest: Digest::sha256(&manifest), manifest, parts })
    }

    fn manifest(
        &self,
        config: Descriptor,
        layers: Vec<Layer>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let image = self.image;
        let size = image.bytes.len() as u64;
        let text = |text: &str| text.to_owned();
        let layers = layers.into_iter().map(|layer| {
            let mut descriptor = layer.descriptor;
            descriptor.set_annotations(Some(HashMap::from([
                (text(TITLE), text(layer.title)),
                // ORAS unpacks a layer that says so into a folder of the title's name.
                (text("io.deis.oras.content.unpack"), text("true")),
                (text("io.deis.oras.content.digest"), layer.diff_id.to_string()),
            ])));
            descriptor
        });
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(SpecMediaType::ImageManifest)
            .artifact_type(SpecMediaType::from(media_types::TORNO_RESULT))
            .config(config)
            .layers(layers.collect::<Vec<_>>())
            .subject(descriptor(image.media_type.as_str(), size, &image.digest)?)
            .annotations(HashMap::from([
                (text("org.opencontainers.image.created"), moment::shown(self.finished)),
                (text("org.torno.run"), self.run.id.to_string()),
                (text("org.torno.outcome"), report::kind(self.outcome)),
            ]))
            .build()?;
        Ok(sorted(&manifest)?)
    }
}

/// Writes a layer into an upload of the registry, as it is made: neither the tar archive nor its compressed form
/// is ever whole anywhere else.
pub(crate) async fn push_layer(
    registry: &Registry,
    permit: &PushPermit,
    title: &'static str,
    write: impl FnOnce(&mut tar::Builder<LayerWriter>) -> io::Result<()> + Send + 'static,
) -> Result<Layer, ExecutorError> {
    let (sender, receiver) = mpsc::channel(WAITING);
    // Dropped here, the receiver goes away, and with it the thread at its next piece.
    let writing = spawn_blocking(move || {
        let failed = sender.clone();
        let made = write_layer(sender, write);
        if let Err(error) = &made {
            // The upload must not end as if it were whole.
            let _ = failed.blocking_send(Err(io::Error::new(error.kind(), error.to_string())));
        }
        made
    });
    let upload = registry.begin_upload(permit)?;
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let appended = registry.append(permit, &upload, Some(0), Box::pin(pieces)).await;
    let made = writing.await.map_err(ExecutorError::pack)?;
    let size = appended?;
    let (digest, diff_id) = made.map_err(ExecutorError::pack)?;
    registry.finish_upload(permit, &upload, &digest).await?;
    let descriptor = descriptor(media_types::OCI_LAYER_GZIP, size, &digest)?;
    Ok(Layer { title, descriptor, diff_id })
}

/// Writes a blob that is in memory.
async fn push_bytes(
    registry: &Registry,
    permit: &PushPermit,
    media_type: &str,
    bytes: Vec<u8>,
) -> Result<Descriptor, ExecutorError> {
    let (digest, size) = (Digest::sha256(&bytes), bytes.len() as u64);
    let upload = registry.begin_upload(permit)?;
    let body = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from(bytes))]);
    registry.append(permit, &upload, Some(0), body).await?;
    registry.finish_upload(permit, &upload, &digest).await?;
    descriptor(media_type, size, &digest)
}

impl Packed {
    /// Pushes what an attachment holds; its manifest, which speaks of this result (image-spec: Guidelines for Artifact
    /// Usage).
    pub(crate) async fn attach(
        &self,
        registry: &Registry,
        permit: &PushPermit,
        attachment: Attachment,
    ) -> Result<Vec<u8>, ExecutorError> {
        let Attachment { artifact_type, media_type, title, annotations, bytes } = attachment;
        let empty = push_bytes(registry, permit, OCI_EMPTY, EMPTY.to_vec()).await?;
        let mut document = push_bytes(registry, permit, media_type, bytes).await?;
        let annotations = annotations.into_iter().chain([(TITLE, title)]);
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
        document.set_annotations(Some(annotations.collect()));
        let size = self.manifest.len() as u64;
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(SpecMediaType::ImageManifest)
            .artifact_type(SpecMediaType::from(artifact_type))
            .config(empty)
            .layers(vec![document])
            .subject(descriptor(media_types::OCI_MANIFEST, size, &self.digest)?)
            .build()
            .map_err(ExecutorError::pack)?;
        sorted(&manifest).map_err(ExecutorError::pack)
    }
}

/// The keys of maps in their order, by way of a value: the builders' maps have a new one each time.
fn sorted(document: &impl serde::Serialize) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&serde_json::to_value(document)?)
}

/// The archive, hashed on its way into the compressor.
pub(crate) type LayerWriter = Hashing<flate2::write::GzEncoder<Hashing<Pieces>>>;

/// The digests of the compressed and of the plain archive.
fn write_layer(
    sender: mpsc::Sender<io::Result<Bytes>>,
    write: impl FnOnce(&mut tar::Builder<LayerWriter>) -> io::Result<()>,
) -> io::Result<(Digest, Digest)> {
    let pieces = Hashing::new(Pieces { sender, piece: Vec::with_capacity(CHUNK) });
    // Nothing of the machine or the time in the header; 255 is an unknown operating system (RFC 1952).
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(pieces, Compression::default());
    let mut archive = tar::Builder::new(Hashing::new(gzip));
    archive.mode(tar::HeaderMode::Deterministic);
    write(&mut archive)?;
    let (gzip, diff_id) = archive.into_inner()?.finish();
    let (mut pieces, digest) = gzip.finish()?.finish();
    pieces.flush()?;
    Ok((digest, diff_id))
}

fn write_output<W: Write>(tar: &mut tar::Builder<W>, output: &Collected) -> io::Result<()> {
    folder(tar, "output/")?;
    for (path, entry) in &output.entries {
        match entry {
            Entry::Folder => folder(tar, &format!("output/{path}/"))?,
            Entry::File { offset, size, .. } => {
                file(tar, &format!("output/{path}"), *size, output.open(*offset, *size)?)?;
            }
        }
    }
    Ok(())
}

fn write_files<W: Write>(tar: &mut tar::Builder<W>, files: &Files) -> io::Result<()> {
    folder(tar, "run/")?;
    files
        .iter()
        .try_for_each(|(name, bytes)| file(tar, &format!("run/{name}"), bytes.len() as u64, bytes.as_slice()))
}

pub(crate) fn folder<W: Write>(tar: &mut tar::Builder<W>, path: &str) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), path, io::empty())
}

fn file<W: Write>(tar: &mut tar::Builder<W>, path: &str, size: u64, bytes: impl Read) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Regular, 0o644, size), path, bytes)
}

pub(crate) fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn config(
    layers: &[Layer],
    command: &str,
    finished: Timestamp,
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let platform = Platform::host();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    let config = ImageConfigurationBuilder::default()
        .created(moment::shown(finished))
        .os(Os::from(platform.os.as_str()))
        .architecture(Arch::from(platform.architecture.as_str()))
        // Never run: it is there so that `docker create IMAGE` needs no argument.
        .config(ConfigBuilder::default().cmd(vec![command.to_owned()]).build()?)
        .rootfs(RootFsBuilder::default().typ("layers".to_owned()).diff_ids(diff_ids).build()?)
        .build()?;
    Ok(sorted(&config)?)
}

pub(crate) fn descriptor(media_type: &str, size: u64, digest: &Digest) -> Result<Descriptor, ExecutorError> {
    let digest: SpecDigest = digest.as_str().parse().map_err(ExecutorError::pack)?;
    Ok(Descriptor::new(SpecMediaType::from(media_type), size, digest))
}

/// Hashes what passes.
pub(crate) struct Hashing<W> {
    inner: W,
    hasher: Hasher,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256) }
    }

    fn finish(self) -> (W, Digest) {
        (self.inner, self.hasher.finish())
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Gathers bytes into pieces and hands them over to the registry.
pub(crate) struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(CHUNK));
        let sent = self.sender.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the registry takes no more"))
    }
}

#[cfg(test)]
mod tests {
    use crate::collect::{Bounds, collect};

    use super::*;

    /// The compressed bytes and both digests of a layer.
    fn layer(
        write: impl FnOnce(&mut tar::Builder<LayerWriter>) -> io::Result<()> + Send + 'static,
    ) -> (Vec<u8>, Digest, Digest) {
        let (sender, mut receiver) = mpsc::channel(1);
        let writing = std::thread::spawn(move || write_layer(sender, write));
        let mut bytes = Vec::new();
        while let Some(piece) = receiver.blocking_recv() {
            bytes.extend(piece.expect("no error"));
        }
        let (digest, diff_id) = writing.join().expect("thread").expect("written");
        (bytes, digest, diff_id)
    }

    fn collected(paths: &[&str]) -> Collected {
        let mut archive = tar::Builder::new(Vec::new());
        for path in paths {
            let (kind, bytes) = if path.ends_with('/') {
                (tar::EntryType::Directory, Vec::new())
            } else {
                (tar::EntryType::Regular, path.as_bytes().repeat(1000))
            };
            let mut header = header(kind, 0o600, bytes.len() as u64);
            header.set_mtime(12345);
            archive.append_data(&mut header, format!("output/{path}"), bytes.as_slice()).expect("in memory");
        }
        let bytes = archive.into_inner().expect("in memory");
        let bounds = Bounds { bytes: 1 << 30, entries: 100, depth: 32 };
        collect(bytes.as_slice(), &std::env::temp_dir(), bounds).expect("archive")
    }

    #[test]
    fn the_same_output_gives_the_same_layer() {
        let long = "n".repeat(200);
        let deep = format!("d/{long}");
        let first = collected(&["b", "d/", &deep, "a"]);
        let second = collected(&["a", "d/", &deep, "b"]);
        let first = layer(move |tar| write_output(tar, &first));
        assert_eq!(first, layer(move |tar| write_output(tar, &second)));
        let (bytes, digest, diff_id) = first;
        assert_eq!(digest, Digest::sha256(&bytes));
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).expect("gzip");
        assert_eq!(diff_id, Digest::sha256(&plain));
        let mut archive = tar::Archive::new(plain.as_slice());
        let entries = archive.entries().expect("tar").map(|entry| {
            let entry = entry.expect("entry");
            assert_eq!((entry.header().uid().ok(), entry.header().mtime().ok()), (Some(0), Some(0)));
            (entry.path().expect("path").display().to_string(), entry.header().mode().expect("mode"))
        });
        let expected = [
            ("output/", 0o755),
            ("output/a", 0o644),
            ("output/b", 0o644),
            ("output/d/", 0o755),
            (&format!("output/{deep}"), 0o644),
        ];
        assert_eq!(entries.collect::<Vec<_>>(), expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn a_registry_that_takes_no_more_ends_the_writing() {
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        let files = vec![("stdout.log", vec![1; 10])];
        let ended = write_layer(sender, |tar| write_files(tar, &files)).expect_err("nobody there");
        assert_eq!(ended.kind(), io::ErrorKind::BrokenPipe);
    }
}
