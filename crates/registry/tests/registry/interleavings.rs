//! Every order in which the steps of two pushes, a deletion and a collection of the same blob can follow each other.
//!
//! The steps are those of [`torno_registry`], taken one by one: what they are made of is the real database and the real
//! files. After each step, what a repository links can be read; in the end, nothing is left that nothing needs.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use torno_blob::{Alive, BlobStore, FilesLock, Reading, Synced};
use torno_metadata::{Hold, HoldId, JournalId, JournalReader, Journaled, Metadata, Sweep};
use torno_oci::{Digest, RepositoryName, UploadId, UserName};

use crate::{NO_GRACE, name};

/// Who takes a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    /// Pushes the blob to `a` as small ones are pushed: into the journal, then its file in place.
    Small,
    /// Pushes it to `b` as large ones are: hold, place, link.
    Large,
    /// Deletes it from `a`.
    Deleter,
    /// Collects garbage: marks, removes files, forgets rows.
    Collector,
}

/// How many steps each has.
const STEPS: [(Actor, usize); 4] =
    [(Actor::Small, 2), (Actor::Large, 3), (Actor::Deleter, 1), (Actor::Collector, 3)];

/// All orders of all steps.
fn orders() -> Vec<Vec<Actor>> {
    fn extend(order: &mut Vec<Actor>, left: &mut [(Actor, usize); 4], orders: &mut Vec<Vec<Actor>>) {
        if left.iter().all(|(_, left)| *left == 0) {
            orders.push(order.clone());
        }
        for index in 0..left.len() {
            if left[index].1 > 0 {
                left[index].1 -= 1;
                order.push(left[index].0);
                extend(order, left, orders);
                order.pop();
                left[index].1 += 1;
            }
        }
    }
    let mut orders = Vec::new();
    extend(&mut Vec::new(), &mut STEPS.clone(), &mut orders);
    orders
}

struct House {
    folder: PathBuf,
    blobs: BlobStore,
    metadata: Metadata,
    journal: JournalReader,
    alive: Alive,
    owner: UserName,
}

/// One order, with a blob and two repositories of its own.
struct Play<'a> {
    house: &'a House,
    digest: Digest,
    bytes: Vec<u8>,
    a: RepositoryName,
    b: RepositoryName,
    /// What the large push has received.
    synced: Option<Synced>,
    hold: Option<HoldId>,
    entry: Option<JournalId>,
    right: Option<FilesLock>,
    marked: Vec<Digest>,
    /// How many steps each has taken.
    taken: [usize; 4],
}

impl House {
    async fn play(&self, number: usize) -> Play<'_> {
        let bytes = format!("blob {number}").into_bytes();
        let digest = Digest::sha256(&bytes);
        let id = UploadId::from_bytes(u128::try_from(number).expect("few").to_be_bytes());
        assert!(self.blobs.begin(&id));
        let body = stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(&bytes))]);
        self.blobs.append(&id, None, body).await.expect("append");
        let synced = self.blobs.sync(self.blobs.seal(&id, &digest).await.expect("seal")).await.expect("sync");
        Play {
            house: self,
            digest,
            bytes,
            a: name(&format!("a/r{number}")),
            b: name(&format!("b/r{number}")),
            synced: Some(synced),
            hold: None,
            entry: None,
            right: None,
            marked: Vec::new(),
            taken: [0; 4],
        }
    }

    /// Marks all garbage there is, without any grace.
    async fn sweep(&self) -> Vec<Digest> {
        let later = Timestamp::now() + Duration::from_secs(1);
        let (mut next, mut marked) = (Some(Sweep::default()), Vec::new());
        while let Some(from) = next {
            let swept = self.metadata.sweep(from, NO_GRACE, later).await.expect("sweep");
            marked.extend(swept.blobs.into_iter().map(|garbage| garbage.blob));
            next = swept.next;
        }
        marked
    }

    async fn remove(&self, marked: &[Digest], right: &FilesLock) {
        self.blobs.remove(&marked.iter().collect::<Vec<_>>(), right).await.expect("removed");
    }

    fn file_of(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex())
    }
}

impl Play<'_> {
    /// Takes the next step of somebody; `false` if they have to wait, and try again later.
    async fn step(&mut self, actor: Actor) -> bool {
        let House { metadata, blobs, journal, alive, owner, .. } = self.house;
        let index = STEPS.iter().position(|(one, _)| *one == actor).expect("an actor");
        let now = Timestamp::now();
        let done = match (actor, self.taken[index]) {
            (Actor::Small, 0) => {
                let bytes = Bytes::copy_from_slice(&self.bytes);
                match metadata.link_journaled(&self.a, owner, &self.digest, bytes, now).await.expect("link") {
                    Journaled::Linked(entry) => {
                        self.entry = Some(entry);
                        true
                    }
                    Journaled::Deleting => self.help_deleting().await,
                }
            }
            (Actor::Small, 1) => {
                // Without the right, the file is left to whoever settles the journal.
                if let Some(right) = blobs.try_lock_files().expect("lock") {
                    let entry = self.entry.expect("the first step");
                    if journal.needed(&[entry]).expect("read").contains(&entry) {
                        blobs.put(&self.digest, &self.bytes, &right).expect("put");
                    }
                }
                true
            }
            (Actor::Large, 0) => {
                let size = self.bytes.len() as u64;
                match metadata.hold(&self.digest, size, alive.name(), now).await.expect("hold") {
                    Hold::Held(id) => {
                        self.hold = Some(id);
                        true
                    }
                    Hold::Deleting => self.help_deleting().await,
                }
            }
            (Actor::Large, 1) => {
                let synced = self.synced.take().expect("the first step");
                blobs.place(synced, ()).await.expect("placed");
                true
            }
            (Actor::Large, 2) => {
                let hold = self.hold.take().expect("the first step");
                metadata.link(hold, &self.b, owner, &self.digest, now).await.expect("linked");
                true
            }
            (Actor::Deleter, 0) => {
                metadata.unlink(&self.a, &self.digest).await.expect("unlinked");
                true
            }
            (Actor::Collector, 0) => {
                self.right = blobs.try_lock_files().expect("lock");
                if self.right.is_some() {
                    self.marked = self.house.sweep().await;
                }
                self.right.is_some()
            }
            (Actor::Collector, 1) => {
                self.house.remove(&self.marked, self.right.as_ref().expect("the first step")).await;
                true
            }
            (Actor::Collector, _) => {
                metadata.forget(std::mem::take(&mut self.marked)).await.expect("forgotten");
                self.right = None;
                true
            }
            (actor, step) => unreachable!("{actor:?} has no step {step}"),
        };
        self.taken[index] += usize::from(done);
        done
    }

    /// What a push does that finds its blob being deleted: it ends that, if whoever began has gone. It waits either way.
    async fn help_deleting(&self) -> bool {
        let House { metadata, blobs, .. } = self.house;
        if let Some(right) = blobs.try_lock_files().expect("lock")
            && metadata.deleting_blob(&self.digest).await.expect("read").is_some()
        {
            self.house.remove(std::slice::from_ref(&self.digest), &right).await;
            metadata.forget(vec![self.digest.clone()]).await.expect("forgotten");
        }
        false
    }

    /// Whether a repository may serve the blob; if so, its bytes must be there.
    async fn is_linked(&self, repository: &RepositoryName) -> bool {
        let House { metadata, blobs, .. } = self.house;
        metadata.distrust(repository);
        let Some(size) = metadata.linked(repository, &self.digest).await.expect("linked") else {
            return false;
        };
        let found = match blobs.read(&self.digest, size, Reading::Copied).await {
            Ok(blob) => blob.bytes().await.expect("bytes"),
            Err(_) => metadata.journaled(&self.digest).await.expect("journal").expect("a link to nothing"),
        };
        assert_eq!(found, self.bytes);
        true
    }
}

#[tokio::test]
async fn no_order_of_steps_leaves_a_link_to_nothing_or_anything_that_nothing_needs() {
    // In memory where that is possible: what a loss of power leaves is not the question here.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("folder");
    let blobs = BlobStore::open(folder.path(), Duration::from_hours(1)).expect("blobs");
    let metadata = Metadata::open(&folder.path().join("torno.db")).expect("metadata");
    let journal = metadata.journal_reader().expect("reader");
    let alive = blobs.sign_in("alive".into()).await.expect("signed");
    let owner = "ada".parse().expect("name");
    let house = House { folder: folder.path().to_owned(), blobs, metadata, journal, alive, owner };
    let orders = orders();
    assert_eq!(orders.len(), 5040, "9! / (2! 3! 1! 3!)");
    let (mut both, mut neither) = (0, 0);

    for (number, order) in orders.iter().enumerate().step_by(every()) {
        let mut play = house.play(number).await;
        let mut waiting = Vec::new();
        for actor in order {
            if !play.step(*actor).await {
                waiting.push(*actor);
            }
            play.is_linked(&play.a).await;
            play.is_linked(&play.b).await;
        }
        // Whoever had to wait has nobody to wait for but the others who do.
        for _ in 0..4 {
            let mut still = Vec::new();
            for actor in waiting {
                if !play.step(actor).await {
                    still.push(actor);
                }
            }
            waiting = still;
        }
        assert!(waiting.is_empty(), "{order:?}: {waiting:?} wait for ever");
        let linked = (play.is_linked(&play.a).await, play.is_linked(&play.b).await);
        match linked {
            (true, true) => both += 1,
            (false, false) => neither += 1,
            _ => {}
        }
        let (a, b, digest) = (play.a.clone(), play.b.clone(), play.digest.clone());
        drop(play);
        for repository in [a, b] {
            house.metadata.unlink(&repository, &digest).await.expect("unlinked");
        }
        let right = house.blobs.lock_files().await.expect("lock");
        let marked = house.sweep().await;
        house.remove(&marked, &right).await;
        house.metadata.forget(marked).await.expect("forgotten");
        assert!(!house.file_of(&digest).exists(), "{order:?}: a file that nothing needs");
        assert!(house.metadata.holders().await.expect("holders").is_empty(), "{order:?}: a hold");
    }
    assert!(both > 0 && neither > 0, "{both} kept both links and {neither} none: the orders differ");
}

/// `TORNO_ORDERS=all` plays every order; without it, every third.
fn every() -> usize {
    if std::env::var("TORNO_ORDERS").is_ok_and(|which| which == "all") { 1 } else { 3 }
}
