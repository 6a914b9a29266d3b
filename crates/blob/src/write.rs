//! Writing the batches of an upload to its file.
//!
//! Large batches pass the page cache by (`O_DIRECT`): a disk is kept busy while the upload still arrives, nothing is
//! left for the `fsync` at its end, and the processor copies less. `docs/PERFORMANCE.md` has the figures.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::session::MAX_BATCH;

/// What offset, length and memory of a direct write are multiples of: the largest logical block of common disks.
const BLOCK: usize = 4096;

/// Batches below this are left to the page cache, which gathers them better.
const DIRECT: usize = 256 * 1024;

/// Buffers kept for later writes.
const SPARE: usize = 8;

/// Writes batches. What it knows of the file system it learns by trying.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffers: Mutex<Vec<Aligned>>,
    /// The file system takes no direct writes.
    refused: AtomicBool,
}

impl Writer {
    /// Writes `batch` at `offset`. After an error the file may hold any part of it. Blocks.
    pub(crate) fn write(&self, path: &Path, offset: u64, batch: &[Bytes]) -> io::Result<()> {
        let size: usize = batch.iter().map(Bytes::len).sum();
        let aligned = offset.is_multiple_of(BLOCK as u64);
        if (DIRECT..=MAX_BATCH).contains(&size) && aligned && !self.refused.load(Ordering::Relaxed) {
            match self.write_direct(path, offset, size, batch) {
                // tmpfs and some network file systems refuse the flag, or the write.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        let file = File::options().write(true).open(path)?;
        let mut at = offset;
        for chunk in batch {
            file.write_all_at(chunk, at)?;
            at += chunk.len() as u64;
        }
        Ok(())
    }

    /// The whole blocks directly, the rest of the last one through the page cache.
    fn write_direct(&self, path: &Path, offset: u64, size: usize, batch: &[Bytes]) -> io::Result<()> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = File::options().write(true).custom_flags(flags).open(path)?;
        let mut buffer =
            self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let bytes = buffer.filled(batch);
        let blocks = size - size % BLOCK;
        let (direct, rest) = bytes.split_at(blocks.min(bytes.len()));
        let written = file.write_all_at(direct, offset).and_then(|()| {
            if rest.is_empty() {
                return Ok(());
            }
            File::options().write(true).open(path)?.write_all_at(rest, offset + direct.len() as u64)
        });
        let mut spare = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(buffer);
        }
        written
    }
}

/// Memory that begins at a block's boundary, for one batch.
#[derive(Debug)]
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Default for Aligned {
    fn default() -> Self {
        let memory = vec![0; MAX_BATCH + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, start }
    }
}

impl Aligned {
    /// The bytes of a batch, which must fit, one after the other.
    fn filled(&mut self, batch: &[Bytes]) -> &[u8] {
        let mut end = self.start;
        for chunk in batch {
            if let Some(room) = self.memory.get_mut(end..end + chunk.len()) {
                room.copy_from_slice(chunk);
                end += chunk.len();
            }
        }
        self.memory.get(self.start..end).unwrap_or_default()
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "patterns of bytes are cut on purpose")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever the sizes, the file holds what was written, in its order.
        #[test]
        fn what_is_written_is_there(sizes in prop::collection::vec(1..700_000_usize, 1..5), before in 0..9000_usize) {
            let folder = tempfile::tempdir().expect("folder");
            let path = folder.path().join("upload");
            let mut expected = vec![1; before];
            std::fs::write(&path, &expected).expect("file");
            let writer = Writer::default();
            for (number, size) in sizes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..size).map(|at| (at * 31 + number) as u8).collect();
                let (first, second) = bytes.split_at(size / 3);
                let batch = [Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)];
                writer.write(&path, expected.len() as u64, &batch).expect("written");
                expected.extend(bytes);
            }
            prop_assert_eq!(std::fs::read(&path).expect("read"), expected);
        }
    }
}
