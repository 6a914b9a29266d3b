//! Upload sessions: who may continue which.

use jiff::Timestamp;
use rusqlite::params;
use torno_oci::{RepositoryName, UploadId, UserName};

use crate::{
    Metadata, MetadataError, repository,
    row::{all, execute, parsed},
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

    /// Whether this is a session of `who` in this repository; if so it is `touched` and expires later.
    pub async fn touch_upload(
        &self,
        id: &UploadId,
        name: &RepositoryName,
        who: &UserName,
        now: Timestamp,
    ) -> Result<bool, MetadataError> {
        /// Writing the time on every request would make each chunk cost a commit.
        const EVERY_MILLIS: i64 = 60_000;
        let (id, name, who) = (id.clone(), name.clone(), who.clone());
        let earlier = now.as_millisecond() - EVERY_MILLIS;
        let known = {
            let id = id.clone();
            self.read(move |connection| {
                let sql = "SELECT u.touched_at < ?4 AS stale FROM uploads AS u
                    JOIN repositories AS r ON r.id = u.repository
                    WHERE u.id = ?1 AND r.name = ?2 AND u.owner = ?3";
                let parameters = params![id.as_str(), name.as_str(), who.as_str(), earlier];
                crate::row::first(connection, sql, parameters, |row| Ok(row.get::<_, bool>("stale")?))
            })
            .await?
        };
        if known == Some(true) {
            self.write(move |connection| {
                let sql = "UPDATE uploads SET touched_at = ?2 WHERE id = ?1";
                execute(connection, sql, params![id.as_str(), now.as_millisecond()])
            })
            .await?;
        }
        Ok(known.is_some())
    }

    /// Forgets a session; whether there was one.
    pub async fn end_upload(&self, id: &UploadId) -> Result<bool, MetadataError> {
        let id = id.clone();
        self.write(move |connection| {
            Ok(execute(connection, "DELETE FROM uploads WHERE id = ?1", [id.as_str()])? > 0)
        })
        .await
    }

    /// Sessions that nobody has touched since `before`.
    pub async fn idle_uploads(&self, before: Timestamp) -> Result<Vec<UploadId>, MetadataError> {
        self.read(move |connection| {
            let sql = "SELECT id FROM uploads WHERE touched_at < ?1";
            all(connection, sql, [before.as_millisecond()], |row| parsed(row, "id"))
        })
        .await
    }
}
