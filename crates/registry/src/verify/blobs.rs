//! Blobs: their rows, their files, their bytes.

use std::{collections::BTreeSet, path::Path};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use torno_blob::{BlobError, Damage, Reading};
use torno_metadata::BlobRow;
use torno_oci::{Algorithm, Digest};

use super::{Phase, Problem, Remedy, VerifyEvent, Walk};
use crate::{RegistryError, journal::READ, quarantine::Fate};

impl<F: FnMut(VerifyEvent<'_>)> Walk<'_, F> {
    pub(super) async fn blobs(&self, after: &str) -> Result<(), RegistryError> {
        for algorithm in Algorithm::ALL {
            for shard in 0..=u8::MAX {
                let prefix = format!("{}:{shard:02x}", algorithm.name());
                // `g` comes behind every hexadecimal digit.
                if after < format!("{prefix}g").as_str() {
                    self.shard(algorithm, shard, &prefix, after).await?;
                }
            }
        }
        Ok(())
    }

    /// What the journal has is what becomes of files, and is served while there are none.
    pub(super) async fn journal(&self) -> Result<(), RegistryError> {
        let metadata = &self.registry.metadata;
        for rows in metadata.unsettled(usize::MAX).await?.chunks(READ) {
            for (row, bytes) in metadata.bytes_of(rows).await? {
                if Digest::of(row.blob.algorithm(), &bytes) != row.blob {
                    self.found(Problem::Journal { blob: row.blob }, Remedy::None).await?;
                }
            }
        }
        Ok(())
    }

    async fn shard(
        &self,
        algorithm: Algorithm,
        shard: u8,
        prefix: &str,
        after: &str,
    ) -> Result<(), RegistryError> {
        // The files first: a row is there before its file and goes after it.
        let listing = self.registry.blobs.list(algorithm, shard).await?;
        let rows = self.registry.metadata.blob_rows(prefix).await?;
        // Whoever was stopped among the rows had looked at these before.
        let is_begun = after > prefix;
        for stray in listing.strays.iter().filter(|_| !is_begun) {
            self.stray(stray).await?;
        }
        let mut unknown: BTreeSet<Digest> = listing.blobs.into_iter().collect();
        let mut kept = Vec::new();
        for BlobRow { digest, size, kept: is_kept } in rows {
            let Ok(blob) = digest.parse::<Digest>() else {
                let what = format!("a blob's row has `{}` for a digest", digest.escape_debug());
                self.found(Problem::Row { what, about: None }, Remedy::None).await?;
                continue;
            };
            unknown.remove(&blob);
            if is_kept && blob.as_str() > after {
                kept.push((blob, size));
            }
        }
        for blob in unknown.into_iter().filter(|_| !is_begun) {
            self.stray_blob(&blob).await?;
        }
        let looks = kept.into_iter().map(|(blob, size)| async move {
            self.look_at(&blob, size).await?;
            Ok::<_, RegistryError>(blob)
        });
        let mut looks = std::pin::pin!(stream::iter(looks).buffered(self.how.threads.get()));
        while let Some(blob) = looks.try_next().await? {
            self.state.borrow_mut().verified.blobs += 1;
            self.at(Phase::Blobs, blob.as_str());
        }
        Ok(())
    }

    async fn look_at(&self, blob: &Digest, size: u64) -> Result<(), RegistryError> {
        let read = async |bytes| {
            self.state.borrow_mut().verified.bytes += bytes;
            self.tell(VerifyEvent::Read(bytes));
        };
        let sampled = self.how.sample.takes(blob);
        let first = if sampled {
            self.registry.damage_of(blob, size, read).await
        } else {
            self.tell(VerifyEvent::Passed(size));
            self.glance(blob, size).await
        };
        // What was in memory may have been wrong; what a push has replaced is right now.
        let again = match first {
            Ok(None) => return Ok(()),
            Ok(Some(_)) if sampled => self.registry.damage_of(blob, size, async |_| ()).await,
            Ok(Some(_)) => self.glance(blob, size).await,
            Err(error) => Err(error),
        };
        match again {
            Ok(None) => Ok(()),
            Ok(Some(damage)) => self.damaged(blob, size, damage).await,
            Err(RegistryError::Blob(error)) => {
                let (blob, error) = (blob.clone(), error.to_string());
                self.found(Problem::NotRead { blob, error }, Remedy::None).await
            }
            Err(error) => Err(error),
        }
    }

    /// What can be seen of a blob's file without reading it.
    async fn glance(&self, blob: &Digest, size: u64) -> Result<Option<Damage>, RegistryError> {
        match self.registry.blobs.read(blob, size, Reading::Copied).await {
            Ok(_) => Ok(None),
            Err(BlobError::Missing(_)) => Ok(Some(Damage::Missing)),
            Err(BlobError::Length { announced, got }) => {
                Ok(Some(Damage::Length { expected: announced, found: got }))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn damaged(&self, blob: &Digest, size: u64, damage: Damage) -> Result<(), RegistryError> {
        let registry = self.registry;
        if let Damage::Length { found, .. } = damage
            && registry.damage_of(blob, found, async |_| ()).await?.is_none()
        {
            let remedy = if self.is_repair() {
                registry.metadata.correct_size(blob, found).await?;
                Remedy::Corrected
            } else {
                Remedy::None
            };
            return self.found(Problem::Size { blob: blob.clone(), row: size, file: found }, remedy).await;
        }
        let remedy = if self.is_repair() {
            match registry.quarantine.take(blob, &damage).await? {
                Fate::PutAside => Remedy::PutAside,
                Fate::Healed | Fate::Changed => return Ok(()),
            }
        } else {
            let kept = registry.metadata.is_kept(blob, Timestamp::now()).await?;
            let journaled = registry.metadata.journaled(blob).await?.is_some();
            if !kept || journaled || !registry.blobs.is_still(blob, &damage).await? {
                return Ok(());
            }
            Remedy::None
        };
        self.found(Problem::Blob { blob: blob.clone(), damage }, remedy).await
    }

    /// A file called like a blob that no row spoke of.
    async fn stray_blob(&self, blob: &Digest) -> Result<(), RegistryError> {
        let registry = self.registry;
        let Some(size) = self.is_stray_blob(blob).await? else { return Ok(()) };
        let damage = match registry.damage_of(blob, size, async |_| ()).await {
            Ok(damage) => damage,
            Err(RegistryError::Blob(error)) => {
                let (blob, error) = (blob.clone(), error.to_string());
                return self.found(Problem::NotRead { blob, error }, Remedy::None).await;
            }
            Err(error) => return Err(error),
        };
        // Reading it may have taken long.
        if self.is_stray_blob(blob).await? != Some(size) {
            return Ok(());
        }
        if self.is_repair() {
            // With a row, pushes and quarantine know of each other.
            registry.metadata.adopt(blob, size).await?;
        }
        match damage {
            None => {
                let remedy = if self.is_repair() { Remedy::Adopted } else { Remedy::None };
                self.found(Problem::StrayBlob { blob: blob.clone() }, remedy).await
            }
            Some(damage) => {
                let mut remedy = Remedy::None;
                if self.is_repair() {
                    if registry.quarantine.take(blob, &damage).await? != Fate::PutAside {
                        return Ok(());
                    }
                    remedy = Remedy::PutAside;
                }
                self.found(Problem::StrayDamaged { blob: blob.clone(), damage }, remedy).await
            }
        }
    }

    /// The length of a blob's file of which nothing is known. Nobody removes files meanwhile, and whoever brings one
    /// has made its row before.
    async fn is_stray_blob(&self, blob: &Digest) -> Result<Option<u64>, RegistryError> {
        let _right = self.registry.blobs.lock_files().await?;
        let size = self.registry.blobs.file_size(blob).await?;
        Ok(if self.registry.metadata.has_row(blob).await? { None } else { size })
    }

    pub(super) async fn strays(&self) -> Result<(), RegistryError> {
        for stray in self.registry.blobs.strays().await? {
            self.stray(&stray).await?;
        }
        Ok(())
    }

    async fn stray(&self, path: &Path) -> Result<(), RegistryError> {
        let right = self.registry.blobs.lock_files().await?;
        // Nobody puts anything in place now, so it is nobody's.
        if !self.registry.blobs.is_there(path, &right) {
            return Ok(());
        }
        let remedy = if self.is_repair() {
            self.registry.blobs.put_stray_aside(path, &right).await?;
            Remedy::PutAside
        } else {
            Remedy::None
        };
        drop(right);
        self.found(Problem::Stray { path: path.to_owned() }, remedy).await
    }
}
