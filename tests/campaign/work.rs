//! What the clients do: everything that a push, a pull or a deletion can be, in repositories of their own, with
//! contents that others have too.

use std::sync::{Mutex, MutexGuard, PoisonError};

use torno_tests::{Image, OCI_IMAGE, OCI_INDEX, index, sha256};

use crate::{
    client::{Answer, Client, Unanswered},
    collector::Clock,
    model::{BlobState, Repository, State, World},
    noise::Noise,
    phase::Phase,
    tally::{Tally, Wrong},
};

/// Contents that all clients push, mount and delete: these meet in one file.
const SHARED: u64 = 24;

/// So many blobs and manifests of a repository, and more is deleted than pushed.
const MANY: usize = 40;

/// What all clients of a round share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) clock: &'a Clock,
    pub(crate) tally: &'a Tally,
    pub(crate) phase: &'a Phase,
    pub(crate) seed: u64,
}

/// One client at work.
#[derive(Debug)]
pub(crate) struct Worker<'a> {
    client: Client,
    world: &'a Mutex<World>,
    shared: Shared<'a>,
    noise: Noise,
    /// Its repositories; the last one is the one that pushes run in.
    names: [String; 3],
}

type Done = Result<(), Unanswered>;

impl<'a> Worker<'a> {
    /// The client of this number.
    pub(crate) fn new(
        number: u64,
        client: Client,
        world: &'a Mutex<World>,
        shared: Shared<'a>,
        noise: Noise,
    ) -> Self {
        let names =
            [format!("crash/{number}-a"), format!("crash/{number}-b"), format!("run/p/crash-{number}")];
        Self { client, world, shared, noise, names }
    }

    /// Works until the phase is over or the server is dead.
    pub(crate) fn work(&mut self) {
        while !self.shared.phase.is_over() {
            if let Err(Unanswered(why)) = self.step() {
                if !self.shared.phase.is_over() {
                    self.shared.tally.odd(format_args!("no answer from a server that lives: {why}"));
                }
                return;
            }
        }
    }

    fn step(&mut self) -> Done {
        let name = self.names[usize::from(self.noise.once_in(2))].clone();
        let size = self.with(&name, |repository| repository.size());
        let choice = if size > MANY { 10 + self.noise.below(6) } else { self.noise.below(24) };
        match choice {
            0..=3 => {
                let content = self.content();
                self.push_blob(&name, &content).map(drop)
            }
            4..=7 => self.push_image(&name),
            8..=9 => self.push_index(&name),
            10..=11 => self.delete_tag(&name),
            12..=13 => self.delete_manifest(&name),
            14..=15 => self.delete_blob(&name),
            16..=17 => self.mount(),
            18 => self.abandon(&name),
            19 if self.noise.once_in(6) => self.push_run(),
            _ => self.pull(&name),
        }
    }

    fn world(&self) -> MutexGuard<'a, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        change(self.world().repositories.entry(name.to_owned()).or_default())
    }

    fn blob_state(&self, name: &str, digest: &str) -> State {
        self.with(name, |repository| repository.blob_state(digest, self.shared.clock))
    }

    /// Bytes of any size: small ones go through the journal, large ones through a file.
    fn content(&mut self) -> Vec<u8> {
        let is_shared = self.noise.once_in(2);
        let seed = if is_shared { self.shared.seed } else { self.noise.next() };
        let mut noise = Noise::of(seed, 1_000_000 + self.noise.below(SHARED));
        let size = match noise.below(12) {
            0..=6 => 1 + noise.below(64 * 1024),
            7..=10 => 64 * 1024 + 1 + noise.below(300_000),
            _ => 1_000_000 + noise.below(1_500_000),
        };
        noise.bytes(usize::try_from(size).unwrap_or(1))
    }

    /// Notes an answer; one that nobody expects is told of.
    fn note(&self, what: &str, answer: &Answer, expected: &[u16]) {
        self.shared.tally.answered(what, answer.status);
        if !expected.contains(&answer.status) {
            let body = String::from_utf8_lossy(&answer.body);
            self.shared.tally.odd(format_args!("{what}: {} {body}", answer.status));
        }
    }

    fn lost(&self, detail: &str) {
        self.shared.tally.wrong(Wrong::Lost, "under load", detail);
    }

    /// Whether it was acknowledged.
    fn push_blob(&mut self, name: &str, bytes: &[u8]) -> Result<bool, Unanswered> {
        let digest = sha256(bytes);
        let mark = self.shared.clock.mark();
        self.with(name, |repository| repository.blob_comes(&digest));
        let begun = self.client.ask("POST", &format!("/v2/{name}/blobs/uploads/"))?;
        self.note("begin", &begun, &[202]);
        if begun.status != 202 {
            return Ok(false);
        }
        let mut location = begun.location;
        let kind = "application/octet-stream";
        let mut rest = bytes;
        if self.noise.once_in(3) {
            let at = usize::try_from(self.noise.below(bytes.len() as u64)).unwrap_or(0);
            let (first, last) = bytes.split_at(at);
            let patched = self.client.send("PATCH", &location, kind, first)?;
            self.note("patch", &patched, &[202]);
            if patched.status != 202 {
                return Ok(false);
            }
            (location, rest) = (patched.location, last);
        }
        let put = self.client.send("PUT", &format!("{location}?digest={digest}"), kind, rest)?;
        self.note("push blob", &put, &[201]);
        if put.status == 201 {
            self.with(name, |repository| repository.blob_came(&digest, mark));
        }
        Ok(put.status == 201)
    }

    /// Pushes an image's blobs, as clients do: what is there already is not sent.
    fn push_blobs(&mut self, name: &str, image: &Image) -> Result<Vec<String>, Unanswered> {
        let mut digests = Vec::new();
        for bytes in [&image.config].into_iter().chain(&image.layers) {
            let digest = sha256(bytes);
            let asks = self.noise.once_in(2);
            if !asks || self.client.ask("HEAD", &format!("/v2/{name}/blobs/{digest}"))?.status != 200 {
                self.push_blob(name, bytes)?;
            }
            digests.push(digest);
        }
        Ok(digests)
    }

    fn push_manifest(
        &mut self,
        name: &str,
        kind: &str,
        bytes: &[u8],
        named: (&[String], &[String]),
        tag: Option<&str>,
    ) -> Done {
        let digest = sha256(bytes);
        let (blobs, children) = named;
        self.with(name, |repository| repository.manifest_comes(&digest, blobs, children, tag));
        let path = format!("/v2/{name}/manifests/{}", tag.unwrap_or(&digest));
        let answer = self.client.send("PUT", &path, kind, bytes)?;
        // A collection may have taken what it names.
        self.note("push manifest", &answer, &[201, 404]);
        if answer.status == 201 {
            self.with(name, |repository| repository.manifest_came(&digest, tag));
        } else {
            let there = |blob: &String| self.blob_state(name, blob) == State::There;
            let are_there = blobs.iter().all(there)
                && children.iter().all(|child| {
                    self.with(name, |repository| {
                        repository.manifests.get(child).is_some_and(|child| child.state == State::There)
                    })
                });
            if are_there {
                let body = String::from_utf8_lossy(&answer.body);
                self.lost(&format!("{name}: manifest {digest} names what was acknowledged: {body}"));
            }
        }
        Ok(())
    }

    fn push_image(&mut self, name: &str) -> Done {
        let mut image = Image::new(&self.content());
        for _ in 0..self.noise.below(3) {
            image.layers.push(self.content());
        }
        let blobs = self.push_blobs(name, &image)?;
        let tag = (!self.noise.once_in(3)).then(|| format!("t{}", self.noise.below(6)));
        self.push_manifest(name, OCI_IMAGE, &image.manifest(), (&blobs, &[]), tag.as_deref())
    }

    fn push_index(&mut self, name: &str) -> Done {
        let images = [Image::new(&self.content()), Image::new(&self.content())];
        let manifests = images.each_ref().map(Image::manifest);
        for (image, bytes) in images.iter().zip(&manifests) {
            let blobs = self.push_blobs(name, image)?;
            self.push_manifest(name, OCI_IMAGE, bytes, (&blobs, &[]), None)?;
        }
        let all = index(OCI_INDEX, &[(&manifests[0], "amd64"), (&manifests[1], "arm64")]);
        let children = manifests.each_ref().map(|bytes| sha256(bytes));
        let tag = (!self.noise.once_in(3)).then(|| format!("t{}", self.noise.below(6)));
        self.push_manifest(name, OCI_INDEX, &all, (&[], &children), tag.as_deref())
    }

    /// Each tag is pushed once, so that it stands for one run.
    fn push_run(&mut self) -> Done {
        let name = self.names[2].clone();
        let tag = format!("v{}", self.noise.next());
        let size = 100 + self.noise.below(100_000);
        let image = Image::new(&self.noise.bytes(usize::try_from(size).unwrap_or(1)));
        let blobs = self.push_blobs(&name, &image)?;
        self.push_manifest(&name, OCI_IMAGE, &image.manifest(), (&blobs, &[]), Some(&tag))
    }

    fn delete_tag(&mut self, name: &str) -> Done {
        let mut tags = self.with(name, |repository| repository.tags.clone());
        tags.retain(|_, tag| tag.values.iter().any(Option::is_some));
        let Some((tag, before)) = self.noise.pick(tags) else { return Ok(()) };
        self.with(name, |repository| repository.tag_goes(&tag));
        let answer = self.client.ask("DELETE", &format!("/v2/{name}/manifests/{tag}"))?;
        self.note("delete tag", &answer, &[202, 404]);
        if answer.status == 404 && !before.values.contains(&None) {
            self.lost(&format!("{name}:{tag} is not there to be deleted"));
        }
        if matches!(answer.status, 202 | 404) {
            self.with(name, |repository| repository.tag_is(&tag, None));
        }
        Ok(())
    }

    fn delete_manifest(&mut self, name: &str) -> Done {
        let candidates: Vec<(String, State)> = self.with(name, |repository| {
            let all = repository.manifests.iter();
            let free =
                all.filter(|(digest, known)| known.state != State::Gone && !repository.may_be_child(digest));
            free.map(|(digest, known)| (digest.clone(), known.state)).collect()
        });
        let Some((digest, before)) = self.noise.pick(candidates) else { return Ok(()) };
        self.with(name, |repository| repository.manifest_goes(&digest));
        let answer = self.client.ask("DELETE", &format!("/v2/{name}/manifests/{digest}"))?;
        self.note("delete manifest", &answer, &[202, 404]);
        if answer.status == 404 && before == State::There {
            self.lost(&format!("{name}: manifest {digest} is not there to be deleted"));
        }
        if matches!(answer.status, 202 | 404) {
            self.with(name, |repository| repository.manifest_went(&digest));
        }
        Ok(())
    }

    /// Deletes a blob that no manifest names: what remains is then whole.
    fn delete_blob(&mut self, name: &str) -> Done {
        let candidates: Vec<String> = self.with(name, |repository| {
            let there = repository.blobs.iter().filter(|(_, blob)| blob.state != BlobState::Gone);
            there.map(|(digest, _)| digest).filter(|digest| !repository.may_name(digest)).cloned().collect()
        });
        let Some(digest) = self.noise.pick(candidates) else { return Ok(()) };
        let known = self.with(name, |repository| repository.blobs.get(&digest).map(|blob| blob.state));
        self.with(name, |repository| repository.blob_goes(&digest));
        let answer = self.client.ask("DELETE", &format!("/v2/{name}/blobs/{digest}"))?;
        self.note("delete blob", &answer, &[202, 404]);
        if answer.status == 404 && known.is_some_and(|state| state.is_there(self.shared.clock)) {
            self.lost(&format!("{name}: blob {digest} is not there to be deleted"));
        }
        if matches!(answer.status, 202 | 404) {
            self.with(name, |repository| repository.blob_went(&digest));
        }
        Ok(())
    }

    fn mount(&mut self) -> Done {
        let [from, to, _] = self.names.clone();
        let candidates: Vec<String> =
            self.with(&from, |repository| repository.blobs.keys().cloned().collect());
        let Some(digest) = self.noise.pick(candidates) else { return Ok(()) };
        let mark = self.shared.clock.mark();
        self.with(&to, |repository| repository.blob_comes(&digest));
        let path = format!("/v2/{to}/blobs/uploads/?mount={digest}&from={from}");
        let answer = self.client.ask("POST", &path)?;
        self.note("mount", &answer, &[201, 202]);
        match answer.status {
            201 => self.with(&to, |repository| repository.blob_came(&digest, mark)),
            202 => {
                if self.blob_state(&from, &digest) == State::There {
                    self.lost(&format!("{from}: blob {digest} is not there to be mounted"));
                }
                let cancelled = self.client.ask("DELETE", &answer.location)?;
                self.note("cancel", &cancelled, &[204]);
            }
            _ => {}
        }
        Ok(())
    }

    /// Begins an upload and does not end it.
    fn abandon(&mut self, name: &str) -> Done {
        let begun = self.client.ask("POST", &format!("/v2/{name}/blobs/uploads/"))?;
        self.note("begin", &begun, &[202]);
        let part = self.content();
        let patched = self.client.send("PATCH", &begun.location, "application/octet-stream", &part)?;
        self.note("patch", &patched, &[202]);
        if self.noise.once_in(2) {
            let cancelled = self.client.ask("DELETE", &begun.location)?;
            self.note("cancel", &cancelled, &[204]);
        }
        Ok(())
    }

    fn pull(&mut self, name: &str) -> Done {
        let (blobs, manifests) = self.with(name, |repository| {
            let blobs: Vec<String> = repository.blobs.keys().cloned().collect();
            let there = repository.manifests.iter().filter(|(_, known)| known.state == State::There);
            (blobs, there.map(|(digest, _)| digest.clone()).collect::<Vec<_>>())
        });
        if let Some(digest) = self.noise.pick(blobs) {
            let answer = self.client.ask("GET", &format!("/v2/{name}/blobs/{digest}"))?;
            self.shared.tally.answered("pull blob", answer.status);
            let is_whole = answer.status == 200 && sha256(&answer.body) == digest;
            if !is_whole && self.blob_state(name, &digest) == State::There {
                self.lost(&format!("{name}: blob {digest} is answered {}", answer.status));
            } else if answer.status == 200 && !is_whole {
                self.lost(&format!("{name}: blob {digest} has other bytes"));
            }
        }
        if let Some(digest) = self.noise.pick(manifests) {
            let answer = self.client.ask("GET", &format!("/v2/{name}/manifests/{digest}"))?;
            self.shared.tally.answered("pull manifest", answer.status);
            if answer.status != 200 || sha256(&answer.body) != digest {
                self.lost(&format!("{name}: manifest {digest} is answered {}", answer.status));
            }
        }
        Ok(())
    }
}
