//! Whether the output of a run is within its bounds, while it runs and when it has ended.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;
use tokio::{task::spawn_blocking, time::sleep};
use torno_registry::Outcome;

use crate::output::{Excess, Look, pause, timed};

use super::Life;

/// How often the engine is asked for the size of an output that cannot be seen from here. A disk writes a few gigabytes
/// in that time, which is how far past its limit an output may grow; asking more often would keep the engine busy
/// walking the volumes.
const ASK: Duration = Duration::from_secs(3);

impl Life {
    /// Resolves when the output is past one of its bounds, or when the disk is nearly full, with what the run is to be
    /// ended for.
    pub(super) async fn outgrown(&self) -> Outcome {
        let bounds = self.policy().limits.output();
        if let Some(folder) = self.output_folder().await {
            loop {
                let (seen, took) = self.seen(&folder).await;
                match seen {
                    Ok(Look::Past(excess)) => return outcome(excess),
                    Ok(Look::Within(seen)) if seen.free < self.site.keep_free.as_u64() => {
                        tracing::error!(
                            run = %self.run.id, free = seen.free,
                            "the disk of the outputs is nearly full, so the run is stopped; make room, or see what fills it"
                        );
                        return Outcome::DiskFull;
                    }
                    Ok(Look::Within(seen)) => sleep(pause(seen, bounds, took)).await,
                    Err(error) => {
                        tracing::debug!(run = %self.run.id, %error, "an output cannot be seen from here");
                        break;
                    }
                }
            }
        }
        tracing::warn!(
            run = %self.run.id,
            "an output cannot be seen from here; the engine is asked for its size alone, every few seconds"
        );
        loop {
            sleep(ASK).await;
            if let Some(excess) = self.asked().await {
                return outcome(excess);
            }
        }
    }

    /// What the output is past when the run has ended.
    pub(super) async fn excess(&self) -> Option<Outcome> {
        let folder = self.output_folder().await;
        let seen = match &folder {
            Some(folder) => self.seen(folder).await.0,
            None => Err(Errno::NOENT),
        };
        let excess = match seen {
            Ok(Look::Past(excess)) => Some(excess),
            Ok(Look::Within(_)) => None,
            Err(_) => self.asked().await,
        };
        excess.map(outcome)
    }

    /// Whether somebody has removed the volume of a run whose container is there, or its folder: no run can.
    pub(super) async fn output_is_gone(&self) -> bool {
        match self.site.engine.volume_folder(&self.name()).await {
            Ok(Some(folder)) => {
                // Of a folder of another host, or behind one that is closed to this process, nothing is known.
                let beside = folder.parent().is_some_and(Path::is_dir);
                let gone = beside
                    && folder.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
                if gone {
                    tracing::warn!(run = %self.run.id, "the folder of the output of a run was removed");
                }
                gone
            }
            // Some engines do not say where.
            Ok(None) | Err(_) => false,
        }
    }

    /// Where the engine keeps the output, on its host.
    async fn output_folder(&self) -> Option<PathBuf> {
        match self.site.engine.volume_folder(&self.name()).await {
            Ok(folder) => folder,
            Err(error) => {
                tracing::debug!(run = %self.run.id, %error, "where an output is kept is not known");
                None
            }
        }
    }

    async fn seen(&self, folder: &Path) -> (Result<Look, Errno>, Duration) {
        let (folder, bounds) = (folder.to_owned(), self.policy().limits.output());
        let looked = spawn_blocking(move || timed(&folder, bounds)).await;
        looked.unwrap_or((Err(Errno::CANCELED), Duration::ZERO))
    }

    /// What the engine can say: whether there are too many bytes. What it cannot is looked at again when the output is
    /// collected.
    async fn asked(&self) -> Option<Excess> {
        let limit = self.policy().limits.output.as_u64();
        match self.site.engine.volume_size(&self.name()).await {
            Ok(size) => size.filter(|size| *size > limit).map(|_| Excess::Bytes(limit)),
            Err(error) => {
                tracing::debug!(run = %self.run.id, %error, "the size of an output is not known");
                None
            }
        }
    }
}

fn outcome(excess: Excess) -> Outcome {
    match excess {
        Excess::Bytes(bytes) => Outcome::OutputTooLarge { bytes },
        Excess::Entries(entries) => Outcome::OutputTooManyFiles { entries },
        Excess::Depth(depth) => Outcome::OutputTooDeep { depth },
    }
}
