//! One order: account, names, proofs, certificate (RFC 8555, section 7.4).

use std::{error::Error, fmt::Write as _, sync::Arc, time::Duration};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use serde::{Deserialize, Serialize};

use crate::tls::Challenges;

use super::{
    AcmeSettings, Challenge,
    authority::Connection,
    issued::{Issued, IssuedError},
    store::{Store, StoreError},
};

/// How an authority is asked whether it is ready: soon at first, and for some minutes.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(250)).backoff(1.5).timeout(Duration::from_mins(3));

/// What an authority says of an account that it does not know (any more).
const NO_SUCH_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// What an authority says whom it has given too much.
const RATE_LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";

/// What an authority says when another try may do: a nonce came too late or was used up (RFC 8555, section 6.5; the
/// library has tried again, but not for ever), or something is wrong on its side.
const PASSING: &[&str] =
    &["urn:ietf:params:acme:error:badNonce", "urn:ietf:params:acme:error:serverInternal"];

/// How much of what an authority says is repeated, in letters.
const MAX_SAID: usize = 500;

/// Why an order brought no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// Nothing can be kept, so nothing is asked for: authorities count what they give.
    #[error("what comes of it cannot be kept: {0}")]
    Store(#[from] StoreError),
    /// The authority cannot be told from others.
    #[error("the certificates that the authority's own is checked with cannot be used: {0}")]
    Roots(String),
    /// No answer, or none that means anything.
    #[error("it cannot be spoken to: {0}")]
    Unreachable(String),
    /// It cannot just now.
    #[error("it says {0}")]
    Passing(String),
    /// It has said no before it looked at the names.
    #[error("it says {0}")]
    Refused(String),
    /// It has given too much already.
    #[error("it has given too much already and says {0}")]
    RateLimited(String),
    /// It has looked, and this name does not lead here, or not to where it looked.
    #[error("it could not check by {challenge} that {name} leads here, and says {said}")]
    NotProven { name: String, challenge: Challenge, said: String },
    /// It would look only in another way.
    #[error("it does not check {name} by {challenge}")]
    OtherChallenge { name: String, challenge: Challenge },
    /// What would have proven a name could not be made.
    #[error("what would prove a name could not be made: {0}")]
    Proof(String),
    /// It takes longer than it is waited for.
    #[error("it was not done within some minutes")]
    Slow,
    /// The certificate cannot be used.
    #[error("the certificate that it has issued cannot be used: {0}")]
    Unusable(#[from] IssuedError),
    /// The certificate is for other names.
    #[error("the certificate that it has issued is not for all the names")]
    OtherNames,
    /// The certificate must be renewed at once.
    #[error("the certificate that it has issued ends so soon that it would have to be renewed at once")]
    Ended,
    /// This process is stopping.
    #[error("it was broken off")]
    BrokenOff,
}

impl OrderError {
    /// How long to wait after this, when it comes after so many other failures.
    ///
    /// An authority that is away is soon asked again. One that has said no counts: Let's Encrypt lets a name fail five
    /// times an hour.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let (first, most) = match self {
            Self::Unreachable(_) | Self::Passing(_) | Self::Slow | Self::Roots(_) | Self::Store(_) => {
                (Duration::from_secs(5), Duration::from_mins(30))
            }
            Self::RateLimited(_) => (Duration::from_hours(1), Duration::from_hours(12)),
            _ => (Duration::from_mins(15), Duration::from_hours(6)),
        };
        first.saturating_mul(1 << failures.min(16)).min(most)
    }

    /// What somebody could do about it.
    pub(super) fn advice(&self, settings: &AcmeSettings) -> String {
        match self {
            Self::Store(_) => "see that Torno's user may write there".into(),
            Self::Roots(_) => "put that right".into(),
            Self::Unreachable(_) | Self::Slow => {
                "see that this machine reaches that address, and that `tls.root` names the authority's root if it is no \
                 public one"
                    .into()
            }
            Self::NotProven { name, challenge, .. } => {
                let there = match challenge {
                    Challenge::TlsAlpn => "`listen.address`, with nothing that speaks TLS in between",
                    Challenge::Http => "`listen.http`",
                };
                format!(
                    "see that {name} leads to this machine for everybody, and that its port {} leads to {there}",
                    challenge.port()
                )
            }
            Self::OtherChallenge { .. } => {
                let other = match settings.challenge {
                    Challenge::TlsAlpn => Challenge::Http,
                    Challenge::Http => Challenge::TlsAlpn,
                };
                format!("set `tls.challenge = \"{other}\"`")
            }
            Self::RateLimited(_) | Self::Passing(_) => "there is nothing to do but wait".into(),
            Self::Refused(_) | Self::OtherNames | Self::Unusable(_) | Self::Proof(_) | Self::BrokenOff => {
                "see that `tls.hostnames` and `tls.contact` are what that authority accepts".into()
            }
            Self::Ended => "see that the clock of this machine is right".into(),
        }
    }
}

impl From<instant_acme::Error> for OrderError {
    fn from(error: instant_acme::Error) -> Self {
        match error {
            instant_acme::Error::Api(problem) => Self::from(problem),
            instant_acme::Error::Timeout(_) => Self::Slow,
            other => Self::Unreachable(with_causes(&other)),
        }
    }
}

impl From<Problem> for OrderError {
    fn from(problem: Problem) -> Self {
        let said = said(&problem);
        match problem.r#type.as_deref() {
            Some(RATE_LIMITED) => Self::RateLimited(said),
            Some(kind) if PASSING.contains(&kind) => Self::Passing(said),
            _ => Self::Refused(said),
        }
    }
}

/// Goes through an order to its end, and keeps what comes of it.
pub(super) async fn place(
    settings: &AcmeSettings,
    store: &Store,
    challenges: &Challenges,
) -> Result<Issued, OrderError> {
    let identifiers: Vec<Identifier> =
        settings.names.iter().map(|name| Identifier::Dns(name.as_str().to_owned())).collect();
    let wanted = NewOrder::new(&identifiers);
    let account = match known_account(settings, store).await? {
        Some(account) => account,
        None => new_account(settings, store).await?,
    };
    let mut order = match account.new_order(&wanted).await {
        Err(instant_acme::Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_SUCH_ACCOUNT) => {
            tracing::warn!("{} does not know the account any more; another one is made", settings.directory);
            new_account(settings, store).await?.new_order(&wanted).await?
        }
        placed => placed?,
    };
    let proofs = Proofs(challenges);
    prove(&mut order, settings, challenges).await?;
    drop(proofs);
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    let issued = Issued::parse(key.as_bytes(), chain.as_bytes())?;
    if !issued.is_for(&settings.names) {
        return Err(OrderError::OtherNames);
    }
    if let Err(error) = blocking(store, move |store| Ok(store.keep_certificate(&key, &chain)?)).await {
        // It is good all the same, as long as this process lives.
        tracing::error!(%error, "the certificate was not kept: the next start has to order another one");
    }
    Ok(issued)
}

/// Nothing is proven any more when this goes, also when the order is broken off.
struct Proofs<'a>(&'a Challenges);

impl Drop for Proofs<'_> {
    fn drop(&mut self) {
        self.0.forget();
    }
}

/// Shows for each name that it leads here, and waits until the authority has seen it.
async fn prove(
    order: &mut Order,
    settings: &AcmeSettings,
    challenges: &Challenges,
) -> Result<(), OrderError> {
    let kind = match settings.challenge {
        Challenge::TlsAlpn => ChallengeType::TlsAlpn01,
        Challenge::Http => ChallengeType::Http01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(OrderError::OtherChallenge { name, challenge: settings.challenge });
        };
        let proof = challenge.key_authorization();
        match settings.challenge {
            Challenge::Http => challenges.prove_by_http(&challenge.token, proof.as_str()),
            Challenge::TlsAlpn => {
                let digest = proof.digest().as_ref().try_into();
                let digest = digest.map_err(|_| OrderError::Proof("it has no SHA-256".into()))?;
                let shown = challenges.prove_by_tls(&name, digest);
                shown.map_err(|error| OrderError::Proof(format!("{name}: {error}")))?;
            }
        }
        challenge.set_ready().await?;
    }
    match order.poll_ready(&POLL).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) | Err(instant_acme::Error::Api(_)) => Err(why_not(order, settings).await),
        Err(error) => Err(error.into()),
    }
}

/// What the authority says of the first name that it could not check.
async fn why_not(order: &mut Order, settings: &AcmeSettings) -> OrderError {
    let whole = order.state().error.as_ref().map_or_else(|| "no more than that".into(), said);
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return OrderError::NotProven {
                name: state.identifier().to_string(),
                challenge: settings.challenge,
                said: said(problem),
            };
        }
    }
    OrderError::Refused(whole)
}

/// An account as it is kept.
#[derive(Deserialize, Serialize)]
struct Kept {
    /// Whose it is.
    directory: String,
    credentials: AccountCredentials,
}

async fn known_account(settings: &AcmeSettings, store: &Store) -> Result<Option<Account>, OrderError> {
    let Some(text) = blocking(store, |store| Ok(store.account()?)).await? else { return Ok(None) };
    match serde_json::from_slice::<Kept>(&text) {
        Ok(kept) if kept.directory == settings.directory.as_str() => {
            let builder = Account::builder_with_http(connection(settings, store).await?);
            Ok(Some(builder.from_credentials(kept.credentials).await?))
        }
        Ok(_) => Ok(None),
        // The words of the parser could quote the key.
        Err(_) => {
            tracing::warn!("the account that is kept cannot be read; another one is made");
            Ok(None)
        }
    }
}

async fn new_account(settings: &AcmeSettings, store: &Store) -> Result<Account, OrderError> {
    let contact = settings.contact.as_ref().map(super::Contact::as_str);
    let wanted = NewAccount {
        contact: contact.as_slice(),
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let directory = settings.directory.as_str().to_owned();
    let builder = Account::builder_with_http(connection(settings, store).await?);
    let (account, credentials) = builder.create(&wanted, directory.clone(), None).await?;
    let kept = serde_json::to_vec(&Kept { directory, credentials });
    let kept = kept.map_err(|error| OrderError::Unreachable(error.to_string()))?;
    blocking(store, move |store| Ok(store.keep_account(&kept)?)).await?;
    Ok(account)
}

async fn connection(settings: &AcmeSettings, store: &Store) -> Result<Box<Connection>, OrderError> {
    let settings = settings.clone();
    blocking(store, move |_| Connection::new(&settings).map(Box::new)).await
}

/// Disks are waited for elsewhere.
async fn blocking<T: Send + 'static>(
    store: &Store,
    work: impl FnOnce(&Store) -> Result<T, OrderError> + Send + 'static,
) -> Result<T, OrderError> {
    let store = Arc::new(store.clone());
    tokio::task::spawn_blocking(move || work(&store)).await.unwrap_or(Err(OrderError::BrokenOff))
}

/// What an authority says, on one line and no longer than anybody reads.
fn said(problem: &Problem) -> String {
    let mut said = String::new();
    for words in [problem.detail.as_deref(), problem.r#type.as_deref()].into_iter().flatten() {
        let words: String = words.chars().take(MAX_SAID).collect();
        let between = if said.is_empty() { "" } else { ", " };
        // A `String` takes whatever is written to it.
        let _ = write!(said, "{between}\"{}\"", words.escape_debug());
    }
    if said.is_empty() { "nothing more".into() } else { said }
}

/// An error and all that led to it: the HTTP client's own words say little.
fn with_causes(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(words, ": {error}");
        cause = error.source();
    }
    words.chars().take(MAX_SAID).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(detail: &str, kind: &str) -> Problem {
        let text = serde_json::json!({"detail": detail, "type": kind}).to_string();
        serde_json::from_str(&text).expect("a problem")
    }

    #[test]
    fn what_an_authority_says_stays_on_its_line() {
        assert_eq!(said(&problem("no\nERROR all is well", "t")), "\"no\\nERROR all is well\", \"t\"");
        let long = said(&problem(&"x".repeat(10_000), ""));
        assert!(long.len() < 600, "{}", long.len());
    }

    #[test]
    fn names_that_fail_are_not_tried_more_often_than_authorities_bear() {
        let failed =
            || OrderError::NotProven { name: "a.b".into(), challenge: Challenge::Http, said: String::new() };
        let hour: Vec<Duration> = (0..3).map(|failures| failed().pause(failures)).collect();
        assert!(hour.iter().sum::<Duration>() > Duration::from_hours(1), "{hour:?}");
        assert_eq!(failed().pause(u32::MAX), Duration::from_hours(6));
        let away = || OrderError::Unreachable(String::new());
        assert_eq!((away().pause(0), away().pause(40)), (Duration::from_secs(5), Duration::from_mins(30)));
    }

    #[test]
    fn what_passes_is_not_waited_for_long() {
        for kind in PASSING {
            assert_eq!(OrderError::from(problem("again", kind)).pause(0), Duration::from_secs(5), "{kind}");
        }
    }

    #[test]
    fn an_authority_that_has_given_enough_is_left_alone() {
        let error = OrderError::from(problem("too many certificates", RATE_LIMITED));
        assert!(matches!(error, OrderError::RateLimited(_)));
        assert!(error.pause(0) >= Duration::from_hours(1));
    }
}
