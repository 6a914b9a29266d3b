//! Tokens that people and machines keep: made, listed, revoked, and known again.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use torno_audit::{Actor, Event, Text};
use torno_auth::{GroupName, Identity, Proof, Scope, Secret, TokenId, UserName, Voucher, Wish};
use torno_metadata::{TokenAccount, TokenKind, TokenRecord};

use crate::{Registry, RegistryError};

/// Logins that clients keep for one person: as many machines as somebody works at. The oldest gives way to the newest.
const LOGINS: usize = 50;

/// How exactly the last use is noted: every note is a write.
const NOTED: Duration = Duration::from_hours(1);

/// How long a token is listed after it was good for the last time.
const FORGOTTEN: Duration = Duration::from_hours(24 * 90);

/// What a token is to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Whose.
    pub user: UserName,
    /// What for.
    pub kind: TokenKind,
    /// Where the user is known from: it is good while they are known there.
    pub account: TokenAccount,
    /// What it is good for at most; `None`: for all that its user may do.
    pub scope: Option<Scope>,
    /// The groups that a directory names of the user.
    pub groups: BTreeSet<GroupName>,
    /// What stands behind the password it is made with: it is good while that does.
    pub voucher: Option<Voucher>,
    /// What it is for, in its maker's words.
    pub description: String,
    /// How long it is good; `None`: until it is revoked.
    pub lifetime: Option<Duration>,
}

/// Who comes with a token.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Who.
    pub identity: Identity,
    /// Where they must still be known for the token to be good.
    pub account: TokenAccount,
    /// What must still stand behind a password for the token to be good.
    pub voucher: Option<Voucher>,
}

impl Registry {
    /// Makes a token. Its secret is returned here and never again.
    pub async fn make_token(&self, by: &Actor, new: NewToken) -> Result<Secret, RegistryError> {
        let secret = Secret::random().map_err(RegistryError::Random)?;
        let created = Timestamp::now();
        let groups: Vec<&str> = new.groups.iter().map(GroupName::as_str).collect();
        let record = TokenRecord {
            id: secret.id().to_string(),
            user: new.user,
            kind: new.kind,
            account: new.account,
            hash: secret.hash().as_bytes().to_vec(),
            scope: new.scope.map(|scope| scope.to_string()),
            groups: groups.join(" "),
            voucher: new.voucher.map(|voucher| voucher.to_string()),
            description: new.description,
            created,
            // Past the end of time it never expires.
            expires: new.lifetime.and_then(|lifetime| created.checked_add(lifetime).ok()),
            used: None,
            revoked: None,
        };
        let event = Event::TokenIssued {
            token: Text::new(&record.id),
            owner: record.user.clone(),
            scope: Text::new(record.scope.as_deref().unwrap_or("all")),
            expires: record.expires.map(|expires| Text::new(&expires.to_string())),
        };
        let add = async { Ok(self.metadata.add_token(record, LOGINS).await?) };
        self.recorded(by, event, add).await?;
        Ok(secret)
    }

    /// The tokens of somebody, or of everybody, the oldest first.
    pub async fn tokens(&self, user: Option<&UserName>) -> Result<Vec<TokenRecord>, RegistryError> {
        Ok(self.metadata.tokens(user).await?)
    }

    /// Revokes a token at once; whether there was such a one that was not revoked.
    pub async fn revoke_token(&self, by: &Actor, id: &TokenId) -> Result<bool, RegistryError> {
        let Some(record) = self.metadata.token(id.as_str()).await? else { return Ok(false) };
        let event = Event::TokenRevoked { token: Text::new(id.as_str()), owner: record.user };
        let revoke = async { Ok(self.metadata.revoke_token(id.as_str(), Timestamp::now()).await?) };
        self.recorded(by, event, revoke).await
    }

    /// What of a wish somebody may do (Token Authentication Specification: Requesting a Token).
    pub async fn granted(&self, who: &Identity, wish: Wish) -> Result<Wish, RegistryError> {
        let mut granted = Wish { catalog: wish.catalog, ..Wish::default() };
        let policy = self.policy();
        for (name, wished) in wish.repositories {
            let owner = self.owner(&name).await?;
            let actions = policy.granted(who, &wished, &name, owner.as_ref());
            granted.repositories.insert(name, actions);
        }
        Ok(granted)
    }

    /// Who comes with a token's secret; `None` if it is not good.
    pub async fn holder(&self, secret: &Secret) -> Result<Option<Holder>, RegistryError> {
        let Some(record) = self.good_token(secret.id()).await? else { return Ok(None) };
        if !secret.hash().is(&record.hash) {
            return Ok(None);
        }
        let now = Timestamp::now();
        if record.used.is_none_or(|used| now.duration_since(used) > NOTED.try_into().unwrap_or_default()) {
            let forgotten = now.checked_sub(FORGOTTEN).unwrap_or(Timestamp::UNIX_EPOCH);
            self.metadata.note_token(&record.id, now, forgotten).await?;
        }
        holder(record, secret.id()).map(Some)
    }

    /// Who showed a token before; `None` if it is good no longer. It is asked of the database each time, so that one that
    /// is revoked is good for nothing from then on.
    pub async fn holder_of(&self, token: &TokenId) -> Result<Option<Holder>, RegistryError> {
        self.good_token(token).await?.map(|record| holder(record, token)).transpose()
    }

    async fn good_token(&self, id: &TokenId) -> Result<Option<TokenRecord>, RegistryError> {
        let record = self.metadata.token(id.as_str()).await?;
        let now = Timestamp::now();
        Ok(record
            .filter(|record| record.revoked.is_none() && record.expires.is_none_or(|expires| now < expires)))
    }
}

fn holder(record: TokenRecord, id: &TokenId) -> Result<Holder, RegistryError> {
    let corrupt = |column| RegistryError::Metadata(torno_metadata::MetadataError::Corrupt(column));
    let groups: Result<BTreeSet<GroupName>, _> = record.groups.split_whitespace().map(str::parse).collect();
    let identity = Identity::of(record.user)
        .in_groups(groups.map_err(|_| corrupt("groups"))?)
        .proven_by(Proof::Token(id.clone()));
    let identity = match record.scope {
        Some(scope) => identity.limited_to(scope.parse().map_err(|_| corrupt("scope"))?),
        None => identity,
    };
    let voucher =
        record.voucher.map(|voucher| voucher.parse().map_err(|_| corrupt("voucher"))).transpose()?;
    Ok(Holder { identity, account: record.account, voucher })
}
