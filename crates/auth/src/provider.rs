//! People whom an identity provider knows (`OpenID` Connect Core 1.0).
//!
//! What is here is told to Torno or checked by it; who carries words to the provider and back is the server.

mod attempt;

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    str::FromStr,
    time::Duration,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use subtle::ConstantTimeEq as _;
use url::Url;

use crate::{Authorities, GroupName, ServicePassword, UserName};

pub use attempt::{Attempt, Attempts};

/// How wrong the provider's clock, or Torno's, may be.
const LEEWAY: Duration = Duration::from_secs(30);

/// Groups of one person that are looked at. They are kept with each token.
const MAX_GROUPS: usize = 200;

/// The longest ID token looked at, in bytes.
const MAX_TOKEN: usize = 64 * 1024;

/// What providers sign with. Nothing symmetric: the key to check would be one to sign with.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// What is said of a provider in the configuration.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    /// Which.
    pub issuer: Issuer,
    /// What Torno is called there.
    pub client: String,
    /// And shows to be Torno.
    pub secret: ServicePassword,
    /// What it asks for, `openid` among it.
    pub scopes: Vec<String>,
    /// The claim that holds somebody's name.
    pub name_claim: String,
    /// The claim that holds their groups.
    pub groups_claim: String,
    /// Who vouches for the provider's certificate.
    pub authorities: Authorities,
    /// How long a token is good that somebody gets for having logged in there.
    pub token_lifetime: Duration,
}

/// The address of a provider, which is its name as well (`OpenID` Connect Discovery 1.0, section 2): compared letter by
/// letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    url: Url,
}

/// An address that is no provider's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "this is not the address of a provider; write it as the provider does, such as \"https://id.example.org/realms/site\""
)]
pub struct IssuerError;

/// Why an ID token says nothing of anybody.
#[derive(Debug, thiserror::Error)]
pub enum IdTokenError {
    /// It is none, was signed by somebody else, for somebody else, or is not good at this time.
    #[error("the ID token is not valid: {0}")]
    Invalid(#[from] jsonwebtoken::errors::Error),
    /// It is larger than any.
    #[error("the ID token is too long")]
    TooLong,
    /// It is signed in a way that proves nothing.
    #[error("the ID token is signed with {0:?}, which is not accepted")]
    Algorithm(Algorithm),
    /// The provider shows no key that it was signed with.
    #[error("the provider has no key that the ID token is signed with")]
    Key,
    /// It was made for another login.
    #[error("the ID token belongs to another login")]
    Nonce,
    /// It was made for another client as well, and that one asked for it.
    #[error("the ID token was made for another client")]
    Party,
    /// It does not say who somebody is.
    #[error("the ID token has no text in the claim `{0}`")]
    NoName(String),
    /// It does, in a way that is no name here.
    #[error("the provider's name for somebody is no user name")]
    Name,
}

/// Somebody whom a provider knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Their name.
    pub name: UserName,
    /// Their groups.
    pub groups: BTreeSet<GroupName>,
}

/// What is checked here of an ID token; the library checks the rest (`OpenID` Connect Core 1.0, section 3.1.3.7).
#[derive(Deserialize)]
struct Claims {
    nonce: Option<String>,
    azp: Option<String>,
    aud: Value,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

impl Issuer {
    /// The name, as its tokens have it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where it tells of itself (`OpenID` Connect Discovery 1.0, section 4).
    pub fn configuration(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.text.trim_end_matches('/'))
    }

    /// Whether an address is one that Torno may speak to: it speaks TLS, at the same host and port.
    pub fn is_at(&self, address: &str) -> bool {
        let Ok(url) = Url::parse(address) else { return false };
        url.scheme() == "https" && url.origin() == self.url.origin() && url.username().is_empty()
    }
}

impl FromStr for Issuer {
    type Err = IssuerError;

    fn from_str(text: &str) -> Result<Self, IssuerError> {
        let url = Url::parse(text).map_err(|_| IssuerError)?;
        let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if url.scheme() == "https" && url.host().is_some() && plain && url.password().is_none() {
            Ok(Self { text: text.to_owned(), url })
        } else {
            Err(IssuerError)
        }
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ProviderSettings {
    /// Who logged in, as an ID token says that belongs to the attempt with this nonce; `keys` are the provider's, in
    /// JSON.
    pub fn check(&self, token: &str, keys: &[u8], nonce: &str) -> Result<Known, IdTokenError> {
        if token.len() > MAX_TOKEN {
            return Err(IdTokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(token)?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(IdTokenError::Algorithm(header.alg));
        }
        let keys: JwkSet = read_keys(keys)?;
        let key = one_of(&keys, header.kid.as_deref()).ok_or(IdTokenError::Key)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer.text]);
        validation.set_audience(&[&self.client]);
        validation.required_spec_claims =
            ["exp", "aud", "iss", "sub"].map(str::to_owned).into_iter().collect::<HashSet<_>>();
        let decoded = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_jwk(key)?, &validation)?;
        let claims = decoded.claims;
        let same: bool = claims.nonce.unwrap_or_default().as_bytes().ct_eq(nonce.as_bytes()).into();
        if !same || nonce.is_empty() {
            return Err(IdTokenError::Nonce);
        }
        let several = claims.aud.as_array().is_some_and(|audience| audience.len() > 1);
        match claims.azp {
            Some(party) if party != self.client => return Err(IdTokenError::Party),
            None if several => return Err(IdTokenError::Party),
            _ => {}
        }
        let name = claims.others.get(&self.name_claim).and_then(Value::as_str);
        let name = name.ok_or_else(|| IdTokenError::NoName(self.name_claim.clone()))?;
        let groups = claims.others.get(&self.groups_claim).and_then(Value::as_array);
        let groups = groups.into_iter().flatten().filter_map(Value::as_str).filter_map(group);
        Ok(Known {
            name: name.parse().map_err(|_| IdTokenError::Name)?,
            groups: groups.take(MAX_GROUPS).collect(),
        })
    }
}

/// The provider's keys. One of a kind that is not known here is none for Torno, and no error.
fn read_keys(bytes: &[u8]) -> Result<JwkSet, IdTokenError> {
    #[derive(Deserialize)]
    struct Keys {
        keys: Vec<Value>,
    }
    let found: Keys = serde_json::from_slice(bytes).map_err(|_| IdTokenError::Key)?;
    let keys = found.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
    Ok(JwkSet { keys: keys.collect() })
}

/// The key of this name, or the only one.
fn one_of<'k>(keys: &'k JwkSet, id: Option<&str>) -> Option<&'k Jwk> {
    let signs = |key: &&Jwk| !matches!(key.common.public_key_use, Some(PublicKeyUse::Encryption));
    let mut keys = keys.keys.iter().filter(signs);
    if let Some(id) = id {
        return keys.find(|key| key.common.key_id.as_deref() == Some(id));
    }
    keys.next().filter(|_| keys.next().is_none())
}

/// A group's name; some providers write it as a path.
fn group(text: &str) -> Option<GroupName> {
    text.strip_prefix('/').unwrap_or(text).to_lowercase().parse().ok()
}

#[cfg(test)]
mod tests;
