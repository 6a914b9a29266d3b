//! What runs exchanged with the services of the site.

use torno_oci::RunId;

use crate::{
    Metadata, MetadataError,
    cache::Stale,
    row::{all, execute, integer, number},
};

/// What one run exchanged with one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// The service as the run knows it: `db.internal:5432`.
    pub service: String,
    /// Connections that were made.
    pub connections: u64,
    /// Connections that the run asked for and did not get because the service could not be reached, or because so many were
    /// open already. Of the latter the relay closes most by itself, and nobody counts those.
    pub refused: u64,
    /// Bytes from the run to the service.
    pub sent: u64,
    /// Bytes from the service to the run.
    pub received: u64,
}

impl Metadata {
    /// Notes what a run has exchanged so far, in place of what was noted of these services before.
    pub async fn note_traffic(&self, run: RunId, traffic: Vec<ServiceTraffic>) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection| {
            let sql = "INSERT INTO run_traffic (run, service, connections, refused, sent, received)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (run, service) DO UPDATE SET
                connections = excluded.connections, refused = excluded.refused, sent = excluded.sent,
                received = excluded.received";
            for ServiceTraffic { service, connections, refused, sent, received } in &traffic {
                let counts = [*connections, *refused, *sent, *received].map(integer);
                let [connections, refused, sent, received] = counts;
                let row =
                    rusqlite::params![integer(run.number()), service, connections, refused, sent, received];
                execute(connection, sql, row)?;
            }
            Ok(())
        })
        .await
    }

    /// What a run has exchanged, by service.
    pub async fn traffic(&self, run: RunId) -> Result<Vec<ServiceTraffic>, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT * FROM run_traffic WHERE run = ?1 ORDER BY service";
            all(connection, sql, [integer(run.number())], |row| {
                Ok(ServiceTraffic {
                    service: row.get("service")?,
                    connections: number(row, "connections")?,
                    refused: number(row, "refused")?,
                    sent: number(row, "sent")?,
                    received: number(row, "received")?,
                })
            })
        })
        .await
    }
}
