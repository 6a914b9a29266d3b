//! A disk whose power can be cut.
//!
//! An image file on XFS holds a file system, which is mounted through a loop device with direct I/O: what the file
//! system has handed to its device is in the file, and nothing else is. A clone of the file (a reflink, which takes
//! milliseconds and no write gets between) is what the disk would hold if the power failed at that moment.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::failure::Failure;

/// Bytes of the file system under the image files; sparse.
const UNDER: u64 = 6 << 30;
/// Bytes of each image file; sparse.
const SIZE: u64 = 2 << 30;

/// What is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

/// A mounted file system. Dropped, it is unmounted, and its loop device goes with it.
#[derive(Debug)]
struct Mount(PathBuf);

/// The disk.
#[derive(Debug)]
pub(crate) struct Disk {
    // Unmounted in this order.
    inner: Mount,
    under: Mount,
    kind: Kind,
    folder: PathBuf,
}

/// What the disk held when its power was cut, mounted. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Cut {
    mount: Mount,
    _image: Image,
}

/// An image file. Dropped, it is removed.
#[derive(Debug)]
struct Image(PathBuf);

impl Disk {
    /// Makes one, with all its files in a folder that is there.
    pub(crate) fn make(folder: &Path, kind: Kind) -> Result<Self, Failure> {
        let under = folder.join("under.xfs");
        sparse(&under, UNDER)?;
        run("mkfs.xfs", ["-q".as_ref(), "-m".as_ref(), "reflink=1".as_ref(), under.as_os_str()])?;
        let under = Mount::of(&under, &folder.join("under"), "loop", "xfs")?;
        let image = under.0.join("disk");
        sparse(&image, SIZE)?;
        match kind {
            Kind::Ext4 => run("mkfs.ext4", ["-q".as_ref(), "-F".as_ref(), image.as_os_str()])?,
            Kind::Xfs => run("mkfs.xfs", ["-q".as_ref(), image.as_os_str()])?,
        };
        let inner = Mount::direct(&image, &folder.join("disk"), kind)?;
        Ok(Self { inner, under, kind, folder: folder.to_owned() })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.inner.0
    }

    /// Brings everything to the disk.
    pub(crate) fn sync(&self) -> Result<(), Failure> {
        let synced = File::open(self.path()).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        synced.map_err(Failure::io("the disk could not be synced"))
    }

    /// Cuts the power. The disk itself goes on as if nothing had been; the clone is to be [mounted](Power::mount).
    pub(crate) fn cut(&self) -> Result<Power<'_>, Failure> {
        let image = Image(self.under.0.join("cut"));
        let disk = self.under.0.join("disk");
        run("cp", ["--reflink=always".as_ref(), disk.as_os_str(), image.0.as_os_str()])?;
        Ok(Power { disk: self, image })
    }
}

/// What was on the disk, not mounted yet.
#[derive(Debug)]
pub(crate) struct Power<'a> {
    disk: &'a Disk,
    image: Image,
}

impl Power<'_> {
    /// Switches it on again: the file system comes up as after a loss of power.
    pub(crate) fn mount(self) -> Result<Cut, Failure> {
        let (options, kind) = match self.disk.kind {
            Kind::Ext4 => ("loop", "ext4"),
            // Its twin is mounted.
            Kind::Xfs => ("loop,nouuid", "xfs"),
        };
        let mount = Mount::of(&self.image.0, &self.disk.folder.join("cut"), options, kind)?;
        Ok(Cut { mount, _image: self.image })
    }
}

impl Cut {
    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount.0
    }
}

impl Mount {
    fn of(image: &Path, at: &Path, options: &str, kind: &str) -> Result<Self, Failure> {
        fs::create_dir_all(at).map_err(Failure::io("a mount point"))?;
        let words = ["-t", kind, "-o", options].map(OsStr::new);
        run("mount", words.into_iter().chain([image.as_os_str(), at.as_os_str()]))?;
        Ok(Self(at.to_owned()))
    }

    /// Through a loop device that keeps no copy in memory.
    fn direct(image: &Path, at: &Path, kind: Kind) -> Result<Self, Failure> {
        let words = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let device = run("losetup", words.into_iter().chain([image.as_os_str()]))?;
        let device = device.trim();
        let name = device.trim_start_matches("/dev/");
        let direct = fs::read_to_string(format!("/sys/block/{name}/loop/dio"));
        let kind = match kind {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        };
        let mounted = Self::of(Path::new(device), at, "rw", kind);
        // In use, the device is let go of when it is unmounted; otherwise at once.
        run("losetup", ["--detach", device].map(OsStr::new))?;
        let mounted = mounted?;
        match direct {
            Ok(text) if text.trim() == "1" => Ok(mounted),
            _ => Err(Failure::Wrong(format!("{device} does no direct I/O, so a clone would prove nothing"))),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(failure) = run("umount", [self.0.as_os_str()]) {
            eprintln!("crash: {failure}");
            // The least that can be done: it goes as soon as nobody uses it any more.
            let _ = run("umount", ["--lazy".as_ref(), self.0.as_os_str()]);
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("crash: {}: {error}", self.0.display());
        }
    }
}

fn sparse(path: &Path, size: u64) -> Result<(), Failure> {
    let made = File::create(path).and_then(|file| file.set_len(size));
    made.map_err(Failure::io(format!("{}", path.display())))
}

/// Runs a program of the system, which must succeed; its standard output.
fn run<'a>(program: &str, words: impl IntoIterator<Item = &'a OsStr>) -> Result<String, Failure> {
    // An ordinary PATH seldom has the folders they are in.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output =
        Command::new(program).args(words).env("PATH", path).output().map_err(Failure::io(program))?;
    if !output.status.success() {
        return Err(Failure::program(program, &output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The instrument tells what is durable from what is not. Otherwise it would find nothing lost, whatever Torno did.
    #[test]
    fn what_was_synced_is_there_and_what_was_not_is_not_always() {
        if !crate::is_root() {
            return;
        }
        for kind in [Kind::Ext4, Kind::Xfs] {
            let folder = tempfile::tempdir().expect("a folder");
            let disk = Disk::make(folder.path(), kind).expect("a disk");
            let bytes = vec![7; 300_000];
            let mut missing = 0;
            for round in 0..3 {
                let path = |name: &str| disk.path().join(format!("{name}-{round}"));
                let synced = File::create(path("synced")).expect("a file");
                (&synced).write_all(&bytes).expect("bytes");
                synced.sync_all().expect("synced");
                File::open(disk.path()).and_then(|folder| folder.sync_all()).expect("synced");
                fs::write(path("unsynced"), &bytes).expect("bytes");
                let cut = disk.cut().expect("a cut").mount().expect("a mount");
                let found = |name: &str| fs::read(cut.path().join(format!("{name}-{round}"))).ok();
                assert!(found("synced").as_ref() == Some(&bytes), "{kind:?}: what was synced is lost");
                missing += u32::from(found("unsynced").as_ref() != Some(&bytes));
            }
            assert!(missing > 0, "{kind:?}: nothing is ever lost, so nothing is proved");
        }
    }
}
