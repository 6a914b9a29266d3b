//! Looking at everything that is stored, slowly and again and again, beside all other work.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use torno_metadata::ScrubPass;
use torno_oci::Digest;

use crate::{Registry, RegistryError, quarantine::Fate};

/// Blobs asked for at a time.
const BLOBS: usize = 256;

/// Manifests asked for at a time; together they may have 64 MiB.
const MANIFESTS: usize = 16;

/// How often is noted how far a pass has come: so much is read again after a restart at most, and the blob that was
/// just being read.
const NOTE: Duration = Duration::from_secs(10);

/// What opening a file counts as, in bytes: many small ones are work for the disk too.
const OPENING: u64 = 16 * 1024;

/// What a pass, or the rest of one after a restart, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Blobs looked at.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests looked at.
    pub manifests: u64,
    /// How many of all these were put in quarantine.
    pub damaged: u64,
}

impl Registry {
    /// How long it is until the next pass begins, if there is one in each `interval`. One that was broken off is due
    /// at once.
    pub async fn scrub_due(&self, interval: Duration) -> Result<Duration, RegistryError> {
        let Some(pass) = self.metadata.scrub_pass().await?.filter(|pass| pass.done) else {
            return Ok(Duration::ZERO);
        };
        // A clock that was set back makes nobody wait for longer than the interval.
        let since = Duration::try_from(Timestamp::now().duration_since(pass.started)).unwrap_or_default();
        Ok(interval.saturating_sub(since))
    }

    /// Reads everything that is stored, or what a pass that was broken off has left, at most `rate` bytes in a second.
    /// What is damaged is put in quarantine.
    ///
    /// Stopped anywhere, the next call goes on.
    pub async fn scrub(&self, rate: u64) -> Result<Scrubbed, RegistryError> {
        let begun = self.metadata.scrub_pass().await?.filter(|pass| !pass.done);
        let mut pass = begun.unwrap_or(ScrubPass { started: Timestamp::now(), after: None, done: false });
        self.metadata.note_scrub(&pass).await?;
        let mut pace = Pace::new(rate);
        let mut noted = Instant::now();
        let mut scrubbed = Scrubbed::default();
        loop {
            let blobs = self.metadata.kept_after(pass.after.as_ref(), BLOBS).await?;
            if blobs.is_empty() {
                break;
            }
            for kept in blobs {
                pace.spend(OPENING).await;
                if !self.scrub_blob(&kept.blob, kept.size, &mut pace).await? {
                    scrubbed.damaged += 1;
                }
                scrubbed.blobs += 1;
                scrubbed.bytes += kept.size;
                pass.after = Some(kept.blob);
                if noted.elapsed() >= NOTE {
                    self.metadata.note_scrub(&pass).await?;
                    noted = Instant::now();
                }
            }
        }
        self.metadata.note_scrub(&pass).await?;
        self.scrub_manifests(&mut pace, &mut scrubbed).await?;
        pass.done = true;
        self.metadata.note_scrub(&pass).await?;
        Ok(scrubbed)
    }

    /// Whether a blob is good, or has changed since it was asked for.
    async fn scrub_blob(&self, blob: &Digest, size: u64, pace: &mut Pace) -> Result<bool, RegistryError> {
        match self.damage_of(blob, size, async |bytes| pace.spend(bytes).await).await {
            Ok(None) => Ok(true),
            Ok(Some(damage)) => Ok(self.quarantine.take(blob, &damage).await? != Fate::PutAside),
            // One file that cannot be opened just now says nothing of the others.
            Err(RegistryError::Blob(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(%blob, error, "a blob could not be looked at");
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    async fn scrub_manifests(&self, pace: &mut Pace, scrubbed: &mut Scrubbed) -> Result<(), RegistryError> {
        let mut after = None;
        loop {
            let manifests = self.metadata.manifests_after(after.as_ref(), MANIFESTS).await?;
            let Some((last, _)) = manifests.last() else { return Ok(()) };
            after = Some(last.clone());
            for (digest, bytes) in manifests {
                pace.spend(bytes.len() as u64).await;
                scrubbed.manifests += 1;
                if Digest::of(digest.algorithm(), &bytes) != digest {
                    self.quarantine.take_manifest(&digest).await?;
                    scrubbed.damaged += 1;
                }
            }
        }
    }
}

/// Keeps reading below a rate.
struct Pace {
    /// Bytes in a second.
    rate: u64,
    /// When the next bytes may be read.
    next: Instant,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), next: Instant::now() }
    }

    /// Waits until so many bytes more may have been read. What was not used before is not made up for.
    async fn spend(&mut self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.next = self.next.max(Instant::now()) + time;
        tokio::time::sleep_until(self.next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_is_read_than_the_rate_allows_and_nothing_is_made_up_for() {
        let began = Instant::now();
        let mut pace = Pace::new(1000);
        for _ in 0..10 {
            pace.spend(500).await;
        }
        assert_eq!(began.elapsed().as_millis(), 5000);
        tokio::time::advance(Duration::from_mins(1)).await;
        let began = Instant::now();
        pace.spend(2000).await;
        assert_eq!(began.elapsed().as_millis(), 2000);
    }
}
