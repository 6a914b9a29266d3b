//! What a push has done to the disk before it is acknowledged, call by call.

mod replay;
mod trace;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use replay::{Replay, Tree};
use torno_tests::{Http, Image, NO_ENGINE, Site, sha256};
use trace::Call;

const REPOSITORY: &str = "tools/x";

/// Where a blob is mounted to.
const MOUNTED: &str = "tools/y";

/// A site with the user ada that traces itself into `trace`.
fn traced() -> Site {
    let site = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada"]);
    let tracer = trace::tracer(&site.path("trace"));
    let words: Vec<&str> = tracer.iter().map(String::as_str).collect();
    site.behind(&words)
}

/// An image with a large layer, and a small blob that has a text of its own in it, as its config has.
fn image() -> Image {
    Image::new(&torno_tests::layer(&"a layer that is larger than what the journal takes".repeat(30)))
}

fn push(http: &Http, image: &Image) {
    for blob in [&image.layers[0], &image.config] {
        http.push_blob(REPOSITORY, blob);
    }
    http.push_manifest(REPOSITORY, "v", image.media_type, &image.manifest()).expect(201);
}

/// The calls of a server that has ended.
fn calls(site: &mut Site) -> Vec<Call> {
    site.stop();
    let text = fs::read(site.path("trace")).expect("a trace");
    trace::read(&String::from_utf8(text).expect("UTF-8"))
}

/// The first call that began behind a line, and fits.
#[track_caller]
fn after<'a>(calls: &'a [Call], line: usize, what: &str, fits: impl Fn(&Call) -> bool) -> &'a Call {
    let found = calls.iter().find(|call| call.began > line && call.succeeded() && fits(call));
    found.unwrap_or_else(|| panic!("no {what} behind line {line}"))
}

/// The first commit of the database that has these bytes and began behind a line.
#[track_caller]
fn commit_of<'a>(calls: &'a [Call], line: usize, log: &Path, bytes: &[u8]) -> &'a Call {
    let has = |call: &Call| call.strings()[0].windows(bytes.len()).any(|window| window == bytes);
    let written = after(calls, line, "write to the log", |call| call.writes(log) && has(call));
    let synced = after(calls, written.ended, "sync of the log", |call| call.syncs(log));
    let between = calls.iter().filter(|call| call.writes(log));
    let last = between.filter(|call| call.began > written.began && call.began < synced.began);
    assert!(
        last.into_iter().all(|call| call.ended < synced.began),
        "all of it is written before it is synced"
    );
    synced
}

#[test]
fn what_is_acknowledged_has_been_made_durable_in_order() {
    let mut site = traced();
    site.start();
    let image = image();
    push(&site.http("ada"), &image);
    let data = fs::canonicalize(site.path("registry-data")).expect("a folder");
    let calls = calls(&mut site);
    let log = data.join("torno.db-wal");
    let acknowledged: Vec<&Call> = calls.iter().filter(|call| call.answers(201)).collect();
    assert_eq!(acknowledged.len(), 3, "two blobs and a manifest");
    let begun: Vec<&Call> = calls.iter().filter(|call| call.answers(202)).collect();

    // The large blob: its bytes, its name, its folder, and only then what links it.
    let digest = sha256(&image.layers[0]);
    let hex = digest.trim_start_matches("sha256:");
    let folder = data.join("blobs/sha256").join(&hex[..2]);
    let renamed = after(&calls, begun[0].ended, "rename", |call| {
        call.name.starts_with("rename") && call.paths().last() == Some(&folder.join(hex))
    });
    let upload = renamed.paths().remove(0);
    let written: Vec<&Call> = calls.iter().filter(|call| call.writes(&upload)).collect();
    let bytes: usize = written.iter().map(|call| call.taken()).sum();
    assert_eq!(bytes, image.layers[0].len(), "all bytes are in the upload");
    let last = written.iter().map(|call| call.ended).max().expect("a write");
    let synced = after(&calls, last, "sync of the bytes", |call| call.syncs(&upload));
    assert!(synced.ended < renamed.began, "bytes before the name");
    let placed = after(&calls, renamed.ended, "sync of the folder", |call| call.syncs(&folder));
    let linked = commit_of(&calls, placed.ended, &log, digest.as_bytes());
    assert!(linked.ended < acknowledged[0].began, "the link before the answer");

    // The small one: its bytes are in the log of the database.
    let committed = commit_of(&calls, begun[1].ended, &log, &image.config);
    assert!(committed.ended < acknowledged[1].began, "the bytes before the answer");

    // The manifest, likewise.
    let committed = commit_of(&calls, acknowledged[1].ended, &log, image.digest().as_bytes());
    assert!(committed.ended < acknowledged[2].began, "the manifest before the answer");
}

/// The paths of two trees that differ.
fn differences(one: &Tree, other: &Tree) -> Vec<PathBuf> {
    let paths: BTreeSet<&PathBuf> = one.keys().chain(other.keys()).collect();
    paths.into_iter().filter(|path| one.get(*path) != other.get(*path)).cloned().collect()
}

/// What a server leaves that stops somewhere in its work, and how much of that it had acknowledged.
struct Left {
    how: String,
    data: Tree,
    acknowledged: usize,
}

/// What is left at every step of a trace from one on, killed there and without power there; that twice in a row once.
fn left_at_every_step(
    mut replay: Replay,
    calls: &[Call],
    from: usize,
    is_answer: impl Fn(&Call) -> bool,
) -> Vec<Left> {
    let mut left: Vec<Left> = Vec::new();
    let mut last = [Tree::new(), Tree::new()];
    let mut acknowledged = 0;
    for (step, call) in calls.iter().enumerate() {
        replay.apply(call);
        if step < from {
            continue;
        }
        acknowledged += usize::from(is_answer(call));
        for (last, (what, data)) in
            last.iter_mut().zip([("killed", replay.killed()), ("without power", replay.without_power())])
        {
            // An answer changes no file, but what must be there.
            if *last != data || is_answer(call) {
                last.clone_from(&data);
                let how = format!("{what} at step {step}, {} {:.200}", call.name, call.arguments);
                left.push(Left { how, data, acknowledged });
            }
        }
    }
    left
}

/// Starts Torno on what is left: it comes up, what was acknowledged is there whole, and the rest can be pushed.
fn look(site: &mut Site, image: &Image, left: &Left) {
    replay::plant(&left.data, &site.path("registry-data"));
    site.start();
    let ada = site.http("ada");
    let (how, manifest) = (&left.how, image.manifest());
    let pull = |what: &str, bytes: &[u8]| {
        let answer = ada.get(&format!("/v2/{REPOSITORY}/{what}"));
        assert!(answer.status == 200 && answer.body == bytes, "{how}: {what}: {}", answer.status);
    };
    let blobs = [&image.layers[0], &image.config];
    let pull_first = |pushes: usize| {
        for blob in blobs.iter().take(pushes) {
            pull(&format!("blobs/{}", sha256(blob)), blob);
        }
        if pushes > blobs.len() {
            pull("manifests/v", &manifest);
        }
    };
    pull_first(left.acknowledged);
    push(&ada, image);
    pull_first(3);
    site.kill();
}

/// The replay would find out: without its syncs the same push leaves nothing behind.
#[test]
fn what_is_never_synced_is_not_on_the_disk() {
    let mut site = traced();
    let data = fs::canonicalize(site.path("registry-data")).expect("a folder");
    let before = Replay::of(&data);
    site.start();
    let image = image();
    push(&site.http("ada"), &image);
    let calls = calls(&mut site);
    let answered = calls.iter().position(|call| call.answers(201)).expect("an answer");
    let digest = sha256(&image.layers[0]);
    let hex = digest.trim_start_matches("sha256:");
    let path = Path::new("blobs/sha256").join(&hex[..2]).join(hex);
    let blob = |with: fn(&Call) -> bool| {
        let mut replay = before.clone();
        calls[..answered].iter().filter(|call| with(call)).for_each(|call| replay.apply(call));
        replay.without_power().get(&path).cloned().flatten()
    };
    assert!(blob(|_| true).as_ref() == Some(&image.layers[0]));
    assert_eq!(blob(|call| !call.name.ends_with("sync") && call.name != "syncfs"), None);
}

#[test]
fn a_push_may_be_cut_off_at_every_step() {
    let mut site = traced();
    let data = fs::canonicalize(site.path("registry-data")).expect("a folder");
    let before = Replay::of(&data);
    site.start();
    let image = image();
    push(&site.http("ada"), &image);
    let calls = calls(&mut site);
    let begun = calls.iter().position(|call| call.answers(202)).expect("a first push");

    // The replay is what it replays: at its end everything is as the server left it.
    let mut whole = before.clone();
    for call in &calls {
        whole.apply(call);
    }
    assert_eq!(differences(&whole.killed(), &replay::tree(&data)), Vec::<PathBuf>::new());
    let left = left_at_every_step(before, &calls, begun, |call| call.answers(201));
    assert!(left.len() > 30, "a push has more steps than {}", left.len());
    let mut other = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    other.add_users(&["ada"]);
    for left in &left {
        look(&mut other, &image, left);
    }
}

/// Starts Torno on what is left of a mount and then a deletion: what was acknowledged is so, and what is there fits
/// together.
fn look_at_changes(site: &mut Site, image: &Image, left: &Left) {
    replay::plant(&left.data, &site.path("registry-data"));
    site.start();
    let ada = site.http("ada");
    let (how, layer) = (&left.how, &image.layers[0]);
    let mounted = ada.get(&format!("/v2/{MOUNTED}/blobs/{}", sha256(layer)));
    assert!([200, 404].contains(&mounted.status), "{how}: {}", mounted.status);
    assert!(mounted.status == 200 || left.acknowledged < 1, "{how}: the mount is gone");
    assert!(mounted.status == 404 || mounted.body == *layer, "{how}: it has other bytes");
    let tagged = ada.get(&format!("/v2/{REPOSITORY}/manifests/v"));
    match left.acknowledged {
        // It was not asked for before the mount was there.
        0 => assert!(tagged.status == 200 && tagged.body == image.manifest(), "{how}: {}", tagged.status),
        1 => assert!([200, 404].contains(&tagged.status), "{how}: {}", tagged.status),
        _ => assert_eq!(tagged.status, 404, "{how}: the deletion was undone"),
    }
    for arguments in [&["gc"][..], &["verify"]] {
        let output = site.torno(arguments);
        assert!(output.status.success(), "{how}: {arguments:?}: {output:?}");
    }
    let kept = ada.get(&format!("/v2/{MOUNTED}/blobs/{}", sha256(layer)));
    assert_eq!(kept.status, mounted.status, "{how}: after gc");
    site.kill();
}

#[test]
fn a_mount_and_a_deletion_may_be_cut_off_at_every_step() {
    let mut site = traced();
    let data = fs::canonicalize(site.path("registry-data")).expect("a folder");
    let before = Replay::of(&data);
    site.start();
    let (ada, image) = (site.http("ada"), image());
    push(&ada, &image);
    let layer = sha256(&image.layers[0]);
    ada.post(&format!("/v2/{MOUNTED}/blobs/uploads/?mount={layer}&from={REPOSITORY}")).expect(201);
    ada.delete(&format!("/v2/{REPOSITORY}/manifests/{}", image.digest())).expect(202);
    let calls = calls(&mut site);
    let pushed: Vec<usize> = (0..calls.len()).filter(|step| calls[*step].answers(201)).collect();
    let [.., pushed, _mounted] = pushed[..] else { panic!("three pushes and a mount") };
    let is_answer = |call: &Call| call.answers(201) || call.answers(202);
    // What follows is the end of the server, which other tests see.
    let deleted = calls.iter().rposition(|call| call.answers(202)).expect("the deletion");
    let left = left_at_every_step(before, &calls[..=deleted], pushed + 1, is_answer);
    assert!(left.iter().any(|left| left.acknowledged == 2), "both were acknowledged");
    assert!(left.len() > 8, "they have more steps than {}", left.len());

    let mut other = Site::new("").with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    other.add_users(&["ada"]);
    for left in &left {
        look_at_changes(&mut other, &image, left);
    }
}
