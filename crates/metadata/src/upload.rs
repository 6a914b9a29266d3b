//! Upload sessions: who may continue which.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::params;
use torno_oci::{RepositoryName, UploadId, UserName};

use crate::{
    Metadata, MetadataError, repository,
    row::{all, execute, millis, parsed},
};

impl Metadata {
    /// Notes a new session of `who` in `owner`'s repository, which is made if it is new.
    pub async fn begin_upload(
        &self,
        id: &UploadId,
        name: &RepositoryName,
        owner: &UserName,
        who: &UserName,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let (id, name) = (id.clone(), name.clone());
        let (owner, who) = (owner.clone(), who.clone());
        self.write(move |connection| {
            let repository = repository::ensure(connection, &name, &owner, now)?;
            let sql = "INSERT INTO uploads (id, repository, owner, touched_at) VALUES (?1, ?2, ?3, ?4)";
            execute(connection, sql, params![id.as_str(), repository, who.as_str(), now.as_millisecond()])?;
            Ok(())
        })
        .await
    }

    /// Whether this is a session of `who` in this repository that has been touched within `lifetime`; if so it is
    /// touched now, and expires later.
    pub async fn touch_upload(
        &self,
        id: &UploadId,
        name: &RepositoryName,
        who: &UserName,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<bool, MetadataError> {
        let (id, name, who) = (id.clone(), name.clone(), who.clone());
        let alive = now.as_millisecond().saturating_sub(millis(lifetime));
        let fresh = now.as_millisecond().saturating_sub(millis(touch_interval(lifetime)));
        let known = {
            let id = id.clone();
            self.read(move |connection| {
                let sql = "SELECT u.touched_at < ?4 AS stale FROM uploads AS u
                    JOIN repositories AS r ON r.id = u.repository
                    WHERE u.id = ?1 AND r.name = ?2 AND u.owner = ?3 AND u.touched_at >= ?5";
                let parameters = params![id.as_str(), name.as_str(), who.as_str(), fresh, alive];
                crate::row::first(connection, sql, parameters, |row| Ok(row.get::<_, bool>("stale")?))
            })
            .await?
        };
        match known {
            None => Ok(false),
            Some(false) => Ok(true),
            Some(true) => {
                self.write(move |connection| {
                    // Asked again: it may have expired since.
                    let sql = "UPDATE uploads SET touched_at = ?2 WHERE id = ?1 AND touched_at >= ?3";
                    Ok(execute(connection, sql, params![id.as_str(), now.as_millisecond(), alive])? > 0)
                })
                .await
            }
        }
    }

    /// Forgets a session; whether there was one.
    pub async fn end_upload(&self, id: &UploadId) -> Result<bool, MetadataError> {
        let id = id.clone();
        self.write(move |connection| {
            Ok(execute(connection, "DELETE FROM uploads WHERE id = ?1", [id.as_str()])? > 0)
        })
        .await
    }

    /// Gives up the sessions that nobody has touched since `before`. None of them can be touched again, and each is
    /// named again by the next call until [`Metadata::end_upload`], so that no process need live until then.
    pub async fn expire_uploads(&self, before: Timestamp) -> Result<Vec<UploadId>, MetadataError> {
        self.write(move |connection| {
            let sql = "UPDATE uploads SET touched_at = 0 WHERE touched_at < ?1 RETURNING id";
            all(connection, sql, [before.as_millisecond()], |row| parsed(row, "id"))
        })
        .await
    }
}

/// How old the time of a session's last use may be before it is written again: writing it on every request would
/// make each chunk cost a commit. From one millisecond to one minute.
pub fn touch_interval(lifetime: Duration) -> Duration {
    (lifetime / 4).clamp(Duration::from_millis(1), Duration::from_mins(1))
}
