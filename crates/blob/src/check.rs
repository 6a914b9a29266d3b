//! Reading whole blobs and comparing their bytes with their digests meanwhile.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::task::{JoinHandle, spawn_blocking};
use torno_oci::{Digest, Hasher};

use crate::{Blob, maps::FileId, read::Source};

/// What is wrong with a blob's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// There is none.
    #[error("its file is missing")]
    Missing,
    /// It is too short or too long.
    #[error("its file has {found} bytes and not {expected}")]
    Length {
        /// How many bytes the blob has.
        expected: u64,
        /// How many the file has.
        found: u64,
    },
    /// Its bytes have another digest.
    #[error("its file has other bytes, with digest {found}")]
    Digest {
        /// What was computed.
        found: Digest,
        /// The file that was read.
        file: WhichFile,
    },
    /// The disk does not give its bytes any more.
    #[error("its file cannot be read: {error}")]
    Unreadable {
        /// What the disk said.
        error: String,
        /// The file that was read.
        file: WhichFile,
    },
}

/// The file that a check has read, so that no other is taken for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhichFile(pub(crate) Option<FileId>);

/// Why a check ended before the last bytes.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The blob is damaged.
    #[error("{0}")]
    Damaged(Damage),
    /// It could not be read, which says nothing of its bytes.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Blob {
    /// All its bytes, which are hashed while they come: the last piece comes when they have the digest, and an error in
    /// its stead when they have not. While one piece is used the next is fetched.
    ///
    /// The bytes are read here: the blob must have been opened for [`crate::Reading::Copied`].
    pub fn checked(self, digest: &Digest) -> impl Stream<Item = Result<Bytes, CheckError>> + Send + use<> {
        let reader = Box::new(Reader {
            rest: 0..self.size(),
            file: WhichFile(self.file),
            source: Arc::new(self.source),
            hasher: Hasher::new(digest.algorithm()),
            expected: digest.clone(),
        });
        stream::try_unfold(State::Next(reader), async |state| state.next().await)
    }
}

/// What has not been read yet, and the hash of what has.
struct Reader {
    source: Arc<Source>,
    rest: Range<u64>,
    hasher: Hasher,
    expected: Digest,
    file: WhichFile,
}

type Piece = Result<(Bytes, Box<Reader>), CheckError>;

enum State {
    Next(Box<Reader>),
    Fetching(JoinHandle<Piece>),
}

impl State {
    /// Cancelled, it lets the piece that is on its way arrive for nobody.
    async fn next(self) -> Result<Option<(Bytes, Self)>, CheckError> {
        let piece = match self {
            Self::Next(reader) if reader.rest.is_empty() => return Ok(None),
            Self::Next(reader) => spawn_blocking(move || reader.fetch()),
            Self::Fetching(piece) => piece,
        };
        let (piece, reader) = piece.await.map_err(io::Error::other)??;
        if reader.rest.is_empty() {
            return Ok(Some((piece, Self::Next(reader))));
        }
        Ok(Some((piece, Self::Fetching(spawn_blocking(move || reader.fetch())))))
    }
}

impl Reader {
    /// The next piece. Blocks for as long as the disk and the hash take.
    fn fetch(mut self: Box<Self>) -> Piece {
        let (range, rest) = self.source.split(self.rest.clone());
        let bytes = match self.source.fetch(range) {
            Ok(bytes) => bytes,
            Err(error) if is_of_the_disk(&error) => {
                return Err(CheckError::Damaged(Damage::Unreadable {
                    error: error.to_string(),
                    file: self.file,
                }));
            }
            Err(error) => return Err(error.into()),
        };
        self.hasher.update(&bytes);
        self.rest = rest;
        if self.rest.is_empty() {
            let found = self.hasher.clone().finish();
            if found != self.expected {
                return Err(CheckError::Damaged(Damage::Digest { found, file: self.file }));
            }
        }
        Ok((bytes, self))
    }
}

/// Whether the disk has lost bytes, or somebody has cut them off; what else goes wrong may be right the next time.
pub(crate) fn is_of_the_disk(error: &io::Error) -> bool {
    /// `EIO`, which is the same number wherever Torno runs.
    const EIO: i32 = 5;
    error.raw_os_error() == Some(EIO) || error.kind() == io::ErrorKind::UnexpectedEof
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures_util::{StreamExt as _, TryStreamExt as _};

    use super::*;

    fn blob(content: &[u8]) -> Blob {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(content).expect("write");
        Blob::new(Source::File(file), content.len() as u64, None)
    }

    #[tokio::test]
    async fn the_last_piece_comes_only_when_all_bytes_are_right() {
        for length in [1, 1000, 256 * 1024, 256 * 1024 + 1, 1_000_000] {
            let content = vec![7; length];
            let digest = Digest::sha256(&content);
            let pieces: Vec<Bytes> = blob(&content).checked(&digest).try_collect().await.expect("bytes");
            assert!(pieces.concat() == content, "{length}");
            for wrong in [0, length / 2, length - 1] {
                let mut content = content.clone();
                content[wrong] ^= 1;
                let mut came = 0;
                let mut stream = Box::pin(blob(&content).checked(&digest));
                let error = loop {
                    match stream.next().await.expect("an error before the end") {
                        Ok(piece) => came += piece.len(),
                        Err(error) => break error,
                    }
                };
                assert!(matches!(error, CheckError::Damaged(Damage::Digest { .. })), "{error}");
                assert!(came < length, "{came} of {length}");
            }
        }
    }

    #[tokio::test]
    async fn bytes_in_memory_are_checked_too() {
        let digest = Digest::sha256(b"small");
        let pieces: Vec<Bytes> =
            Blob::in_memory(&b"small"[..]).checked(&digest).try_collect().await.expect("bytes");
        assert_eq!(pieces.concat(), b"small");
        let wrong = Blob::in_memory(&b"smell"[..]).checked(&digest).try_collect::<Vec<_>>().await;
        assert!(wrong.is_err());
        let none: Vec<Bytes> =
            Blob::in_memory(&b""[..]).checked(&Digest::sha256(b"")).try_collect().await.expect("no bytes");
        assert!(none.is_empty());
    }
}
