//! What is recorded of requests besides what the registry itself records: what was read, and what was refused.

use std::net::IpAddr;

use http::{Method, Uri};
use torno_audit::{Actor, By, Event, Text};
use torno_auth::{AuthenticationError, Identity, Proof, Refusal};
use torno_oci::{Digest, Namespace, Reference, RepositoryName, UserName};
use torno_registry::{Registry, RegistryError};

use crate::failure::Failure;

/// Who asks, as far as that is known yet.
#[derive(Debug)]
pub(crate) struct Asking {
    /// For the record.
    pub(crate) by: Actor,
    /// Who they say they are.
    claimed: Option<Text>,
}

impl Asking {
    pub(crate) fn new(from: IpAddr, request: &str) -> Self {
        Self { by: Actor::in_request(None, By::Nobody, from, request), claimed: None }
    }

    /// They say who they are. What is no name may be a password that was typed in the wrong place.
    pub(crate) fn claim(&mut self, name: &str) {
        let is_name = name.parse::<UserName>().is_ok();
        self.claimed = Some(Text::new(if is_name { name } else { "(no user name)" }));
    }

    /// They have shown who they are.
    pub(crate) fn is(&mut self, who: &Identity) {
        let Some(name) = who.name() else { return };
        let by = match who.proof() {
            Proof::Nothing => By::Nobody,
            Proof::Password => By::Password,
            Proof::Token(id) => By::Token { credential: Text::new(id.as_str()) },
            Proof::Certificate => By::Certificate,
        };
        self.by.is_now(name.clone(), by);
    }
}

/// Records that a manifest is about to be given out.
pub(crate) async fn pull(
    registry: &Registry,
    by: &Actor,
    repository: &RepositoryName,
    reference: &Reference,
    digest: &Digest,
) -> Result<(), Failure> {
    let (reference, digest) = (reference.clone(), digest.clone());
    read(registry, by, repository, Event::Pull { repository: repository.clone(), reference, digest }).await
}

/// Records that a blob is about to be given out.
pub(crate) async fn blob_pull(
    registry: &Registry,
    by: &Actor,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<(), Failure> {
    let event = Event::BlobPull { repository: repository.clone(), digest: digest.clone() };
    read(registry, by, repository, event).await
}

/// What comes from confidential data goes to nobody of whom there is no record. Other things are worth more than their
/// record: how many it lacks is told when it can be written again.
async fn read(
    registry: &Registry,
    by: &Actor,
    repository: &RepositoryName,
    event: Event,
) -> Result<(), Failure> {
    match (registry.audit().tally(by, event).await, repository.namespace()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Namespace::Plain) => {
            registry.audit().lost();
            Ok(())
        }
        (
            Err(error),
            Namespace::Run { .. }
            | Namespace::Results { .. }
            | Namespace::Try { .. }
            | Namespace::TryResults { .. }
            | Namespace::Sample { .. }
            | Namespace::Reserved,
        ) => Err(RegistryError::from(error).into()),
    }
}

/// Records that an identity provider's word for somebody did not do.
pub(crate) async fn provider_failure(registry: &Registry, by: &Actor, claimed: Option<&UserName>) {
    let claimed = claimed.map(|name| Text::new(name.as_str()));
    count(registry, by, Event::LoginFailed { claimed, why: "provider" }).await;
}

/// Records that somebody has logged in, if they have.
pub(crate) async fn login(registry: &Registry, by: &Actor, who: &Identity) {
    if who.name().is_some() {
        count(registry, by, Event::Login).await;
    }
}

/// Records why a request failed, if the login did, or if permission or a quota was lacking.
pub(crate) async fn failure(
    registry: &Registry,
    asking: &Asking,
    method: &Method,
    uri: &Uri,
    failure: &Failure,
) {
    let claimed = || asking.claimed.clone();
    let event = match failure {
        Failure::Authentication(AuthenticationError::Wrong) => {
            Event::LoginFailed { claimed: claimed(), why: "wrong" }
        }
        Failure::Robot => Event::LoginFailed { claimed: claimed(), why: "robot" },
        // These cost who tries them next to nothing: a line for each name would be as many lines as they like.
        Failure::Authentication(AuthenticationError::TooMany(_)) => {
            Event::LoginFailed { claimed: None, why: "too many" }
        }
        Failure::Secret | Failure::Bearer(_) => Event::LoginFailed { claimed: None, why: "token" },
        // Every first push asks for what is not there.
        Failure::Registry(RegistryError::Refused(Refusal::Unknown(name)))
            if !registry.is_known(name).await =>
        {
            return;
        }
        Failure::Registry(RegistryError::Refused(Refusal::UnknownRun(run)))
            if matches!(registry.run(*run).await, Ok(None)) =>
        {
            return;
        }
        Failure::Registry(RegistryError::Refused(Refusal::UnknownProject(name)))
            if !registry.policy().projects.contains_key(name) =>
        {
            return;
        }
        Failure::Registry(
            error @ (RegistryError::Refused(_)
            | RegistryError::Taken
            | RegistryError::Quota(_)
            | RegistryError::Crowded(_)),
        ) => Event::Refused {
            method: Text::new(method.as_str()),
            path: Text::new(uri.path()),
            reason: Text::new(&error.to_string()),
        },
        Failure::Catalog | Failure::OtherPage => Event::Refused {
            method: Text::new(method.as_str()),
            path: Text::new(uri.path()),
            reason: Text::new(&failure.to_string()),
        },
        _ => return,
    };
    count(registry, &asking.by, event).await;
}

async fn count(registry: &Registry, by: &Actor, event: Event) {
    if registry.audit().tally(by, event).await.is_err() {
        registry.audit().lost();
    }
}
