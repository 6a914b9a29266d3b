//! Writing to what is not the run's, and reaching what is outside its root.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    Verdict, failed, first_broken, refused,
    system::{self, Word, call},
};

/// Where the data stands.
const INPUT: &str = "/input";

/// How many entries of a folder, and how many folders deep, are tried.
const ENTRIES: usize = 64;
const DEPTH: usize = 3;

/// Opened and not written to, so that success changes nothing.
fn open_for_writing(path: &Path) -> Verdict {
    failed(format!("opening {} for writing", path.display()), OpenOptions::new().write(true).open(path))
}

/// Made and removed again.
fn make_file(folder: &Path) -> Verdict {
    let path = folder.join("torno-probe");
    let made = OpenOptions::new().write(true).create_new(true).open(&path);
    if made.is_ok() {
        // Best effort: that it could be made is told all the same.
        let _ = fs::remove_file(&path);
    }
    failed(format!("making {}", path.display()), made)
}

fn make_folder(folder: &Path) -> Verdict {
    let path = folder.join("torno-probe");
    let made = fs::create_dir(&path);
    if made.is_ok() {
        let _ = fs::remove_dir(&path);
    }
    failed(format!("making {}", path.display()), made)
}

/// What is in a folder, as far as it can be read.
fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.take(ENTRIES).collect()
}

/// Every file below a folder, without following links.
fn files_below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in inside(folder) {
        let Ok(found) = path.symlink_metadata() else { continue };
        if found.is_file() {
            files.push(path);
        } else if found.is_dir() && depth > 0 {
            files.extend(files_below(&path, depth - 1));
        }
    }
    files
}

pub(crate) fn write_input() -> Verdict {
    let input = Path::new(INPUT);
    if !input.is_dir() {
        return Verdict::Unknown(format!("there is no {INPUT}"));
    }
    let renamed = |path: &PathBuf| {
        let to = input.join("torno-probe-renamed");
        let renamed = fs::rename(path, &to);
        if renamed.is_ok() {
            let _ = fs::rename(&to, path);
        }
        failed(format!("renaming {}", path.display()), renamed)
    };
    let files = files_below(input, DEPTH);
    let tried = [make_file(input), make_folder(input)];
    first_broken(
        tried
            .into_iter()
            .chain(files.iter().map(|path| open_for_writing(path)))
            .chain(files.iter().map(renamed)),
    )
}

pub(crate) fn write_root() -> Verdict {
    let folders = ["/", "/bin", "/dev", "/etc", "/lib", "/root", "/usr", "/var", "/run", "/sbin"];
    let folders = folders.map(Path::new).into_iter().filter(|folder| folder.is_dir());
    let files = ["/etc/passwd", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/sbin/docker-init"];
    first_broken(folders.map(make_file).chain(files.map(|path| open_for_writing(Path::new(path)))))
}

pub(crate) fn write_proc() -> Verdict {
    let fixed = [
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/overcommit_memory",
    ];
    let below = ["kernel", "vm", "net", "fs", "user"].map(|name| Path::new("/proc/sys").join(name));
    let below = below.iter().flat_map(|folder| files_below(folder, 1));
    first_broken(fixed.into_iter().map(PathBuf::from).chain(below).map(|path| open_for_writing(&path)))
}

pub(crate) fn write_sys() -> Verdict {
    let fixed = ["/sys/kernel/uevent_helper", "/sys/kernel/profiling", "/sys/power/state"];
    let below = ["/sys/kernel", "/sys/module", "/sys/power"].map(Path::new);
    let below = below.into_iter().flat_map(|folder| files_below(folder, 2));
    first_broken(fixed.into_iter().map(PathBuf::from).chain(below).map(|path| open_for_writing(&path)))
}

pub(crate) fn write_cgroup() -> Verdict {
    let root = Path::new("/sys/fs/cgroup");
    let folders = || std::iter::once(root.to_owned()).chain(inside(root)).filter(|path| path.is_dir());
    let files = folders().flat_map(|folder| inside(&folder)).filter(|path| path.is_file());
    first_broken(folders().map(|path| make_folder(&path)).chain(files.map(|path| open_for_writing(&path))))
}

/// `MS_REMOUNT | MS_BIND`: makes one mount writable again.
const REMOUNT: u64 = 32 | 4096;

pub(crate) fn remount() -> Verdict {
    let one = |path| {
        let words =
            [Word::Text(c"none"), Word::Text(path), Word::Number(0), Word::Number(REMOUNT), Word::Number(0)];
        refused(format!("mounting {} again", path.to_string_lossy()), call(system::MOUNT, words))
    };
    let mut attributes = [0; 32];
    // `attr_clr = MOUNT_ATTR_RDONLY`
    attributes[8] = 1;
    let size = attributes.len() as u64;
    let words = [
        Word::Number(u64::MAX),
        Word::Text(c"/"),
        Word::Number(0),
        Word::Bytes(&mut attributes),
        Word::Number(size),
    ];
    let newer = refused("changing the root's mount", call(system::MOUNT_SETATTR, words));
    first_broken([c"/", c"/input", c"/proc/sys", c"/sys"].map(one).into_iter().chain([newer]))
}

pub(crate) fn mount() -> Verdict {
    let mounted = |kind, source, flags| {
        let words =
            [Word::Text(source), Word::Text(c"/tmp"), Word::Text(kind), Word::Number(flags), Word::Number(0)];
        refused(format!("mounting a {}", kind.to_string_lossy()), call(system::MOUNT, words))
    };
    let made = |kind| {
        refused("opening a file system", system::open(system::FSOPEN, [Word::Text(kind), Word::Number(0)]))
    };
    // `AT_FDCWD`, and `OPEN_TREE_CLONE`
    let words = [Word::signed(-100), Word::Text(c"/"), Word::Number(1)];
    let cloned = refused("cloning the root's mount", system::open(system::OPEN_TREE, words));
    first_broken([
        mounted(c"tmpfs", c"none", 0),
        mounted(c"proc", c"none", 0),
        mounted(c"bind mount", c"/proc", 4096),
        made(c"tmpfs"),
        cloned,
    ])
}

pub(crate) fn mknod() -> Verdict {
    // `S_IFBLK | 0666`, `S_IFCHR | 0666`; the first disk, and the machine's memory.
    let devices = [(0o060_666, 8 << 8, "a disk"), (0o020_666, 1 << 8 | 1, "the memory")];
    let folders = [c"/tmp/torno-probe", c"/output/torno-probe", c"/dev/shm/torno-probe"];
    first_broken(devices.into_iter().flat_map(|(mode, device, what)| {
        folders.map(|path| {
            let words = [Word::Number(0), Word::Text(path), Word::Number(mode), Word::Number(device)];
            let made = call(system::MKNODAT, words);
            if made.is_ok() {
                let _ = fs::remove_file(&*path.to_string_lossy());
            }
            // Not every container has each of these folders.
            failed(format!("making a device for {what}"), made)
        })
    }))
}

pub(crate) fn chroot() -> Verdict {
    let root = refused("chroot", call(system::CHROOT, [Word::Text(c"/tmp")]));
    let pivot =
        refused("pivot_root", call(system::PIVOT_ROOT, [Word::Text(c"/nonexistent"), Word::Text(c"/tmp")]));
    first_broken([root, pivot])
}

/// The way out of the first Docker releases: a file of the host's by its number.
pub(crate) fn file_handle() -> Verdict {
    let Ok(root) = File::open("/") else { return Verdict::Unknown("/ cannot be opened".into()) };
    let mut handle = [0; 16];
    // 8 bytes, of type 1 (`FILEID_INO32_GEN`): the root folder of most file systems is number 2.
    handle[0] = 8;
    handle[4] = 1;
    handle[8] = 2;
    let words = [Word::file(&root), Word::Bytes(&mut handle), Word::Number(0)];
    refused("opening a file by its number", system::open(system::OPEN_BY_HANDLE_AT, words))
}

pub(crate) fn devices() -> Verdict {
    const HARMLESS: [&str; 17] = [
        "console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero", "log",
    ];
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let strange = |path: &PathBuf| !name(path).is_some_and(|name| HARMLESS.contains(&name.as_str()));
    let strangers: Vec<_> = inside(Path::new("/dev")).into_iter().filter(strange).collect();
    match strangers.first() {
        Some(first) => Verdict::Broken(format!("{} is there", first.display())),
        None => Verdict::Kept,
    }
}

pub(crate) fn masked_paths() -> Verdict {
    const PATHS: [&str; 11] = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    let shows = |path: &str| -> io::Result<bool> {
        if Path::new(path).is_dir() {
            return Ok(fs::read_dir(path)?.next().is_some());
        }
        Ok(File::open(path)?.read(&mut [0; 64])? > 0)
    };
    first_broken(PATHS.map(|path| match shows(path) {
        Ok(true) => Verdict::Broken(format!("{path} can be read")),
        Ok(false) | Err(_) => Verdict::Kept,
    }))
}
