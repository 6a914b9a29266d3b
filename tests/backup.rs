//! Backups that are made while the server serves, and what is restored from them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use torno_tests::{Http, Image, Site, layer, sha256, wait_until};

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A site without data, which knows nobody.
fn empty_site() -> Site {
    let site = Site::new("");
    fs::remove_dir_all(site.path("registry-data")).expect("removed");
    site
}

/// Starts a site from a backup.
fn restored(backup: &Path) -> Site {
    let mut site = empty_site();
    site.torno_ok(&["restore", text(backup)]);
    site.start();
    site
}

/// A layer that goes to a file of its own.
fn large(seed: &str) -> Vec<u8> {
    seed.bytes().cycle().take(70_000).collect()
}

/// Something that was pushed: where it is read, and its bytes' digest.
type Pushed = (String, String);

fn is_manifest(path: &str) -> bool {
    path.contains("/manifests/")
}

/// Pushes and deletes images until told to stop; all that ever was there.
fn keep_pushing(http: &Http, repository: &str, done: &AtomicBool, pushed: &Mutex<Vec<Pushed>>) {
    for round in 0.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let mut image = Image::new(&large(&format!("{repository} {round}")));
        image.layers.push(layer(&format!("{repository} {}", round % 5)));
        image.layers.push(large("the same for all"));
        // gc has no grace here, and may take a blob before its manifest comes; a client pushes again.
        let stored = (0..50).any(|_| image.push(http, repository, &format!("v{}", round % 7)).status == 201);
        let mut pushed = pushed.lock().expect("not poisoned");
        for blob in image.layers.iter().chain([&image.config]) {
            let digest = sha256(blob);
            pushed.push((format!("/v2/{repository}/blobs/{digest}"), digest));
        }
        if stored {
            let digest = image.digest();
            pushed.push((format!("/v2/{repository}/manifests/{digest}"), digest));
        }
        drop(pushed);
        if stored && round % 3 == 0 {
            http.delete(&format!("/v2/{repository}/manifests/{}", image.digest())).expect(202);
        }
    }
}

#[test]
fn a_backup_made_amid_pushes_and_gc_has_all_that_its_database_speaks_of() {
    let site = Site::start_with("", &["ada"]);
    let folder = tempfile::tempdir().expect("folder");
    let backup = folder.path().join("backup");
    let (done, pushed) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let gc = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                site.torno_ok(&["gc", "--grace", "0s"]);
            }
        });
        let pushing = [0, 1].map(|number| {
            let (site, done, pushed) = (&site, &done, &pushed);
            scope.spawn(move || {
                keep_pushing(&site.http("ada"), &format!("tools/x{number}"), done, pushed);
            })
        });
        for backups in 1..=6 {
            let manifests = |pushed: &[Pushed]| pushed.iter().filter(|(path, _)| is_manifest(path)).count();
            wait_until("more is pushed", || {
                (manifests(&pushed.lock().expect("not poisoned")) >= 3 * backups).then_some(())
            });
            site.torno_ok(&["backup", text(&backup)]);
        }
        done.store(true, Ordering::Relaxed);
        gc.join().expect("no failure");
        for thread in pushing {
            thread.join().expect("no failure");
        }
    });

    let again = restored(&backup);
    let ada = again.http("ada");
    let mut there = [0, 0];
    for (path, digest) in pushed.into_inner().expect("not poisoned") {
        // What the database speaks of is found without a look at the file.
        if ada.head(&path).status == 200 {
            assert_eq!(sha256(&ada.get(&path).expect(200).body), digest, "{path}");
            there[usize::from(is_manifest(&path))] += 1;
        }
    }
    let [blobs, manifests] = there;
    assert!(blobs > 5 && manifests > 1, "{blobs} blobs and {manifests} manifests are too few");
    for repository in ["tools/x0", "tools/x1"] {
        let listed = ada.get(&format!("/v2/{repository}/tags/list")).expect(200).json();
        for tag in listed["tags"].as_array().expect("tags") {
            let path = format!("/v2/{repository}/manifests/{}", tag.as_str().expect("a tag"));
            let manifest = ada.get(&path).expect(200).json();
            for named in manifest["layers"].as_array().expect("layers").iter().chain([&manifest["config"]]) {
                let digest = named["digest"].as_str().expect("a digest");
                let blob = ada.get(&format!("/v2/{repository}/blobs/{digest}"));
                assert_eq!(sha256(&blob.expect(200).body), digest);
            }
        }
    }
    Image::new(&layer("new")).push(&ada, "tools/new", "v").expect(201);
}

#[test]
fn only_what_is_new_is_added_and_secrets_stay_private() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let first = Image::new(&large("first"));
    first.push(&ada, "tools/x", "first").expect(201);
    // On another file system, where nothing can be linked.
    let elsewhere = tempfile::tempdir_in("/dev/shm").expect("folder");
    let here = tempfile::tempdir_in(site.path("")).expect("folder");
    for (folder, word) in [(&elsewhere, "copied"), (&here, "linked")] {
        let said = site.torno_ok(&["backup", text(folder.path())]);
        assert!(said.contains(&format!("1 {word}")) || said.contains(&format!("2 {word}")), "{said}");
    }
    let key = fs::read(site.path("registry-data/keys/upload")).expect("key");
    let second = Image::new(&large("second"));
    second.push(&ada, "tools/x", "second").expect(201);
    // So that the small blobs of the first image have left the database.
    wait_until("the journal is settled", || {
        let output = site.torno(&["backup", text(elsewhere.path())]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains("new: 0 linked, 0 copied").then_some(())
    });
    site.torno_ok(&["backup", text(here.path())]);
    for folder in [&elsewhere, &here] {
        let states: Vec<_> = fs::read_dir(folder.path())
            .expect("folder")
            .map(|entry| entry.expect("entry").path())
            .filter(|path| text(path).contains("/state-"))
            .collect();
        let [state] = &states[..] else { panic!("one state: {states:?}") };
        for name in ["torno.db", "htpasswd", "keys/upload"] {
            let mode = fs::metadata(state.join(name)).expect("file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::read(state.join("keys/upload")).expect("key"), key);
        // What a backup that was killed leaves is not taken for a whole one.
        fs::create_dir(folder.path().join("state-99999999999999")).expect("folder");
    }
    drop(site);
    let again = restored(elsewhere.path());
    let ada = again.http("ada");
    for (tag, image) in [("first", &first), ("second", &second)] {
        let pulled = ada.get(&format!("/v2/tools/x/manifests/{tag}"));
        assert_eq!(pulled.expect(200).body, image.manifest());
        let blob = ada.get(&format!("/v2/tools/x/blobs/{}", sha256(&image.layers[0])));
        assert_eq!(blob.expect(200).body, image.layers[0]);
    }
    for name in ["torno.db", "htpasswd", "keys/upload"] {
        let path = again.path("registry-data").join(name);
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_folder_that_is_no_backup_or_not_empty_is_refused() {
    let site = Site::start_with("", &["ada"]);
    Image::new(&large("x")).push(&site.http("ada"), "tools/x", "v").expect(201);
    let refused = |site: &Site, arguments: &[&str]| {
        let output = site.torno(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&site, &["backup", text(&site.path("registry-data/backup"))]);
    assert!(said.contains("lies in the data directory"), "{said}");
    assert!(!site.path("registry-data/backup").exists());
    let said = refused(&site, &["backup", text(&site.path(""))]);
    assert!(said.contains("holds something else"), "{said}");

    let folder = tempfile::tempdir().expect("folder");
    let backup = text(folder.path());
    let empty = empty_site();
    let said = refused(&empty, &["restore", backup]);
    assert!(said.contains("no complete backup"), "{said}");
    site.torno_ok(&["backup", backup]);
    let said = refused(&site, &["restore", backup]);
    assert!(said.contains("is not empty"), "{said}");
    let complete = folder.path().join("complete");
    let name = fs::read(&complete).expect("read");
    for wrong in ["../..", "state-", "state-1/..", &"state-1".repeat(20)] {
        fs::write(&complete, wrong).expect("write");
        let said = refused(&empty, &["restore", backup]);
        assert!(said.contains("is not what it should be"), "{wrong}: {said}");
    }
    fs::remove_file(&complete).expect("removed");
    let said = refused(&empty, &["restore", backup]);
    assert!(said.contains("no complete backup"), "{said}");
    fs::write(&complete, name).expect("write");
    empty.torno_ok(&["restore", backup]);
}

#[test]
fn what_the_original_lacks_is_named_and_the_rest_is_kept() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let images = ["lost", "kept"].map(|name| {
        let image = Image::new(&large(name));
        image.push(&ada, "tools/x", name).expect(201);
        image
    });
    let lost = sha256(&images[0].layers[0]);
    let hex = &lost["sha256:".len()..];
    fs::remove_file(site.path(&format!("registry-data/blobs/sha256/{}/{hex}", &hex[..2]))).expect("removed");
    let folder = tempfile::tempdir().expect("folder");
    let backup = site.torno(&["backup", text(folder.path())]);
    let said = String::from_utf8_lossy(&backup.stderr).into_owned();
    assert_eq!(backup.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("lost: {lost}")), "{said}");

    let mut again = empty_site();
    let restore = again.torno(&["restore", text(folder.path())]);
    let said = String::from_utf8_lossy(&restore.stderr).into_owned();
    assert!(restore.status.code() == Some(1) && said.contains(&format!("lost: {lost}")), "{said}");
    again.start();
    let ada = again.http("ada");
    let kept = ada.get(&format!("/v2/tools/x/blobs/{}", sha256(&images[1].layers[0])));
    assert_eq!(kept.expect(200).body, images[1].layers[0]);
    assert_ne!(ada.get(&format!("/v2/tools/x/blobs/{lost}")).status, 200);
}
