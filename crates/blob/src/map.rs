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
//! reader in this process would be ended by it (`SIGBUS`).
#![expect(unsafe_code, reason = "a mapping is unsafe by nature; the module's text is the argument")]

use std::{fs::File, io, ops::Range, sync::Arc};

use bytes::Bytes;
use memmap2::{Advice, Mmap};

/// A whole blob in memory, as far as its pages are there.
#[derive(Clone, Debug)]
pub(crate) struct Map(Arc<Mmap>);

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
        Some(Self(Arc::new(map)))
    }

    /// A piece whose pages are in memory. Blocks for as long as the disk takes.
    pub(crate) fn piece(&self, range: Range<u64>) -> io::Result<Bytes> {
        let past = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(range.start).map_err(|_| past())?;
        let end = usize::try_from(range.end).map_err(|_| past())?;
        if start > end || end > self.0.len() {
            return Err(past());
        }
        self.0.advise_range(Advice::PopulateRead, start, end - start)?;
        Ok(Bytes::from_owner(Piece { map: self.clone(), start, end }))
    }
}

/// Keeps the mapping for as long as anybody has the piece.
struct Piece {
    map: Map,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.map.0.get(self.start..self.end).unwrap_or_default()
    }
}
