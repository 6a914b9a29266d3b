//! Archives as an engine writes them, and as nobody should.

use proptest::prelude::*;
use tar::Header;

use super::*;

const BOUNDS: Bounds = Bounds { bytes: 1000, entries: 10, depth: 32 };

/// Archives, piece by piece.
#[derive(Clone, Default)]
struct Made(Vec<u8>);

impl Made {
    /// With the output folder itself in front, as the engine does it.
    fn new() -> Self {
        Self::default().member(EntryType::Directory, "output/", b"")
    }

    fn member(self, kind: EntryType, path: &str, bytes: &[u8]) -> Self {
        self.with(kind, path, bytes, |_| {})
    }

    fn file(self, path: &str, bytes: &[u8]) -> Self {
        self.member(EntryType::Regular, path, bytes)
    }

    fn with(mut self, kind: EntryType, path: &str, bytes: &[u8], change: impl Fn(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn pax(self, key: &str, value: &str) -> Self {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.member(EntryType::XHeader, "PaxHeader", format!("{length} {key}={value}\n").as_bytes())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    fn collect(self) -> Result<Collected, CollectError> {
        collect_bytes(&self.end(), BOUNDS)
    }

    fn collected(self) -> Collected {
        self.collect().expect("an archive")
    }

    /// The one reason something stayed out.
    fn refused(self) -> Reason {
        let collected = self.collected();
        assert_eq!(collected.left_out.count, 1, "{:?}", collected.entries);
        collected.left_out.listed[0].1
    }
}

fn collect_bytes(bytes: &[u8], bounds: Bounds) -> Result<Collected, CollectError> {
    let folder = tempfile::tempdir().expect("folder");
    let collected = collect(bytes, folder.path(), bounds);
    let left = std::fs::read_dir(folder.path()).expect("folder").count();
    assert_eq!(left, 0, "nothing gets a name on the host");
    collected
}

fn contents(collected: &Collected, path: &str) -> Vec<u8> {
    let Some(Entry::File { offset, size, .. }) = collected.entries.get(path) else {
        panic!("no file {path}")
    };
    let mut bytes = Vec::new();
    collected.open(*offset, *size).and_then(|mut file| file.read_to_end(&mut bytes)).expect("spool");
    bytes
}

#[test]
fn files_and_folders_are_kept() {
    let made = Made::new().file("output/b", b"second").member(EntryType::Directory, "output/d/", b"");
    let collected = made.file("output/d/a", b"first").file("output/empty", b"").collected();
    assert_eq!(collected.entries.keys().collect::<Vec<_>>(), ["b", "d", "d/a", "empty"]);
    assert_eq!(contents(&collected, "b"), b"second");
    assert_eq!(contents(&collected, "d/a"), b"first");
    assert_eq!(contents(&collected, "empty"), b"");
    assert_eq!(collected.entries["d"], Entry::Folder);
    let digests: Vec<_> = collected.files().map(|(_, _, digest)| digest.clone()).collect();
    assert_eq!(digests[0], Digest::sha256(b"second"));
    assert_eq!(collected.left_out, LeftOut::default());
}

#[test]
fn what_is_no_file_stays_out() {
    let kinds = [
        (EntryType::Symlink, Reason::SymbolicLink),
        (EntryType::Link, Reason::HardLink),
        (EntryType::Char, Reason::Device),
        (EntryType::Block, Reason::Device),
        (EntryType::Fifo, Reason::Pipe),
        (EntryType::GNUSparse, Reason::Sparse),
        (EntryType::new(b'V'), Reason::Kind),
    ];
    for (kind, reason) in kinds {
        let collected = Made::new().member(kind, "output/x", b"").file("output/y", b"y").collected();
        assert_eq!(collected.left_out.listed, [("output/x".to_owned(), reason)]);
        assert_eq!(contents(&collected, "y"), b"y", "{reason}");
    }
}

#[test]
fn special_modes_stay_out() {
    for mode in [0o4755, 0o2755, 0o1644] {
        let made = Made::new().with(EntryType::Regular, "output/x", b"x", |header| header.set_mode(mode));
        assert_eq!(made.refused(), Reason::Mode);
    }
}

#[test]
fn names_that_lead_elsewhere_stay_out() {
    for path in [
        "/etc/passwd",
        "output/../x",
        "output/./x",
        "x",
        "output//x",
        "output/.wh.x",
        "output/a\nb",
        "output/x/",
    ] {
        assert_eq!(Made::new().file(path, b"x").refused(), Reason::Name, "{path}");
    }
}

#[test]
fn a_longer_name_is_judged_in_place_of_the_short_one() {
    let long = |path: &str| Made::new().member(EntryType::GNULongName, "././@LongLink", path.as_bytes());
    assert_eq!(long("output/../../x\0").file("output/good", b"x").refused(), Reason::Name);
    assert_eq!(Made::new().pax("path", "/etc/passwd").file("output/good", b"x").refused(), Reason::Name);
    assert_eq!(Made::new().pax("path", "output/a\nb").file("output/good", b"x").refused(), Reason::Name);
    let name = format!("output/{}", "n".repeat(200));
    for made in [long(&name), Made::new().pax("path", &name)] {
        let collected = made.file("short", b"x").collected();
        assert_eq!(contents(&collected, &"n".repeat(200)), b"x");
    }
}

#[test]
fn the_first_of_a_name_wins() {
    let made = Made::new().file("output/x", b"first").file("output/x", b"second");
    let collected = made.clone().collected();
    assert_eq!(contents(&collected, "x"), b"first");
    assert_eq!(made.refused(), Reason::Duplicate);
    let folder = Made::new().member(EntryType::Directory, "output/x", b"").file("output/x", b"");
    assert_eq!(folder.refused(), Reason::Duplicate);
    assert_eq!(
        Made::new().file("output/x", b"").member(EntryType::Directory, "output/x/", b"").refused(),
        Reason::Duplicate
    );
}

#[test]
fn nothing_lies_in_a_file_or_behind_a_link() {
    assert_eq!(Made::new().file("output/x", b"").file("output/x/y", b"y").refused(), Reason::NoFolder);
    assert_eq!(Made::new().file("output/x/y", b"y").refused(), Reason::NoFolder);
    let collected =
        Made::new().member(EntryType::Symlink, "output/l", b"").file("output/l/x", b"x").collected();
    assert_eq!(collected.left_out.count, 2);
    assert!(collected.entries.is_empty());
}

#[test]
fn an_output_that_is_no_folder_gives_nothing() {
    let collected = Made::default().member(EntryType::Symlink, "output", b"").collected();
    assert!(collected.entries.is_empty());
}

#[test]
fn sparse_files_stay_out() {
    let made = Made::new().pax("GNU.sparse.major", "1").file("output/x", b"x");
    assert_eq!(made.refused(), Reason::Sparse);
    let mut map = [0u8; 512];
    let mut made = Made::new().with(EntryType::GNUSparse, "output/x", b"", |header| {
        header.as_gnu_mut().expect("gnu").set_is_extended(true);
    });
    map[504] = 1;
    made.0.extend(map);
    made.0.extend([0; 512]);
    assert_eq!(made.file("output/y", b"y").refused(), Reason::Sparse);
}

#[test]
fn bytes_are_limited() {
    let full = vec![1; 1000];
    assert!(Made::new().file("output/x", &full).collect().is_ok());
    assert!(matches!(
        Made::new().file("output/x", &full).file("output/y", b"1").collect(),
        Err(CollectError::TooLarge(1000))
    ));
    // What stays out counts, and nothing is read before it is counted.
    let made = Made::new().with(EntryType::Regular, "bad", b"", |header| header.set_size(1 << 40));
    assert!(matches!(made.collect(), Err(CollectError::TooLarge(1000))));
}

#[test]
fn entries_are_limited() {
    let many = |count: usize| (0..count).fold(Made::new(), |made, n| made.file(&format!("output/{n}"), b""));
    assert_eq!(many(10).collected().entries.len(), 10);
    assert!(matches!(many(11).collect(), Err(CollectError::TooMany(10))));
    let links =
        (0..11).fold(Made::new(), |made, n| made.member(EntryType::Symlink, &format!("output/{n}"), b""));
    assert!(matches!(links.collect(), Err(CollectError::TooMany(10))));
}

#[test]
fn folders_lie_in_each_other_up_to_a_limit() {
    let bounds = Bounds { depth: 3, ..BOUNDS };
    let deep = |path: &str| collect_bytes(&Made::new().member(EntryType::Fifo, path, b"").end(), bounds);
    assert_eq!(deep("output/a/b/c").expect("archive").left_out.count, 1);
    // Whatever it is, and whatever it is called.
    for path in ["output/a/b/c/d", "output/a/.wh.b/../d"] {
        assert!(matches!(deep(path), Err(CollectError::TooDeep(3))), "{path}");
    }
}

#[test]
fn what_stayed_out_is_listed_up_to_a_limit() {
    let bounds = Bounds { bytes: 0, entries: 1000, depth: 32 };
    let links = |count| {
        (0..count).fold(Made::new(), |made, n| made.member(EntryType::Symlink, &format!("output/{n}"), b""))
    };
    for (count, listed) in [(MAX_LISTED, MAX_LISTED), (MAX_LISTED + 1, MAX_LISTED)] {
        let left_out = collect_bytes(&links(count).end(), bounds).expect("archive").left_out;
        assert_eq!((left_out.count, left_out.listed.len()), (count as u64, listed));
    }
}

fn is_malformed(made: &[u8]) -> bool {
    matches!(collect_bytes(made, BOUNDS), Err(CollectError::Malformed(_)))
}

#[test]
fn an_archive_that_is_cut_off_is_no_archive() {
    let whole = Made::new().file("output/x", &[7; 600]).file("output/y", b"y").end();
    let end = whole.len() - 512;
    for length in (0..end).step_by(7).chain([512, 1024, end - 1]) {
        assert!(is_malformed(&whole[..length]), "{length}");
    }
    assert!(!is_malformed(&whole[..end]));
}

#[test]
fn lies_are_errors() {
    let claims =
        |size| Made::new().with(EntryType::Regular, "output/x", b"x", move |header| header.set_size(size));
    assert!(is_malformed(&claims(900).end().as_slice()[..1600]));
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory, EntryType::Fifo] {
        let made = Made::new().with(kind, "output/x", b"", |header| header.set_size(512));
        assert!(is_malformed(&made.end()));
    }
    assert!(is_malformed(&Made::new().pax("size", "-1").file("output/x", b"x").end()));
    assert!(is_malformed(&Made::new().pax("size", "512").member(EntryType::Symlink, "output/x", b"").end()));
    assert!(is_malformed(&Made::new().pax("path", "output/x").end()), "nothing behind an extended header");
    let mut made = Made::new().end();
    made[0] ^= 1;
    assert!(is_malformed(&made), "a wrong sum");
    let global = Made::new().member(EntryType::XGlobalHeader, "g", b"17 path=output/x\n");
    assert!(is_malformed(&global.file("output/y", b"").end()));
    for bad in [&b"99 path=x\n"[..], b"x path=x\n", b"9 path=x", b"0 \n", b"+9 path=x\n", b"9 pathx\n"] {
        assert!(
            is_malformed(&Made::new().member(EntryType::XHeader, "h", bad).file("output/y", b"").end()),
            "{bad:?}"
        );
    }
}

#[test]
fn a_size_of_its_own_is_believed_once_it_is_counted() {
    let made = Made::new()
        .pax("size", "3")
        .with(EntryType::Regular, "output/x", b"abc", |header| header.set_size(0));
    assert_eq!(contents(&made.collected(), "x"), b"abc");
    assert!(matches!(
        Made::new().pax("size", "1001").file("output/x", b"x").collect(),
        Err(CollectError::TooLarge(_))
    ));
}

#[test]
fn extended_headers_are_limited() {
    /// As in the reader: what one member may have in front of it, with headers.
    const MOST: usize = 1024 * 1024;
    let huge = |kind, size: u64| Made::new().with(kind, "x", b"", move |header| header.set_size(size)).end();
    for kind in [EntryType::XHeader, EntryType::GNULongName, EntryType::GNULongLink, EntryType::XGlobalHeader]
    {
        assert!(is_malformed(&huge(kind, 1 << 40)));
    }
    let bounds = Bounds { bytes: 10, entries: 100, depth: 32 };
    let long = |length| {
        let name = vec![b'n'; length];
        Made::new().member(EntryType::GNULongName, "x", &name).file("output/x", b"").end()
    };
    assert_eq!(collect_bytes(&long(MOST - 512), bounds).expect("archive").left_out.count, 1);
    assert!(matches!(collect_bytes(&long(MOST - 511), bounds), Err(CollectError::Malformed(_))));
    // Many small ones in a row are no way around it.
    let many = (0..1100).fold(Made::new(), |made, _| made.member(EntryType::GNULongLink, "x", &[b'n'; 512]));
    assert!(matches!(
        collect_bytes(&many.file("output/x", b"").end(), bounds),
        Err(CollectError::Malformed(_))
    ));
}

#[test]
fn an_endless_archive_ends() {
    let bounds = Bounds { bytes: 10, entries: 1, depth: 32 };
    let header = Made::new().pax("comment", &"c".repeat(1000)).0;
    let endless = std::iter::repeat_n(header, 100_000).flatten().collect::<Vec<u8>>();
    assert!(collect_bytes(&endless, bounds).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = collect_bytes(&bytes, BOUNDS);
    }

    #[test]
    fn no_changed_archive_panics(at in 0usize..4000, byte: u8, size: u64) {
        let made = Made::new().pax("path", "output/a").file("output/x", b"x").with(EntryType::Regular, "output/b", b"", |header| header.set_size(size));
        let mut bytes = made.end();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = collect_bytes(&bytes, BOUNDS);
    }

    #[test]
    fn whatever_is_kept_has_a_plain_path(path in "[a./\\\\\n]{0,12}") {
        let collected = Made::new().file(&format!("output/{path}"), b"x").collected();
        for path in collected.entries.keys() {
            prop_assert!(!path.split('/').any(|part| part.is_empty() || part == "." || part == ".."));
        }
    }
}

#[test]
fn an_engine_may_call_the_folder_the_root() {
    let made = Made::default().member(EntryType::Directory, "/", b"").file("/b", b"second");
    let made = made.member(EntryType::Directory, "/d", b"").file("/d/a", b"first");
    let collected = made.file("output/x", b"x").file("//y", b"y").file("/../z", b"z").collected();
    assert_eq!(collected.entries.keys().collect::<Vec<_>>(), ["b", "d", "d/a"]);
    assert_eq!(collected.left_out.count, 3, "{:?}", collected.left_out.listed);
    // Whatever is in it cannot change that.
    let collected = Made::new().member(EntryType::Directory, "/", b"").file("/etc/passwd", b"x").collected();
    assert_eq!((collected.entries.len(), collected.left_out.count), (0, 2));
}
