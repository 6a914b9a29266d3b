//! How much somebody keeps, for whoever decides whether they may keep more.

use rusqlite::Connection;
use torno_oci::{Digest, ProjectName, RepositoryName, UserName};

use crate::{
    Metadata, MetadataError,
    repository::ranges,
    row::{exists, first, number},
};

/// Repositories that are charged together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Those of an owner.
    Owner(UserName),
    /// Those of a project: its images and results.
    Project(ProjectName),
}

/// What an account keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// Bytes of blobs and manifests, each once.
    pub bytes: u64,
    /// Repositories.
    pub repositories: u64,
}

impl Account {
    /// The condition on `repositories`, whose parameters are `?1` to `?8`.
    fn condition(&self) -> (&'static str, Vec<String>) {
        match self {
            Self::Owner(owner) => {
                let mut values = vec![owner.to_string()];
                values.resize(8, String::new());
                ("owner = ?1 AND ?2 || ?3 || ?4 || ?5 || ?6 || ?7 || ?8 = ''", values)
            }
            Self::Project(project) => {
                let condition = "(name > ?1 AND name < ?2 OR name > ?3 AND name < ?4
                    OR name > ?5 AND name < ?6 OR name > ?7 AND name < ?8)";
                let values = ranges(project).into_iter().flat_map(<[String; 2]>::from).collect();
                (condition, values)
            }
        }
    }
}

impl Metadata {
    /// What an account keeps. It looks at every link there is, once.
    pub async fn charge(&self, account: Account) -> Result<Charge, MetadataError> {
        self.read(move |connection| {
            let (condition, parameters) = account.condition();
            let own = format!("(SELECT id FROM repositories WHERE {condition})");
            let sql = format!(
                "SELECT (SELECT COALESCE(SUM(size), 0) FROM blobs WHERE digest IN (
                        SELECT blob FROM blob_links WHERE repository IN {own}))
                    + (SELECT COALESCE(SUM(length(bytes)), 0) FROM manifests WHERE digest IN (
                        SELECT manifest FROM manifest_links WHERE repository IN {own})) AS bytes"
            );
            let all = rusqlite::params_from_iter(&parameters);
            let bytes = first(connection, &sql, all, |row| number(row, "bytes"))?.unwrap_or(0);
            Ok(Charge { bytes, repositories: repositories(connection, &account)? })
        })
        .await
    }

    /// How many repositories an account has beside some that it may have.
    pub async fn count_repositories(
        &self,
        account: Account,
        beside: Vec<RepositoryName>,
    ) -> Result<u64, MetadataError> {
        self.read(move |connection| {
            let moment = connection.unchecked_transaction()?;
            let mut count = repositories(&moment, &account)?;
            for name in beside {
                let (condition, parameters) = account.condition();
                let sql = format!("SELECT 1 FROM repositories WHERE {condition} AND name = ?9");
                let all = parameters.iter().map(String::as_str).chain([name.as_str()]);
                let there = exists(&moment, &sql, rusqlite::params_from_iter(all))?;
                count = count.saturating_sub(u64::from(there));
            }
            Ok(count)
        })
        .await
    }

    /// Whether a blob or manifest is charged to an account already.
    pub async fn is_charged(&self, account: Account, content: &Digest) -> Result<bool, MetadataError> {
        let content = content.clone();
        self.read(move |connection| {
            let (condition, parameters) = account.condition();
            let sql = format!(
                "SELECT 1 FROM repositories WHERE {condition} AND (
                    id IN (SELECT repository FROM blob_links WHERE blob = ?9)
                    OR id IN (SELECT repository FROM manifest_links WHERE manifest = ?9))"
            );
            let all = parameters.iter().map(String::as_str).chain([content.as_str()]);
            exists(connection, &sql, rusqlite::params_from_iter(all))
        })
        .await
    }
}

fn repositories(connection: &Connection, account: &Account) -> Result<u64, MetadataError> {
    let (condition, parameters) = account.condition();
    let sql = format!("SELECT COUNT(*) AS repositories FROM repositories WHERE {condition}");
    let all = rusqlite::params_from_iter(&parameters);
    Ok(first(connection, &sql, all, |row| number(row, "repositories"))?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jiff::Timestamp;

    use super::*;

    #[tokio::test]
    async fn what_an_account_shares_with_itself_is_charged_once() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
        for (repository, owner, size) in [
            ("run/heart/a", "ada", 100),
            ("results/heart/a", "ada", 100),
            ("run/heart-2/a", "ada", 30),
            ("run/heart/b", "bob", 100),
            ("tools/x", "bob", 7),
            ("run/heart", "bob", 2),
        ] {
            let bytes = vec![0; size];
            let (name, owner) = (repository.parse().expect("name"), owner.parse().expect("user"));
            let digest = Digest::sha256(&bytes);
            let linked =
                metadata.link_journaled(&name, &owner, &digest, bytes.into(), Timestamp::now()).await;
            linked.expect("linked");
        }
        let user = |name: &str| Account::Owner(name.parse().expect("user"));
        let project = |name: &str| Account::Project(name.parse().expect("project"));
        for (account, bytes, repositories) in [
            (user("ada"), 130, 3),
            (user("bob"), 109, 3),
            (user("eve"), 0, 0),
            (project("heart"), 100, 3),
            (project("heart-2"), 30, 1),
        ] {
            let charge = metadata.charge(account.clone()).await.expect("charge");
            assert_eq!(charge, Charge { bytes, repositories }, "{account:?}");
            assert_eq!(metadata.count_repositories(account, Vec::new()).await.expect("count"), repositories);
        }
        let beside = ["tools/x", "never/made"].map(|name| name.parse().expect("name")).into();
        assert_eq!(metadata.count_repositories(user("bob"), beside).await.expect("count"), 2);
        let blob = Digest::sha256(&[0; 7]);
        for (account, expected) in [(user("bob"), true), (user("ada"), false), (project("heart"), false)] {
            assert_eq!(metadata.is_charged(account, &blob).await.expect("asked"), expected);
        }
        let bytes = Bytes::from_static(b"{}");
        assert!(!metadata.is_charged(user("bob"), &Digest::sha256(&bytes)).await.expect("asked"));
    }
}
