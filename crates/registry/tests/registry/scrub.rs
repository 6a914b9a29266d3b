//! The server's own look at everything that is stored.

use std::{fs, os::unix::fs::FileExt as _, time::Duration};

use torno_metadata::{Metadata, ScrubPass};
use torno_oci::Digest;
use torno_registry::{Reading, RegistryError};

use crate::{Site, ada, name};

/// More than any test has.
const FAST: u64 = 1 << 40;

#[tokio::test]
async fn what_is_damaged_is_found_and_put_aside() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let (good, bad) = (vec![1; 300_000], vec![2; 300_000]);
    let (good_digest, bad_digest) =
        (site.push_blob(&permit, &good).await, site.push_blob(&permit, &bad).await);
    let manifest = site.push("tools/a", "v", "layer").await.0;
    site.registry.settle().await.expect("settle");
    let healthy = site.registry.scrub(FAST).await.expect("scrub");
    assert_eq!((healthy.blobs, healthy.manifests, healthy.damaged), (4, 1, 0));

    let file = fs::File::options().write(true).open(site.file_of(&bad_digest)).expect("file");
    file.write_all_at(&[3], 299_999).expect("write");
    let database = rusqlite::Connection::open(site.folder.path().join("torno.db")).expect("open");
    database.execute("UPDATE manifests SET bytes = X'7B7D'", []).expect("damaged");
    let found = site.registry.scrub(FAST).await.expect("scrub");
    assert_eq!((found.blobs, found.manifests, found.damaged), (4, 1, 2));
    let pull = site.registry.pull_permit(&ada(), &name("tools/a")).await.expect("permit");
    let unknown = site.registry.blob(&pull, &bad_digest, Reading::Copied).await;
    assert!(matches!(unknown, Err(RegistryError::BlobUnknown(_))), "{unknown:?}");
    let read = site.registry.blob(&pull, &good_digest, Reading::Copied).await.expect("blob");
    assert_eq!(read.bytes().await.expect("bytes"), good);
    let unknown = site.pull("tools/a", "v").await;
    assert!(matches!(unknown, Err(RegistryError::ManifestUnknown(_))), "{unknown:?}");

    let again = site.registry.scrub(FAST).await.expect("scrub");
    assert_eq!((again.blobs, again.manifests, again.damaged), (3, 0, 0), "nothing is found twice");
    site.push_blob(&permit, &bad).await;
    assert_eq!(site.push("tools/a", "v", "layer").await.0, manifest);
    assert_eq!(site.pull("tools/a", "v").await.expect("mended"), manifest);
    let read = site.registry.blob(&pull, &bad_digest, Reading::Copied).await.expect("blob");
    assert_eq!(read.bytes().await.expect("bytes"), bad);
}

#[tokio::test]
async fn a_pass_that_was_broken_off_goes_on_where_it_was() {
    let mut site = Site::new();
    let permit = site.permit("tools/a").await;
    let mut blobs = Vec::new();
    for seed in 0..4 {
        blobs.push(site.push_blob(&permit, &vec![seed; 100_000]).await);
    }
    blobs.sort();
    let hour = Duration::from_hours(1);
    assert_eq!(site.registry.scrub_due(hour).await.expect("due"), Duration::ZERO);
    // It waits for its turn to read, and is dropped there.
    let registry = std::sync::Arc::clone(&site.registry);
    let mut stopped = Box::pin(registry.scrub(1));
    let metadata = Metadata::open(&site.folder.path().join("torno.db")).expect("open");
    let begun = loop {
        assert!(futures_util::poll!(stopped.as_mut()).is_pending());
        match metadata.scrub_pass().await.expect("read") {
            Some(pass) => break pass,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!((&begun.after, begun.done), (&None, false));
    drop(stopped);
    let halfway = ScrubPass { after: Some(blobs[1].clone()), ..begun };
    metadata.note_scrub(&halfway).await.expect("noted");
    site.restart();
    assert_eq!(site.registry.scrub_due(hour).await.expect("due"), Duration::ZERO);
    let rest = site.registry.scrub(FAST).await.expect("scrub");
    assert_eq!((rest.blobs, rest.bytes), (2, 200_000));
    let due = site.registry.scrub_due(hour).await.expect("due");
    assert!(due > Duration::from_mins(59) && due <= hour, "{due:?}");
    assert_eq!(site.registry.scrub_due(Duration::ZERO).await.expect("due"), Duration::ZERO);
    assert_eq!(site.registry.scrub(FAST).await.expect("scrub").blobs, 4, "the next pass begins anew");
}

#[tokio::test]
async fn the_journal_mends_what_it_still_has() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let digest: Digest = site.push_blob(&permit, b"small").await;
    fs::write(site.file_of(&digest), b"smell").expect("write");
    assert_eq!(site.registry.scrub(FAST).await.expect("scrub").damaged, 0);
    assert_eq!(fs::read(site.file_of(&digest)).expect("file"), b"small");
}
