//! Reading whole blobs, piece by piece.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::task::JoinHandle;

use crate::map::Map;

/// A piece of mapped memory: large enough that asking for it costs nothing beside sending it.
const MAPPED_PIECE: u64 = 1024 * 1024;

/// A piece of copied memory. Two of them are in memory for each pull.
const COPIED_PIECE: u64 = 256 * 1024;

/// Blobs up to this size are copied in any case: mapping costs more than it saves.
const COPIED: u64 = 64 * 1024;

/// A blob open for reading. It stays readable when the blob is deleted or moved meanwhile.
#[derive(Debug)]
pub struct Blob {
    content: Content,
    size: u64,
}

#[derive(Debug)]
enum Content {
    File(File),
    Memory(Bytes),
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
enum Source {
    Map(Map),
    File(File),
    Memory(Bytes),
}

impl Blob {
    pub(crate) fn new(file: File, size: u64) -> Self {
        Self { content: Content::File(file), size }
    }

    /// A blob whose bytes are in memory already.
    pub fn in_memory(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { size: bytes.len() as u64, content: Content::Memory(bytes) }
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes of a range within it. While one piece is used the next is fetched.
    pub fn stream(
        self,
        range: Range<u64>,
        reading: Reading,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let mapped = reading == Reading::Mapped && range.end.saturating_sub(range.start) > COPIED;
        let Self { content, size } = self;
        stream::try_unfold(State::New(content, size, range, mapped), async |state| state.next().await)
    }

    /// All its bytes, for blobs known to be small.
    pub async fn bytes(self) -> io::Result<Vec<u8>> {
        match self.content {
            Content::File(file) => {
                fetched(tokio::task::spawn_blocking(move || copy(&file, 0..self.size))).await
            }
            Content::Memory(bytes) => Ok(bytes.into()),
        }
    }
}

/// Where a stream is.
enum State {
    New(Content, u64, Range<u64>, bool),
    /// The next piece is on its way.
    Fetching(JoinHandle<io::Result<Bytes>>, Arc<Source>, Range<u64>),
    Done,
}

impl State {
    /// Cancelled, it lets the piece that is on its way arrive for nobody.
    async fn next(self) -> io::Result<Option<(Bytes, Self)>> {
        let (piece, source, rest) = match self {
            Self::Done => return Ok(None),
            Self::New(_, _, range, _) if range.is_empty() => return Ok(None),
            Self::New(content, size, range, mapped) => {
                let opening = move || {
                    let source = Arc::new(match content {
                        Content::File(file) => {
                            let map = if mapped { Map::of(&file, size) } else { None };
                            map.map_or_else(|| Source::File(file), Source::Map)
                        }
                        Content::Memory(bytes) => Source::Memory(bytes),
                    });
                    let (first, rest) = source.split(range);
                    Ok((source.fetch(first)?, source, rest))
                };
                fetched(tokio::task::spawn_blocking(opening)).await?
            }
            Self::Fetching(piece, source, rest) => (fetched(piece).await?, source, rest),
        };
        if rest.is_empty() {
            return Ok(Some((piece, Self::Done)));
        }
        let (next, rest) = source.split(rest);
        let fetching = {
            let source = Arc::clone(&source);
            tokio::task::spawn_blocking(move || source.fetch(next))
        };
        Ok(Some((piece, Self::Fetching(fetching, source, rest))))
    }
}

impl Source {
    /// The next piece of a range, and the rest of it.
    fn split(&self, range: Range<u64>) -> (Range<u64>, Range<u64>) {
        let piece = match self {
            Self::Map(_) | Self::Memory(_) => MAPPED_PIECE,
            Self::File(_) => COPIED_PIECE,
        };
        let middle = range.end.min(range.start.saturating_add(piece));
        (range.start..middle, middle..range.end)
    }

    /// A piece. Blocks for as long as the disk takes.
    fn fetch(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Map(map) => map.piece(range),
            Self::File(file) => copy(file, range).map(Bytes::from),
            Self::Memory(bytes) => {
                let bounds = (usize::try_from(range.start), usize::try_from(range.end));
                match bounds {
                    (Ok(start), Ok(end)) if start <= end && end <= bytes.len() => Ok(bytes.slice(start..end)),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
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
        let blob = Blob::new(file.try_clone()?, size);
        let pieces: Vec<Bytes> = blob.stream(range, reading).try_collect().await?;
        Ok(pieces.concat())
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
            let stream = Blob::in_memory(&b"small"[..]).stream(range, Reading::Mapped);
            let pieces: Vec<Bytes> = stream.try_collect().await.expect("bytes");
            assert_eq!(pieces.concat(), expected);
        }
        assert_eq!(Blob::in_memory(&b"small"[..]).bytes().await.expect("bytes"), b"small");
        let past = Blob::in_memory(&b"small"[..]).stream(3..6, Reading::Mapped);
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
