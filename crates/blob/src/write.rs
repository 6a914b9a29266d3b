//! Writing the batches of an upload to its file.
//!
//! Large batches pass the page cache by (`O_DIRECT`): a disk is kept busy while the upload still arrives, nothing is
//! left for the `fsync` at its end, and the processor copies less. `docs/PERFORMANCE.md` has the figures.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::fs::OFlags;

use crate::batch::BLOCK;

/// Batches below this are left to the page cache, which gathers them better.
const DIRECT: usize = 256 * 1024;

/// Writes batches. What it knows of the file system it learns by trying.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// The file system takes no direct writes.
    refused: AtomicBool,
}

impl Writer {
    /// Writes bytes at `offset`; the first ones make the file. After an error it may hold any part of them. Blocks.
    pub(crate) fn write(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let aligned = offset.is_multiple_of(BLOCK as u64) && bytes.as_ptr().align_offset(BLOCK) == 0;
        if bytes.len() >= DIRECT && aligned && !self.refused.load(Ordering::Relaxed) {
            match write_direct(path, offset, bytes) {
                // tmpfs and some network file systems refuse the flag, or the write.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        options(offset).open(path)?.write_all_at(bytes, offset)
    }
}

/// The file of bytes at `offset` is there, unless they are its first.
fn options(offset: u64) -> OpenOptions {
    let mut options = File::options();
    options.write(true).create(offset == 0).truncate(false);
    options
}

/// The whole blocks directly, the rest of the last one through the page cache.
fn write_direct(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
    let file = options(offset).custom_flags(flags).open(path)?;
    let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BLOCK);
    file.write_all_at(blocks, offset)?;
    if rest.is_empty() {
        return Ok(());
    }
    File::options().write(true).open(path)?.write_all_at(rest, offset + blocks.len() as u64)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "patterns of bytes are cut on purpose")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever the sizes, and wherever the bytes lie in memory, the file holds what was written, in its order.
        #[test]
        fn what_is_written_is_there(
            writes in prop::collection::vec((1..700_000_usize, 0..2_usize), 1..5),
            before in prop_oneof![Just(0), Just(8192), 0..9000_usize],
        ) {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("upload");
            let mut expected = vec![1; before];
            std::fs::write(&path, &expected).expect("file");
            let writer = Writer::default();
            for (number, (size, past)) in writes.into_iter().enumerate() {
                let memory: Vec<u8> = (0..size + 2 * BLOCK).map(|at| (at * 31 + number) as u8).collect();
                let start = memory.as_ptr().align_offset(BLOCK) + past;
                let bytes = &memory[start..start + size];
                writer.write(&path, expected.len() as u64, bytes).expect("written");
                expected.extend(bytes);
            }
            prop_assert!(std::fs::read(&path).expect("read") == expected);
        }
    }
}
