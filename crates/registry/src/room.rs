//! Room on the disk: none for what is new while there is none, and always some for those who make room.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::task::spawn_blocking;
use torno_audit::AuditError;
use torno_blob::BlobError;
use torno_metadata::MetadataError;

use crate::{Registry, RegistryError};

impl Registry {
    /// Refuses what is new while the reserve is in use: it would take the room that somebody frees more with.
    pub async fn expect_room(&self) -> Result<(), RegistryError> {
        // A look at one file, on the way of every push: not worth another thread.
        if self.reserve.is_closed()? || self.restore_reserve().await? {
            return Ok(());
        }
        Err(BlobError::Full.into())
    }

    /// The same before a body, of which a refusal passes over some: a client whose connection ends while it sends does not
    /// read why.
    pub(crate) async fn expect_room_for<S, E>(&self, body: &mut S) -> Result<(), RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let room = self.expect_room().await;
        if room.is_err() {
            pass_over(body).await;
        }
        room
    }

    /// Does something that leads to more room, with room from the reserve when there is none.
    pub(crate) async fn even_when_full<T, F>(&self, work: impl Fn() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, MetadataError>>,
    {
        loop {
            match work().await {
                Err(MetadataError::Full) if self.give_room().await? => {}
                done => return Ok(done?),
            }
        }
    }

    /// The same for what is recorded before it is done, if the record is on the disk whose room is kept.
    pub(crate) async fn record_even_when_full<T, F>(&self, work: impl Fn() -> F) -> Result<T, RegistryError>
    where
        F: Future<Output = Result<T, AuditError>>,
    {
        loop {
            match work().await {
                Err(AuditError::Full)
                    if self.reserve.is_beside(self.audit.folder()) && self.give_room().await? => {}
                done => return Ok(done?),
            }
        }
    }

    /// Makes the reserve whole again if there is room for it; whether it is.
    pub(crate) async fn restore_reserve(&self) -> Result<bool, RegistryError> {
        let reserve = Arc::clone(&self.reserve);
        Ok(spawn_blocking(move || reserve.restore()).await.map_err(|_| BlobError::Unfinished)??)
    }

    /// Whether there is more room now.
    async fn give_room(&self) -> Result<bool, RegistryError> {
        let reserve = Arc::clone(&self.reserve);
        let given =
            spawn_blocking(move || reserve.give_back()).await.map_err(|_| BlobError::Unfinished)??;
        if given {
            tracing::warn!("the disk is full: room that was kept for this is used to free more");
            self.metadata.shorten_log().await?;
        }
        Ok(given)
    }
}

/// Passes over the rest of a body that is refused, or some of it; how many bytes came.
pub(crate) async fn pass_over<S, E>(body: &mut S) -> u64
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    /// Past it the connection just ends.
    const MOST: u64 = 16 << 20;
    let mut passed = 0;
    while passed < MOST
        && let Some(Ok(bytes)) = body.next().await
    {
        passed += bytes.len() as u64;
    }
    passed
}
