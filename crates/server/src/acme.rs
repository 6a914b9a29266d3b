//! Certificates by ACME (RFC 8555): had from an authority such as Let's Encrypt, kept in a folder, and renewed in time.
//!
//! [`Acme`] decides when there must be an order, [`order`] goes through one, [`store`] keeps what came of it. Nothing
//! here holds up a connection: what there is is shown until there is something newer.

mod authority;
mod issued;
mod name;
mod order;
mod store;

use std::{
    fmt,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt as _;
use tokio::sync::Notify;

use crate::tls::Tls;

use issued::Issued;
use order::OrderError;
use store::Store;

pub use name::{Contact, DirectoryUrl, DomainName};

/// What is wanted of which authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeSettings {
    /// Where the authority says what it offers.
    pub directory: DirectoryUrl,
    /// The certificates that the authority's own is checked with, as PEM; `None`: those that this machine trusts.
    pub root: Option<PathBuf>,
    /// Whom the authority may write to.
    pub contact: Option<Contact>,
    /// What the certificate is for; at least one.
    pub names: Vec<DomainName>,
    /// How the authority sees that the names lead here.
    pub challenge: Challenge,
    /// Where certificates, their keys and the account are kept. It may not exist yet.
    pub folder: PathBuf,
}

/// How an authority checks that a name leads to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By a TLS handshake on the port that people use, which must be 443 from outside (RFC 8737).
    TlsAlpn,
    /// By a request in clear, to port 80 from outside.
    Http,
}

impl Challenge {
    /// The port that an authority looks at.
    pub fn port(self) -> u16 {
        match self {
            Self::TlsAlpn => 443,
            Self::Http => 80,
        }
    }
}

impl FromStr for Challenge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tls-alpn-01" => Ok(Self::TlsAlpn),
            "http-01" => Ok(Self::Http),
            "dns-01" => Err("Torno cannot write to DNS; write \"tls-alpn-01\" or \"http-01\"".into()),
            other => Err(format!(
                "`{}` is not a challenge; write \"tls-alpn-01\", which needs port 443 only, or \"http-01\", which \
                 needs port 80 and `listen.http`",
                other.escape_debug()
            )),
        }
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsAlpn => "tls-alpn-01",
            Self::Http => "http-01",
        })
    }
}

/// Keeps a listener's certificate good.
#[derive(Debug)]
pub struct Acme {
    settings: AcmeSettings,
    tls: Arc<Tls>,
    store: Store,
    /// What an earlier process has left.
    found: Option<Issued>,
    again: Notify,
}

impl Acme {
    /// Shows what there is already, if it can be used at all: one that has expired is better than none, since clients
    /// then say why they refuse it.
    pub fn new(settings: AcmeSettings, tls: Arc<Tls>) -> Self {
        let store = Store::new(&settings.folder, &settings.directory);
        let found = match store.certificate() {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "the certificate that is kept cannot be used; another one is ordered");
                None
            }
        };
        if let Some(issued) = &found {
            tls.show(issued.certificate.clone());
        }
        Self { settings, tls, store, found, again: Notify::new() }
    }

    /// What it was made with.
    pub fn settings(&self) -> &AcmeSettings {
        &self.settings
    }

    /// Ends the wait after an order that failed: somebody says that it may be different now.
    pub fn try_again(&self) {
        self.again.notify_one();
    }

    /// Orders certificates whenever it is time. Cancelled, it leaves an order with the authority that nobody ends,
    /// which is harmless.
    pub async fn keep(&self) {
        /// Looked at the clock at least so often: it may be set, and machines sleep.
        const LOOK: Duration = Duration::from_hours(1);
        let mut current = self.found.clone();
        let mut failures = 0;
        loop {
            while let Some(left) = current.as_ref().and_then(|issued| self.left(issued)) {
                tokio::time::sleep(left.min(LOOK)).await;
            }
            // Whoever asked for another try before now gets this one.
            self.again.notified().now_or_never();
            let failed = match order::place(&self.settings, &self.store, &self.tls.challenges).await {
                Ok(issued) => {
                    self.tls.show(issued.certificate.clone());
                    tracing::info!(names = %self.names(), until = %issued.until(), "a certificate was issued");
                    let early = self.left(&issued).is_none();
                    current = Some(issued);
                    early.then_some(OrderError::Ended)
                }
                Err(error) => Some(error),
            };
            let Some(error) = failed else {
                failures = 0;
                continue;
            };
            let pause = error.pause(failures);
            failures = failures.saturating_add(1);
            self.tell(&error, current.as_ref(), pause);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.again.notified() => {}
            }
        }
    }

    /// How long a certificate can be left alone; `None`: it is time for another.
    fn left(&self, issued: &Issued) -> Option<Duration> {
        if !issued.is_for(&self.settings.names) {
            return None;
        }
        issued.renewal().duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero())
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.settings.names.iter().map(DomainName::as_str).collect();
        names.join(", ")
    }

    fn tell(&self, error: &OrderError, current: Option<&Issued>, pause: Duration) {
        let shown = match current {
            None => "there is none to show, so every connection is refused".to_owned(),
            Some(issued) if issued.has_ended() => {
                format!("the one that is shown has ended {}", issued.until())
            }
            Some(issued) => format!("the one that is shown holds until {}", issued.until()),
        };
        let (names, directory) = (self.names(), &self.settings.directory);
        tracing::error!(
            "no certificate for {names} was had from {directory}: {error}; {}; {shown}; the next try is in {pause:?}, or \
             at SIGHUP",
            error.advice(&self.settings)
        );
    }
}
