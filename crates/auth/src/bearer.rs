//! Bearer tokens: short-lived proofs of a login that Torno gives out and reads again (Docker registry: Token
//! Authentication Implementation; RFC 7519).

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use torno_oci::UserName;

use crate::{Action, GroupName, Identity, Proof, Scope, TokenId, Voucher, Wish, key_file::write_key};

/// How long a key signs before the next one does.
const SIGNS: Duration = Duration::from_hours(24 * 30);

/// How long a key is trusted after it has signed its last: longer than any token is good for.
const TRUSTED: Duration = Duration::from_hours(24);

/// The longest lifetime of a token.
pub const MAX_LIFETIME: Duration = Duration::from_hours(1);

/// The longest token given out and looked at, in bytes: a request's head has to have room for it. Docker's have at most a
/// few repositories in them.
pub const MAX_TOKEN_LENGTH: usize = 16 * 1024;

/// Tokens whose signatures need not be checked again.
const REMEMBERED: usize = 4096;

/// The types of resources in claims, and the name of the only one that is no repository.
const REPOSITORY: &str = "repository";
const REGISTRY: &str = "registry";
const CATALOG: &str = "catalog";

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not a key of Torno's.
    #[error("{0} is no key; move it away, and Torno makes another")]
    Damaged(PathBuf),
    /// The system makes no keys.
    #[error("no key could be made")]
    Make,
}

/// Why no token was given out.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// There is nothing to sign it with.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Longer than [`MAX_TOKEN_LENGTH`]: no request could bring it.
    #[error(
        "a token for all of this would have {0} bytes, and {MAX_TOKEN_LENGTH} is the limit; ask for fewer scopes at once"
    )]
    TooLong(
        /// How long it would be, in bytes.
        usize,
    ),
}

/// A bearer token that is not to be trusted: expired, of another service, signed by nobody known, or none at all.
#[derive(Debug, thiserror::Error)]
#[error("the token is not valid here, or no longer")]
pub struct BadToken;

/// Who a token was given to, and what must still hold for it to be good.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// Who comes with it.
    pub identity: Identity,
    /// What stood behind the password they logged in with.
    pub voucher: Option<Voucher>,
    expires: SystemTime,
}

/// Signs tokens and knows its own.
#[derive(Debug)]
pub struct Tokens {
    folder: PathBuf,
    /// The name of this registry, which tokens are for.
    service: String,
    trusted: ArcSwap<Trusted>,
    /// Held by whoever changes the keys.
    rotating: Mutex<()>,
}

/// Keys, and what was checked with them. Replaced as one: a token that is being checked while a key goes is remembered
/// beside the keys that are no longer asked.
#[derive(Debug)]
struct Trusted {
    /// The last one signs.
    keys: Vec<Key>,
    /// By their digests.
    remembered: Cache<[u8; 32], Bearer>,
}

impl Trusted {
    fn of(keys: Vec<Key>) -> Self {
        Self { keys, remembered: Cache::new(REMEMBERED) }
    }
}

#[derive(Clone)]
struct Key {
    id: String,
    made: SystemTime,
    sign: EncodingKey,
    check: DecodingKey,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The claims (Token Authentication Implementation: Claim Set). Those with three letters that are in no RFC are
/// Torno's own.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    access: Vec<Access>,
    /// The groups that a directory named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    grp: BTreeSet<String>,
    /// The token that was shown for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tok: Option<String>,
    /// What that one may do at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lim: Option<String>,
    /// The voucher of the password that was shown for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vch: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Access {
    r#type: String,
    name: String,
    actions: Vec<String>,
}

/// A token, ready to be given out.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token itself.
    pub token: String,
    /// When it was issued.
    pub at: SystemTime,
    /// How long it is good for.
    pub lifetime: Duration,
}

impl Tokens {
    /// With the keys in a folder, made as needed and readable by their owner only. `service` is the name of the registry
    /// that tokens are for. Blocks.
    pub fn open(folder: &Path, service: &str) -> Result<Self, KeyError> {
        let this = Self {
            folder: folder.to_owned(),
            service: service.to_owned(),
            trusted: ArcSwap::from_pointee(Trusted::of(Vec::new())),
            rotating: Mutex::default(),
        };
        let io = |source| KeyError::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
        this.rotate(SystemTime::now())?;
        Ok(this)
    }

    /// Makes a new key when the last one has signed for long enough, and forgets those that nothing depends on any
    /// more. Reads the folder, so that keys which were removed by hand are trusted no longer. Blocks.
    pub fn rotate(&self, now: SystemTime) -> Result<(), KeyError> {
        let _alone = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = self.read()?;
        let age = |key: &Key| now.duration_since(key.made).unwrap_or_default();
        if keys.last().is_none_or(|last| age(last) >= SIGNS) {
            keys.push(self.make(now)?);
            tracing::info!("tokens are signed with a new key");
        }
        // A key has signed until the next one was made.
        let next_made: Vec<Option<SystemTime>> =
            (1..=keys.len()).map(|next| keys.get(next).map(|key| key.made)).collect();
        let mut kept = Vec::new();
        for (key, next) in keys.into_iter().zip(next_made) {
            let done = next.and_then(|made| now.duration_since(made).ok());
            if done.is_some_and(|done| done > TRUSTED) {
                let path = self.folder.join(file_name(key.made));
                fs::remove_file(&path).map_err(|source| KeyError::Io { path, source })?;
            } else {
                kept.push(key);
            }
        }
        let ids = |keys: &[Key]| keys.iter().map(|key| key.id.clone()).collect::<Vec<_>>();
        if ids(&self.trusted.load().keys) != ids(&kept) {
            self.trusted.store(Arc::new(Trusted::of(kept)));
        }
        Ok(())
    }

    /// A token for somebody, good for what they are granted of what they wished. `voucher` is what stands behind the password they logged in with.
    pub fn issue(
        &self,
        who: &Identity,
        granted: &Wish,
        voucher: Option<&Voucher>,
        lifetime: Duration,
    ) -> Result<Issued, IssueError> {
        let now = SystemTime::now();
        let lifetime = lifetime.min(MAX_LIFETIME);
        let seconds = seconds(now);
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).map_err(|_| KeyError::Make)?;
        let catalog = granted.catalog.then(|| Access {
            r#type: REGISTRY.into(),
            name: CATALOG.into(),
            actions: vec!["*".into()],
        });
        let repositories = granted.repositories.iter().map(|(name, actions)| Access {
            r#type: REPOSITORY.into(),
            name: name.to_string(),
            actions: actions.iter().map(|action| action.as_str().to_owned()).collect(),
        });
        let claims = Claims {
            iss: self.service.clone(),
            sub: who.name().map(ToString::to_string).unwrap_or_default(),
            aud: self.service.clone(),
            exp: seconds + lifetime.as_secs(),
            nbf: seconds,
            iat: seconds,
            jti: hex::encode(nonce),
            access: repositories.chain(catalog).collect(),
            grp: who.groups().iter().map(ToString::to_string).collect(),
            tok: match who.proof() {
                Proof::Token(id) => Some(id.to_string()),
                _ => None,
            },
            lim: who.limit().map(ToString::to_string),
            vch: voucher.map(ToString::to_string),
        };
        let key = self.trusted.load().keys.last().cloned().ok_or(KeyError::Make)?;
        let header = Header { kid: Some(key.id), ..Header::new(Algorithm::EdDSA) };
        let token = jsonwebtoken::encode(&header, &claims, &key.sign).map_err(|_| KeyError::Make)?;
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(IssueError::TooLong(token.len()));
        }
        Ok(Issued { token, at: now, lifetime })
    }

    /// Who comes with a token, if it is one of ours and still good. Whether what stood behind it still does is for
    /// the caller to ask.
    pub fn check(&self, token: &str) -> Result<Bearer, BadToken> {
        if token.len() > MAX_TOKEN_LENGTH {
            return Err(BadToken);
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let trusted = self.trusted.load();
        let bearer = if let Some(known) = trusted.remembered.get(&digest) {
            known
        } else {
            let bearer = self.read_token(token, &trusted.keys).ok_or(BadToken)?;
            trusted.remembered.insert(digest, bearer.clone());
            bearer
        };
        // None is given out for longer: whatever ends later was given out while the clock was wrong.
        let left = bearer.expires.duration_since(SystemTime::now()).map_err(|_| BadToken)?;
        if left.is_zero() || left > MAX_LIFETIME { Err(BadToken) } else { Ok(bearer) }
    }

    fn read_token(&self, token: &str, keys: &[Key]) -> Option<Bearer> {
        let kid = jsonwebtoken::decode_header(token).ok()?.kid?;
        let key = keys.iter().find(|key| key.id == kid)?;
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.leeway = 0;
        rules.validate_nbf = false;
        rules.set_audience(&[&self.service]);
        rules.set_issuer(&[&self.service]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key.check, &rules).ok()?.claims;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp))?;
        let voucher = claims.vch.as_ref().map(|text| text.parse()).transpose().ok()?;
        Some(Bearer { identity: claims.identity()?, voucher, expires })
    }

    /// The keys in the folder, oldest first.
    fn read(&self) -> Result<Vec<Key>, KeyError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Io { path, source }
        };
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io(&self.folder))? {
            let path = entry.map_err(io(&self.folder))?.path();
            let Some(made) = made_at(&path) else { continue };
            let bytes = match fs::read(&path) {
                // Removed by hand in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read.map_err(io(&path))?,
            };
            keys.push(Key::of(&bytes, made).ok_or(KeyError::Damaged(path))?);
        }
        keys.sort_by_key(|key| key.made);
        Ok(keys)
    }

    fn make(&self, now: SystemTime) -> Result<Key, KeyError> {
        let made = UNIX_EPOCH + Duration::from_secs(seconds(now));
        let path = self.folder.join(file_name(made));
        let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new());
        let document = document.map_err(|_| KeyError::Make)?;
        write_key(&path, document.as_ref()).map_err(|source| KeyError::Io { path, source })?;
        Key::of(document.as_ref(), made).ok_or(KeyError::Make)
    }
}

impl Key {
    fn of(pkcs8: &[u8], made: SystemTime) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = pair.public_key().as_ref();
        let thumb: [u8; 32] = Sha256::digest(public).into();
        Some(Self {
            id: hex::encode(&thumb[..8]),
            made,
            sign: EncodingKey::from_ed_der(pkcs8),
            check: DecodingKey::from_ed_der(public),
        })
    }
}

impl Claims {
    /// Whom they speak of. They are signed, and still read like any other text.
    fn identity(self) -> Option<Identity> {
        let mut granted = Wish::default();
        for access in self.access {
            if access.r#type == REGISTRY && access.name == CATALOG {
                granted.catalog = true;
                continue;
            }
            let actions = access
                .actions
                .iter()
                .filter_map(|action| Action::ALL.into_iter().find(|known| known.as_str() == action));
            granted.repositories.insert(access.name.parse().ok()?, actions.collect());
        }
        let identity = if self.sub.is_empty() {
            Identity::anonymous()
        } else {
            let groups: Result<BTreeSet<GroupName>, _> = self.grp.iter().map(|name| name.parse()).collect();
            Identity::of(self.sub.parse::<UserName>().ok()?).in_groups(groups.ok()?)
        };
        let identity = identity.with_access(Scope::of_wish(granted));
        let identity = match self.tok {
            Some(id) => identity.proven_by(Proof::Token(id.parse::<TokenId>().ok()?)),
            None => identity,
        };
        match self.lim {
            Some(limit) => Some(identity.limited_to(limit.parse().ok()?)),
            None => Some(identity),
        }
    }
}

/// Keys are called by the second they were made in.
fn file_name(made: SystemTime) -> String {
    format!("{}.pk8", seconds(made))
}

fn made_at(path: &Path) -> Option<SystemTime> {
    if path.extension()? != "pk8" {
        return None;
    }
    let seconds = path.file_stem()?.to_str()?.parse().ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
