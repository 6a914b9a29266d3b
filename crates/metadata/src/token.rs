//! Tokens that people and machines keep. What stands in them is for `auth` to understand.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use torno_oci::UserName;

use crate::{
    Metadata, MetadataError,
    cache::Stale,
    row::{all, execute, first, parsed, time, time_option},
};

/// Which tokens there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Made by somebody, for themselves or for a machine.
    Personal,
    /// Kept by a client in place of a password.
    Login,
}

/// Where the user of a token is known from, and so who must still know them for it to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The password file.
    File,
    /// The robots of the configuration.
    Robot,
    /// A directory (LDAP).
    Directory,
    /// An identity provider (`OpenID` Connect).
    Provider,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// Its name.
    pub id: String,
    /// Whose it is.
    pub user: UserName,
    /// What it was made for.
    pub kind: TokenKind,
    /// Where its user is known from.
    pub account: Account,
    /// The hash of its secret.
    pub hash: Vec<u8>,
    /// What it is good for at most; `None`: for all that its user may do.
    pub scope: Option<String>,
    /// The groups that a directory named when it was made, with spaces between.
    pub groups: String,
    /// What stood behind the password it was made with.
    pub voucher: Option<String>,
    /// What it is for, in its maker's words.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it is good no longer; `None`: never.
    pub expires: Option<Timestamp>,
    /// When it was last used, to the hour.
    pub used: Option<Timestamp>,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
}

impl TokenKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Personal => "personal",
            Self::Login => "login",
        }
    }
}

impl Account {
    const ALL: [Self; 4] = [Self::File, Self::Robot, Self::Directory, Self::Provider];

    fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Robot => "robot",
            Self::Directory => "directory",
            Self::Provider => "provider",
        }
    }
}

impl Metadata {
    /// Keeps a new token. Of the logins that clients keep for its user, at most `logins` stay: the newest.
    pub async fn add_token(&self, token: TokenRecord, logins: usize) -> Result<(), MetadataError> {
        self.write_making(Stale::None, move |connection: &Connection| {
            let sql = "INSERT INTO tokens
                (id, user, kind, account, hash, scope, groups, voucher, description, created, expires)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
            let values = params![
                token.id,
                token.user.as_str(),
                token.kind.as_str(),
                token.account.as_str(),
                token.hash,
                token.scope,
                token.groups,
                token.voucher,
                token.description,
                token.created.as_millisecond(),
                token.expires.map(Timestamp::as_millisecond),
            ];
            execute(connection, sql, values)?;
            let sql = "DELETE FROM tokens WHERE user = ?1 AND kind = 'login' AND id NOT IN (
                SELECT id FROM tokens WHERE user = ?1 AND kind = 'login' ORDER BY created DESC LIMIT ?2)";
            let logins = i64::try_from(logins).unwrap_or(i64::MAX);
            execute(connection, sql, params![token.user.as_str(), logins])?;
            Ok(())
        })
        .await
    }

    /// A token by its name.
    pub async fn token(&self, id: &str) -> Result<Option<TokenRecord>, MetadataError> {
        let id = id.to_owned();
        self.read(move |connection| first(connection, "SELECT * FROM tokens WHERE id = ?1", [&id], record))
            .await
    }

    /// The tokens of somebody, or of everybody, the oldest first.
    pub async fn tokens(&self, user: Option<&UserName>) -> Result<Vec<TokenRecord>, MetadataError> {
        let user = user.map(ToString::to_string);
        self.read(move |connection| {
            let sql = "SELECT * FROM tokens WHERE ?1 IS NULL OR user = ?1 ORDER BY created, id";
            all(connection, sql, [&user], record)
        })
        .await
    }

    /// Revokes a token from now on; whether it was good for anything before.
    pub async fn revoke_token(&self, id: &str, now: Timestamp) -> Result<bool, MetadataError> {
        let id = id.to_owned();
        self.write_making(Stale::None, move |connection: &Connection| {
            let sql = "UPDATE tokens SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL";
            Ok(execute(connection, sql, params![id, now.as_millisecond()])? > 0)
        })
        .await
    }

    /// Notes that a token was used, and forgets those that have been good for nothing since before `forgotten`.
    pub async fn note_token(
        &self,
        id: &str,
        now: Timestamp,
        forgotten: Timestamp,
    ) -> Result<(), MetadataError> {
        let id = id.to_owned();
        self.write_making(Stale::None, move |connection: &Connection| {
            let sql = "UPDATE tokens SET used = ?2 WHERE id = ?1";
            execute(connection, sql, params![id, now.as_millisecond()])?;
            let sql = "DELETE FROM tokens WHERE expires < ?1 OR revoked < ?1";
            execute(connection, sql, [forgotten.as_millisecond()])?;
            Ok(())
        })
        .await
    }
}

fn record(row: &Row<'_>) -> Result<TokenRecord, MetadataError> {
    let kind: String = row.get("kind")?;
    let account: String = row.get("account")?;
    let account = Account::ALL.into_iter().find(|known| known.as_str() == account);
    let kind = [TokenKind::Personal, TokenKind::Login].into_iter().find(|known| known.as_str() == kind);
    Ok(TokenRecord {
        id: row.get("id")?,
        user: parsed(row, "user")?,
        kind: kind.ok_or(MetadataError::Corrupt("kind"))?,
        account: account.ok_or(MetadataError::Corrupt("account"))?,
        hash: row.get("hash")?,
        scope: row.get("scope")?,
        groups: row.get("groups")?,
        voucher: row.get("voucher")?,
        description: row.get("description")?,
        created: time(row, "created")?,
        expires: time_option(row, "expires")?,
        used: time_option(row, "used")?,
        revoked: time_option(row, "revoked")?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(id: &str, user: &str, kind: TokenKind, created: i64) -> TokenRecord {
        TokenRecord {
            id: id.into(),
            user: user.parse().expect("user"),
            kind,
            account: Account::File,
            hash: vec![1; 32],
            scope: Some("pull:a".into()),
            groups: "staff".into(),
            voucher: None,
            description: "a test".into(),
            created: Timestamp::from_second(created).expect("time"),
            expires: None,
            used: None,
            revoked: None,
        }
    }

    #[tokio::test]
    async fn tokens_are_kept_listed_and_revoked() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
        let mine = token("a1", "ada", TokenKind::Personal, 1);
        metadata.add_token(mine.clone(), 2).await.expect("added");
        assert!(metadata.add_token(mine.clone(), 2).await.is_err(), "no name is used twice");
        metadata.add_token(token("b1", "bob", TokenKind::Personal, 2), 2).await.expect("added");
        assert_eq!(metadata.token("a1").await.expect("read"), Some(mine.clone()));
        assert_eq!(metadata.token("a2").await.expect("read"), None);
        assert_eq!(metadata.tokens(Some(&mine.user)).await.expect("list"), [mine]);
        assert_eq!(metadata.tokens(None).await.expect("list").len(), 2);
        let now = Timestamp::from_second(10).expect("time");
        assert!(metadata.revoke_token("a1", now).await.expect("revoked"));
        assert!(!metadata.revoke_token("a1", now).await.expect("again"));
        assert_eq!(metadata.token("a1").await.expect("read").expect("it stays").revoked, Some(now));
        metadata.note_token("b1", now, now).await.expect("noted");
        assert_eq!(metadata.token("b1").await.expect("read").expect("there").used, Some(now));
        let later = now + Duration::from_secs(1);
        metadata.note_token("b1", later, later).await.expect("noted");
        assert_eq!(metadata.token("a1").await.expect("read"), None, "the revoked one is forgotten");
    }

    #[tokio::test]
    async fn of_kept_logins_the_newest_stay() {
        let folder = tempfile::tempdir().expect("folder");
        let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
        metadata.add_token(token("p", "ada", TokenKind::Personal, 0), 2).await.expect("added");
        for (created, id) in ["a", "b", "c"].into_iter().enumerate() {
            let created = i64::try_from(created).expect("small");
            metadata.add_token(token(id, "ada", TokenKind::Login, created), 2).await.expect("added");
        }
        let ids = metadata.tokens(None).await.expect("list").into_iter().map(|token| token.id);
        assert_eq!(ids.collect::<Vec<_>>(), ["p", "b", "c"]);
    }
}
