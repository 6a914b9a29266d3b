//! A small disk of a test's own, which can be full and can fail.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// An ext4 file system in a file. Dropped, it is unmounted and gone.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
    device: String,
}

impl Disk {
    /// One of so many MiB; `None` where a test cannot mount one: it takes root and loop devices.
    pub fn new(mebibytes: u64) -> Option<Self> {
        let id = Command::new("id").arg("--user").output().expect("id");
        if id.stdout != b"0\n" || !Path::new("/dev/loop-control").exists() {
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (image, mount) = (folder.path().join("image"), folder.path().join("disk"));
        File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("an image");
        fs::create_dir(&mount).expect("a folder");
        // Nothing is kept back for root.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,errors=remount-ro"])
            .arg(&image)
            .arg(&mount));
        let mut disk = Self { folder, device: String::new() };
        let device = run(Command::new("findmnt").args(["--noheadings", "--output", "SOURCE"]).arg(&mount));
        device.trim().trim_start_matches("/dev/").clone_into(&mut disk.device);
        Some(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut ballast =
            File::options().create(true).append(true).open(self.path().join("ballast")).expect("ballast");
        for piece in [1 << 20, 4096, 1] {
            while ballast.write(&vec![0; piece]).is_ok_and(|written| written > 0)
                && ballast.sync_all().is_ok()
            {}
        }
    }

    /// Makes the room again that it was filled of.
    pub fn make_room(&self) {
        fs::remove_file(self.path().join("ballast")).expect("ballast");
    }

    /// Lets its file system find an error, so that nothing can be written any more.
    pub fn fail(&self) {
        let trigger = format!("/sys/fs/ext4/{}/trigger_fs_error", self.device);
        fs::write(trigger, "a test").expect("an error");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg(self.path()));
    }
}

/// Runs a program of the system, which must succeed; its standard output.
fn run(command: &mut Command) -> String {
    // An ordinary PATH seldom has the folders they are in.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = command.env("PATH", path).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
