//! The chain, as those see it who write it, are killed while they do, or have it in their hands.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use torno_audit::{Actor, Audit, By, Event, Finding, Hash, Rotation, Segments, Span, Text, Verified};

const SMALL: Rotation = Rotation { size: 2000, keep: None };

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn event(number: usize) -> Event {
    Event::LoginFailed { claimed: Some(Text::new(&format!("somebody {number}"))), why: "wrong" }
}

fn ada(request: &str) -> Actor {
    let from = Ipv4Addr::LOCALHOST.into();
    Actor::in_request(Some("ada".parse().expect("a name")), By::Password, from, request)
}

fn pull(tag: &str) -> Event {
    Event::Pull {
        repository: "tools/x".parse().expect("a name"),
        reference: tag.parse().expect("a tag"),
        digest: torno_oci::Digest::sha256(b""),
    }
}

/// Records so many events, each durable before the next.
fn fill(folder: &Path, rotation: Rotation, numbers: std::ops::Range<usize>) {
    let audit = Audit::new(folder.to_owned(), rotation).expect("a record");
    runtime().block_on(async {
        for number in numbers {
            audit.record(&Actor::torno(), event(number)).await.expect("recorded");
        }
    });
}

fn verify(folder: &Path, head: Option<Hash>) -> (Verified, Vec<Finding>) {
    let mut findings = Vec::new();
    let segments = Segments::of(folder).expect("segments");
    let verified = torno_audit::verify(&segments, head, |finding| findings.push(finding)).expect("read");
    (verified, findings)
}

/// Whether anything is wrong, as `torno audit verify --head` says.
fn shows(folder: &Path, head: Hash) -> bool {
    let (verified, findings) = verify(folder, Some(head));
    findings.iter().any(Finding::is_problem) || verified.goes_on || !verified.head_found
}

fn lines(folder: &Path) -> Vec<String> {
    let segments = Segments::of(folder).expect("segments");
    let spans = torno_audit::read(&segments).map(|span| span.expect("read"));
    spans
        .map(|span| match span {
            Span::Entry(entry) => entry.text,
            Span::Strange { segment } => panic!("{segment:?}"),
        })
        .collect()
}

#[test]
fn a_record_is_whole_and_every_line_is_there() {
    let folder = TempDir::new().expect("a folder");
    fill(folder.path(), Rotation::default(), 0..10);
    let (verified, findings) = verify(folder.path(), None);
    assert_eq!((verified.lines, verified.segments, findings), (11, 1, vec![]));
    assert_eq!(verified.first.map(|(seq, _)| seq), Some(1));
    let lines = lines(folder.path());
    assert!(lines[0].contains(r#""event":"begun""#), "{lines:?}");
    assert!((0..10).all(|number| lines[number + 1].contains(&format!("somebody {number}"))), "{lines:?}");
}

#[test]
fn what_is_alike_is_one_line() {
    let folder = TempDir::new().expect("a folder");
    let audit = Audit::new(folder.path().to_owned(), Rotation::default()).expect("a record");
    runtime().block_on(async {
        for request in ["r1", "r2", "r3"] {
            audit.tally(&ada(request), pull("a")).await.expect("counted");
        }
        audit.tally(&ada("r4"), pull("b")).await.expect("counted");
        audit.tally(&Actor::torno(), pull("a")).await.expect("counted");
        audit.flush().await.expect("written");
    });
    let lines = lines(folder.path());
    assert_eq!(lines.len(), 4, "{lines:?}");
    let first: serde_json::Value = serde_json::from_str(&lines[1]).expect("JSON");
    assert_eq!(
        (&first["count"], &first["request"], &first["user"]),
        (&3.into(), &"r1".into(), &"ada".into())
    );
    assert!(first["last"].is_string() && first["by"] == "password" && first["from"] == "127.0.0.1");
    let second: serde_json::Value = serde_json::from_str(&lines[2]).expect("JSON");
    assert!(second["count"].is_null() && second["reference"] == "b");
}

#[test]
fn what_waits_is_written_when_the_last_handle_goes() {
    let folder = TempDir::new().expect("a folder");
    let audit = Audit::new(folder.path().to_owned(), Rotation::default()).expect("a record");
    runtime().block_on(audit.note(&Actor::torno(), event(1)));
    drop(audit);
    assert_eq!(lines(folder.path()).len(), 2);
}

#[test]
fn nothing_is_made_before_something_is_recorded() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("audit");
    drop(Audit::new(path.clone(), Rotation::default()).expect("a record"));
    assert!(!path.exists());
    assert!(Segments::of(&path).expect("none").is_empty());
}

#[test]
fn too_much_that_is_different_is_refused_and_told_of() {
    let folder = TempDir::new().expect("a folder");
    // A file where the folder should be: nothing can be written.
    let path = folder.path().join("audit");
    fs::write(&path, "").expect("a file");
    let audit = Audit::new(path.clone(), Rotation::default()).expect("a record");
    let runtime = runtime();
    runtime.block_on(audit.record(&Actor::torno(), event(0))).expect_err("no folder");
    let mut taken = 0;
    while runtime.block_on(audit.tally(&Actor::torno(), event(taken))).is_ok() {
        taken += 1;
    }
    audit.lost();
    runtime.block_on(audit.tally(&Actor::torno(), event(0))).expect("what is known is counted still");
    runtime.block_on(audit.ready()).expect_err("still no folder");
    fs::remove_file(&path).expect("removed");
    runtime.block_on(audit.ready()).expect("a folder");
    let lines = lines(&path);
    assert_eq!(lines.len(), taken + 2, "begun, all that was counted, and the gap");
    let gap: serde_json::Value = serde_json::from_str(&lines[1]).expect("JSON");
    assert_eq!((&gap["event"], &gap["unrecorded"]), (&"gap".into(), &1.into()));
    assert!(verify(&path, None).1.is_empty());
}

#[test]
fn before_something_is_done_it_is_recorded_and_when_it_fails_that_too() {
    let folder = TempDir::new().expect("a folder");
    let audit = Audit::new(folder.path().to_owned(), Rotation::default()).expect("a record");
    runtime().block_on(async {
        let work = async {
            assert!(lines(folder.path()).last().is_some_and(|line| line.contains("somebody 1")));
            Err::<(), _>(torno_audit::AuditError::Behind)
        };
        audit.before(&Actor::torno(), event(1), work).await.expect_err("it failed");
        audit.flush().await.expect("written");
    });
    let last: serde_json::Value = serde_json::from_str(&lines(folder.path())[2]).expect("JSON");
    assert_eq!((&last["event"], &last["of"]), (&"not_done".into(), &2.into()));
}

/// A writer that is killed leaves any part of what it writes.
#[test]
fn killed_at_every_byte_of_a_line_the_next_writer_goes_on() {
    let folder = TempDir::new().expect("a folder");
    fill(folder.path(), Rotation::default(), 0..2);
    let path = folder.path().join("000000000001.jsonl");
    let whole = fs::read(&path).expect("read");
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("a line") + 1;
    for length in last..=whole.len() {
        fs::write(&path, &whole[..length]).expect("write");
        let finished = length == last || length == whole.len();
        let (_, findings) = verify(folder.path(), None);
        assert_eq!(findings.is_empty(), finished, "{length}: {findings:?}");
        assert!(!findings.iter().any(Finding::is_problem), "{findings:?}");

        fill(folder.path(), Rotation::default(), 7..8);
        let (verified, findings) = verify(folder.path(), None);
        // All but its end is enough to be known.
        let torn = length > last && length < whole.len() - 1;
        let lines = if torn || length >= whole.len() - 1 { 4 } else { 3 };
        assert_eq!(verified.lines, lines, "{length}");
        assert!(matches!((&findings[..], torn), ([], false) | ([Finding::Tear(_)], true)), "{findings:?}");
    }
}

/// The power may fail too, and then what was not yet on the disk may be anything.
#[test]
fn after_any_garbage_the_next_writer_goes_on_and_it_shows() {
    let folder = TempDir::new().expect("a folder");
    fill(folder.path(), Rotation::default(), 0..2);
    let path = folder.path().join("000000000001.jsonl");
    let whole = fs::read(&path).expect("read");
    for garbage in [vec![0; 5000], b"{}\n".to_vec(), b"\n\n".to_vec(), vec![b'x'; 1_000_000]] {
        fs::write(&path, [&whole[..], &garbage].concat()).expect("write");
        fill(folder.path(), Rotation::default(), 7..8);
        let (verified, findings) = verify(folder.path(), None);
        assert_eq!(verified.lines, 5);
        let ended = garbage.contains(&b'\n');
        let is_tear = matches!(&findings[..], [Finding::Tear(_)]);
        let is_damage = matches!(&findings[..], [Finding::Damaged(_)]);
        assert!(if ended { is_damage } else { is_tear }, "{findings:?}");
    }
}

#[test]
fn killed_at_every_byte_of_a_rotation_the_next_writer_goes_on() {
    let made = TempDir::new().expect("a folder");
    fill(made.path(), SMALL, 0..20);
    let segments = Segments::of(made.path()).expect("segments");
    let segments: Vec<_> = segments.iter().collect();
    let bytes = fs::read(&segments[0].path).expect("read");
    let closing = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("a line") + 1;
    let second = segments[1].path.file_name().expect("a name");
    for length in closing..=bytes.len() {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("000000000001.jsonl"), &bytes[..length]).expect("write");
        fill(folder.path(), SMALL, 0..1);
        let (verified, findings) = verify(folder.path(), None);
        assert!(!findings.iter().any(Finding::is_problem) && !verified.goes_on, "{length}: {findings:?}");
        assert_eq!(verified.segments, 2);
        assert!(length != bytes.len() || folder.path().join(second).exists());
    }
    // Made, and nothing in it yet, or a part of its first line.
    for rest in [&b""[..], b"{\"seq\""] {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("000000000001.jsonl"), &bytes).expect("write");
        fs::write(folder.path().join(second), rest).expect("write");
        assert!(!verify(folder.path(), None).1.iter().any(Finding::is_problem));
        fill(folder.path(), SMALL, 0..1);
        let (verified, findings) = verify(folder.path(), None);
        assert!(!findings.iter().any(Finding::is_problem) && !verified.goes_on, "{findings:?}");
    }
}

#[test]
fn rotation_keeps_the_chain() {
    let folder = TempDir::new().expect("a folder");
    fill(folder.path(), SMALL, 0..50);
    let (verified, findings) = verify(folder.path(), None);
    assert!(verified.segments > 3 && findings.is_empty(), "{verified:?} {findings:?}");
    let (seq, head, _) = verified.last.expect("a line");
    assert_eq!(seq, verified.lines);

    // Old files may be moved away: the rest says where it begins, and they where they end.
    let segments = Segments::of(folder.path()).expect("segments");
    let segments: Vec<_> = segments.iter().collect();
    let elsewhere = TempDir::new().expect("a folder");
    for segment in &segments[..2] {
        let name = segment.path.file_name().expect("a name");
        fs::rename(&segment.path, elsewhere.path().join(name)).expect("moved");
    }
    let (old, findings) = verify(elsewhere.path(), None);
    assert!(findings.is_empty() && old.goes_on);
    let (rest, findings) = verify(folder.path(), Some(head));
    assert!(findings.is_empty() && rest.head_found);
    let (last, hash, _) = old.last.expect("a line");
    assert_eq!(rest.first, Some((last + 1, hash)));
    assert!(verify(folder.path(), Some(hash)).0.head_found, "what was moved away last is known");

    // One from the middle may not, and neither may the last.
    fs::remove_file(&segments[3].path).expect("removed");
    assert!(matches!(&verify(folder.path(), None).1[..], [Finding::Broken { .. }]));
    for segment in &segments[4..] {
        fs::remove_file(&segment.path).expect("removed");
    }
    let (cut, findings) = verify(folder.path(), Some(head));
    assert!(findings.is_empty() && cut.goes_on && !cut.head_found);
}

#[test]
fn what_is_too_old_goes_and_the_record_says_so() {
    let folder = TempDir::new().expect("a folder");
    fill(folder.path(), SMALL, 0..15);
    let before = Segments::of(folder.path()).expect("segments").iter().count();
    fill(folder.path(), Rotation { size: 1, keep: Some(Duration::ZERO) }, 0..1);
    let segments = Segments::of(folder.path()).expect("segments");
    assert_eq!(segments.iter().count(), 2, "the one that was closed, and the new one");
    let told = lines(folder.path()).iter().filter(|line| line.contains("segment_expired")).count();
    assert_eq!(told, before - 1);
    assert!(verify(folder.path(), None).1.is_empty());
}

#[test]
fn several_write_at_once() {
    let folder = TempDir::new().expect("a folder");
    let path = Arc::new(folder.path().to_owned());
    let threads: Vec<_> = (0..4)
        .map(|writer: usize| {
            let path = Arc::clone(&path);
            std::thread::spawn(move || fill(&path, SMALL, writer * 100..writer * 100 + 50))
        })
        .collect();
    for thread in threads {
        thread.join().expect("written");
    }
    let (verified, findings) = verify(folder.path(), None);
    assert!(findings.is_empty(), "{findings:?}");
    let events = lines(folder.path()).iter().filter(|line| line.contains("somebody")).count();
    assert_eq!((events, verified.last.map(|(seq, ..)| seq)), (200, Some(verified.lines)));
}

/// A change of the lines of all files.
#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index, prop::sample::Index),
    Insert(prop::sample::Index, String),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 1..=255_u8).prop_map(|(place, by)| Change::Flip(place, by)),
        index().prop_map(Change::Remove),
        (index(), index()).prop_map(|(one, other)| Change::Swap(one, other)),
        (index(), index()).prop_map(|(what, place)| Change::Repeat(what, place)),
        (index(), ".{0,40}").prop_map(|(place, text)| Change::Insert(place, text)),
        index().prop_map(Change::Cut),
    ]
}

impl Change {
    fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> =
            bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        match self {
            Self::Flip(place, by) => {
                let mut bytes = bytes.to_vec();
                *place.get_mut(&mut bytes) ^= by;
                return bytes;
            }
            Self::Remove(place) => drop(lines.remove(place.index(lines.len()))),
            Self::Swap(one, other) => {
                let all = lines.len();
                lines.swap(one.index(all), other.index(all));
            }
            Self::Repeat(what, place) => {
                let line = what.get(&lines).clone();
                lines.insert(place.index(lines.len() + 1), line);
            }
            Self::Insert(place, text) => {
                lines.insert(place.index(lines.len() + 1), format!("{text}\n").into_bytes());
            }
            Self::Cut(place) => return bytes[..place.index(bytes.len())].to_vec(),
        }
        lines.concat()
    }
}

fn made() -> &'static (TempDir, Hash) {
    static MADE: std::sync::OnceLock<(TempDir, Hash)> = std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let folder = TempDir::new().expect("a folder");
        fill(folder.path(), SMALL, 0..20);
        let (verified, _) = verify(folder.path(), None);
        let (_, head, _) = verified.last.expect("a line");
        assert!(!shows(folder.path(), head));
        (folder, head)
    })
}

proptest! {
    /// Whatever is done to one of the files is found by whoever has kept the last hash.
    #[test]
    fn any_change_shows(which: prop::sample::Index, change in change()) {
        let (made, head) = made();
        let folder = TempDir::new().expect("a folder");
        let segments = Segments::of(made.path()).expect("segments");
        let segments: Vec<_> = segments.iter().collect();
        let chosen = which.get(&segments);
        for segment in &segments {
            let bytes = fs::read(&segment.path).expect("read");
            let changed = if segment == chosen { change.apply(&bytes) } else { bytes.clone() };
            prop_assume!(segment != chosen || changed != bytes);
            fs::write(folder.path().join(segment.path.file_name().expect("a name")), changed).expect("write");
        }
        let (verified, findings) = verify(folder.path(), Some(*head));
        // Bytes that were put behind the last line are told of, and no line is lost by them.
        let behind = verified.head_found && matches!(&findings[..], [Finding::Unfinished(_)]);
        prop_assert!(behind || shows(folder.path(), *head), "{change:?}: {findings:?}");
    }

    /// Whoever can make hashes gets no further than the next line.
    #[test]
    fn a_forged_line_shows_in_the_next(which in 1_usize..5, name in "[a-z]{1,20}") {
        use sha2::{Digest as _, Sha256};
        let (made, _) = made();
        let folder = TempDir::new().expect("a folder");
        let segments = Segments::of(made.path()).expect("segments");
        let path = &segments.iter().next().expect("a segment").path;
        let text = fs::read_to_string(path).expect("read");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let (body, _) = lines[which].rsplit_once(",\"hash\"").expect("a seal");
        let forged = body.replace("somebody", &name);
        prop_assume!(forged != body && lines.len() > which + 1);
        let hash = hex::encode(Sha256::digest(&forged));
        lines[which] = format!("{forged},\"hash\":\"{hash}\"}}");
        fs::write(folder.path().join("000000000001.jsonl"), lines.join("\n") + "\n").expect("write");
        let (_, findings) = verify(folder.path(), None);
        prop_assert!(matches!(&findings[..], [Finding::Broken { .. }]), "{findings:?}");
    }

    /// Any files can be read.
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("000000000001.jsonl"), &bytes).expect("write");
        let (verified, _) = verify(folder.path(), None);
        prop_assert_eq!(verified.lines, 0);
        fill(folder.path(), Rotation::default(), 0..1);
        prop_assert!(verify(folder.path(), None).0.lines >= 2);
    }
}
