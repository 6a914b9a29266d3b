//! OCI image layouts (image-spec: Image Layout): folders with `oci-layout`, `index.json` and `blobs/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use torno_audit::Event;
use torno_auth::PullPermit;
use torno_oci::{Digest, MAX_MANIFEST_SIZE, Manifest, ManifestKind, Reference, RepositoryName, Tag};

use super::{Advance, Fault, Import, ImportError, ImportSettings, Imported, Places, Wanted};
use crate::{Reading, Registry, RegistryError, import::source::Source};

/// The annotation that names an image of a layout (image-spec: Pre-Defined Annotation Keys).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The largest `oci-layout` file, in bytes: it holds a version.
const MAX_MARK: usize = 4096;

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The manifest that the tag names.
    pub digest: Digest,
    /// Manifests written.
    pub manifests: u64,
    /// Blobs written.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What manifests name and the repository does not have.
    pub absent: Vec<Digest>,
}

impl Registry {
    /// Imports the images of an OCI image layout into a repository: under the tags that the layout gives them, or the
    /// one that `tag` means under that alone. `progress` is told how far it is.
    pub async fn import_layout(
        &self,
        folder: &Path,
        name: RepositoryName,
        tag: Option<Tag>,
        settings: &ImportSettings,
        progress: impl FnMut(Advance),
    ) -> Result<Imported, ImportError> {
        let strange = |what| ImportError::Strange(folder.to_owned(), what);
        let io = |source| ImportError::Io { path: folder.to_owned(), source };
        let source = Source::open(folder).map_err(io)?;
        source
            .bytes("oci-layout", MAX_MARK)
            .map_err(|_| strange("an OCI image layout: it has no oci-layout"))?;
        let index = source.bytes("index.json", MAX_MANIFEST_SIZE);
        let index = index.map_err(|_| strange("an OCI image layout: its index.json cannot be read"))?;
        let unreadable = || strange("an OCI image layout: its index.json is no index");
        let images = images(&index).ok_or_else(unreadable)?;
        let import = Import::new(self, settings, source, Places::Layout, progress)?;
        import.state.borrow_mut().imported.repositories = 1;
        let mut wanted = Wanted { name, manifests: BTreeSet::new(), tags: BTreeMap::new(), blobs: None };
        match tag {
            Some(tag) => {
                let digest = meant(&images, &tag)
                    .ok_or_else(|| ImportError::Ambiguous(folder.to_owned(), named(&images)))?;
                wanted.manifests.insert(digest.clone());
                wanted.tags.insert(digest, vec![tag]);
            }
            None => {
                for (digest, text) in images {
                    wanted.manifests.insert(digest.clone());
                    match text.as_deref().map(str::parse::<Tag>) {
                        Some(Ok(tag)) => wanted.tags.entry(digest).or_default().push(tag),
                        Some(Err(_)) => {
                            let what = format!("name {} of {digest}", text.unwrap_or_default());
                            import.leave_out(what, Fault::Tag);
                        }
                        None => {}
                    }
                }
            }
        }
        import.expect(wanted.manifests.len() as u64);
        import.repositories(std::iter::once(import.repository(wanted))).await?;
        Ok(import.finish())
    }

    /// Writes the image that a tag names, with all it names in turn, to an OCI image layout, new or there already:
    /// then it comes beside the others, and in place of what had the same name.
    ///
    /// Stopped anywhere, it leaves a layout without the image; do it again.
    pub async fn export_layout(
        &self,
        permit: &PullPermit,
        tag: &Tag,
        folder: &Path,
    ) -> Result<Exported, ImportError> {
        let mark = folder.join("oci-layout");
        let empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
        if !empty && !mark.exists() {
            let what = "an OCI image layout, nor empty; name a new folder";
            return Err(ImportError::Strange(folder.to_owned(), what));
        }
        let reference = Reference::Tag(tag.clone());
        let root = self.manifest(permit, &reference, Duration::ZERO).await?;
        let event = Event::Exported { repository: permit.repository().clone(), tag: tag.clone() };
        self.audit.record(&self.itself, event).await.map_err(RegistryError::from)?;
        let mut exported =
            Exported { digest: root.digest.clone(), manifests: 0, blobs: 0, bytes: 0, absent: Vec::new() };
        let descriptor = json!({
            "mediaType": root.media_type.as_str(), "digest": root.digest.as_str(), "size": root.bytes.len(),
            "annotations": {REF_NAME: tag.as_str()},
        });
        let mut seen = BTreeSet::from([root.digest.clone()]);
        let mut waiting = vec![root];
        while let Some(stored) = waiting.pop() {
            write(&place(folder, &stored.digest), &stored.bytes)?;
            exported.manifests += 1;
            let manifest =
                Manifest::parse(Some(&stored.media_type), &stored.bytes).map_err(RegistryError::from)?;
            match manifest.kind {
                ManifestKind::Image { config, layers } => {
                    for blob in layers.into_iter().chain([config]).map(|one| one.digest) {
                        if seen.insert(blob.clone()) {
                            self.export_blob(permit, &blob, folder, &mut exported).await?;
                        }
                    }
                }
                ManifestKind::Index { children } => {
                    for child in children.into_iter().map(|child| child.descriptor.digest) {
                        if !seen.insert(child.clone()) {
                            continue;
                        }
                        match self.manifest(permit, &Reference::Digest(child.clone()), Duration::ZERO).await {
                            Ok(found) => waiting.push(found),
                            Err(RegistryError::ManifestUnknown(_)) => exported.absent.push(child),
                            Err(error) => return Err(error.into()),
                        }
                    }
                }
            }
        }
        write(&mark, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add_to_index(folder, tag, descriptor)?;
        Ok(exported)
    }

    async fn export_blob(
        &self,
        permit: &PullPermit,
        digest: &Digest,
        folder: &Path,
        exported: &mut Exported,
    ) -> Result<(), ImportError> {
        let blob = match self.blob(permit, digest, Reading::Copied).await {
            Ok(blob) => blob,
            Err(RegistryError::BlobUnknown(_)) => {
                exported.absent.push(digest.clone());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (path, size) = (place(folder, digest), blob.size());
        // A copy: whoever gets a layout may do with its files as they like.
        let (mut file, beside) = begin(&path)?;
        let mut bytes = std::pin::pin!(blob.stream(0..size));
        while let Some(piece) = bytes.try_next().await.map_err(io_error(&path))? {
            file.write_all(&piece).map_err(io_error(&beside))?;
        }
        end(&file, &beside, &path)?;
        exported.blobs += 1;
        exported.bytes += size;
        Ok(())
    }
}

/// What an `index.json` lists: digests, each with its name.
fn images(index: &[u8]) -> Option<Vec<(Digest, Option<String>)>> {
    let index: Value = serde_json::from_slice(index).ok()?;
    let image = |entry: &Value| {
        let digest = entry["digest"].as_str()?.parse().ok()?;
        let name = entry["annotations"][REF_NAME].as_str().map(str::to_owned);
        Some((digest, name))
    };
    index["manifests"].as_array()?.iter().map(image).collect()
}

/// The image of a layout that has this name, or the only one.
fn meant(images: &[(Digest, Option<String>)], tag: &Tag) -> Option<Digest> {
    let named = images.iter().find(|(_, name)| name.as_deref() == Some(tag.as_str()));
    let digests: BTreeSet<&Digest> = images.iter().map(|(digest, _)| digest).collect();
    let only = || digests.first().copied().filter(|_| digests.len() == 1);
    named.map(|(digest, _)| digest).or_else(only).cloned()
}

/// The images of a layout, for people.
fn named(images: &[(Digest, Option<String>)]) -> String {
    /// Enough to see what is meant.
    const SHOWN: usize = 10;
    let names = images.iter().take(SHOWN).map(|(digest, name)| name.as_deref().unwrap_or(digest.as_str()));
    let text = names.collect::<Vec<_>>().join(", ").escape_debug().to_string();
    if text.is_empty() { "none".into() } else { text }
}

/// Lists an image in the layout's index, at once and in place of another of its name.
fn add_to_index(folder: &Path, tag: &Tag, descriptor: Value) -> Result<(), ImportError> {
    let path = folder.join("index.json");
    let strange =
        || ImportError::Strange(folder.to_owned(), "an OCI image layout: its index.json is no index");
    let mut index = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Value>(&bytes).map_err(|_| strange())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            json!({"schemaVersion": 2, "mediaType": torno_oci::media_types::OCI_INDEX, "manifests": []})
        }
        Err(error) => return Err(io_error(&path)(error)),
    };
    let manifests = index.get_mut("manifests").and_then(Value::as_array_mut).ok_or_else(strange)?;
    manifests.retain(|entry| entry["annotations"][REF_NAME] != tag.as_str());
    manifests.push(descriptor);
    write(&path, index.to_string().as_bytes())
}

fn place(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join(Places::Layout.of(digest))
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), ImportError> {
    let (mut file, beside) = begin(path)?;
    file.write_all(bytes).map_err(io_error(&beside))?;
    end(&file, &beside, path)
}

fn begin(path: &Path) -> Result<(File, PathBuf), ImportError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(io_error(folder))?;
    let beside = path.with_extension("new");
    Ok((File::create(&beside).map_err(io_error(&beside))?, beside))
}

fn end(file: &File, beside: &Path, path: &Path) -> Result<(), ImportError> {
    file.sync_all().and_then(|()| fs::rename(beside, path)).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ImportError + use<> {
    let path = path.to_owned();
    move |source| ImportError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_meant_by_its_name_or_by_being_the_only_one() {
        let [one, two] = [b"1", b"2"].map(|bytes| Digest::sha256(bytes));
        let entry =
            |digest: &Digest, name: &str| json!({"digest": digest.as_str(), "annotations": {REF_NAME: name}});
        let index = |entries: &[Value]| json!({"manifests": entries}).to_string();
        let find = |index: &str, tag: &str| {
            meant(&images(index.as_bytes()).expect("an index"), &tag.parse().expect("tag"))
        };
        let both = index(&[entry(&one, "a"), entry(&two, "b")]);
        assert_eq!(find(&both, "b"), Some(two.clone()));
        assert_eq!(find(&both, "c"), None);
        assert_eq!(find(&index(&[entry(&one, "a")]), "c"), Some(one.clone()));
        assert_eq!(find(&index(&[json!({"digest": one.as_str()})]), "c"), Some(one));
        assert_eq!(find(&index(&[]), "c"), None);
        for wrong in ["", "[]", "{}", r#"{"manifests":[{"digest":"x"}]}"#, r#"{"manifests":[{}]}"#] {
            assert!(images(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
