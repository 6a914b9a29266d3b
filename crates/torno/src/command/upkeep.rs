//! What is done beside everything else for as long as a process runs, so that nobody need think of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::MissedTickBehavior;
use torno_audit::{Audit, AuditError, Segments};
use torno_auth::Tokens;
use torno_registry::{Collected, Ear, Registry, Retention, Scrubbed};

use crate::config::{Gc, Scrub};

/// Gives up upload sessions that have rested for too long, so that nobody need run `torno gc` for it. Cancelling it is
/// harmless.
pub(crate) async fn expire_uploads(registry: &Registry, lifetime: Duration) {
    /// Often enough that what is given up does not fill the disk, seldom enough to cost nothing.
    const OFTEN: Duration = Duration::from_hours(1);
    let mut due = tokio::time::interval((lifetime / 4).min(OFTEN));
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match registry.expire_uploads().await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "upload sessions expired"),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "upload sessions could not be removed"
                );
            }
        }
    }
}

/// Removes what nothing needs, so that nobody need run `torno gc`. Cancelling it is harmless.
pub(crate) async fn collect_garbage(registry: &Registry, gc: Gc, retention: Retention) {
    if gc.interval.is_zero() {
        return;
    }
    let mut due = tokio::time::interval(gc.interval);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        match registry.collect(&retention, gc.grace, |_| ()).await {
            Ok(Collected { expired: 0, manifests: 0, blobs: 0, .. }) => {}
            Ok(Collected { expired, manifests, blobs, bytes, .. }) => {
                tracing::info!(expired, manifests, blobs, bytes, "garbage was removed");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "garbage could not be removed; the next try is in {:?}", gc.interval);
            }
        }
    }
}

/// Looks at everything that is stored, again and again. Cancelled, it goes on at the next start where it was.
pub(crate) async fn keep_scrubbing(registry: &Registry, scrub: Scrub) {
    /// A disk or database that fails is not asked again at once.
    const AFTER_FAILURE: Duration = Duration::from_mins(10);
    if scrub.interval.is_zero() {
        return;
    }
    loop {
        let done = async {
            tokio::time::sleep(registry.scrub_due(scrub.interval).await?).await;
            registry.scrub(scrub.rate.as_u64()).await
        };
        match done.await {
            Ok(Scrubbed { blobs, bytes, manifests, damaged }) => {
                tracing::info!(blobs, bytes, manifests, damaged, "everything that is stored was looked at");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "what is stored could not be looked at; the next try is in {AFTER_FAILURE:?}"
                );
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

/// Hears what other processes do to runs. Cancelling it is harmless.
pub(crate) async fn keep_hearing(registry: &Registry, ear: &Ear) {
    const AFTER_FAILURE: Duration = Duration::from_secs(5);
    loop {
        let Err(error) = registry.hear(ear).await else { continue };
        tracing::error!(%error, "the next try is in {AFTER_FAILURE:?}");
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Lets go of what is kept for pulls that do not come.
pub(crate) async fn keep_releasing(registry: &Registry) {
    const OFTEN: Duration = Duration::from_secs(5);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        registry.release_unused();
    }
}

/// Signs with a new key when it is time.
pub(crate) async fn keep_rotating(tokens: &Arc<Tokens>) {
    const OFTEN: Duration = Duration::from_hours(1);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let tokens = Arc::clone(tokens);
        let rotated = tokio::task::spawn_blocking(move || tokens.rotate(SystemTime::now())).await;
        match rotated {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the keys of tokens stay as they are; the next try is in {OFTEN:?}");
            }
            Err(error) => tracing::error!(%error, "the keys of tokens were not looked at"),
        }
    }
}

/// Notes which tags were pulled, for retention.
pub(crate) async fn keep_noting(registry: &Registry) {
    const OFTEN: Duration = Duration::from_mins(1);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        note_pulls(registry).await;
    }
}

pub(crate) async fn note_pulls(registry: &Registry) {
    if let Err(error) = registry.flush_pulls().await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "it could not be noted which tags were pulled");
    }
}

/// Says now and then how far the record of what is done is: a log that is kept elsewhere then has what
/// `torno audit verify --head` asks for.
pub(crate) async fn keep_anchoring(audit: &Audit) {
    const OFTEN: Duration = Duration::from_hours(1);
    let mut due = tokio::time::interval(OFTEN);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        anchor(audit).await;
    }
}

pub(crate) async fn anchor(audit: &Audit) {
    let head = async {
        audit.flush().await?;
        let folder = audit.folder().to_owned();
        let head = tokio::task::spawn_blocking(move || torno_audit::head(&Segments::of(&folder)?));
        head.await.map_err(|_| AuditError::Closed)?
    };
    match head.await {
        Ok(Some((lines, head))) => tracing::info!(lines, %head, "the record of what is done is so far"),
        Ok(None) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "it could not be told how far the record of what is done is");
        }
    }
}

/// Settles the journal soon after something has come into it. Cancelling it is harmless.
pub(crate) async fn keep_settling(registry: &Registry) {
    /// Long enough for pushes to share a sync, short enough that the journal stays small.
    const GATHER: Duration = Duration::from_secs(1);
    /// A disk that fails is not asked every second.
    const AFTER_FAILURE: Duration = Duration::from_secs(30);
    loop {
        registry.unsettled().await;
        tokio::time::sleep(GATHER).await;
        while !settle(registry).await {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

/// Whether everything in the journal has reached the disk. What has not is safe there, and is read from it.
pub(crate) async fn settle(registry: &Registry) -> bool {
    match registry.settle().await {
        Ok(_) => true,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                "small blobs stay in the journal: they could not be written to their files"
            );
            false
        }
    }
}
