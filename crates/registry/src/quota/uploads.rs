//! Uploads under way count like what is kept, for as long as there are any.
//!
//! What is known of them is in memory: after a start, an upload counts again when its next bytes come.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::time::Instant;
use torno_auth::{Charged, PushPermit};
use torno_oci::{Digest, UploadId};

use super::{
    Of, OverQuota, account,
    known::{Coming, Room},
};
use crate::{Registry, RegistryError};

/// What upload sessions take.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Mutex<HashMap<UploadId, Session>>);

#[derive(Debug)]
struct Session {
    counted: Arc<Counted>,
    /// When bytes last came for it.
    used: Instant,
}

/// What one session takes, of each who is charged.
#[derive(Debug)]
struct Counted(Mutex<Vec<Share>>);

#[derive(Debug)]
struct Share {
    charged: Charged,
    allowed: u64,
    room: Room,
}

impl Uploads {
    fn sessions(&self) -> MutexGuard<'_, HashMap<UploadId, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a session that has ended.
    pub(crate) fn end(&self, id: &UploadId) {
        self.sessions().remove(id);
    }

    /// Forgets those that nothing came for within a time, and that have expired.
    pub(crate) fn end_resting(&self, lifetime: Duration) {
        self.sessions().retain(|_, session| {
            session.used.elapsed() <= lifetime || Arc::strong_count(&session.counted) > 1
        });
    }
}

impl Counted {
    fn shares(&self) -> MutexGuard<'_, Vec<Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `more` bytes of everybody who is charged, from the one at `first` on; who has no room for them. Of those
    /// before it they are taken then.
    fn grow(&self, first: usize, more: u64) -> Option<usize> {
        let mut shares = self.shares();
        let without_room =
            shares.iter_mut().skip(first).position(|share| !share.room.grow(more, share.allowed));
        without_room.map(|place| first + place)
    }
}

/// A body that is counted while it comes. Its error is an [`OverQuota`] when there is no room for it, of which some is
/// passed over first: a client whose connection ends while it sends does not read why.
struct Metered<'a, S> {
    registry: &'a Registry,
    counted: Arc<Counted>,
    body: S,
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl Registry {
    /// The body of an upload session, counted for those who are charged for it. `content` is what it is, if that is known
    /// already: whoever keeps that is charged for no more than what it takes until it is in its place.
    pub(crate) async fn metered<'a, S, E>(
        &'a self,
        permit: &PushPermit,
        id: &UploadId,
        content: Option<&Digest>,
        body: S,
    ) -> Result<impl Stream<Item = Result<Bytes, BoxedError>> + Unpin + use<'a, S, E>, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: Into<BoxedError>,
    {
        let counted = self.counted(permit, id, content).await?;
        let metered = counted.map(|counted| (self, counted));
        let body = body.map(|bytes| bytes.map_err(Into::into));
        Ok(match metered {
            None => body.left_stream(),
            Some((registry, counted)) => {
                let metered = Metered { registry, counted, body };
                Box::pin(futures_util::stream::unfold(Some(metered), Metered::next)).right_stream()
            }
        })
    }

    /// `None` when nobody is charged.
    async fn counted(
        &self,
        permit: &PushPermit,
        id: &UploadId,
        content: Option<&Digest>,
    ) -> Result<Option<Arc<Counted>>, RegistryError> {
        if let Some(session) = self.uploads.sessions().get_mut(id) {
            session.used = Instant::now();
            return Ok(Some(Arc::clone(&session.counted)));
        }
        let mut shares = Vec::new();
        for (charged, quota) in self.policy().quotas(permit.repository(), permit.owner()) {
            let Some(allowed) = quota.bytes else { continue };
            let is_kept = match content {
                Some(content) => self.metadata.is_charged(account(&charged), content).await?,
                None => false,
            };
            let coming = if is_kept { Coming::Again } else { Coming::New };
            let room = Room::new(&self.quotas.known(&charged), coming);
            shares.push(Share { charged, allowed, room });
        }
        if shares.is_empty() {
            return Ok(None);
        }
        let counted = Arc::new(Counted(Mutex::new(shares)));
        // One of before the start.
        let offset = self.upload_offset(permit, id).await?;
        self.grow(&counted, offset).await?;
        let session = Session { counted: Arc::clone(&counted), used: Instant::now() };
        self.uploads.sessions().insert(id.clone(), session);
        Ok(Some(counted))
    }

    /// Takes `more` bytes; before that is refused, what is kept is counted anew.
    async fn grow(&self, counted: &Counted, more: u64) -> Result<(), OverQuota> {
        let began = Instant::now();
        let (mut first, mut counted_anew) = (0, None);
        // Whoever had room has given it: going on where somebody had none takes it from nobody twice.
        while let Some(place) = counted.grow(first, more) {
            let (charged, allowed, known, has) = {
                let shares = counted.shares();
                let Some(share) = shares.get(place) else { return Ok(()) };
                (share.charged.clone(), share.allowed, Arc::clone(share.room.known()), share.room.bytes())
            };
            if counted_anew == Some(place) || self.count(&known, account(&charged), began).await.is_err() {
                let used = known.used().saturating_sub(has);
                return Err(OverQuota {
                    charged,
                    of: Of::Bytes,
                    used,
                    allowed,
                    needed: has.saturating_add(more),
                });
            }
            (first, counted_anew) = (place, Some(place));
        }
        Ok(())
    }
}

impl<S: Stream<Item = Result<Bytes, BoxedError>> + Unpin> Metered<'_, S> {
    async fn next(this: Option<Self>) -> Option<(Result<Bytes, BoxedError>, Option<Self>)> {
        let mut this = this?;
        let bytes = match this.body.next().await? {
            Ok(bytes) => bytes,
            Err(error) => return Some((Err(error), None)),
        };
        match this.registry.grow(&this.counted, bytes.len() as u64).await {
            Ok(()) => Some((Ok(bytes), Some(this))),
            Err(mut over) => {
                over.needed = over.needed.saturating_add(crate::room::pass_over(&mut this.body).await);
                Some((Err(Box::new(over)), None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::known::{Coming, Known, Room},
        *,
    };

    #[test]
    fn whoever_had_room_is_charged_once_when_somebody_else_is_counted_anew() {
        let charged = [
            Charged::User("ada".parse().expect("a name")),
            Charged::Project("heart".parse().expect("a name")),
        ];
        let known = [(); 2].map(|()| Arc::new(Known::default()));
        let shares = charged.into_iter().zip(&known).map(|(charged, known)| Share {
            charged,
            allowed: 100,
            room: Room::new(known, Coming::New),
        });
        let counted = Counted(Mutex::new(shares.collect()));
        known[0].set(known[0].begin_counting(), 0);
        assert_eq!(counted.grow(0, 60), Some(1), "nothing is known of the second yet");
        known[1].set(known[1].begin_counting(), 0);
        assert_eq!(counted.grow(1, 60), None);
        assert_eq!(known.map(|known| known.used()), [60, 60]);
    }
}
