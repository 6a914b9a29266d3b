//! The folder of the reference registry, distribution.
//!
//! ```text
//! docker/registry/v2/blobs/sha256/ab/<hex>/data
//! docker/registry/v2/repositories/<name>/_manifests/revisions/sha256/<hex>/link
//! docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link
//! docker/registry/v2/repositories/<name>/_layers/sha256/<hex>/link
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
    sync::Arc,
};

use torno_oci::{Algorithm, Digest, MAX_NAME_LENGTH, RepositoryName, Tag};

use super::{
    Advance, Fault, Import, ImportError, ImportSettings, Imported, LeftOut, Places, Wanted, blocking,
};
use crate::{
    Registry,
    import::source::{Kind, Source},
};

const REPOSITORIES: &str = "docker/registry/v2/repositories";

impl Registry {
    /// Takes over the repositories in a folder of distribution, which need not run. `progress` is told how far it is.
    ///
    /// Every manifest and blob is compared with its digest. What is broken is left out. Stopped anywhere, the next
    /// call goes on; what is there already is passed over.
    pub async fn import_distribution(
        &self,
        folder: &Path,
        settings: &ImportSettings,
        progress: impl FnMut(Advance),
    ) -> Result<Imported, ImportError> {
        let strange = || {
            ImportError::Strange(folder.to_owned(), "a folder of distribution: it has no docker/registry/v2")
        };
        let io = |source| ImportError::Io { path: folder.to_owned(), source };
        let source = Source::open(folder).map_err(io)?;
        if source.entries(REPOSITORIES).is_err() {
            return Err(strange());
        }
        let import = Import::new(self, settings, source, Places::Distribution, progress)?;
        let shared = Arc::clone(&import.source);
        let found = blocking(move || Ok(find(&shared))).await;
        let (found, left_out) = found.map_err(|fault| io(std::io::Error::other(fault)))?;
        {
            let mut state = import.state.borrow_mut();
            state.imported.left_out = left_out;
            state.imported.repositories = found.len() as u64;
        }
        import.expect(found.iter().map(|one| one.revisions).sum());
        import.repositories(found.into_iter().map(|one| import.found(one))).await?;
        Ok(import.finish())
    }
}

impl<P: FnMut(Advance)> Import<'_, P> {
    /// Imports one of the repositories that were found.
    async fn found(&self, Found { name, revisions }: Found) -> Result<(), ImportError> {
        let target = match &self.settings.prefix {
            Some(prefix) => format!("{prefix}/{name}").parse(),
            None => name.parse(),
        };
        let target: RepositoryName = match target {
            Ok(target) => target,
            Err(error) => {
                self.leave_out(name, Fault::Name(error));
                self.done(revisions);
                return Ok(());
            }
        };
        let (source, path) = (Arc::clone(&self.source), format!("{REPOSITORIES}/{name}"));
        let looked = match blocking(move || Ok(look(&source, &path, target))).await {
            Ok(looked) => looked,
            Err(fault) => {
                self.leave_out(name, fault);
                self.done(revisions);
                return Ok(());
            }
        };
        let (wanted, left_out) = looked;
        // Those that are no digests, or lead elsewhere.
        self.done(revisions.saturating_sub(wanted.manifests.len() as u64));
        self.state.borrow_mut().imported.left_out.extend(left_out);
        self.repository(wanted).await
    }
}

/// A folder that is a repository.
struct Found {
    name: String,
    revisions: u64,
}

/// Every repository, however deep, and what is neither a repository nor on the way to one.
fn find(source: &Source) -> (Vec<Found>, Vec<LeftOut>) {
    let (mut found, mut left_out) = (Vec::new(), Vec::new());
    let mut waiting = vec![String::new()];
    while let Some(name) = waiting.pop() {
        let path = if name.is_empty() { REPOSITORIES.to_owned() } else { format!("{REPOSITORIES}/{name}") };
        let entries = match source.entries(&path) {
            Ok(entries) => entries,
            Err(fault) => {
                left_out.push(LeftOut { what: name, fault });
                continue;
            }
        };
        if entries.iter().any(|(entry, _)| entry == "_manifests") && !name.is_empty() {
            let revisions = Algorithm::ALL.map(|algorithm| {
                let path = format!("{path}/_manifests/revisions/{}", algorithm.name());
                source.entries(&path).map_or(0, |entries| entries.len() as u64)
            });
            found.push(Found { name: name.clone(), revisions: revisions.iter().sum() });
        }
        for (entry, kind) in entries.into_iter().rev() {
            let below = if name.is_empty() { entry.clone() } else { format!("{name}/{entry}") };
            match kind {
                Kind::Folder if entry.starts_with('_') => {}
                // No repository can be deeper, however deep a hostile folder is.
                Kind::Folder if below.len() <= MAX_NAME_LENGTH => waiting.push(below),
                Kind::Folder => {
                    left_out.push(LeftOut { what: below, fault: Fault::Name(torno_oci::NameError::Length) });
                }
                Kind::File => {}
                Kind::Strange => left_out.push(LeftOut { what: below, fault: Fault::Strange }),
            }
        }
    }
    (found, left_out)
}

/// What one repository has, and what of it is broken.
fn look(source: &Source, path: &str, name: RepositoryName) -> (Wanted, Vec<LeftOut>) {
    let mut left_out = Vec::new();
    let mut leave_out =
        |what: String, fault: Fault| left_out.push(LeftOut { what: format!("{name}: {what}"), fault });
    let mut links = |folder: &str| {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let path = format!("{path}/{folder}/{}", algorithm.name());
            let entries = match source.entries(&path) {
                Ok(entries) => entries,
                Err(Fault::Missing) => continue,
                Err(fault) => {
                    leave_out(folder.to_owned(), fault);
                    continue;
                }
            };
            for (hex, _) in entries {
                match link(source, algorithm, &hex, &format!("{path}/{hex}/link")) {
                    Ok(digest) => digests.push(digest),
                    // What was deleted leaves its folder, without the link.
                    Err(Fault::Missing) => {}
                    Err(fault) => leave_out(format!("{folder}/{hex}"), fault),
                }
            }
        }
        digests
    };
    let manifests: BTreeSet<Digest> = links("_manifests/revisions").into_iter().collect();
    let blobs: HashSet<Digest> = links("_layers").into_iter().collect();
    let mut tags: BTreeMap<Digest, Vec<Tag>> = BTreeMap::new();
    let folder = format!("{path}/_manifests/tags");
    let entries = match source.entries(&folder) {
        Ok(entries) => entries,
        Err(Fault::Missing) => Vec::new(),
        Err(fault) => {
            leave_out("tags".into(), fault);
            Vec::new()
        }
    };
    for (text, _) in entries {
        let what = || format!("tag {text}");
        let Ok(tag) = text.parse::<Tag>() else {
            leave_out(what(), Fault::Tag);
            continue;
        };
        match source.digest(&format!("{folder}/{text}/current/link")) {
            Ok(digest) if manifests.contains(&digest) => tags.entry(digest).or_default().push(tag),
            Ok(digest) => leave_out(what(), Fault::Dangling(digest)),
            Err(fault) => leave_out(what(), fault),
        }
    }
    (Wanted { name, manifests, tags, blobs: Some(blobs) }, left_out)
}

/// A link that must lead to what it stands for.
fn link(source: &Source, algorithm: Algorithm, hex: &str, path: &str) -> Result<Digest, Fault> {
    let expected: Digest = format!("{}:{hex}", algorithm.name()).parse()?;
    let found = source.digest(path)?;
    if found == expected { Ok(found) } else { Err(Fault::OtherLink(found)) }
}
