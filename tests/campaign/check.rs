//! Whether what was acknowledged is there, asked as a client asks, and every byte compared.

use torno_tests::sha256;

use crate::{
    client::Client,
    collector::Clock,
    model::{Repository, State, World},
    tally::{Tally, Wrong},
};

/// What is compared with what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check<'a> {
    pub(crate) client: &'a Client,
    pub(crate) clock: &'a Clock,
    pub(crate) tally: &'a Tally,
    /// When: for whoever reads of it.
    pub(crate) when: &'a str,
}

impl Check<'_> {
    /// Compares a server with what a client knows; what was uncertain is as it was found from then on.
    pub(crate) fn all(&self, world: &mut World) {
        for (name, repository) in &mut world.repositories {
            self.tags(name, repository);
            self.manifests(name, repository);
            self.blobs(name, repository);
            repository.forget_gone();
        }
    }

    fn wrong(&self, what: Wrong, detail: &str) {
        self.tally.wrong(what, self.when, detail);
    }

    /// The status and the digest of what came.
    fn get(&self, path: &str) -> (u16, String) {
        match self.client.ask("GET", path) {
            Ok(answer) => (answer.status, sha256(&answer.body)),
            // It was cut off, or came too late: a pull that does not succeed.
            Err(crate::client::Unanswered(why)) => (0, why),
        }
    }

    fn tags(&self, name: &str, repository: &mut Repository) {
        for (tag, known) in repository.tags.clone() {
            let (status, digest) = self.get(&format!("/v2/{name}/manifests/{tag}"));
            let found = match status {
                200 => Some(digest),
                404 => None,
                _ => {
                    self.wrong(Wrong::Dangling, &format!("{name}:{tag} is answered {status} {digest}"));
                    continue;
                }
            };
            if !known.values.contains(&found) {
                let text = format!("{name}:{tag} is {found:?} and must be one of {:?}", known.values);
                self.wrong(Wrong::Lost, &text);
            }
            repository.tag_is(&tag, found.as_deref());
        }
    }

    fn manifests(&self, name: &str, repository: &mut Repository) {
        for (digest, known) in repository.manifests.clone() {
            let (status, found) = self.get(&format!("/v2/{name}/manifests/{digest}"));
            let state = repository.manifests.get(&digest).map_or(known.state, |now| now.state);
            match (state, status) {
                (_, 200) if found != digest => {
                    self.wrong(Wrong::Lost, &format!("{name}: manifest {digest} has other bytes"));
                }
                (State::There | State::Perhaps, 200) | (State::Gone, 404) => {}
                (State::Perhaps, 404) => repository.manifest_went(&digest),
                (State::Gone, 200) => {
                    self.wrong(Wrong::Lost, &format!("{name}: the deletion of manifest {digest}"));
                }
                (State::There, _) => {
                    self.wrong(Wrong::Lost, &format!("{name}: manifest {digest}: {status} {found}"));
                    // Told of once.
                    repository.manifest_went(&digest);
                }
                _ => self.wrong(Wrong::Dangling, &format!("{name}: manifest {digest}: {status} {found}")),
            }
        }
    }

    fn blobs(&self, name: &str, repository: &mut Repository) {
        let digests: Vec<String> = repository.blobs.keys().cloned().collect();
        for digest in digests {
            let (status, found) = self.get(&format!("/v2/{name}/blobs/{digest}"));
            match (repository.blob_state(&digest, self.clock), status) {
                (state, 200) if found != digest => {
                    self.wrong(Wrong::Lost, &format!("{name}: blob {digest} ({state:?}) has other bytes"));
                }
                (State::There | State::Perhaps, 200) | (State::Gone, 404) => {}
                (State::Perhaps, 404) => repository.blob_went(&digest),
                (State::Gone, 200) => {
                    self.wrong(Wrong::Lost, &format!("{name}: the deletion of blob {digest}"));
                }
                (State::There, _) => {
                    self.wrong(Wrong::Lost, &format!("{name}: blob {digest}: {status} {found}"));
                    repository.blob_went(&digest);
                }
                _ => self.wrong(Wrong::Dangling, &format!("{name}: blob {digest}: {status} {found}")),
            }
        }
    }
}
