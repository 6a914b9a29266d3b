//! Blobs mapped into memory: the one place in Torno with `unsafe` code.
//!
//! What must hold for a mapping to be sound is that nobody changes the file under it. Nobody does: a blob is written
//! under another name, closed, and moved to its own by a rename; from then on no code opens it for writing. Deleting
//! it, replacing it by the same bytes, or moving it elsewhere changes folders, not the file, which lives until the
//! last mapping is gone. The data directory belongs to Torno's user alone (`umask 077`).
//!
//! If the disk fails or somebody truncates the file by hand, the pages are gone. Pages are therefore fetched by the
//! kernel before a piece is handed out ([`Map::piece`]), where that is an error like any other; and pieces are for
//! callers that hand them to the kernel unread ([`crate::Reading::Mapped`]), where it is one too (`EFAULT`). Only a
//! reader in this process would be ended by it (`SIGBUS`). A piece that has just been fetched for somebody is handed out
//! again at once ([`Map::ready`]): should its pages have gone since, sending it waits for the disk.
#![expect(unsafe_code, reason = "a mapping is unsafe by nature; the module's text is the argument")]

use std::{
    fs::File,
    io,
    ops::Range,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use memmap2::{Advice, Mmap};

/// A piece: large enough that asking for it costs nothing beside sending it.
pub(crate) const PIECE: u64 = 1024 * 1024;

/// For how long a piece that was fetched is taken to be there.
const FETCHED: Duration = Duration::from_secs(1);

/// A whole blob in memory, as far as its pages are there.
#[derive(Clone, Debug)]
pub(crate) struct Map(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Mmap,
    /// When each piece was last fetched, in milliseconds since [`START`]; 0 for never.
    fetched: Box<[AtomicU64]>,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Map {
    /// Maps a blob; `None` where the file system or the kernel cannot, and the caller reads it instead.
    pub(crate) fn of(file: &File, size: u64) -> Option<Self> {
        if file.metadata().ok()?.len() != size {
            return None;
        }
        // SAFETY: nobody changes the file of a blob, see above.
        let map = unsafe { Mmap::map(file) }.ok()?;
        // Linux before 5.14 does not know the advice that `piece` needs.
        map.advise_range(Advice::PopulateRead, 0, 1).ok()?;
        let fetched = (0..size.div_ceil(PIECE)).map(|_| AtomicU64::new(0)).collect();
        Some(Self(Arc::new(Inner { bytes: map, fetched })))
    }

    /// A range within one piece, whose pages are in memory. Blocks for as long as the disk takes.
    pub(crate) fn piece(&self, range: Range<u64>) -> io::Result<Bytes> {
        let past = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (start, end) = self.bounds(&range).ok_or_else(past)?;
        self.0.bytes.advise_range(Advice::PopulateRead, start, end - start)?;
        // Part of a piece says nothing of the rest.
        if range.start.is_multiple_of(PIECE)
            && (range.end - range.start == PIECE || end == self.0.bytes.len())
            && let Some(fetched) = self.fetched(&range)
        {
            fetched.store(now(), Ordering::Relaxed);
        }
        Ok(Bytes::from_owner(Piece { map: self.clone(), start, end }))
    }

    /// A range within one piece that was fetched a moment ago.
    pub(crate) fn ready(&self, range: &Range<u64>) -> Option<Bytes> {
        self.ready_at(range, now())
    }

    fn ready_at(&self, range: &Range<u64>, now: u64) -> Option<Bytes> {
        let (start, end) = self.bounds(range)?;
        let fetched = self.fetched(range)?.load(Ordering::Relaxed);
        let fresh = u64::try_from(FETCHED.as_millis()).unwrap_or(0);
        if fetched == 0 || now.saturating_sub(fetched) > fresh {
            return None;
        }
        Some(Bytes::from_owner(Piece { map: self.clone(), start, end }))
    }

    fn bounds(&self, range: &Range<u64>) -> Option<(usize, usize)> {
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        (start <= end && end <= self.0.bytes.len()).then_some((start, end))
    }

    /// When the piece that the range is in was fetched; `None` if it is in more than one.
    fn fetched(&self, range: &Range<u64>) -> Option<&AtomicU64> {
        let last = range.end.saturating_sub(1).max(range.start);
        let number = range.start / PIECE;
        (last / PIECE == number).then_some(())?;
        self.0.fetched.get(usize::try_from(number).ok()?)
    }
}

fn now() -> u64 {
    // Never 0.
    u64::try_from(START.elapsed().as_millis()).map_or(1, |millis| millis + 1)
}

/// Keeps the mapping for as long as anybody has the piece.
struct Piece {
    map: Map,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.map.0.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_piece_that_was_fetched_whole_is_ready() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("blob");
        let size = 2 * PIECE + 10;
        std::fs::write(&path, vec![1; usize::try_from(size).expect("small")]).expect("write");
        let map = Map::of(&File::open(&path).expect("open"), size).expect("map");
        let (first, last) = (0..PIECE, 2 * PIECE..size);
        assert!(map.ready(&first).is_none());
        map.piece(0..PIECE - 1).expect("piece");
        assert!(map.ready(&(0..10)).is_none(), "part of it was fetched");
        map.piece(first.clone()).expect("piece");
        assert!(map.ready(&first).is_some() && map.ready(&(5..10)).is_some());
        assert!(map.ready(&(0..PIECE + 1)).is_none(), "the next one was not");
        map.piece(last.clone()).expect("piece");
        assert_eq!(map.ready(&last).expect("ready").len(), 10);
        assert!(map.ready(&(size..size + 1)).is_none());
        assert!(map.piece(size..size + 1).is_err());
        let later = now() + u64::try_from(FETCHED.as_millis()).expect("small") + 1;
        assert!(map.ready_at(&last, later).is_none(), "that was long ago");
    }
}
