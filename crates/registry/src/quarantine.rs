//! What happens to blobs and manifests whose bytes turn out not to be theirs.

use std::sync::Arc;

use jiff::Timestamp;
use torno_blob::{BlobError, BlobStore, Damage};
use torno_metadata::{Metadata, MetadataError, Quarantining, Use};
use torno_oci::Digest;

use crate::RegistryError;

/// Uses of something damaged that are named, at most: a base layer may have thousands.
pub(crate) const USES: usize = 100;

/// Takes what is damaged out of service, without deleting it.
#[derive(Clone, Debug)]
pub(crate) struct Quarantine {
    blobs: Arc<BlobStore>,
    metadata: Metadata,
}

/// What became of a blob that was found to be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its file is in quarantine. It is unknown to everybody until somebody pushes it.
    PutAside,
    /// Its bytes were still in the journal, and its file was written anew.
    Healed,
    /// Nothing: a push or gc has changed it since, or is about to.
    Changed,
}

impl Quarantine {
    pub(crate) fn new(blobs: Arc<BlobStore>, metadata: Metadata) -> Self {
        Self { blobs, metadata }
    }

    /// Puts a damaged blob aside, unless its file is not the one any more that was found to be damaged.
    ///
    /// Cancelled in the middle, it leaves the blob out of service; the next push of it goes on.
    pub(crate) async fn take(&self, blob: &Digest, damage: &Damage) -> Result<Fate, RegistryError> {
        let right = self.blobs.lock_files().await?;
        if let Some(bytes) = self.metadata.journaled(blob).await?
            && Digest::of(blob.algorithm(), &bytes) == *blob
        {
            let (blobs, digest) = (Arc::clone(&self.blobs), blob.clone());
            let put = tokio::task::spawn_blocking(move || blobs.put(&digest, &bytes, &right));
            put.await.map_err(|_| BlobError::Unfinished)??;
            tracing::warn!(%blob, %damage, "a blob was damaged and was written anew from the journal");
            return Ok(Fate::Healed);
        }
        // From here on a push of the blob waits, so that no new file is taken for the damaged one.
        match self.metadata.begin_quarantine(blob, &damage.to_string(), Timestamp::now()).await? {
            Quarantining::Begun => {}
            Quarantining::Already => return Ok(Fate::PutAside),
            Quarantining::Busy => return Ok(Fate::Changed),
        }
        if !self.blobs.is_still(blob, damage).await? {
            self.metadata.undo_quarantine(blob).await?;
            return Ok(Fate::Changed);
        }
        let kept = self.blobs.put_aside(blob, &right).await?;
        self.metadata.end_quarantine(blob).await?;
        drop(right);
        let kept = kept.map_or_else(|| "-".into(), |path| path.display().to_string());
        let used_by = self.used_by(blob).await?;
        tracing::error!(
            %blob, %damage, kept, used_by,
            "a blob is damaged and in quarantine; whoever pushes it again mends it everywhere"
        );
        Ok(Fate::PutAside)
    }

    /// Ends what a process began that has died; whoever calls has the right to.
    pub(crate) async fn finish(
        &self,
        blob: &Digest,
        right: &torno_blob::FilesLock,
    ) -> Result<(), RegistryError> {
        if self.metadata.is_moving(blob).await? {
            self.blobs.put_aside(blob, right).await?;
            self.metadata.end_quarantine(blob).await?;
        }
        Ok(())
    }

    /// What was read of a manifest. One whose bytes are not its own is out of service from now on.
    pub(crate) async fn manifest<T>(&self, read: Result<T, MetadataError>) -> Result<T, RegistryError> {
        if let Err(MetadataError::Damaged(manifest)) = &read {
            self.take_manifest(manifest).await?;
        }
        Ok(read?)
    }

    /// Takes a damaged manifest out of service. Its bytes stay in the database until it is pushed again.
    pub(crate) async fn take_manifest(&self, manifest: &Digest) -> Result<(), RegistryError> {
        let reason = "its bytes have another digest";
        self.metadata.quarantine_manifest(manifest, reason, Timestamp::now()).await?;
        let used_by = self.used_by(manifest).await?;
        tracing::error!(
            %manifest, used_by,
            "a manifest is damaged and in quarantine; whoever pushes it again mends it everywhere"
        );
        Ok(())
    }

    async fn used_by(&self, digest: &Digest) -> Result<String, RegistryError> {
        let uses = self.metadata.uses(digest, USES).await?;
        Ok(uses.iter().map(Use::to_string).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use bytes::Bytes;
    use futures_util::stream;
    use tempfile::TempDir;
    use torno_auth::{Identity, Policy, PushPermit};
    use torno_blob::Reading;
    use torno_metadata::Hold;

    use super::*;
    use crate::{Registry, Settings};

    struct Site {
        folder: TempDir,
        registry: Registry,
        ada: Identity,
    }

    impl Site {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let registry =
                Registry::open(folder.path(), Policy::default(), Settings::default()).expect("registry");
            Self { folder, registry, ada: Identity::of("ada".parse().expect("name")) }
        }

        async fn permit(&self) -> PushPermit {
            self.registry.push_permit(&self.ada, &"tools/a".parse().expect("name")).await.expect("permit")
        }

        async fn push(&self, bytes: &[u8]) -> Digest {
            let permit = self.permit().await;
            let digest = Digest::sha256(bytes);
            let id = self.registry.begin_upload(&permit).expect("begin");
            let body = stream::iter([Ok::<_, std::io::Error>(Bytes::copy_from_slice(bytes))]);
            self.registry.finish_upload_with(&permit, &id, body, &digest).await.expect("pushed");
            self.registry.settle().await.expect("settled");
            digest
        }

        fn file(&self, blob: &Digest) -> PathBuf {
            self.folder.path().join("blobs/sha256").join(&blob.hex()[..2]).join(blob.hex())
        }

        fn kept(&self) -> usize {
            fs::read_dir(self.folder.path().join("quarantine")).map_or(0, Iterator::count)
        }

        async fn damage(&self, blob: &Digest, size: usize) -> Damage {
            fs::write(self.file(blob), vec![9; size]).expect("written");
            let found = self.registry.damage_of(blob, size as u64, async |_| ()).await.expect("read");
            found.expect("it is damaged")
        }

        async fn content(&self, blob: &Digest) -> Result<Vec<u8>, RegistryError> {
            let name = "tools/a".parse().expect("name");
            let permit = self.registry.pull_permit(&self.ada, &name).await?;
            let content = self.registry.blob(&permit, blob, Reading::Copied).await?;
            Ok(content.bytes().await.expect("bytes"))
        }
    }

    /// One for the journal, one too large for it.
    fn contents() -> [Vec<u8>; 2] {
        [vec![1; 1000], vec![2; 100_000]]
    }

    #[tokio::test]
    async fn a_file_that_was_replaced_since_is_not_taken_for_the_damaged_one() {
        let site = Site::new();
        for bytes in contents() {
            let blob = site.push(&bytes).await;
            let damage = site.damage(&blob, bytes.len()).await;
            site.push(&bytes).await;
            assert_eq!(site.registry.quarantine.take(&blob, &damage).await.expect("taken"), Fate::Changed);
            assert_eq!(site.content(&blob).await.expect("served"), bytes);
            let gone = site.registry.quarantine.take(&blob, &Damage::Missing).await.expect("taken");
            assert_eq!(gone, Fate::Changed);
            assert_eq!(site.content(&blob).await.expect("served"), bytes);
        }
        assert_eq!(site.kept(), 0);
    }

    #[tokio::test]
    async fn what_a_push_is_bringing_is_left_to_it() {
        let site = Site::new();
        let [_, bytes] = contents();
        let blob = site.push(&bytes).await;
        let damage = site.damage(&blob, bytes.len()).await;
        let length = bytes.len() as u64;
        let answer = site.registry.metadata.hold(&blob, length, "somebody", Timestamp::now()).await;
        let Ok(Hold::Held(hold)) = answer else { panic!("{answer:?}") };
        assert_eq!(site.registry.quarantine.take(&blob, &damage).await.expect("taken"), Fate::Changed);
        site.registry.metadata.release(hold).expect("released");
        let metadata = &site.registry.metadata;
        metadata.forget(Vec::new()).await.expect("whatever was submitted is done");
        assert_eq!(site.registry.quarantine.take(&blob, &damage).await.expect("taken"), Fate::PutAside);
        assert_eq!(
            site.registry.quarantine.take(&blob, &damage).await.expect("taken"),
            Fate::PutAside,
            "again"
        );
        assert_eq!(site.kept(), 1);
        assert!(matches!(site.content(&blob).await, Err(RegistryError::BlobUnknown(_))));
    }

    #[tokio::test]
    async fn a_quarantine_that_was_cut_off_is_ended_by_the_next_push() {
        for bytes in contents() {
            for is_moved in [false, true] {
                let site = Site::new();
                let blob = site.push(&bytes).await;
                site.damage(&blob, bytes.len()).await;
                let (metadata, blobs) = (&site.registry.metadata, &site.registry.blobs);
                let begun = metadata.begin_quarantine(&blob, "it was damaged", Timestamp::now()).await;
                assert_eq!(begun.expect("begun"), Quarantining::Begun);
                if is_moved {
                    let right = blobs.lock_files().await.expect("right");
                    blobs.put_aside(&blob, &right).await.expect("moved");
                }
                assert!(matches!(site.content(&blob).await, Err(RegistryError::BlobUnknown(_))));
                site.push(&bytes).await;
                assert_eq!(site.content(&blob).await.expect("served"), bytes);
                assert_eq!(site.kept(), 1);
            }
        }
    }
}
