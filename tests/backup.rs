//! Backups that are made while the server serves, and what is restored from them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
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
fn a_backup_that_was_killed_is_never_taken_for_a_whole_one() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let push = |number: usize| {
        let image = Image::new(&large(&format!("image {number}")));
        image.push(&ada, "tools/x", &format!("v{number}")).expect(201);
        image
    };
    let folder = tempfile::tempdir().expect("folder");
    let backup = folder.path();
    let killed = |seen: &dyn Fn() -> bool| {
        let mut child = site.command(&["backup", text(backup)]).spawn().expect("torno");
        wait_until("it has begun", || {
            let ended = child.try_wait().expect("wait").is_some();
            (seen() || ended).then_some(())
        });
        // It may have ended by itself, and then it is whole.
        let _ = child.kill();
        child.wait().expect("wait");
    };
    let states = || {
        let entries = fs::read_dir(backup).expect("folder").map(|entry| entry.expect("entry").path());
        entries.filter(|path| text(path).contains("/state-")).count()
    };
    let first: Vec<Image> = (0..20).map(push).collect();
    killed(&|| backup.join("blobs").exists());
    let empty = empty_site();
    let restored = empty.torno(&["restore", text(backup)]).status.success();
    assert_eq!(restored, backup.join("complete").exists(), "whole or not at all");
    site.torno_ok(&["backup", text(backup)]);
    let second: Vec<Image> = (20..40).map(push).collect();
    for _ in 0..5 {
        killed(&|| states() > 1);
    }
    let again = self::restored(backup);
    let http = again.http("ada");
    let check = |image: &Image| {
        for blob in image.layers.iter().chain([&image.config]) {
            let found = http.get(&format!("/v2/tools/x/blobs/{}", sha256(blob)));
            assert_eq!(&found.expect(200).body, blob);
        }
    };
    first.iter().for_each(check);
    // Those that came later are there all or none.
    let there: Vec<&Image> = second
        .iter()
        .filter(|image| http.get(&format!("/v2/tools/x/manifests/{}", image.digest())).status == 200)
        .collect();
    assert!(there.is_empty() || there.len() == second.len(), "{} of them", there.len());
    there.into_iter().for_each(check);
    site.torno_ok(&["backup", text(backup)]);
    assert_eq!(states(), 1, "what was left over is gone");
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

/// What an exit status of 1 came with.
fn failing(site: &Site, arguments: &[&str]) -> String {
    let output = site.torno(arguments);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
    said
}

/// The files of a folder and their bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()) {
        if entry.is_dir() {
            all.extend(files(&entry));
        } else {
            all.insert(entry.clone(), fs::read(&entry).expect("file"));
        }
    }
    all
}

#[test]
fn a_backup_can_be_read_again() {
    let site = Site::start_with("", &["ada"]);
    let image = Image::new(&large("in a backup"));
    image.push(&site.http("ada"), "tools/x", "v").expect(201);
    // On another file system, so that what happens to the copy does not happen to the original.
    let folder = tempfile::tempdir_in("/dev/shm").expect("folder");
    let backup = text(folder.path());
    let none = failing(&site, &["verify", "--backup", backup]);
    assert!(none.contains("no complete backup"), "{none}");
    let output = site.torno(&["backup", backup]);
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("was not read"));

    let before = files(folder.path());
    let well = site.torno_ok(&["verify", "--backup", backup]);
    assert!(well.contains("1 manifest: all is well"), "{well}");
    assert!(files(folder.path()) == before, "nothing has changed");

    let layer = sha256(&image.layers[0]);
    let hex = &layer["sha256:".len()..];
    let file = folder.path().join("blobs/sha256").join(&hex[..2]).join(hex);
    let mut bytes = image.layers[0].clone();
    bytes[40_000] ^= 4;
    for (damage, words) in
        [(Some(&bytes[..]), "other bytes"), (Some(&bytes[1..]), "69999 bytes"), (None, "missing")]
    {
        match damage {
            Some(bytes) => fs::write(&file, bytes).expect("write"),
            None => fs::remove_file(&file).expect("removed"),
        }
        let said = failing(&site, &["verify", "--backup", backup]);
        assert!(said.contains(&layer) && said.contains(words) && said.contains("1 finding"), "{said}");
        let told = failing(&site, &["verify", "--json", "--backup", backup]);
        assert!(told.contains("\"left\": 1"), "{told}");
    }
    assert!(site.torno_ok(&["verify"]).contains("all is well"), "the original is");
    site.torno_ok(&["backup", backup]);
    site.torno_ok(&["verify", "--backup", backup]);
    // Its database too.
    let state = fs::read_to_string(folder.path().join("complete")).expect("a state");
    let database =
        rusqlite::Connection::open(folder.path().join(state).join("torno.db")).expect("the database");
    database.execute("UPDATE manifests SET bytes = x'7b7d'", []).expect("damaged");
    drop(database);
    let said = failing(&site, &["verify", "--backup", backup]);
    assert!(said.contains(&format!("manifest {}", image.digest())), "{said}");
}

#[test]
fn what_only_earlier_backups_needed_is_told_of_and_removed_when_asked() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let [old, new] = ["old", "new"].map(|tag| {
        let image = Image::new(&large(tag));
        image.push(&ada, "tools/x", tag).expect(201);
        image
    });
    let folder = tempfile::tempdir_in(site.path("")).expect("folder");
    let backup = text(folder.path());
    let told = |arguments: &[&str]| {
        let output = site.torno(arguments);
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = told(&["backup", backup]);
    assert!(said.contains("what is linked was not read") && !said.contains("earlier backups"), "{said}");
    ada.delete("/v2/tools/x/manifests/old").expect(202);
    site.torno_ok(&["gc"]);
    let layer = sha256(&old.layers[0]);
    let hex = &layer["sha256:".len()..];
    let file = folder.path().join("blobs/sha256").join(&hex[..2]).join(hex);
    for _ in 0..2 {
        let said = told(&["backup", backup]);
        assert!(said.contains("earlier backups needed: ") && said.contains("--prune removes them"), "{said}");
        assert!(file.exists());
    }
    let said = told(&["backup", "--prune", backup]);
    assert!(said.contains("earlier backups needed: ") && said.contains("; removed"), "{said}");
    assert!(!file.exists());
    assert!(!told(&["backup", backup]).contains("earlier backups"));
    site.torno_ok(&["verify", "--backup", backup]);
    let again = restored(folder.path());
    let ada = again.http("ada");
    let pulled = ada.get(&format!("/v2/tools/x/blobs/{}", sha256(&new.layers[0])));
    assert_eq!(pulled.expect(200).body, new.layers[0]);
}

#[test]
fn what_is_in_quarantine_is_not_lost_and_its_good_copy_stays() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&large("damaged later"));
    image.push(&ada, "tools/x", "v").expect(201);
    let folder = tempfile::tempdir_in("/dev/shm").expect("folder");
    let backup = text(folder.path());
    site.torno_ok(&["backup", backup]);
    let layer = sha256(&image.layers[0]);
    site.flip_bit(&layer, 40_000);
    failing(&site, &["verify", "--repair"]);
    let output = site.torno(&["backup", "--prune", backup]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("lost"), "{said}");
    assert!(said.contains("in quarantine and so not in the backup: 1"), "{said}");
    assert!(site.torno_ok(&["verify", "--backup", backup]).contains("all is well"));
    let hex = &layer["sha256:".len()..];
    let copy = fs::read(folder.path().join("blobs/sha256").join(&hex[..2]).join(hex)).expect("the good copy");
    assert!(copy == image.layers[0]);

    let again = restored(folder.path());
    let ada = again.http("ada");
    ada.get(&format!("/v2/tools/x/blobs/{layer}")).expect(404);
    ada.push_blob("tools/x", &image.layers[0]);
    assert_eq!(ada.get(&format!("/v2/tools/x/blobs/{layer}")).expect(200).body, image.layers[0]);
}
