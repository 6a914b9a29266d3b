//! Whether the engine answers, as everybody here knows it. One asks, at all times; whoever finds it away says so, and waits
//! here until it is back.

use std::time::Duration;

use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{EngineError, life::Site};

/// How long after an answer the engine is asked again: with the time that an answer may take, an engine that hangs is
/// noticed within half a minute.
const PULSE: Duration = Duration::from_secs(10);

/// How long after a question that was not answered it is asked again: a question costs it next to nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// Since when the engine has not answered; `None` while it does.
#[derive(Debug)]
pub(crate) struct Presence(watch::Sender<Option<Timestamp>>);

impl Default for Presence {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Presence {
    /// The engine did not answer.
    pub(crate) fn missed(&self, error: &EngineError) {
        self.0.send_if_modified(|away| {
            if away.is_some() {
                return false;
            }
            tracing::error!(%error, "there is no engine; runs wait until there is one");
            *away = Some(Timestamp::now());
            true
        });
    }

    /// The engine answered; whether it had not before.
    fn answered(&self) -> bool {
        let back = self.0.send_if_modified(|away| away.take().is_some());
        if back {
            tracing::info!("the engine answers again");
        }
        back
    }

    /// Resolves while the engine is thought to answer.
    pub(crate) async fn back(&self) {
        // It fails when nobody could ever say that it is back, which cannot be: this is who would.
        let _ = self.0.subscribe().wait_for(Option::is_none).await;
    }
}

/// Asks the engine whether it is there, and notes where others look since when it is not.
pub(crate) async fn keep(site: &Site) {
    let mut changes = site.presence.0.subscribe();
    loop {
        match site.engine.reach().await {
            // It may have come back as another.
            Ok(()) if site.presence.answered() => site.fit.forget(),
            Ok(()) => {}
            Err(error) => site.presence.missed(&error),
        }
        let since = *changes.borrow_and_update();
        if let Err(error) = site.registry.note_outage(since).await {
            tracing::warn!(%error, "whether the engine answers could not be noted; trying again");
            sleep(AGAIN).await;
        } else if since.is_some() {
            sleep(AGAIN).await;
        } else {
            // Somebody may miss it before it is asked again.
            let _ = timeout(PULSE, changes.changed()).await;
        }
    }
}
