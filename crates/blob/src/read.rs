//! Reading whole blobs, piece by piece.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::task::JoinHandle;

use crate::{
    map::{Map, PIECE},
    maps::FileId,
};

/// A piece of copied memory. Two of them are in memory for each pull.
const COPIED_PIECE: u64 = 256 * 1024;

/// Blobs up to this size are copied in any case: mapping costs more than it saves.
pub(crate) const COPIED: u64 = 64 * 1024;

/// A blob open for reading. It stays readable when the blob is deleted or moved meanwhile.
#[derive(Debug)]
pub struct Blob {
    pub(crate) source: Source,
    size: u64,
    /// Which file it is; `None` in memory.
    pub(crate) file: Option<FileId>,
}

/// How the bytes of a blob are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The pages of the file itself, for whoever only hands them on to the kernel: nothing is copied.
    ///
    /// Read by the process itself, a page that its disk no longer gives would end the process.
    Mapped,
    /// In memory of their own, for whoever reads them.
    Copied,
}

/// Where pieces come from.
#[derive(Debug)]
pub(crate) enum Source {
    Map(Map),
    File(File),
    Memory(Bytes),
}

impl Blob {
    pub(crate) fn new(source: Source, size: u64, file: Option<FileId>) -> Self {
        Self { source, size, file }
    }

    /// A blob whose bytes are in memory already.
    pub fn in_memory(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { size: bytes.len() as u64, source: Source::Memory(bytes), file: None }
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of a range within it. While one piece is used the next is fetched.
    pub fn stream(self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let state = State::Next(Arc::new(self.source), range);
        stream::try_unfold(state, async |state| state.next().await)
    }

    /// All its bytes, for blobs known to be small.
    pub async fn bytes(self) -> io::Result<Vec<u8>> {
        let range = 0..self.size;
        fetched(tokio::task::spawn_blocking(move || match self.source {
            Source::File(file) => copy(&file, range),
            Source::Memory(bytes) => Ok(bytes.into()),
            Source::Map(map) => Ok(map.piece(range)?.into()),
        }))
        .await
    }
}

/// Where a stream is.
enum State {
    /// Nothing is on its way.
    Next(Arc<Source>, Range<u64>),
    /// The next piece is.
    Fetching(JoinHandle<io::Result<Bytes>>, Arc<Source>, Range<u64>),
}

impl State {
    /// Cancelled, it lets the piece that is on its way arrive for nobody.
    async fn next(self) -> io::Result<Option<(Bytes, Self)>> {
        let (piece, source, rest) = match self {
            Self::Next(_, range) if range.is_empty() => return Ok(None),
            Self::Next(source, range) => {
                let (first, rest) = source.split(range);
                if let Some(piece) = source.ready(&first) {
                    return Ok(Some((piece, Self::Next(source, rest))));
                }
                (fetched(fetch(&source, first)).await?, source, rest)
            }
            Self::Fetching(piece, source, rest) => (fetched(piece).await?, source, rest),
        };
        if rest.is_empty() {
            return Ok(Some((piece, Self::Next(source, rest))));
        }
        let (next, rest) = source.split(rest);
        Ok(Some((piece, Self::Fetching(fetch(&source, next), source, rest))))
    }
}

fn fetch(source: &Arc<Source>, range: Range<u64>) -> JoinHandle<io::Result<Bytes>> {
    let source = Arc::clone(source);
    tokio::task::spawn_blocking(move || source.fetch(range))
}

impl Source {
    /// The next piece of a range, and the rest of it. Pieces end where the map's do.
    pub(crate) fn split(&self, range: Range<u64>) -> (Range<u64>, Range<u64>) {
        let end = match self {
            Self::Map(_) | Self::Memory(_) => (range.start / PIECE + 1).saturating_mul(PIECE),
            Self::File(_) => range.start.saturating_add(COPIED_PIECE),
        };
        let middle = range.end.min(end);
        (range.start..middle, middle..range.end)
    }

    /// A piece that is in memory already.
    fn ready(&self, range: &Range<u64>) -> Option<Bytes> {
        match self {
            Self::Map(map) => map.ready(range),
            Self::Memory(bytes) => {
                let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
                (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
            }
            Self::File(_) => None,
        }
    }

    /// A piece. Blocks for as long as the disk takes.
    pub(crate) fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Map(map) => map.piece(range),
            Self::File(file) => copy(file, range).map(Bytes::from),
            Self::Memory(_) => self.ready(&range).ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn copy(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

async fn fetched<T>(piece: JoinHandle<io::Result<T>>) -> io::Result<T> {
    piece.await.map_err(io::Error::other)?
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "patterns of bytes are cut on purpose")]
mod tests {
    use std::io::Write as _;

    use futures_util::TryStreamExt as _;

    use super::*;

    async fn read(file: &File, size: u64, range: Range<u64>, reading: Reading) -> io::Result<Vec<u8>> {
        let source = match reading {
            Reading::Mapped => Source::Map(Map::of(file, size).ok_or(io::ErrorKind::UnexpectedEof)?),
            Reading::Copied => Source::File(file.try_clone()?),
        };
        let pieces: Vec<Bytes> = Blob::new(source, size, None).stream(range).try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn what_was_just_read_is_read_again_the_same() {
        let mut file = tempfile::tempfile().expect("file");
        let content: Vec<u8> = (0..2_500_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
        file.write_all(&content).expect("write");
        let map = Map::of(&file, content.len() as u64).expect("map");
        for range in [0..2_500_000, 0..2_500_000, 1_048_000..1_049_000, 2_400_000..2_500_000] {
            let stream = Blob::new(Source::Map(map.clone()), 2_500_000, None).stream(range.clone());
            let pieces: Vec<Bytes> = stream.try_collect().await.expect("bytes");
            assert!(pieces.concat() == content[range.start as usize..range.end as usize], "{range:?}");
        }
    }

    #[tokio::test]
    async fn every_range_is_what_the_file_holds() {
        let mut file = tempfile::tempfile().expect("file");
        let content: Vec<u8> = (0..2_500_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
        file.write_all(&content).expect("write");
        let size = content.len() as u64;
        for range in [0..size, 0..0, 5..6, 1_048_575..1_048_577, 4095..2_400_001, size - 1..size, size..size]
        {
            let expected = &content[range.start as usize..range.end as usize];
            for reading in [Reading::Mapped, Reading::Copied] {
                let found = read(&file, size, range.clone(), reading).await.expect("bytes");
                assert!(found == expected, "{range:?} {reading:?}");
            }
        }
    }

    #[tokio::test]
    async fn bytes_in_memory_are_read_like_a_file() {
        for (range, expected) in [(0..5, &b"small"[..]), (1..3, b"ma"), (5..5, b"")] {
            let stream = Blob::in_memory(&b"small"[..]).stream(range);
            let pieces: Vec<Bytes> = stream.try_collect().await.expect("bytes");
            assert_eq!(pieces.concat(), expected);
        }
        assert_eq!(Blob::in_memory(&b"small"[..]).bytes().await.expect("bytes"), b"small");
        let past = Blob::in_memory(&b"small"[..]).stream(3..6);
        assert!(past.try_collect::<Vec<_>>().await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_became_shorter_is_an_error_and_ends_nothing() {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(&vec![1; 3_000_000]).expect("write");
        file.set_len(1_000_000).expect("shorter");
        for reading in [Reading::Mapped, Reading::Copied] {
            assert!(read(&file, 3_000_000, 0..3_000_000, reading).await.is_err(), "{reading:?}");
        }
    }
}
