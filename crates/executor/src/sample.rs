//! Samples as images: what may be given away of a dataset, for whoever tries a program at home.
//!
//! The same files give the same layer and the same configuration. A link that leads out of the sample is left out, and
//! none is ever followed.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Write},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use oci_spec::image::{
    Arch, ConfigBuilder, ImageConfigurationBuilder, ImageManifestBuilder, MediaType as SpecMediaType, Os,
    RootFsBuilder, SCHEMA_VERSION,
};
use tokio::time::Instant;
use torno_auth::PushPermit;
use torno_oci::{DatasetName, Digest, Platform, media_types};
use torno_registry::Publication;

use crate::{
    ExecutorError, fingerprint,
    life::Site,
    pack::{self, Layer},
    walk::{Entry, Opener, Seen, WalkError, shown, walk},
};

/// Where the files stand in the image, and where a run of a project with one dataset finds them.
const FOLDER: &str = "input";

/// What the manifest says of how the files looked when they were packed.
const STAMP: &str = "org.torno.sample.stamp";

/// How long is waited between two looks at all samples, at least and at most: within that, a look takes one part in
/// twenty of one processor.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LAST_WAIT: Duration = Duration::from_hours(1);
const REST: u32 = 20;

/// Publishes every sample and again when it changes, and withdraws those that are configured no more. Cancelled, it
/// leaves blobs that nothing names, which gc removes.
pub(crate) async fn keep(site: &Site) {
    let mut told: BTreeMap<DatasetName, String> = BTreeMap::new();
    loop {
        let since = Instant::now();
        let samples = configured(site);
        for (name, path) in &samples {
            match look(site, name, path).await {
                Ok(()) => drop(told.remove(name)),
                Err(error) => {
                    // Once for each cause, not at every look.
                    let words = error.to_string();
                    if told.get(name) != Some(&words) {
                        tracing::error!(dataset = %name, %error, "a sample could not be published; trying again");
                        told.insert(name.clone(), words);
                    }
                }
            }
        }
        if let Err(error) = withdraw(site, &samples).await {
            tracing::warn!(%error, "samples that are configured no more could not be withdrawn yet");
        }
        tokio::time::sleep((since.elapsed() * REST).clamp(FIRST_WAIT, LAST_WAIT)).await;
    }
}

/// The samples that projects have.
fn configured(site: &Site) -> BTreeMap<DatasetName, PathBuf> {
    let projects = site.projects.load();
    let datasets = projects.values().flat_map(|policy| &policy.datasets);
    let sampled = datasets.filter_map(|dataset| Some((dataset.name.parse().ok()?, dataset.sample.clone()?)));
    sampled.collect()
}

async fn withdraw(site: &Site, samples: &BTreeMap<DatasetName, PathBuf>) -> Result<(), ExecutorError> {
    for name in site.registry.samples().await? {
        if !samples.contains_key(&name) {
            site.registry.withdraw_sample(&name).await?;
            tracing::info!(dataset = %name, "a sample was withdrawn");
        }
    }
    Ok(())
}

/// Publishes a sample unless it is there as it is now.
async fn look(site: &Site, name: &DatasetName, path: &Path) -> Result<(), ExecutorError> {
    let stamp = stamp(path).await?;
    let registry = &site.registry;
    if registry.sample(name).await?.is_some_and(|manifest| stamped(&manifest.bytes) == Some(stamp.clone())) {
        return Ok(());
    }
    let permit = PushPermit::sample(name);
    let root = path.to_owned();
    let dataset = name.clone();
    let write = move |tar: &mut tar::Builder<pack::LayerWriter>| write(tar, &root, &dataset);
    let layer = pack::push_layer(registry, &permit, FOLDER, write).await?;
    // What was packed while it changed is neither the one nor the other.
    if self::stamp(path).await? != stamp {
        return Err(WalkError::Changed(".".into()).into());
    }
    let config = config(&layer).map_err(ExecutorError::pack)?;
    let (digest, length) = (Digest::sha256(&config), config.len() as u64);
    let upload = registry.begin_upload(&permit)?;
    let body = futures_util::stream::iter([Ok::<_, io::Error>(Bytes::from(config))]);
    registry.append(&permit, &upload, Some(0), body).await?;
    registry.finish_upload(&permit, &upload, &digest).await?;
    let config = pack::descriptor(media_types::OCI_CONFIG, length, &digest)?;
    let manifest = manifest(name, &stamp, config, layer).map_err(ExecutorError::pack)?;
    registry.publish_sample(name, Publication::new(manifest)?).await?;
    tracing::info!(dataset = %name, "a sample was published");
    Ok(())
}

async fn stamp(path: &Path) -> Result<String, ExecutorError> {
    Ok(fingerprint::look(path).await?.0.to_string())
}

/// The stamp of a manifest that this wrote.
fn stamped(manifest: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    Some(value.get("annotations")?.get(STAMP)?.as_str()?.to_owned())
}

fn write<W: Write>(tar: &mut tar::Builder<W>, root: &Path, name: &DatasetName) -> io::Result<()> {
    let mut left_out = 0_u64;
    pack::folder(tar, &format!("{FOLDER}/"))?;
    let written = walk(root, |path, entry| {
        let inside = [FOLDER.as_bytes(), b"/", path].concat();
        let inside = Path::new(OsStr::from_bytes(&inside));
        match entry {
            Entry::Folder => {
                let mut header = pack::header(tar::EntryType::Directory, 0o755, 0);
                tar.append_data(&mut header, inside.join(""), io::empty()).map_err(WalkError::Told)
            }
            Entry::Left => Ok(()),
            Entry::File(seen, opener) => file(tar, inside, seen, &opener),
            Entry::Link(target) if stays_inside(path, &target) => {
                let mut header = pack::header(tar::EntryType::Symlink, 0o777, 0);
                let target = Path::new(OsStr::from_bytes(&target));
                tar.append_link(&mut header, inside, target).map_err(WalkError::Told)
            }
            Entry::Link(_) | Entry::Other => {
                left_out += 1;
                tracing::debug!(dataset = %name, path = shown(path), "left out of a sample");
                Ok(())
            }
        }
    });
    if left_out > 0 {
        tracing::warn!(dataset = %name, left_out, "a sample has links that lead out of it, or pipes, sockets or devices");
    }
    written.map_err(|error| match error {
        WalkError::Told(error) => error,
        other => io::Error::other(other),
    })
}

fn file<W: Write>(
    tar: &mut tar::Builder<W>,
    inside: &Path,
    seen: Seen,
    opener: &Opener<'_>,
) -> Result<(), WalkError> {
    let file = opener.open()?;
    let mode = if seen.executable { 0o755 } else { 0o644 };
    let mut header = pack::header(tar::EntryType::Regular, mode, seen.size);
    let mut bytes = Counted { file: &file, count: 0 };
    tar.append_data(&mut header, inside, (&mut bytes).take(seen.size)).map_err(WalkError::Told)?;
    // A file that was cut off would take the next one's place in the archive.
    if bytes.count == seen.size && opener.is_unchanged(&file) { Ok(()) } else { Err(opener.changed()) }
}

/// Counts what is read.
struct Counted<'f> {
    file: &'f File,
    count: u64,
}

impl io::Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.count += read as u64;
        Ok(read)
    }
}

/// Whether a link at `path` leads to a place below the root, as far as its words tell.
fn stays_inside(path: &[u8], target: &[u8]) -> bool {
    // The folder that it lies in; the last component is its own name.
    let mut depth = path.split(|byte| *byte == b'/').skip(1).count();
    if target.is_empty() || target.starts_with(b"/") {
        return false;
    }
    for step in target.split(|byte| *byte == b'/') {
        match step {
            b"" | b"." => {}
            b".." => match depth.checked_sub(1) {
                Some(above) => depth = above,
                None => return false,
            },
            _ => depth += 1,
        }
    }
    true
}

fn config(layer: &Layer) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let platform = Platform::host();
    let diff_ids = vec![layer.diff_id.to_string()];
    let config = ImageConfigurationBuilder::default()
        .os(Os::from(platform.os.as_str()))
        .architecture(Arch::from(platform.architecture.as_str()))
        // Never run: it is there so that `docker create IMAGE` needs no argument.
        .config(ConfigBuilder::default().cmd(vec![format!("/{FOLDER}")]).build()?)
        .rootfs(RootFsBuilder::default().typ("layers".to_owned()).diff_ids(diff_ids).build()?)
        .build()?;
    Ok(serde_json::to_vec(&serde_json::to_value(&config)?)?)
}

fn manifest(
    name: &DatasetName,
    stamp: &str,
    config: oci_spec::image::Descriptor,
    layer: Layer,
) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let text = |text: &str| text.to_owned();
    let mut descriptor = layer.descriptor;
    descriptor.set_annotations(Some(HashMap::from([
        (text("org.opencontainers.image.title"), text(layer.title)),
        (text("io.deis.oras.content.unpack"), text("true")),
        (text("io.deis.oras.content.digest"), layer.diff_id.to_string()),
    ])));
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(SpecMediaType::ImageManifest)
        .artifact_type(SpecMediaType::from(media_types::TORNO_SAMPLE))
        .config(config)
        .layers(vec![descriptor])
        .annotations(HashMap::from([
            (text("org.torno.dataset"), name.to_string()),
            (text(STAMP), text(stamp)),
        ]))
        .build()?;
    // By way of a value, whose keys are sorted.
    Ok(serde_json::to_vec(&serde_json::to_value(&manifest)?)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use crate::walk::tests::pipe;

    use super::*;

    fn archive(root: &Path) -> io::Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        write(&mut tar, root, &"d".parse().expect("name"))?;
        tar.into_inner()
    }

    #[test]
    fn the_same_sample_gives_the_same_archive_and_nothing_from_elsewhere() {
        let folder = tempfile::tempdir().expect("folder");
        let make = |name: &str| {
            let at = |path: &str| folder.path().join(name).join(path);
            fs::create_dir_all(at("a/b")).expect("folder");
            fs::write(at("a/file"), "content").expect("file");
            fs::write(at("tool"), "#!").expect("file");
            fs::set_permissions(at("tool"), fs::Permissions::from_mode(0o700)).expect("mode");
            symlink("../tool", at("a/inside")).expect("link");
            symlink("../../outside", at("a/outside")).expect("link");
            symlink("/etc/passwd", at("absolute")).expect("link");
            symlink(".", at("loop")).expect("link");
            pipe(&at("pipe"));
            folder.path().join(name)
        };
        let bytes = archive(&make("one")).expect("packed");
        assert_eq!(bytes, archive(&make("other")).expect("packed"));
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().expect("tar").map(|entry| {
            let entry = entry.expect("entry");
            (entry.path().expect("path").display().to_string(), entry.header().mode().expect("mode"))
        });
        let expected = [
            ("input/", 0o755),
            ("input/a/", 0o755),
            ("input/a/b/", 0o755),
            ("input/a/file", 0o644),
            ("input/a/inside", 0o777),
            ("input/loop", 0o777),
            ("input/tool", 0o755),
        ];
        assert_eq!(entries.collect::<Vec<_>>(), expected.map(|(path, mode)| (path.to_owned(), mode)));
    }

    #[test]
    fn links_that_lead_out_are_known_by_their_words() {
        for (path, target) in
            [("l", "a"), ("a/l", "../b"), ("l", "."), ("a/b/l", "../../c/../d"), ("l", "a/..")]
        {
            assert!(stays_inside(path.as_bytes(), target.as_bytes()), "{path} → {target}");
        }
        for (path, target) in [("l", ".."), ("a/l", "../../b"), ("l", "/a"), ("l", ""), ("a/l", "b/../../..")]
        {
            assert!(!stays_inside(path.as_bytes(), target.as_bytes()), "{path} → {target}");
        }
    }

    #[tokio::test]
    async fn a_stamp_changes_with_whatever_changes() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |path: &str| folder.path().join(path);
        fs::write(at("a"), "one").expect("file");
        let mut stamps = vec![stamp(folder.path()).await.expect("walked")];
        assert_eq!(stamps[0], stamp(folder.path()).await.expect("walked"));
        fs::write(at("b"), "").expect("file");
        stamps.push(stamp(folder.path()).await.expect("walked"));
        fs::rename(at("b"), at("c")).expect("renamed");
        stamps.push(stamp(folder.path()).await.expect("walked"));
        fs::create_dir(at("d")).expect("folder");
        stamps.push(stamp(folder.path()).await.expect("walked"));
        symlink("a", at("l")).expect("link");
        stamps.push(stamp(folder.path()).await.expect("walked"));
        let all: std::collections::BTreeSet<_> = stamps.iter().collect();
        assert_eq!(all.len(), stamps.len());
    }
}
