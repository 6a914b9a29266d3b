//! What a client knows of its repositories: what must be there, what must not, and what may be either.
//!
//! A fact is made uncertain *before* the request that may change it, and certain again by the answer. So whenever the
//! server dies, and whenever a copy of the facts is taken, they are true. Each change raises a fact's version, by which
//! two copies tell what may have changed between them.

use std::collections::{BTreeMap, BTreeSet};

use crate::collector::{Clock, Mark};

/// What one client knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// By name.
    pub(crate) repositories: BTreeMap<String, Repository>,
}

/// One repository, which no other client changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repository {
    /// By digest.
    pub(crate) blobs: BTreeMap<String, Blob>,
    /// By digest.
    pub(crate) manifests: BTreeMap<String, Manifest>,
    /// By name.
    pub(crate) tags: BTreeMap<String, Tag>,
}

/// A blob's link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blob {
    version: u64,
    pub(crate) state: BlobState,
}

/// Whether a blob is there for its own sake; a manifest that is there needs it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobState {
    /// A deletion was acknowledged, or it was seen to be gone.
    Gone,
    /// A request has not been answered, or a collection may take it.
    Perhaps,
    /// Pushed; a collection without grace since then may have taken it.
    Pushed(Mark),
}

impl BlobState {
    /// Whether it must be there even if nothing names it.
    pub(crate) fn is_there(self, clock: &Clock) -> bool {
        matches!(self, Self::Pushed(mark) if clock.nothing_since(mark))
    }
}

/// A manifest's link.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    version: u64,
    pub(crate) state: State,
    pub(crate) blobs: Vec<String>,
    pub(crate) children: Vec<String>,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Gone,
    Perhaps,
    There,
}

/// What a tag may point to; `None` is nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tag {
    version: u64,
    pub(crate) values: BTreeSet<Option<String>>,
}

impl Tag {
    fn is_surely(&self, digest: &str) -> bool {
        self.values.len() == 1 && self.may_be(digest)
    }

    fn may_be(&self, digest: &str) -> bool {
        self.values.iter().flatten().any(|value| value == digest)
    }
}

impl Repository {
    /// Before a blob is pushed or mounted.
    pub(crate) fn blob_comes(&mut self, digest: &str) {
        let blob = self.blobs.entry(digest.to_owned()).or_insert(Blob { version: 0, state: BlobState::Gone });
        if blob.state == BlobState::Gone {
            *blob = Blob { version: blob.version + 1, state: BlobState::Perhaps };
        }
    }

    /// Its push was acknowledged. `mark` was taken before it began.
    pub(crate) fn blob_came(&mut self, digest: &str, mark: Mark) {
        self.set_blob(digest, BlobState::Pushed(mark));
    }

    /// Before a blob is deleted.
    pub(crate) fn blob_goes(&mut self, digest: &str) {
        self.set_blob(digest, BlobState::Perhaps);
    }

    /// It was deleted, or seen to be gone.
    pub(crate) fn blob_went(&mut self, digest: &str) {
        self.set_blob(digest, BlobState::Gone);
    }

    fn set_blob(&mut self, digest: &str, state: BlobState) {
        let version = self.blobs.get(digest).map_or(0, |blob| blob.version + 1);
        self.blobs.insert(digest.to_owned(), Blob { version, state });
    }

    /// Before a manifest is pushed, by a tag or by its digest alone.
    pub(crate) fn manifest_comes(
        &mut self,
        digest: &str,
        blobs: &[String],
        children: &[String],
        tag: Option<&str>,
    ) {
        let known = self.manifests.entry(digest.to_owned()).or_insert_with(|| Manifest {
            version: 0,
            state: State::Gone,
            blobs: blobs.to_vec(),
            children: children.to_vec(),
        });
        if known.state == State::Gone {
            known.version += 1;
            known.state = State::Perhaps;
        }
        if let Some(tag) = tag {
            let tag = self
                .tags
                .entry(tag.to_owned())
                .or_insert_with(|| Tag { version: 0, values: BTreeSet::from([None]) });
            tag.version += 1;
            tag.values.insert(Some(digest.to_owned()));
        }
        self.weaken_what_lost_its_names();
    }

    /// Its push was acknowledged.
    pub(crate) fn manifest_came(&mut self, digest: &str, tag: Option<&str>) {
        if let Some(known) = self.manifests.get_mut(digest) {
            known.version += 1;
            known.state = State::There;
        }
        if let Some(tag) = tag.and_then(|tag| self.tags.get_mut(tag)) {
            tag.version += 1;
            tag.values = BTreeSet::from([Some(digest.to_owned())]);
        }
        self.weaken_what_lost_its_names();
    }

    /// Before a manifest is deleted with its tags.
    pub(crate) fn manifest_goes(&mut self, digest: &str) {
        for tag in self.tags.values_mut().filter(|tag| tag.may_be(digest)) {
            tag.version += 1;
            tag.values.insert(None);
        }
        self.orphan(digest);
    }

    /// It was deleted, or seen to be gone.
    pub(crate) fn manifest_went(&mut self, digest: &str) {
        let digest = digest.to_owned();
        for tag in self.tags.values_mut().filter(|tag| tag.may_be(&digest)) {
            tag.version += 1;
            tag.values.remove(&Some(digest.clone()));
            if tag.values.is_empty() {
                tag.values.insert(None);
            }
        }
        self.orphan(&digest);
        if let Some(known) = self.manifests.get_mut(&digest) {
            known.version += 1;
            known.state = State::Gone;
        }
    }

    /// Before a tag is deleted. What it may have named may be garbage from then on.
    pub(crate) fn tag_goes(&mut self, name: &str) {
        let Some(tag) = self.tags.get_mut(name) else { return };
        tag.version += 1;
        tag.values.insert(None);
        let named: Vec<String> = tag.values.iter().flatten().cloned().collect();
        for digest in named {
            if !self.is_surely_named(&digest) {
                self.orphan(&digest);
            }
        }
    }

    /// A tag was deleted, or seen to be this.
    pub(crate) fn tag_is(&mut self, name: &str, value: Option<&str>) {
        let Some(tag) = self.tags.get_mut(name) else { return };
        tag.version += 1;
        tag.values = BTreeSet::from([value.map(str::to_owned)]);
        let Some(manifest) = value.and_then(|digest| self.manifests.get_mut(digest)) else { return };
        // A tag keeps what it names.
        if manifest.state != State::There {
            manifest.version += 1;
            manifest.state = State::There;
        }
    }

    /// Whether a tag, or an index that is there, keeps a manifest.
    fn is_surely_named(&self, digest: &str) -> bool {
        self.tags.values().any(|tag| tag.is_surely(digest)) || self.is_child_of(digest, State::There)
    }

    fn is_child_of(&self, digest: &str, state: State) -> bool {
        let mut parents = self.manifests.values().filter(|manifest| manifest.state == state);
        parents.any(|parent| parent.children.iter().any(|child| child == digest))
    }

    /// A manifest may go any time now, and what came for it with it.
    fn orphan(&mut self, digest: &str) {
        let Some(known) = self.manifests.get_mut(digest) else { return };
        known.version += 1;
        if known.state == State::There {
            known.state = State::Perhaps;
        }
        let (blobs, children) = (known.blobs.clone(), known.children.clone());
        for blob in blobs {
            if self.blobs.get(&blob).is_some_and(|blob| blob.state != BlobState::Gone) {
                self.set_blob(&blob, BlobState::Perhaps);
            }
        }
        for child in children {
            let is_there = self.manifests.get(&child).is_some_and(|child| child.state == State::There);
            if is_there && !self.is_surely_named(&child) {
                self.orphan(&child);
            }
        }
    }

    /// A manifest that an index names goes with that index, once no tag names it any more; an index that may go any
    /// time makes it uncertain as well.
    fn weaken_what_lost_its_names(&mut self) {
        let there = self.manifests.iter().filter(|(_, manifest)| manifest.state == State::There);
        let weak: Vec<String> = there
            .filter(|(digest, _)| self.is_child_of(digest, State::Perhaps) && !self.is_surely_named(digest))
            .map(|(digest, _)| digest.clone())
            .collect();
        for digest in weak {
            self.orphan(&digest);
        }
    }

    /// How much there may be.
    pub(crate) fn size(&self) -> usize {
        let blobs = self.blobs.values().filter(|blob| blob.state != BlobState::Gone);
        blobs.count() + self.manifests.values().filter(|manifest| manifest.state != State::Gone).count()
    }

    /// Forgets what is gone, once it is much and has been looked at.
    pub(crate) fn forget_gone(&mut self) {
        const MUCH: usize = 30;
        if self.blobs.len() + self.manifests.len() > self.size() + MUCH {
            self.blobs.retain(|_, blob| blob.state != BlobState::Gone);
            self.manifests.retain(|_, manifest| manifest.state != State::Gone);
        }
    }

    /// Whether a manifest of which more than nothing is known names a blob.
    pub(crate) fn may_name(&self, blob: &str) -> bool {
        let mut known = self.manifests.values().filter(|manifest| manifest.state != State::Gone);
        known.any(|manifest| manifest.blobs.iter().any(|named| named == blob))
    }

    /// Whether an index of which more than nothing is known names a manifest.
    pub(crate) fn may_be_child(&self, digest: &str) -> bool {
        self.is_child_of(digest, State::There) || self.is_child_of(digest, State::Perhaps)
    }

    /// Whether a blob must, may or must not be there.
    pub(crate) fn blob_state(&self, digest: &str, clock: &Clock) -> State {
        let mut there = self.manifests.values().filter(|manifest| manifest.state == State::There);
        if there.any(|manifest| manifest.blobs.iter().any(|blob| blob == digest)) {
            return State::There;
        }
        match self.blobs.get(digest).map(|blob| blob.state) {
            None | Some(BlobState::Gone) => State::Gone,
            Some(state) if state.is_there(clock) => State::There,
            Some(_) => State::Perhaps,
        }
    }
}

impl World {
    /// What was true all the time between this copy and a later one.
    pub(crate) fn throughout(mut self, later: &Self) -> Self {
        for (name, before) in &mut self.repositories {
            let Some(after) = later.repositories.get(name) else { continue };
            let changed: Vec<String> = after
                .manifests
                .iter()
                .filter(|(digest, now)| {
                    before.manifests.get(*digest).is_none_or(|then| then.version != now.version)
                })
                .map(|(digest, _)| digest.clone())
                .collect();
            for digest in changed {
                let Some(now) = after.manifests.get(&digest) else { continue };
                before.manifests.insert(digest, Manifest { state: State::Perhaps, ..now.clone() });
            }
            for (digest, now) in &after.blobs {
                if before.blobs.get(digest).is_none_or(|then| then.version != now.version) {
                    before.blobs.insert(digest.clone(), Blob { state: BlobState::Perhaps, ..*now });
                }
            }
            before
                .tags
                .retain(|tag, then| after.tags.get(tag).is_some_and(|now| now.version == then.version));
        }
        self
    }
}
