//! Backups, step by step.

use std::{fs, sync::Arc, thread, time::Duration};

use torno_blob::BlobStore;
use torno_registry::{Backup, Registry, Superfluous, restore};

use crate::{NO_GRACE, Site};

/// Something large enough for a file of its own at once.
fn large(seed: u8) -> Vec<u8> {
    vec![seed; 70_000]
}

/// Blocks until gc has come and gone.
fn collect(registry: &Arc<Registry>) {
    let registry = Arc::clone(registry);
    let gc = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime
            .block_on(registry.collect(&torno_registry::Retention::default(), NO_GRACE, |_| {}))
            .expect("collected");
    });
    gc.join().expect("no failure");
}

#[tokio::test]
async fn gc_takes_what_it_likes_before_the_last_blobs_and_nothing_then() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let gone = site.push_blob(&permit, &large(1)).await;
    let (data, htpasswd) = (site.folder.path(), site.folder.path().join("htpasswd"));
    let folder = tempfile::tempdir().expect("folder");
    let backup = Backup::open(folder.path(), data).expect("backup");
    assert!(Backup::open(folder.path(), data).is_err(), "one at a time");
    let store = BlobStore::open(data, Duration::from_hours(1)).expect("store");
    let mut free = Vec::new();
    let made = site.registry.back_up(data, &htpasswd, &backup, Superfluous::Keep, |_, done| {
        if done > 0 {
            return;
        }
        // At the beginning of each pass.
        let right = store.try_lock_files().expect("lock");
        free.push(right.is_some());
        drop(right);
        if free.len() == 1 {
            // Just seen, and not taken yet.
            collect(&site.registry);
        }
    });
    let made = made.await.expect("backed up");
    assert_eq!(free, [true, false], "gc works beside the first pass and not beside the last");
    assert!(made.lost.is_empty() && made.blobs == 0, "{made:?}");
    assert!(store.try_lock_files().expect("lock").is_some(), "and then again");
    drop(backup);

    let to = tempfile::tempdir().expect("folder");
    let data = to.path().join("data");
    let restored =
        restore(folder.path(), &data, &data.join("htpasswd"), &data.join("audit"), |_, _| {}).await;
    let restored = restored.expect("restored");
    assert!(restored.lost.is_empty(), "{restored:?} speaks of {gone}");
}

#[tokio::test]
async fn a_restore_that_was_stopped_goes_on() {
    let site = Site::new();
    let permit = site.permit("tools/a").await;
    let blob = site.push_blob(&permit, &large(1)).await;
    let small = site.push_blob(&permit, b"small").await;
    let htpasswd = site.folder.path().join("htpasswd");
    let folder = tempfile::tempdir().expect("folder");
    let backup = Backup::open(folder.path(), site.folder.path()).expect("backup");
    let made =
        site.registry.back_up(site.folder.path(), &htpasswd, &backup, Superfluous::Keep, |_, _| {}).await;
    assert_eq!(made.expect("backed up").blobs, 1, "the database has the other");

    let to = tempfile::tempdir().expect("folder");
    let data = to.path().join("data");
    let file = data.join("blobs/sha256").join(&blob.hex()[..2]).join(blob.hex());
    // Dropped when the blobs are about to be taken.
    let audit = data.join("audit");
    let stopped = tokio::select! {
        biased;
        _ = restore(folder.path(), &data, &htpasswd, &audit, |_, _| fs::write(data.join("seen"), "").expect("write")) => false,
        () = async { while !data.join("seen").exists() { tokio::task::yield_now().await; } } => true,
    };
    assert!(stopped && !data.join("torno.db").exists(), "not a registry yet");
    let made = restore(folder.path(), &data, &htpasswd, &audit, |_, _| {}).await.expect("restored");
    assert!(made.lost.is_empty());
    assert_eq!(fs::read(&file).expect("read"), large(1));
    assert!(!data.join("restoring").exists());
    let again = restore(folder.path(), &data, &htpasswd, &audit, |_, _| {}).await;
    assert!(again.is_err(), "it is in use now");
    let restored = Site { registry: crate::open(&data, torno_registry::Settings::default()), folder: to };
    assert_eq!(restored.content("tools/a", &small).await, b"small");
    assert_eq!(restored.content("tools/a", &blob).await, large(1));
}
