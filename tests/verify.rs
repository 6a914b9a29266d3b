//! `torno verify`: what it finds, what it puts right, and that it leaves alone what is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};
use torno_tests::{Http, Image, OCI_IMAGE, OCI_INDEX, Site, index, layer, sha256, wait_until};

fn large(seed: u8) -> Vec<u8> {
    (0..1_200_000_u32).map(|at| u8::try_from((at >> 7) % 251).expect("small") ^ seed).collect()
}

/// What is in the store: two images, one of them in two repositories and in an index, and a manifest that speaks of it.
struct Stored {
    image: Image,
    other: Image,
    index: Vec<u8>,
    referrer: Vec<u8>,
}

/// A site that serves, with an empty journal, so that the files alone have the bytes.
fn filled() -> (Site, Stored) {
    let mut site = Site::new("")
        .with("TORNO_SCRUB_INTERVAL", "0s")
        // Nobody is to run anything: a look at the host has a folder in the data directory meanwhile.
        .with("TORNO_EXECUTOR_WITHIN", "execute");
    site.add_users(&["ada"]);
    site.start();
    let stored = fill(&site.http("ada"));
    // Stopping settles the journal.
    site.stop();
    site.start();
    (site, stored)
}

fn fill(ada: &Http) -> Stored {
    let mut image = Image::new(&layer("small"));
    image.layers.push(large(0));
    let other = Image::new(&large(1));
    for repository in ["tools/x", "tools/y"] {
        image.push(ada, repository, "v").expect(201);
    }
    other.push(ada, "tools/x", &other.digest()).expect(201);
    let index = index(OCI_INDEX, &[(&image.manifest(), "amd64"), (&other.manifest(), "arm64")]);
    ada.push_manifest("tools/x", "all", OCI_INDEX, &index).expect(201);
    let empty = ada.push_blob("tools/x", b"{}");
    let referrer = json!({
        "schemaVersion": 2, "mediaType": OCI_IMAGE, "artifactType": "application/x-note",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [],
        "subject": {"mediaType": OCI_IMAGE, "digest": image.digest(), "size": image.manifest().len()},
    });
    let referrer = referrer.to_string().into_bytes();
    ada.push_manifest("tools/x", &sha256(&referrer), OCI_IMAGE, &referrer).expect(201);
    Stored { image, other, index, referrer }
}

/// The exit status and the JSON of a look.
fn verify(site: &Site, more: &[&str]) -> (i32, Value) {
    let output = site.torno(&[&["verify", "--json"], more].concat());
    let stdout = String::from_utf8_lossy(&output.stdout);
    let told = serde_json::from_str(&stdout)
        .unwrap_or_else(|_| panic!("{stdout}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("an exit status"), told)
}

/// How many findings there are of each kind with each remedy.
fn kinds(told: &Value) -> BTreeMap<(String, String), usize> {
    let mut kinds = BTreeMap::new();
    for finding in told["findings"].as_array().expect("findings") {
        let text = |key: &str| finding[key].as_str().expect("a text").to_owned();
        *kinds.entry((text("kind"), text("remedy"))).or_default() += 1;
    }
    kinds
}

fn expected(kinds: &[(&str, &str, usize)]) -> BTreeMap<(String, String), usize> {
    kinds.iter().map(|(kind, remedy, n)| (((*kind).to_owned(), (*remedy).to_owned()), *n)).collect()
}

#[track_caller]
fn expect_well(site: &Site) -> Value {
    let (status, told) = verify(site, &[]);
    assert_eq!((status, &told["findings"], &told["left"]), (0, &json!([]), &json!(0)), "{told:#}");
    told
}

#[test]
fn a_store_that_is_well_is_left_as_it_is() {
    let (mut site, stored) = filled();
    let ada = site.http("ada");
    // Somebody is in the middle of an upload, and somebody has deleted a blob that an image still names.
    let location = ada.begin_upload("tools/x");
    ada.send("PATCH", &location, &[], b"01234").expect(202);
    ada.delete(&format!("/v2/tools/y/blobs/{}", sha256(&stored.image.layers[1]))).expect(202);
    for serving in [true, false] {
        if !serving {
            site.stop();
        }
        let before = site.everything();
        for more in
            [&[][..], &["--repair"], &["--sample", "50%"], &["--sample=0%", "--repair"], &["--resume"]]
        {
            let (status, told) = verify(&site, more);
            assert_eq!((status, &told["findings"]), (0, &json!([])), "{more:?}: {told:#}");
            let everything = told["bytes"].as_u64().expect("bytes");
            match more.first() {
                Some(&"--sample=0%") => assert_eq!(everything, 0),
                Some(&"--sample") => {}
                _ => assert_eq!(everything, site.blob_bytes()),
            }
            assert_eq!((told["blobs"].as_u64(), told["manifests"].as_u64()), (Some(6), Some(4)), "{told:#}");
        }
        let said = site.torno_ok(&["verify"]);
        assert!(said.starts_with("verify: 6 blobs, 2.3 MiB read, 4 manifests: all is well"), "{said}");
        assert_eq!(site.changed_since(&before), BTreeSet::new());
    }
}

#[test]
fn damaged_blobs_are_found_put_aside_and_mended_by_a_push() {
    let (site, stored) = filled();
    let ada = site.http("ada");
    let [small, big] = [&stored.image.layers[0], &stored.image.layers[1]];
    let other = &stored.other.layers[0];
    site.flip_bit(&sha256(big), 1_199_999);
    fs::remove_file(site.blob_file(&sha256(small))).expect("removed");
    site.truncate(&sha256(other), 1_000_000);

    let damage = site.everything();
    let (status, told) = verify(&site, &[]);
    let found = [("digest", "none", 1), ("length", "none", 1), ("missing", "none", 1)];
    assert_eq!((status, kinds(&told)), (1, expected(&found)), "{told:#}");
    assert_eq!(site.changed_since(&damage), BTreeSet::new(), "without --repair nothing changes");
    for (bytes, uses) in [(big, &["tools/x:all", "tools/x:v", "tools/y:v"][..]), (other, &["tools/x:all"])] {
        let findings = told["findings"].as_array().expect("findings");
        let finding = findings.iter().find(|finding| finding["digest"] == sha256(bytes)).expect("found");
        assert_eq!(finding["used_by"], json!(uses));
    }
    let (_, told) = verify(&site, &["--sample=0%"]);
    let visible = [("length", "none", 1), ("missing", "none", 1)];
    assert_eq!(kinds(&told), expected(&visible), "what shows without reading is found in any case");

    let output = site.torno(&["verify", "--repair"]);
    assert_eq!(output.status.code(), Some(1), "they are lost until they are pushed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.contains(&sha256(big))).expect("told");
    assert!(
        line.contains("used by tools/x:all, tools/x:v, tools/y:v; it is in quarantine: push it again"),
        "{said}"
    );
    assert!(said.contains("3 findings, 3 of them left"), "{said}");
    assert_eq!(fs::read(site.quarantined_file(&sha256(other))).expect("kept"), other[..1_000_000]);
    let (status, told) = verify(&site, &[]);
    assert_eq!((status, kinds(&told)), (1, expected(&[("quarantined", "none", 3)])), "{told:#}");

    // The server sees within a second what another process took away.
    for bytes in [small, big, other] {
        wait_until("the blob is unknown", || {
            let head = ada.head(&format!("/v2/tools/x/blobs/{}", sha256(bytes)));
            (head.status == 404).then_some(())
        });
        ada.push_blob("tools/x", bytes);
    }
    expect_well(&site);
    for bytes in [small, big] {
        assert!(ada.get(&format!("/v2/tools/y/blobs/{}", sha256(bytes))).expect(200).body == *bytes);
    }
}

#[test]
fn a_file_that_comes_back_is_served_again() {
    let (site, stored) = filled();
    let bytes = &stored.image.layers[1];
    let digest = sha256(bytes);
    fs::remove_file(site.blob_file(&digest)).expect("removed");
    assert_eq!(verify(&site, &["--repair"]).0, 1);
    fs::write(site.blob_file(&digest), bytes).expect("from a backup");
    let (status, told) = verify(&site, &[]);
    assert_eq!((status, kinds(&told)), (1, expected(&[("back", "none", 1)])), "{told:#}");
    let (status, told) = verify(&site, &["--repair"]);
    assert_eq!((status, kinds(&told)), (0, expected(&[("back", "restored", 1)])), "{told:#}");
    assert!(site.http("ada").get(&format!("/v2/tools/y/blobs/{digest}")).expect(200).body == *bytes);
    expect_well(&site);
}

#[test]
fn files_that_nobody_knows_are_found_and_kept() {
    let (site, _) = filled();
    let known = site.blob_bytes();
    let write = |path: &std::path::Path, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("a file");
    };
    let good = sha256(b"nobody knows me");
    write(&site.blob_file(&good), b"nobody knows me");
    let bad = sha256(b"what it should be");
    write(&site.blob_file(&bad), b"and what it is");
    let beside = site.blob_file(&good).with_extension("tmp");
    write(&beside, b"half a blob");
    for name in ["uploads/placing", "uploads/tmp.1", "blobs/notes", "blobs/sha256/zz/file"] {
        write(&site.path("registry-data").join(name), b"?");
    }
    let (status, told) = verify(&site, &[]);
    let found = [("stray", "none", 5), ("stray-blob", "none", 1), ("stray-damaged", "none", 1)];
    assert_eq!((status, kinds(&told)), (1, expected(&found)), "{told:#}");

    let (status, told) = verify(&site, &["--repair"]);
    let repaired =
        [("stray", "quarantined", 5), ("stray-blob", "adopted", 1), ("stray-damaged", "quarantined", 1)];
    assert_eq!((status, kinds(&told)), (0, expected(&repaired)), "{told:#}");
    assert_eq!(fs::read(site.quarantined_file(&bad)).expect("kept"), b"and what it is");
    let strays = fs::read_dir(site.path("registry-data/quarantine")).expect("kept").count();
    assert_eq!(strays, 6);
    assert!(!beside.exists());
    expect_well(&site);
    let gone = site.torno_ok(&["gc"]);
    assert!(gone.contains(&good), "{gone}");
    assert_eq!(site.blob_bytes(), known, "and nothing else");
    expect_well(&site);
}

#[test]
fn rows_are_put_right_after_the_manifests() {
    let (site, stored) = filled();
    let (image, all, referrer) = (stored.image.digest(), sha256(&stored.index), sha256(&stored.referrer));
    let before = site.everything();
    let database = site.database();
    database.pragma_update(None, "foreign_keys", false).expect("as nobody should");
    let change = |sql: &str, parameters: &[&str]| {
        let changed = database.execute(sql, rusqlite::params_from_iter(parameters)).expect(sql);
        assert!(changed > 0, "{sql}");
    };
    change("DELETE FROM manifest_blobs WHERE manifest = ?1 AND blob = ?2", &[&image, &sha256(&large(0))]);
    change("INSERT INTO manifest_blobs VALUES (?1, ?2)", &[&image, &sha256(&large(1))]);
    change("INSERT INTO manifest_blobs VALUES (?1, 'no digest')", &[&image]);
    change("DELETE FROM manifest_children WHERE manifest = ?1 AND child = ?2", &[&all, &image]);
    change("INSERT INTO manifest_children VALUES (?1, ?2)", &[&image, &all]);
    change("DELETE FROM referrers WHERE manifest = ?1", &[&referrer]);
    let unlisted = "INSERT INTO referrers (repository, subject, manifest, descriptor)
        SELECT repository, ?1, manifest, '{}' FROM tags WHERE tag = 'all'";
    change(unlisted, &[&image]);
    change("UPDATE blobs SET size = size + 1 WHERE digest = ?1", &[&sha256(&large(0))]);

    let (status, told) = verify(&site, &[]);
    let found = [("edge", "none", 7), ("size", "none", 1)];
    assert_eq!((status, kinds(&told)), (1, expected(&found)), "{told:#}");
    let (status, told) = verify(&site, &["--repair"]);
    let repaired = [("edge", "corrected", 7), ("size", "corrected", 1)];
    assert_eq!((status, kinds(&told)), (0, expected(&repaired)), "{told:#}");
    expect_well(&site);
    // gc looks again at what a manifest does not name any more.
    assert_eq!(site.changed_since(&before), BTreeSet::from(["table suspects".to_owned()]));
}

#[test]
fn a_damaged_manifest_is_not_served_until_it_is_pushed_again() {
    let (site, stored) = filled();
    let ada = site.http("ada");
    let digest = stored.other.digest();
    let path = format!("/v2/tools/x/manifests/{digest}");
    let change = "UPDATE manifests SET bytes = CAST(replace(CAST(bytes AS TEXT), 'tar', 'tra') AS BLOB)
        WHERE digest = ?1";
    assert_eq!(site.database().execute(change, [&digest]).expect("changed"), 1);
    let (status, told) = verify(&site, &[]);
    assert_eq!((status, kinds(&told)), (1, expected(&[("manifest", "none", 1)])), "{told:#}");
    assert_eq!(told["findings"][0]["used_by"], json!(["tools/x:all"]), "by its index");

    // A pull that comes first puts it aside too.
    let message = wait_until("what was remembered is forgotten", || {
        let answer = ada.get(&path);
        (answer.status != 200).then(|| answer.expect_error(500, "UNKNOWN"))
    });
    assert!(message.contains("push the image again"), "{message}");
    ada.get(&path).expect_error(404, "MANIFEST_UNKNOWN");
    ada.head(&path).expect(404);
    let refused = ada.push_manifest("tools/x", "again", OCI_INDEX, &stored.index);
    assert!(refused.expect_error(404, "MANIFEST_BLOB_UNKNOWN").contains(&digest));
    let (status, told) = verify(&site, &["--repair"]);
    assert_eq!((status, kinds(&told)), (1, expected(&[("quarantined", "none", 1)])), "{told:#}");

    stored.other.push(&ada, "tools/x", &digest).expect(201);
    assert_eq!(ada.get(&path).expect(200).body, stored.other.manifest());
    expect_well(&site);
}

#[test]
fn rows_that_speak_of_what_is_not_there_are_found() {
    let (site, stored) = filled();
    let database = site.database();
    database.pragma_update(None, "foreign_keys", false).expect("as nobody should");
    let (image, layer) = (stored.image.digest(), sha256(&stored.image.layers[0]));
    let y = "(SELECT id FROM repositories WHERE name = 'tools/y')";
    let unlink = format!("DELETE FROM manifest_links WHERE repository = {y} AND manifest = ?1");
    assert_eq!(database.execute(&unlink, [&image]).expect("changed"), 1);
    assert_eq!(database.execute("DELETE FROM blobs WHERE digest = ?1", [&layer]).expect("changed"), 1);
    let (status, told) = verify(&site, &[]);
    // The tag, and the blob in two repositories; its file is a stray.
    assert_eq!(
        (status, kinds(&told)),
        (1, expected(&[("row", "none", 3), ("stray-blob", "none", 1)])),
        "{told:#}"
    );
    let (status, told) = verify(&site, &["--repair"]);
    let repaired = [("row", "corrected", 1), ("stray-blob", "adopted", 1)];
    assert_eq!((status, kinds(&told)), (0, expected(&repaired)), "{told:#}");
    expect_well(&site);
    site.torno_ok(&["gc", "--grace", "0s"]);
    let ada = site.http("ada");
    assert_eq!(ada.get("/v2/tools/y/manifests/v").expect(200).body, stored.image.manifest());
    for repository in ["tools/x", "tools/y"] {
        let read = ada.get(&format!("/v2/{repository}/blobs/{layer}"));
        assert_eq!(read.expect(200).body, stored.image.layers[0]);
    }
}

#[test]
fn a_look_that_was_stopped_goes_on_where_it_was() {
    let (site, _) = filled();
    let stray = site.path("registry-data/blobs/sha256/80/stray");
    fs::write(&stray, b"?").expect("a file");
    let notes = site.path("registry-data/verify.stopped");
    // Whoever finds the stray waits for the right to the files.
    let lock =
        File::options().create(true).truncate(false).write(true).open(site.path("registry-data/files.lock"));
    let lock = lock.expect("the lock");
    lock.lock().expect("locked");
    let mut command = site.command(&["verify"]);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("torno");
    wait_until("it waits", || {
        let open = fs::read_dir(format!("/proc/{}/fd", child.id())).ok()?;
        let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let waits = |path: &PathBuf| path.ends_with("files.lock") || path.ends_with("files-next.lock");
        open.collect::<Vec<_>>().iter().any(waits).then_some(())
    });
    let stop = std::process::Command::new("kill").arg("-INT").arg(child.id().to_string()).status();
    assert!(stop.expect("kill").success());
    wait_until("it notes where it was", || notes.exists().then_some(()));
    drop(lock);
    let output = child.wait_with_output().expect("torno");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("torno verify --resume"));

    let all = verify(&site, &["--sample=0%"]).1["blobs"].as_u64().expect("blobs");
    assert!(!notes.exists(), "a look from the beginning ends what was stopped");
    for (at, blobs) in [("blobs ", all), ("blobs sha256:g", 0), ("manifests ", 0)] {
        fs::write(&notes, json!({"at": at, "left": 2, "seed": 7}).to_string()).expect("notes");
        let (status, told) = verify(&site, &["--resume"]);
        assert_eq!((status, told["blobs"].as_u64(), told["earlier"].as_u64()), (1, Some(blobs), Some(2)));
        let found = usize::from(blobs > 0);
        assert_eq!(told["left"].as_u64(), Some(2 + found as u64), "{told:#}");
        assert!(!notes.exists());
    }
}

#[test]
fn wrong_shares_are_refused() {
    let site = Site::new("");
    for share in ["101%", "-1%", "x"] {
        let output = site.torno(&["verify", &format!("--sample={share}")]);
        assert_eq!(output.status.code(), Some(2), "{share}");
    }
}

/// How often each thread pushes and deletes.
const ROUNDS: usize = 12;

#[test]
fn what_comes_and_goes_meanwhile_is_no_error() {
    let site = Site::start_with("", &["ada"]);
    let base = large(9);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                site.torno_ok(&["gc", "--grace", "0s"]);
            }
        });
        let verifying = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                let (status, told) = verify(&site, if looks % 2 == 0 { &[] } else { &["--repair"] });
                assert_eq!((status, &told["findings"]), (0, &json!([])), "{told:#}");
                looks += 1;
            }
            looks
        });
        let pushing = [0, 1].map(|number| {
            let (http, base) = (site.http("ada"), &base);
            scope.spawn(move || push_and_delete(&http, &format!("tools/x{number}"), base))
        });
        for thread in pushing {
            thread.join().expect("no failure");
        }
        done.store(true, Ordering::Relaxed);
        collecting.join().expect("no failure");
        assert!(verifying.join().expect("nothing was found") > 1);
    });
    assert!(!site.path("registry-data/quarantine").exists());
}

fn push_and_delete(http: &Http, repository: &str, base: &[u8]) {
    for round in 0..ROUNDS {
        let mut image = Image::new(base);
        image.layers.push(layer(&format!("{repository} {}", round % 3)));
        // With no grace, gc may take a blob before its manifest comes; a client pushes again.
        for _ in 0..50 {
            if image.push(http, repository, "v").status == 201 {
                break;
            }
        }
        // What could not be pushed cannot be deleted.
        http.delete(&format!("/v2/{repository}/manifests/{}", image.digest()));
    }
}

#[test]
fn a_damaged_journal_is_found_and_spoils_no_file() {
    let (mut site, stored) = filled();
    let ada = site.http("ada");
    site.stop();
    let small = sha256(&stored.image.layers[0]);
    let database = site.database();
    database.execute("INSERT INTO journal (blob, bytes) VALUES (?1, x'00')", [&small]).expect("inserted");
    let sql = "UPDATE blobs SET journal = (SELECT max(id) FROM journal) WHERE digest = ?1";
    assert_eq!(database.execute(sql, [&small]).expect("updated"), 1);
    drop(database);
    let (status, told) = verify(&site, &[]);
    assert_eq!(status, 1);
    assert_eq!(told["findings"][0]["kind"], "journal", "{told}");
    assert_eq!(told["findings"][0]["digest"], small, "{told}");
    site.start();
    assert!(site.log().contains("the journal has other bytes than the blob's"));
    assert_eq!(ada.get(&format!("/v2/tools/x/blobs/{small}")).expect(200).body, stored.image.layers[0]);
    assert_eq!(verify(&site, &[]).0, 0);
}
