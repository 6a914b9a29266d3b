//! The bytes of a blob on their way out, and how they are checked.

use std::{io, ops::Range};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, future::Either};
use torno_blob::{Blob, BlobError, CheckError, Damage, Reading, SMALL};
use torno_oci::Digest;

use crate::{
    Registry, RegistryError,
    quarantine::{Fate, Quarantine},
};

/// How a blob's bytes are checked when somebody pulls it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// By the length of its file alone. Clients compare the digest themselves.
    #[default]
    Length,
    /// Whole blobs also by their digest, while they are sent: it costs a pass of the hash over every byte.
    Digest,
}

/// A blob that somebody may read. It stays readable when the blob is deleted or moved meanwhile.
#[derive(Debug)]
pub struct Content {
    digest: Digest,
    blob: Blob,
    /// Where it goes when its bytes turn out to be others.
    check: Option<Quarantine>,
}

impl Content {
    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.blob.size()
    }

    /// The bytes of a range within it. With [`Check::Digest`] the end of a whole blob comes only if all its bytes were
    /// right; a part of it says nothing of the rest, and is not checked.
    pub fn stream(self, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let Self { digest, blob, check } = self;
        match check {
            Some(quarantine) if range == (0..blob.size()) => {
                Either::Left(blob.checked(&digest).or_else(move |error| {
                    let (quarantine, digest) = (quarantine.clone(), digest.clone());
                    async move { Err(cut_off(&quarantine, &digest, error).await) }
                }))
            }
            _ => Either::Right(blob.stream(range).inspect_err(move |error| {
                tracing::error!(blob = %digest, error = error as &dyn std::error::Error, "a blob could not be read");
            })),
        }
    }

    /// All its bytes, for blobs known to be small.
    pub async fn bytes(self) -> io::Result<Vec<u8>> {
        let whole = 0..self.size();
        let pieces: Vec<Bytes> = self.stream(whole).try_collect().await?;
        Ok(pieces.concat())
    }
}

/// Deals with a blob that turns out to be damaged while it is sent; the error that ends the answer.
async fn cut_off(quarantine: &Quarantine, digest: &Digest, error: CheckError) -> io::Error {
    let damage = match error {
        CheckError::Damaged(damage) => damage,
        CheckError::Io(error) => {
            tracing::error!(blob = %digest, error = &error as &dyn std::error::Error, "a blob could not be read");
            return error;
        }
    };
    tracing::error!(blob = %digest, %damage, "a pull was cut off: the blob is damaged");
    if let Err(error) = quarantine.take(digest, &damage).await {
        let error = &error as &dyn std::error::Error;
        tracing::error!(blob = %digest, error, "a damaged blob could not be put in quarantine");
    }
    io::Error::other("the blob is damaged")
}

impl Registry {
    /// Opens a blob of a known size for a pull. One that is visibly damaged goes to quarantine.
    pub(crate) async fn content(
        &self,
        blob: &Digest,
        size: u64,
        reading: Reading,
    ) -> Result<Content, RegistryError> {
        let opened = self.open_blob(blob, size, self.reading(reading)).await;
        self.content_of(blob, size, opened).await
    }

    /// Pages of the file itself are not for whoever reads them, and a check does.
    pub(crate) fn reading(&self, wanted: Reading) -> Reading {
        match self.settings.check {
            Check::Length => wanted,
            Check::Digest => Reading::Copied,
        }
    }

    /// The same for a blob that somebody has tried to open.
    pub(crate) async fn content_of(
        &self,
        digest: &Digest,
        size: u64,
        opened: Result<Blob, RegistryError>,
    ) -> Result<Content, RegistryError> {
        let check = (self.settings.check == Check::Digest).then(|| self.quarantine.clone());
        let content = |blob, check| Content { digest: digest.clone(), blob, check };
        let damage = match opened {
            // One piece is all there is of a small blob: it is checked before anything is said of it.
            Ok(blob) if check.is_some() && size <= SMALL => match whole(blob, digest).await? {
                Ok(bytes) => return Ok(content(Blob::in_memory(bytes), None)),
                Err(damage) => damage,
            },
            Ok(blob) => return Ok(content(blob, check)),
            Err(error) => damage(error)?,
        };
        if self.quarantine.take(digest, &damage).await? == Fate::PutAside {
            return Err(RegistryError::Damaged(digest.clone()));
        }
        Ok(content(self.open_blob(digest, size, Reading::Copied).await?, check))
    }

    /// All bytes of a blob that is known to be small, which are the right ones.
    pub(crate) async fn all_bytes(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
        for _ in 0..2 {
            let found = match self.open_blob(digest, size, Reading::Copied).await {
                Ok(blob) => whole(blob, digest).await?,
                Err(error) => Err(damage(error)?),
            };
            match found {
                Ok(bytes) => return Ok(bytes),
                Err(damage) if self.quarantine.take(digest, &damage).await? == Fate::PutAside => break,
                Err(_) => {}
            }
        }
        Err(RegistryError::Damaged(digest.clone()))
    }
}

/// What an error says of the blob's file, if it does.
fn damage(error: RegistryError) -> Result<Damage, RegistryError> {
    match error {
        RegistryError::Blob(BlobError::Missing(_)) => Ok(Damage::Missing),
        RegistryError::Blob(BlobError::Length { announced, got }) => {
            Ok(Damage::Length { expected: announced, found: got })
        }
        other => Err(other),
    }
}

/// All bytes of a small blob, or what is wrong with them.
async fn whole(blob: Blob, digest: &Digest) -> Result<Result<Vec<u8>, Damage>, RegistryError> {
    match blob.checked(digest).try_collect::<Vec<Bytes>>().await {
        Ok(pieces) => Ok(Ok(pieces.concat())),
        Err(CheckError::Damaged(damage)) => Ok(Err(damage)),
        Err(CheckError::Io(source)) => Err(BlobError::Io { path: digest.as_str().into(), source }.into()),
    }
}
