//! The output of a run while it is written, seen from the host.
//!
//! A run may write, rename, link and delete while it is looked at. No link is followed and no folder is entered but
//! through the one it is in, so nothing outside is ever seen; and a look ends when it has seen more than is allowed.

use std::{
    collections::HashSet,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fstatvfs, openat, statat},
    io::Errno,
};

use crate::collect::Bounds;

/// The longest path in bytes, below the output folder. An engine reads what a run left by whole paths, of which the
/// kernel takes 4096 bytes; the rest is for where the engine keeps them.
const LONGEST_PATH: usize = 3072;

/// What a disk may hold of an output beyond twice its bytes: for each file and folder a block that is not full, and
/// its entry in its folder.
const DISK_PER_ENTRY: u64 = 8 * 1024;
/// The same for all of them: folders that were large once, and what a file system keeps ready for a file that grows.
const DISK_SLACK: u64 = 16 << 20;

/// What a run is taken to write in a second at the most: memory takes as much, before a disk has to.
const WRITTEN: u64 = 4 << 30;
/// How many files a run is taken to make in a second at the most.
const MADE: u64 = 200_000;

/// Between two looks there is at least this, so that few processes cannot keep a processor busy with looking.
const SHORTEST: Duration = Duration::from_millis(50);
/// And at most this, since what is deleted and still open is not seen, but only what is left of the disk.
const LONGEST: Duration = Duration::from_secs(1);
/// Looking takes no more than this part of a processor's time: one of so many.
const SHARE: u32 = 10;

/// What was seen of an output that is within its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Bytes of all files, as they will be read.
    pub bytes: u64,
    /// Bytes on the disk, of folders too.
    pub disk: u64,
    /// Files, folders and everything else.
    pub entries: u64,
    /// What the disk has left for anybody.
    pub free: u64,
}

/// What an output is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// More bytes than this.
    Bytes(u64),
    /// More files and folders than this.
    Entries(u64),
    /// Folders in folders in more than this many, or too long a path.
    Depth(u32),
}

/// How an output stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Within its bounds.
    Within(Seen),
    /// Past one.
    Past(Excess),
}

/// Looks at the output below `root`. Blocks; what it costs is bounded by `bounds`. What goes away meanwhile is not
/// counted.
pub(crate) fn look(root: &Path, bounds: Bounds) -> Result<Look, Errno> {
    let root = rustix::fs::open(root, FOLDER, Mode::empty())?;
    let disk = fstatvfs(&root)?;
    let mut walk = Walk { bounds, seen: Seen::default(), linked: HashSet::new() };
    walk.seen.free = disk.f_bavail.saturating_mul(disk.f_frsize);
    Ok(walk.below(root)?.map_or(Look::Within(walk.seen), Look::Past))
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Walk {
    bounds: Bounds,
    seen: Seen,
    /// Files of several names that were counted: by number, on this one file system.
    linked: HashSet<u64>,
}

/// A folder that is read, and how long its path is below the root.
struct Open {
    entries: Dir,
    length: usize,
}

impl Walk {
    /// Counts all there is below a folder, deepest first, with one open folder for each step down.
    fn below(&mut self, root: OwnedFd) -> Result<Option<Excess>, Errno> {
        let mut open = vec![Open { entries: Dir::new(root)?, length: 0 }];
        loop {
            let depth = open.len();
            let Some(folder) = open.last_mut() else { return Ok(None) };
            let Some(entry) = folder.entries.read().transpose()? else {
                open.pop();
                continue;
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let length = folder.length.saturating_add(name.to_bytes().len()).saturating_add(1);
            if u32::try_from(depth).unwrap_or(u32::MAX) > self.bounds.depth || length > LONGEST_PATH {
                return Ok(Some(Excess::Depth(self.bounds.depth)));
            }
            let at = folder.entries.fd()?;
            let stat = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if let Some(excess) = self.count(kind, &stat) {
                return Ok(Some(excess));
            }
            if kind == FileType::Directory {
                match openat(at, name, FOLDER, Mode::empty()) {
                    Ok(inside) => open.push(Open { entries: Dir::new(inside)?, length }),
                    // It went away, or is something else now.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn count(&mut self, kind: FileType, stat: &rustix::fs::Stat) -> Option<Excess> {
        let (seen, bounds) = (&mut self.seen, self.bounds);
        seen.entries += 1;
        if seen.entries > bounds.entries {
            return Some(Excess::Entries(bounds.entries));
        }
        // A file of several names has its bytes once, here and in what is collected.
        if kind != FileType::Directory && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return None;
        }
        if kind == FileType::RegularFile {
            seen.bytes = seen.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or_default());
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or_default();
        seen.disk = seen.disk.saturating_add(blocks.saturating_mul(512));
        let allowance = bounds.bytes.saturating_mul(2).saturating_add(DISK_SLACK);
        let allowance = allowance.saturating_add(seen.entries.saturating_mul(DISK_PER_ENTRY));
        (seen.bytes > bounds.bytes || seen.disk > allowance).then_some(Excess::Bytes(bounds.bytes))
    }
}

/// When to look again: before a run can have written what is left to it, and with pauses that are long beside what a
/// look takes.
pub(crate) fn pause(seen: Seen, bounds: Bounds, took: Duration) -> Duration {
    let bytes = bounds.bytes.saturating_sub(seen.bytes).saturating_mul(1000) / WRITTEN;
    let entries = bounds.entries.saturating_sub(seen.entries).saturating_mul(1000) / MADE;
    let room = Duration::from_millis(bytes.min(entries));
    room.clamp(SHORTEST, LONGEST).max(took.saturating_mul(SHARE))
}

/// Looks, and how long that took. Blocks.
pub(crate) fn timed(root: &Path, bounds: Bounds) -> (Result<Look, Errno>, Duration) {
    let began = Instant::now();
    let seen = look(root, bounds);
    (seen, began.elapsed())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::symlink,
    };

    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 1000, entries: 10, depth: 3 };

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn within(root: &Path) -> Seen {
        match look(root, BOUNDS).expect("a look") {
            Look::Within(seen) => seen,
            past @ Look::Past(_) => panic!("{past:?}"),
        }
    }

    fn past(root: &Path) -> Excess {
        match look(root, BOUNDS).expect("a look") {
            Look::Past(excess) => excess,
            within @ Look::Within(_) => panic!("{within:?}"),
        }
    }

    #[test]
    fn bytes_are_those_that_will_be_read() {
        let root = folder();
        fs::write(root.path().join("a"), [1; 600]).expect("write");
        fs::hard_link(root.path().join("a"), root.path().join("b")).expect("link");
        symlink("/etc", root.path().join("c")).expect("link");
        File::create(root.path().join("d")).and_then(|file| file.set_len(400)).expect("a file with a hole");
        let seen = within(root.path());
        assert_eq!((seen.bytes, seen.entries), (1000, 4));
        assert!(seen.free > 0 && seen.disk > 0);
        fs::write(root.path().join("e"), [1]).expect("write");
        assert_eq!(past(root.path()), Excess::Bytes(1000));
    }

    #[test]
    fn holes_count_and_so_does_what_is_kept_ready() {
        let root = folder();
        File::create(root.path().join("sparse")).and_then(|file| file.set_len(1 << 40)).expect("a file");
        assert_eq!(past(root.path()), Excess::Bytes(1000));
        let root = folder();
        let file = File::create(root.path().join("ready")).expect("a file");
        let kept = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 32 << 20);
        if kept.is_ok() {
            assert_eq!(past(root.path()), Excess::Bytes(1000));
        }
    }

    #[test]
    fn entries_are_counted_up_to_their_limit_and_no_further() {
        let root = folder();
        for name in 0..10 {
            File::create(root.path().join(name.to_string())).expect("a file");
        }
        assert_eq!(within(root.path()).entries, 10);
        fs::create_dir(root.path().join("one")).expect("a folder");
        assert_eq!(past(root.path()), Excess::Entries(10));
    }

    #[test]
    fn folders_are_in_each_other_up_to_their_limit() {
        let root = folder();
        fs::create_dir_all(root.path().join("1/2/3")).expect("folders");
        assert_eq!(within(root.path()).entries, 3);
        File::create(root.path().join("1/2/3/4")).expect("a file");
        assert_eq!(past(root.path()), Excess::Depth(3));
    }

    #[test]
    fn long_paths_are_too_deep() {
        let root = folder();
        let mut at = rustix::fs::open(root.path(), FOLDER, Mode::empty()).expect("open");
        let name = "n".repeat(255);
        for step in 1..=13 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("a folder");
            at = openat(&at, &name, FOLDER, Mode::empty()).expect("open");
            let found = look(root.path(), Bounds { entries: 100, depth: 100, ..BOUNDS }).expect("a look");
            let expected = if step * 256 > LONGEST_PATH { "Past(Depth(100))" } else { "Within" };
            assert!(format!("{found:?}").starts_with(expected), "{step}: {found:?}");
        }
    }

    #[test]
    fn looks_come_more_often_the_less_room_there_is() {
        let bounds = Bounds { bytes: 8 << 30, entries: 1_000_000, depth: 3 };
        let seen = |bytes, entries| Seen { bytes, entries, ..Seen::default() };
        let quick = Duration::from_micros(10);
        assert_eq!(pause(seen(0, 0), bounds, quick), LONGEST);
        assert_eq!(pause(seen(6 << 30, 0), bounds, quick), Duration::from_millis(500));
        assert_eq!(pause(seen(0, 900_000), bounds, quick), Duration::from_millis(500));
        assert_eq!(pause(seen(8 << 30, 1_000_000), bounds, quick), SHORTEST);
        assert_eq!(pause(seen(8 << 30, 0), bounds, Duration::from_millis(30)), Duration::from_millis(300));
    }
}
