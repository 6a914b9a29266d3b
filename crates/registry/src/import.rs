//! Taking over what another registry has, or an OCI image layout, with the checks of pushes.
//!
//! For each repository: read the manifests and compare them with their digests; of a few images at a time, bring the
//! blobs and store the manifests; then store the indexes. What is there already is passed over. What is broken is left
//! out and told, the rest is imported.

mod blob;
mod distribution;
mod layout;
mod source;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt, io,
    path::PathBuf,
    sync::Arc,
};

use futures_util::{StreamExt as _, stream};
use tokio::{sync::Mutex, task::spawn_blocking};
use torno_auth::{Identity, PushPermit};
use torno_blob::{Adopter, BlobError, SMALL, Sharing};
use torno_oci::{
    Digest, MAX_MANIFEST_SIZE, Manifest, ManifestKind, MediaType, Namespace, Reference, RepositoryName, Tag,
};

pub use layout::Exported;
pub use source::Fault;

use crate::{Registry, RegistryError};
use blob::One;
use source::Source;

/// Repositories, and in each of them blobs or manifests, on their way at once, so that they share what waits for the
/// disk.
const AT_ONCE: usize = 8;

/// Small blobs that may wait in the journal for the disk.
const UNSETTLED: u64 = 1024;

/// Blobs whose digests begin alike come one after the other: so none comes twice at the same time.
const TURNS: usize = 256;

/// Why nothing, or nothing more, could be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The folder is something else.
    #[error("{0} is not {1}")]
    Strange(PathBuf, &'static str),
    /// The layout does not say which image is meant.
    #[error("{0} holds no image that is meant: it has {1}")]
    Ambiguous(PathBuf, String),
    /// Another import is at work.
    #[error("another import is at work; try again when it is done")]
    Busy,
    /// A folder or file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The registry failed. What was imported until then stays; do it again.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Something that was left out.
#[derive(Debug)]
pub struct LeftOut {
    /// What, in words: a stranger's.
    pub what: String,
    /// Why.
    pub fault: Fault,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A terminal gets to see a stranger's names, not to obey them.
        let text = format!("{}: {}", self.what, self.fault);
        text.chars()
            .map(|character| if character.is_control() { '\u{fffd}' } else { character })
            .try_for_each(|character| fmt::Write::write_char(f, character))
    }
}

/// What an import did.
#[derive(Debug, Default)]
pub struct Imported {
    /// Repositories looked at.
    pub repositories: u64,
    /// Manifests that were imported.
    pub manifests: u64,
    /// Manifests that were there, with their tags.
    pub had: u64,
    /// Blobs that were imported.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was broken or refused.
    pub left_out: Vec<LeftOut>,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// Manifests there are.
    pub all: u64,
    /// Manifests that are done, well or not.
    pub done: u64,
    /// Bytes of blobs that were read and compared.
    pub bytes: u64,
}

/// How to import.
#[derive(Clone, Debug)]
pub struct ImportSettings {
    /// In whose name: whose what is imported becomes.
    pub owner: Identity,
    /// What is put before the names of repositories.
    pub prefix: Option<RepositoryName>,
    /// Whether files may be shared with the source.
    pub sharing: Sharing,
}

/// Where a source keeps what it knows by digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Places {
    Distribution,
    Layout,
}

impl Places {
    fn of(self, digest: &Digest) -> String {
        let (algorithm, hex) = (digest.algorithm().name(), digest.hex());
        match self {
            Self::Distribution => {
                let shard = hex.get(..2).unwrap_or("xx");
                format!("docker/registry/v2/blobs/{algorithm}/{shard}/{hex}/data")
            }
            Self::Layout => format!("blobs/{algorithm}/{hex}"),
        }
    }
}

/// What one repository is to have.
#[derive(Debug)]
struct Wanted {
    name: RepositoryName,
    manifests: BTreeSet<Digest>,
    tags: BTreeMap<Digest, Vec<Tag>>,
    /// The blobs that the source's repository may serve; `None`: all that are there.
    blobs: Option<HashSet<Digest>>,
}

/// A manifest that has been read.
#[derive(Debug)]
struct Read {
    media_type: MediaType,
    /// What must be there first: blobs of an image, manifests of an index.
    names: Vec<Digest>,
    /// Blobs that may be kept elsewhere.
    optional: Vec<Digest>,
    is_index: bool,
}

/// An import under way.
struct Import<'a, P> {
    registry: &'a Registry,
    settings: &'a ImportSettings,
    source: Arc<Source>,
    places: Places,
    adopter: Adopter,
    turns: Vec<Mutex<()>>,
    /// Never borrowed over an await.
    state: RefCell<State<P>>,
}

/// What an import has come to.
struct State<P> {
    imported: Imported,
    advance: Advance,
    /// Blobs since the journal was settled.
    unsettled: u64,
    progress: P,
}

impl<'a, P: FnMut(Advance)> Import<'a, P> {
    fn new(
        registry: &'a Registry,
        settings: &'a ImportSettings,
        source: Source,
        places: Places,
        progress: P,
    ) -> Result<Self, ImportError> {
        let adopter = Adopter::new(&registry.blobs).map_err(RegistryError::from)?.ok_or(ImportError::Busy)?;
        let (imported, advance) = (Imported::default(), Advance::default());
        Ok(Self {
            registry,
            settings,
            source: Arc::new(source),
            places,
            adopter,
            turns: std::iter::repeat_with(Mutex::default).take(TURNS).collect(),
            state: RefCell::new(State { imported, advance, unsettled: 0, progress }),
        })
    }

    fn leave_out(&self, what: impl Into<String>, fault: Fault) {
        self.state.borrow_mut().imported.left_out.push(LeftOut { what: what.into(), fault });
    }

    /// Tells of manifests that are there.
    fn expect(&self, manifests: u64) {
        self.state.borrow_mut().advance.all += manifests;
    }

    /// Tells of manifests that are done, well or not.
    fn done(&self, manifests: u64) {
        let state = &mut *self.state.borrow_mut();
        state.advance.done += manifests;
        (state.progress)(state.advance);
    }

    /// Imports repositories, some at once.
    async fn repositories(
        &self,
        all: impl Iterator<Item = impl Future<Output = Result<(), ImportError>>>,
    ) -> Result<(), ImportError> {
        let mut coming = stream::iter(all).buffer_unordered(AT_ONCE);
        while let Some(done) = coming.next().await {
            done?;
            if self.state.borrow().unsettled >= UNSETTLED {
                self.state.borrow_mut().unsettled = 0;
                self.registry.settle().await?;
            }
        }
        self.registry.settle().await?;
        Ok(())
    }

    /// What there is to tell at the end.
    fn finish(self) -> Imported {
        let mut imported = self.state.into_inner().imported;
        imported.left_out.sort_by(|one, other| one.what.cmp(&other.what));
        imported
    }

    /// Imports one repository. Stopped anywhere, the next import goes on.
    async fn repository(&self, mut wanted: Wanted) -> Result<(), ImportError> {
        let name = wanted.name.clone();
        if name.namespace() != Namespace::Plain {
            self.leave_out(name.to_string(), Fault::Namespace);
            self.done(wanted.manifests.len() as u64);
            return Ok(());
        }
        let permit = match self.registry.push_permit(&self.settings.owner, &name).await {
            Ok(permit) => permit,
            Err(error @ RegistryError::Refused(_)) => {
                self.leave_out(name.to_string(), Fault::Refused(error));
                self.done(wanted.manifests.len() as u64);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let read = self.read_all(&mut wanted).await?;
        let (indexes, images): (BTreeMap<_, _>, BTreeMap<_, _>) =
            read.into_iter().partition(|(_, read)| read.is_index);
        let mut broken = HashMap::new();
        let mut images = images.into_iter();
        loop {
            // A few at a time: no blob waits for its manifest for so long that gc takes it.
            let some: Vec<(Digest, Read)> = images.by_ref().take(AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            self.blobs(&permit, &wanted, &some, &mut broken).await?;
            self.images(&permit, &wanted, some, &mut broken).await?;
        }
        self.indexes(&permit, &wanted, indexes).await
    }

    /// Reads the manifests that are not there yet.
    async fn read_all(&self, wanted: &mut Wanted) -> Result<BTreeMap<Digest, Read>, ImportError> {
        let mut waiting: Vec<Digest> = wanted.manifests.iter().rev().cloned().collect();
        let mut all = BTreeMap::new();
        while let Some(digest) = waiting.pop() {
            if self.is_there(wanted, &digest).await? {
                self.state.borrow_mut().imported.had += 1;
                self.done(1);
                continue;
            }
            let read = self.read(&digest).await.and_then(|bytes| read_manifest(&bytes));
            match read {
                Ok(read) => {
                    if read.is_index && self.places == Places::Layout {
                        // A layout lists what it begins with only.
                        let children =
                            read.names.iter().filter(|child| wanted.manifests.insert((*child).clone()));
                        let before = waiting.len();
                        waiting.extend(children.cloned());
                        self.expect((waiting.len() - before) as u64);
                    }
                    all.insert(digest, read);
                }
                Err(fault) => {
                    self.leave_out(described(wanted, &digest), fault);
                    self.done(1);
                }
            }
        }
        Ok(all)
    }

    /// Whether a manifest and its tags are where they should be.
    async fn is_there(&self, wanted: &Wanted, digest: &Digest) -> Result<bool, ImportError> {
        let permit = match self.registry.pull_permit(&self.settings.owner, &wanted.name).await {
            Ok(permit) => permit,
            Err(RegistryError::Refused(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let digests = [Reference::Digest(digest.clone())];
        let tags = wanted.tags.get(digest).into_iter().flatten().cloned().map(Reference::Tag);
        for reference in digests.into_iter().chain(tags) {
            match self.registry.manifest(&permit, &reference, std::time::Duration::ZERO).await {
                Ok(found) if found.digest == *digest => {}
                Ok(_) | Err(RegistryError::ManifestUnknown(_)) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    async fn read(&self, digest: &Digest) -> Result<Vec<u8>, Fault> {
        let (source, path, digest) = (Arc::clone(&self.source), self.places.of(digest), digest.clone());
        blocking(move || {
            let bytes = source.bytes(&path, MAX_MANIFEST_SIZE)?;
            let found = Digest::of(digest.algorithm(), &bytes);
            if found == digest { Ok(bytes) } else { Err(Fault::Digest(found)) }
        })
        .await
    }

    /// Brings the blobs that images name, or adds to what is `broken`, and why.
    async fn blobs(
        &self,
        permit: &PushPermit,
        wanted: &Wanted,
        images: &[(Digest, Read)],
        broken: &mut HashMap<Digest, String>,
    ) -> Result<(), ImportError> {
        let named = images.iter().flat_map(|(_, read)| read.names.iter().chain(&read.optional));
        let named: BTreeSet<&Digest> = named.filter(|blob| !broken.contains_key(blob)).collect();
        let linked = |digest: &Digest| wanted.blobs.as_ref().is_none_or(|blobs| blobs.contains(digest));
        let (here, elsewhere): (Vec<&Digest>, Vec<&Digest>) =
            named.into_iter().partition(|digest| linked(digest));
        for digest in elsewhere {
            broken.insert(digest.clone(), "the source's repository has no link to it".to_owned());
        }
        let (registry, settings, source) = (self.registry, self.settings, &self.source);
        let (adopter, turns, places) = (&self.adopter, &self.turns, self.places);
        let mut coming = stream::iter(here)
            .map(async |digest| {
                let one = One { registry, settings, adopter, turns, permit, digest };
                (digest, one.bring(source, places.of(digest)).await)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((digest, brought)) = coming.next().await {
            match brought {
                Ok(Some(size)) => {
                    let mut state = self.state.borrow_mut();
                    state.imported.blobs += 1;
                    state.imported.bytes += size;
                    state.advance.bytes += size;
                    state.unsettled += u64::from(size <= SMALL);
                    drop(state);
                    self.done(0);
                }
                Ok(None) => {}
                Err(Fault::Refused(error)) if is_ours(&error) => return Err(error.into()),
                Err(fault) => {
                    broken.insert(digest.clone(), fault.to_string());
                }
            }
        }
        Ok(())
    }

    /// Stores images whose blobs are there.
    async fn images(
        &self,
        permit: &PushPermit,
        wanted: &Wanted,
        images: Vec<(Digest, Read)>,
        broken: &mut HashMap<Digest, String>,
    ) -> Result<(), ImportError> {
        let mut whole = Vec::new();
        for (digest, read) in images {
            match read.names.iter().find_map(|name| Some((name, broken.get(name)?))) {
                Some((name, why)) => {
                    self.leave_out(described(wanted, &digest), Fault::Named(name.clone(), why.clone()));
                    self.done(1);
                }
                None => whole.push((digest, read.media_type)),
            }
        }
        self.put_all(permit, wanted, &whole).await
    }

    /// Stores indexes, each behind those that it names. One that lacks some of its images is refused or not by the same
    /// rule as a push.
    async fn indexes(
        &self,
        permit: &PushPermit,
        wanted: &Wanted,
        mut indexes: BTreeMap<Digest, Read>,
    ) -> Result<(), ImportError> {
        while !indexes.is_empty() {
            let waiting: HashSet<Digest> = indexes.keys().cloned().collect();
            let (ready, later): (BTreeMap<_, _>, _) = indexes
                .into_iter()
                .partition(|(_, read)| !read.names.iter().any(|name| waiting.contains(name)));
            if ready.is_empty() {
                // Digests make no circles.
                return Ok(());
            }
            let ready: Vec<_> = ready.into_iter().map(|(digest, read)| (digest, read.media_type)).collect();
            self.put_all(permit, wanted, &ready).await?;
            indexes = later;
        }
        Ok(())
    }

    async fn put_all(
        &self,
        permit: &PushPermit,
        wanted: &Wanted,
        manifests: &[(Digest, MediaType)],
    ) -> Result<(), ImportError> {
        for some in manifests.chunks(AT_ONCE) {
            let puts = some.iter().map(async |(digest, media_type)| {
                let bytes = self.read(digest).await?;
                let tags = wanted.tags.get(digest).cloned().unwrap_or_default();
                let reference = Reference::Digest(digest.clone());
                let put = self.registry.put_manifest(
                    permit,
                    &self.registry.itself,
                    &reference,
                    tags,
                    Some(media_type),
                    bytes,
                    None,
                );
                put.await.map(drop).map_err(Fault::Refused)
            });
            let puts = futures_util::future::join_all(puts).await;
            for ((digest, _), put) in some.iter().zip(puts) {
                match put {
                    Ok(()) => self.state.borrow_mut().imported.manifests += 1,
                    Err(Fault::Refused(error)) if is_ours(&error) => return Err(error.into()),
                    Err(fault) => self.leave_out(described(wanted, digest), fault),
                }
                self.done(1);
            }
        }
        Ok(())
    }
}

/// Whether the registry is at fault, and not what is imported: then nothing more can be.
fn is_ours(error: &RegistryError) -> bool {
    use RegistryError as E;
    match error {
        E::Blob(error) => matches!(error, BlobError::Full | BlobError::Unfinished),
        E::Metadata(_) | E::Audit(_) | E::Random(_) | E::Collecting => true,
        _ => false,
    }
}

fn read_manifest(bytes: &[u8]) -> Result<Read, Fault> {
    let unsaid = Manifest::unsaid_type(bytes);
    let manifest = Manifest::parse(unsaid.as_ref(), bytes)?;
    let media_type = manifest.media_type;
    Ok(match manifest.kind {
        ManifestKind::Image { config, layers } => {
            let (optional, required): (Vec<_>, Vec<_>) =
                layers.into_iter().partition(torno_oci::Descriptor::is_non_distributable);
            let names = required.into_iter().chain([config]).map(|one| one.digest).collect();
            let optional = optional.into_iter().map(|one| one.digest).collect();
            Read { media_type, names, optional, is_index: false }
        }
        ManifestKind::Index { children } => {
            let names = children.into_iter().map(|child| child.descriptor.digest).collect();
            Read { media_type, names, optional: Vec::new(), is_index: true }
        }
    })
}

/// A manifest with its tags, for people.
fn described(wanted: &Wanted, digest: &Digest) -> String {
    let tags: Vec<&str> = wanted.tags.get(digest).into_iter().flatten().map(Tag::as_str).collect();
    let tags = if tags.is_empty() { String::new() } else { format!(" ({})", tags.join(", ")) };
    format!("{}@{digest}{tags}", wanted.name)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    spawn_blocking(work).await.map_err(|error| Fault::Io(io::Error::other(error)))?
}
