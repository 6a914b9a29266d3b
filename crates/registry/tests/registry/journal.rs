//! Small blobs between their acknowledgement and the disk.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use bytes::Bytes;
use futures_util::{future, stream};
use torno_audit::Actor;
use torno_oci::Digest;
use torno_registry::{Reading, Retention, Settings};

use crate::{NO_GRACE, Site, ada, name};

impl Site {
    pub(crate) fn file_of(&self, blob: &Digest) -> PathBuf {
        let (shard, _) = blob.hex().split_at(2);
        self.folder.path().join("blobs/sha256").join(shard).join(blob.hex())
    }

    pub(crate) async fn content(&self, repository: &str, blob: &Digest) -> Vec<u8> {
        let permit = self.registry.pull_permit(&ada(), &name(repository)).await.expect("permit");
        self.registry.blob(&permit, blob, Reading::Copied).await.expect("blob").bytes().await.expect("bytes")
    }

    /// The process dies; the next one has what is on the disk.
    pub(crate) fn restart(&mut self) {
        self.registry = crate::open(self.folder.path(), Settings::default());
    }
}

#[tokio::test]
async fn a_blob_is_in_place_at_once_and_settled_later() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    assert_eq!(site.registry.settle().await.expect("settle"), 0);
    let digest = site.push_blob(&permit, b"small").await;
    assert_eq!(fs::read(site.file_of(&digest)).expect("file"), b"small");
    site.registry.unsettled().await;
    assert_eq!(site.registry.settle().await.expect("settle"), 1);
    assert_eq!(site.registry.settle().await.expect("settle"), 0, "once");
    assert_eq!(site.content("tools/a", &digest).await, b"small");
}

#[tokio::test]
async fn files_that_a_loss_of_power_took_are_written_again() {
    let mut site = Site::new();
    let permit = site.permit("tools/a").await;
    let mut digests = Vec::new();
    for (content, left) in [
        (&b"gone"[..], None),
        (b"cut short", Some(&b""[..])),
        (b"without its bytes", Some(&[0; 17])),
        (b"whole", Some(b"whole")),
    ] {
        let digest = site.push_blob(&permit, content).await;
        match left {
            None => fs::remove_file(site.file_of(&digest)).expect("remove"),
            Some(left) => fs::write(site.file_of(&digest), left).expect("write"),
        }
        digests.push((digest, content));
    }
    site.restart();
    // Before anything is settled, what is visibly wrong is read from the journal.
    for (digest, content) in &digests[..2] {
        assert_eq!(site.content("tools/a", digest).await, *content);
    }
    let inode = |digest: &Digest| fs::metadata(site.file_of(digest)).expect("file").ino();
    let whole = &digests[3].0;
    let before = inode(whole);
    assert_eq!(site.registry.settle().await.expect("settle"), 4);
    assert_ne!(inode(whole), before, "what looks right may be in memory only");
    for (digest, content) in &digests {
        assert_eq!(fs::read(site.file_of(digest)).expect("file"), *content);
        assert_eq!(site.content("tools/a", digest).await, *content);
    }
    let uploads = fs::read_dir(site.folder.path().join("uploads")).expect("folder").count();
    assert_eq!((uploads, site.blob_files()), (0, 4));
    site.restart();
    assert_eq!(site.registry.settle().await.expect("settle"), 0);
}

#[tokio::test]
async fn a_blob_whose_file_cannot_be_made_is_served_and_settled_when_it_can() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    assert_eq!(site.registry.settle().await.expect("settle"), 0);
    let digest = Digest::sha256(b"small");
    let file = site.file_of(&digest);
    let folder = file.parent().expect("folder");
    fs::remove_dir(folder).expect("remove");
    fs::write(folder, b"in the way").expect("write");
    assert_eq!(site.push_blob(&permit, b"small").await, digest);
    assert_eq!(site.content("tools/a", &digest).await, b"small");
    assert!(site.registry.settle().await.is_err());
    assert_eq!(site.content("tools/a", &digest).await, b"small", "it is still in the journal");
    fs::remove_file(folder).expect("remove");
    assert_eq!(site.registry.settle().await.expect("settle"), 1);
    assert_eq!(fs::read(&file).expect("file"), b"small");
}

#[tokio::test]
async fn what_gc_took_does_not_come_back() {
    let mut site = Site::new();
    let permit = site.permit("tools/a").await;
    let digest = site.push_blob(&permit, b"small").await;
    // Again, so that the journal has it twice.
    site.push_blob(&permit, b"small").await;
    let delete = site.registry.delete_permit(&ada(), &name("tools/a")).await.expect("permit");
    site.registry.delete_blob(&delete, &Actor::torno(), &digest).await.expect("delete");
    assert_eq!(site.registry.collect(&Retention::default(), NO_GRACE, |_| ()).await.expect("gc").blobs, 1);
    assert_eq!(site.blob_files(), 0);
    site.restart();
    site.registry.settle().await.expect("settle");
    assert_eq!(site.blob_files(), 0);
}

#[tokio::test]
async fn many_push_the_same_bytes_at_once() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let digest = Digest::sha256(b"the same");
    let push = async || {
        let id = site.registry.begin_upload(&permit).expect("begin");
        let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"the same"))]);
        site.registry.finish_upload_with(&permit, &id, body, &digest).await.expect("finish");
    };
    future::join_all((0..20).map(|_| push())).await;
    assert_eq!(site.content("tools/a", &digest).await, b"the same");
    site.registry.settle().await.expect("settle");
    assert_eq!(site.blob_files(), 1);
}
