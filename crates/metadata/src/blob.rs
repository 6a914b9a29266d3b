//! Blobs, their links to repositories, and the holds that keep gc away from what is on its way in.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::{Digest, RepositoryName, UserName};

use crate::{
    Among, Deleted, Metadata, MetadataError, NamedKind, Owned,
    cache::{Answer, Question, Stale},
    collect::suspect_blob,
    named, quarantine, repository,
    row::{all, execute, exists, first, integer, millis, number, parsed, repository_id},
};

/// How long a hold lasts: longer than any rename and fsync takes. That of a process that has died ends sooner.
const HOLD: Duration = Duration::from_mins(10);

/// A hold on a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldId(i64);

/// Whether a blob may be moved into place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It may; gc keeps away until [`Metadata::link`] or until the hold expires.
    Held(HoldId),
    /// gc is deleting this very blob, or its damaged file is being put aside: wait until that is done, then ask again.
    Deleting,
}

impl Metadata {
    /// The size of a blob, if this repository may serve it.
    pub async fn linked(&self, name: &RepositoryName, blob: &Digest) -> Result<Option<u64>, MetadataError> {
        let question = Question::BlobSize(name.clone(), blob.clone());
        let (name, blob) = (name.clone(), blob.clone());
        let read =
            move |connection: &Connection| Ok(size_in(connection, &name, &blob)?.map(Answer::BlobSize));
        match self.answer(question, read).await? {
            Some(Answer::BlobSize(size)) => Ok(Some(size)),
            _ => Ok(None),
        }
    }

    /// Announces that the bytes of a blob are complete and about to be moved into place. `holder` names the process,
    /// so that what it held is let go of when it has died.
    pub async fn hold(
        &self,
        blob: &Digest,
        size: u64,
        holder: &str,
        now: Timestamp,
    ) -> Result<Hold, MetadataError> {
        let (blob, holder) = (blob.clone(), holder.to_owned());
        self.write_making(Stale::None, move |connection| {
            if is_deleting(connection, &blob)? {
                return Ok(Hold::Deleting);
            }
            // The digest was compared: another size that stands there is wrong.
            let sql = "UPDATE blobs SET size = ?2 WHERE digest = ?1 AND size <> ?2";
            execute(connection, sql, params![blob.as_str(), integer(size)])?;
            let sql =
                "INSERT INTO blobs (digest, size, state) VALUES (?1, ?2, 'incoming') ON CONFLICT DO NOTHING";
            if execute(connection, sql, params![blob.as_str(), integer(size)])? == 1 {
                // In case it never arrives.
                suspect_blob(connection, &blob)?;
            }
            let expires = now.as_millisecond() + millis(HOLD);
            let sql = "INSERT INTO holds (blob, holder, expires_at) VALUES (?1, ?2, ?3)";
            execute(connection, sql, params![blob.as_str(), holder, expires])?;
            Ok(Hold::Held(HoldId(connection.last_insert_rowid())))
        })
        .await
    }

    /// Links a blob whose bytes are in place to `owner`'s repository and gives up the hold.
    pub async fn link(
        &self,
        hold: HoldId,
        name: &RepositoryName,
        owner: &UserName,
        blob: &Digest,
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let (name, owner, blob) = (name.clone(), owner.clone(), blob.clone());
        self.write_making(Stale::None, move |connection| {
            let sql = "UPDATE blobs SET state = 'present' WHERE digest = ?1 AND state <> 'deleting'";
            if execute(connection, sql, [blob.as_str()])? == 0 {
                // The hold ran out and gc came by: the bytes are gone, so there must be no link.
                return Err(MetadataError::Corrupt("hold: it expired before the link"));
            }
            quarantine::heal_blob(connection, &blob)?;
            let repository = repository::ensure(connection, &name, &owner, now)?;
            insert_link(connection, repository, &blob, now)?;
            execute(connection, "DELETE FROM holds WHERE id = ?1", [hold.0])?;
            Ok(())
        })
        .await
    }

    /// Gives up a hold whose bytes never came into place. Nobody waits for it.
    pub fn release(&self, hold: HoldId) -> Result<(), MetadataError> {
        let released = self.submit(move |connection| {
            execute(connection, "DELETE FROM holds WHERE id = ?1", [hold.0])?;
            Ok(((), Stale::None))
        });
        released.map(drop)
    }

    /// Which processes hold blobs, by the names they gave.
    pub async fn holders(&self) -> Result<Vec<String>, MetadataError> {
        self.read(|connection| {
            let sql = "SELECT DISTINCT holder FROM holds WHERE holder <> ''";
            all(connection, sql, [], |row| Ok(row.get("holder")?))
        })
        .await
    }

    /// Lets go of what some processes held, and of what has expired.
    pub async fn release_all(&self, holders: Vec<String>, now: Timestamp) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection| {
            execute(connection, "DELETE FROM holds WHERE expires_at < ?1", [now.as_millisecond()])?;
            for holder in holders {
                execute(connection, "DELETE FROM holds WHERE holder = ?1", [holder])?;
            }
            Ok(())
        })
        .await
    }

    /// Links a blob that `from` may serve to `to` as well (distribution-spec: Mounting a blob from another
    /// repository); whether `from` could.
    pub async fn mount(
        &self,
        from: &RepositoryName,
        to: &RepositoryName,
        owner: &UserName,
        blob: &Digest,
        now: Timestamp,
    ) -> Result<bool, MetadataError> {
        let (from, to, owner, blob) = (from.clone(), to.clone(), owner.clone(), blob.clone());
        self.write_making(Stale::None, move |connection| {
            if size_in(connection, &from, &blob)?.is_none() {
                return Ok(false);
            }
            let repository = repository::ensure(connection, &to, &owner, now)?;
            insert_link(connection, repository, &blob, now)?;
            Ok(true)
        })
        .await
    }

    /// Some of these repositories that may serve a blob, at most `limit`. Others that have it cost a row each, and no
    /// more than that is to be seen of them.
    pub async fn repositories_of(
        &self,
        blob: &Digest,
        among: &Among,
        limit: usize,
    ) -> Result<Vec<Owned>, MetadataError> {
        let (condition, values) = among.condition();
        let values: Vec<String> = [blob.to_string(), limit.to_string()].into_iter().chain(values).collect();
        self.read(move |connection| {
            let sql = format!(
                "SELECT r.name, r.owner FROM blob_links AS l JOIN repositories AS r ON r.id = l.repository
                WHERE l.blob = ?1 AND {condition} LIMIT CAST(?2 AS INTEGER)"
            );
            all(connection, &sql, rusqlite::params_from_iter(&values), |row| {
                Ok(Owned { name: parsed(row, "name")?, owner: parsed(row, "owner")? })
            })
        })
        .await
    }

    /// Takes a blob out of a repository.
    pub async fn unlink(&self, name: &RepositoryName, blob: &Digest) -> Result<Deleted, MetadataError> {
        let (name, blob) = (name.clone(), blob.clone());
        let stale = Stale::Of(vec![name.clone()]);
        self.write_making(stale, move |connection| {
            let Some(repository) = repository_id(connection, &name)? else { return Ok(Deleted::Unknown) };
            let sql = "DELETE FROM blob_links WHERE repository = ?1 AND blob = ?2";
            if execute(connection, sql, params![repository, blob.as_str()])? == 0 {
                return Ok(Deleted::Unknown);
            }
            let sql = "DELETE FROM arrivals WHERE repository = ?1 AND blob = ?2";
            execute(connection, sql, params![repository, blob.as_str()])?;
            suspect_blob(connection, &blob)?;
            let named_by = named::count_names(connection, repository, NamedKind::Blob, &blob)?;
            Ok(Deleted::Gone { named_by })
        })
        .await
    }
}

/// The size of a blob, if the repository may serve it.
pub(crate) fn size_in(
    connection: &Connection,
    name: &RepositoryName,
    blob: &Digest,
) -> Result<Option<u64>, MetadataError> {
    let sql = "SELECT b.size FROM blob_links AS l JOIN repositories AS r ON r.id = l.repository
        JOIN blobs AS b ON b.digest = l.blob WHERE r.name = ?1 AND l.blob = ?2 AND b.state = 'present'
        AND NOT EXISTS (SELECT 1 FROM quarantined_blobs AS q WHERE q.blob = l.blob)";
    first(connection, sql, params![name.as_str(), blob.as_str()], |row| number(row, "size"))
}

/// Whether gc is deleting a blob, or somebody is putting its file aside: nobody may link it until that is done.
pub(crate) fn is_deleting(connection: &Connection, blob: &Digest) -> Result<bool, MetadataError> {
    let sql = "SELECT 1 FROM blobs WHERE digest = ?1 AND state = 'deleting'";
    Ok(exists(connection, sql, [blob.as_str()])? || quarantine::is_moving(connection, blob)?)
}

/// Links a blob to a repository, where it waits for a manifest that names it.
pub(crate) fn insert_link(
    connection: &Connection,
    repository: i64,
    blob: &Digest,
    now: Timestamp,
) -> Result<(), MetadataError> {
    let sql = "INSERT INTO blob_links (repository, blob) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    execute(connection, sql, params![repository, blob.as_str()])?;
    let sql = "INSERT INTO arrivals (repository, blob, at) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET at = excluded.at";
    execute(connection, sql, params![repository, blob.as_str(), now.as_millisecond()])?;
    Ok(())
}
