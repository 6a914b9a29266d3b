//! Manifests: their bytes, and what is kept of what they name.

use std::collections::{BTreeMap, BTreeSet};

use torno_blob::BlobError;
use torno_metadata::{Correction, ManifestRow, NamedKind, Refers, RepositoryId};
use torno_oci::{
    Digest, Manifest, MediaType,
    media_types::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST},
};

use super::{Phase, Problem, Remedy, VerifyEvent, Walk};
use crate::{RegistryError, Settings, manifest::new_manifest};

/// Manifests looked at in one go; together they may have 64 MiB.
const PAGE: usize = 16;

impl<F: FnMut(VerifyEvent<'_>)> Walk<'_, F> {
    pub(super) async fn manifests(&self, after: &str) -> Result<(), RegistryError> {
        let mut after = after.to_owned();
        loop {
            let rows = self.registry.metadata.manifest_rows(&after, PAGE).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after.clone_from(&last.digest);
            let judged = tokio::task::spawn_blocking(move || rows.into_iter().map(judge).collect::<Vec<_>>());
            for verdict in judged.await.map_err(|_| BlobError::Unfinished)? {
                self.state.borrow_mut().verified.manifests += 1;
                self.conclude(verdict).await?;
            }
            self.at(Phase::Manifests, &after);
        }
    }

    async fn conclude(&self, verdict: Verdict) -> Result<(), RegistryError> {
        match verdict {
            Verdict::NoDigest(text) => {
                let what = format!("a manifest's row has `{}` for a digest", text.escape_debug());
                self.found(Problem::Row { what, about: None }, Remedy::None).await
            }
            Verdict::Damaged(manifest) => {
                let mut remedy = Remedy::None;
                if self.is_repair() {
                    self.registry.quarantine.take_manifest(&manifest).await?;
                    remedy = Remedy::PutAside;
                }
                self.found(Problem::Manifest { manifest }, remedy).await
            }
            Verdict::Whole(manifest, corrections) => {
                for correction in corrections {
                    let what = describe(&correction);
                    let mut remedy = Remedy::None;
                    if self.is_repair() {
                        self.registry.metadata.correct(&manifest, vec![correction]).await?;
                        remedy = Remedy::Corrected;
                    }
                    self.found(Problem::Edge { manifest: manifest.clone(), what }, remedy).await?;
                }
                Ok(())
            }
        }
    }
}

/// What is true of a manifest's rows.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It is not even called like a manifest.
    NoDigest(String),
    /// Its bytes are others.
    Damaged(Digest),
    /// Its bytes are right, and this is to be corrected.
    Whole(Digest, Vec<Correction>),
}

fn describe(correction: &Correction) -> String {
    let kind = |kind: &NamedKind| match kind {
        NamedKind::Blob => "blob",
        NamedKind::Manifest => "manifest",
    };
    match correction {
        Correction::Name(what, digest) => {
            format!("it names {} {digest}, and that was forgotten", kind(what))
        }
        Correction::Unname(what, text) => {
            format!("it is said to name {} {}, and does not", kind(what), text.escape_debug())
        }
        Correction::List(_, refers) => {
            format!("it speaks of {}, and a repository does not list it there", refers.subject)
        }
        Correction::Unlist(_, subject) => {
            format!("a repository lists it as speaking of {}, and it does not", subject.escape_debug())
        }
    }
}

/// Compares what is kept of a manifest with its bytes.
fn judge(row: ManifestRow) -> Verdict {
    let Ok(digest) = row.digest.parse::<Digest>() else { return Verdict::NoDigest(row.digest) };
    if Digest::of(digest.algorithm(), &row.bytes) != digest {
        return Verdict::Damaged(digest);
    }
    // Most are pushed as one type everywhere, so most are parsed once.
    let mut read: BTreeMap<&str, Option<(Names, Option<Refers>)>> = BTreeMap::new();
    let mut needed = Names::default();
    let mut listed: BTreeMap<(RepositoryId, String), Refers> = BTreeMap::new();
    for (repository, media_type) in &row.links {
        let parsed = read.entry(media_type.as_str()).or_insert_with(|| {
            let parsed = Names::read(&digest, media_type, &row.bytes);
            needed.extend(parsed.iter().map(|(names, _)| names));
            parsed
        });
        // What an earlier Torno took and this one does not, it cannot judge.
        let Some((_, refers)) = parsed else { return Verdict::Whole(digest, Vec::new()) };
        if let (Some(refers), true) = (refers, repository.is_repository()) {
            listed.insert((*repository, refers.subject.to_string()), refers.clone());
        }
    }
    let mut allowed = needed.clone();
    if !needed.has_all(&row.blobs, &row.children) {
        // The same bytes may have been pushed as another type before, and what that names is kept too.
        let others = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].into_iter();
        for media_type in others.filter(|text| !read.contains_key(text)).filter_map(|text| text.parse().ok())
        {
            allowed.extend(Names::read(&digest, &media_type, &row.bytes).iter().map(|(names, _)| names));
        }
    }
    let mut corrections = Vec::new();
    for (kind, needed, allowed, found) in [
        (NamedKind::Blob, &needed.blobs, &allowed.blobs, &row.blobs),
        (NamedKind::Manifest, &needed.children, &allowed.children, &row.children),
    ] {
        let missing = needed.iter().filter(|named| !found.contains(named.as_str()));
        corrections.extend(missing.map(|named| Correction::Name(kind, named.clone())));
        let extra = found.iter().filter(|text| !allowed.iter().any(|named| named.as_str() == text.as_str()));
        corrections.extend(extra.map(|text| Correction::Unname(kind, text.clone())));
    }
    let extra = row.referrers.iter().filter(|found| !listed.contains_key(found));
    corrections.extend(extra.map(|(repository, subject)| Correction::Unlist(*repository, subject.clone())));
    let missing = listed.into_iter().filter(|(place, _)| !row.referrers.contains(place));
    corrections.extend(missing.map(|((repository, _), refers)| Correction::List(repository, refers)));
    Verdict::Whole(digest, corrections)
}

/// What a manifest names.
#[derive(Clone, Default)]
struct Names {
    blobs: BTreeSet<Digest>,
    children: BTreeSet<Digest>,
}

impl Names {
    fn read(digest: &Digest, media_type: &MediaType, bytes: &[u8]) -> Option<(Self, Option<Refers>)> {
        let manifest = Manifest::parse(Some(media_type), bytes).ok()?;
        let new = new_manifest(digest.clone(), &manifest, bytes.to_vec(), Settings::default());
        let mut names = Self::default();
        for named in new.names {
            match named.kind {
                NamedKind::Blob => names.blobs.insert(named.digest),
                NamedKind::Manifest => names.children.insert(named.digest),
            };
        }
        Some((names, new.refers))
    }

    fn extend<'a>(&mut self, others: impl Iterator<Item = &'a Self>) {
        for other in others {
            self.blobs.extend(other.blobs.iter().cloned());
            self.children.extend(other.children.iter().cloned());
        }
    }

    /// Whether all of these are among them.
    fn has_all(&self, blobs: &BTreeSet<String>, children: &BTreeSet<String>) -> bool {
        let has = |named: &BTreeSet<Digest>, text: &String| named.iter().any(|one| one.as_str() == text);
        blobs.iter().all(|text| has(&self.blobs, text))
            && children.iter().all(|text| has(&self.children, text))
    }
}
