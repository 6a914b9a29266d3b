//! Who has sent a signal to a container: whoever does it through the engine is in its memory, a program itself is not.

use std::{collections::HashMap, pin::pin};

use bollard::query_parameters as query;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use tokio::time::timeout;

use super::{Engine, EngineError, limit};

impl Engine {
    /// Whether somebody has had the engine send a signal to a container since some time, as `docker kill` and `docker stop`
    /// do. It remembers its last few hundred events, and none from before it was started.
    pub(crate) async fn was_signalled(&self, name: &str, since: Timestamp) -> Result<bool, EngineError> {
        let docker = self.connected().await?;
        let filters = HashMap::from([
            ("container".to_owned(), vec![name.to_owned()]),
            ("event".to_owned(), vec!["kill".to_owned()]),
        ]);
        // Up to now, or else the answer goes on for as long as the engine does.
        let options = query::EventsOptionsBuilder::default()
            .since(&since.as_second().to_string())
            .until(&Timestamp::now().as_second().to_string())
            .filters(&filters)
            .build();
        let mut events = pin!(docker.events(Some(options)));
        let first = timeout(limit::LIST, events.next()).await;
        match first.map_err(|_| EngineError::Timeout(limit::LIST))? {
            None => Ok(false),
            Some(event) => Ok(event.map(|_| true)?),
        }
    }
}
