//! Repositories, whose they are, and the catalog.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use torno_oci::{RepositoryName, Tag, UserName};

use crate::{
    Metadata, MetadataError,
    cache::{Answer, Question},
    row::{all, execute, first, parsed, repository_id},
};

/// A repository and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The repository.
    pub name: RepositoryName,
    /// Who pushed it first.
    pub owner: UserName,
}

impl Metadata {
    /// Who owns a repository; `None` if there is none of that name.
    pub async fn owner(&self, name: &RepositoryName) -> Result<Option<UserName>, MetadataError> {
        let question = Question::Owner(name.clone());
        let name = name.clone();
        let read = move |connection: &Connection| {
            let sql = "SELECT owner FROM repositories WHERE name = ?1";
            first(connection, sql, [name.as_str()], |row| Ok(Answer::Owner(parsed(row, "owner")?)))
        };
        match self.answer(question, read).await? {
            Some(Answer::Owner(owner)) => Ok(Some(owner)),
            _ => Ok(None),
        }
    }

    /// Repositories that hold a manifest, other than those that only wait for gc, in the order of their names, behind
    /// `after`, at most `limit`.
    pub async fn repositories(&self, after: Option<&str>, limit: usize) -> Result<Vec<Owned>, MetadataError> {
        let after = after.unwrap_or_default().to_owned();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            let sql = "SELECT name, owner FROM repositories AS r WHERE name > ?1
                AND EXISTS (SELECT 1 FROM manifest_links WHERE repository = r.id AND orphaned = 0) ORDER BY name LIMIT ?2";
            all(connection, sql, params![after, limit], |row| {
                Ok(Owned { name: parsed(row, "name")?, owner: parsed(row, "owner")? })
            })
        })
        .await
    }

    /// The tags of a repository in their order, behind `after`, at most `limit`.
    pub async fn tags(
        &self,
        name: &RepositoryName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Tag>, MetadataError> {
        let (name, after) = (name.clone(), after.unwrap_or_default().to_owned());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            let Some(repository) = repository_id(connection, &name)? else { return Ok(Vec::new()) };
            let sql = "SELECT tag FROM tags WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3";
            all(connection, sql, params![repository, after, limit], |row| parsed(row, "tag"))
        })
        .await
    }
}

/// The row of `owner`'s repository, made if there is none of that name; [`MetadataError::Taken`] if it is somebody
/// else's. In the transaction that writes to it, so that of two first pushes of a name only one goes on.
pub(crate) fn ensure(
    connection: &Connection,
    name: &RepositoryName,
    owner: &UserName,
    now: Timestamp,
) -> Result<i64, MetadataError> {
    let sql = "SELECT id, owner FROM repositories WHERE name = ?1";
    let found: Option<(i64, UserName)> =
        first(connection, sql, [name.as_str()], |row| Ok((row.get("id")?, parsed(row, "owner")?)))?;
    match found {
        Some((id, known)) if known == *owner => Ok(id),
        Some(_) => Err(MetadataError::Taken),
        None => {
            let sql = "INSERT INTO repositories (name, owner, created_at) VALUES (?1, ?2, ?3)";
            execute(connection, sql, params![name.as_str(), owner.as_str(), now.as_millisecond()])?;
            Ok(connection.last_insert_rowid())
        }
    }
}
