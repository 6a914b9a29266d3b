//! TLS while the server runs: certificates that are had by ACME, and files that somebody else renews.

use std::{future, sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior};
use torno_server::{Acme, Certificate, ClientAuthority, Tls};

use crate::config::{self, Files, Source, Version};

/// How often the files are looked at. It costs a few system calls; a renewal is in use after two looks.
const LOOK: Duration = Duration::from_secs(2);

/// TLS on the public listener, or that there is none.
pub(super) struct Secured(Option<Shown>);

/// What is shown, and what it is renewed from.
struct Shown {
    tls: Arc<Tls>,
    acme: Option<Arc<Acme>>,
    files: Files,
    /// What was read last, whether it could be used or not.
    known: Version,
    /// What was seen at the last look, if it was something else.
    changing: Option<Version>,
    due: Interval,
}

impl Secured {
    /// Shows what there is.
    pub(super) fn new(told: Option<config::Tls>) -> Self {
        Self(told.map(|config::Tls { source, clients, files, version }| {
            let tls = Arc::new(Tls::new());
            tls.admit(clients);
            let acme = match source {
                Source::Acme(settings) => Some(Arc::new(Acme::new(settings, Arc::clone(&tls)))),
                Source::Files(certificate) => {
                    tls.show(certificate);
                    None
                }
            };
            let mut due = tokio::time::interval(LOOK);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Shown { tls, acme, files, known: version, changing: None, due }
        }))
    }

    /// For the listener.
    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.0.as_ref().map(|shown| Arc::clone(&shown.tls))
    }

    /// Orders certificates, if they are had by ACME. Cancelling it is harmless.
    pub(super) fn ordering(&self) -> impl Future<Output = ()> + use<> {
        let acme = self.0.as_ref().and_then(|shown| shown.acme.clone());
        async move {
            if let Some(acme) = acme {
                acme.keep().await;
            }
        }
    }

    /// Waits until it is time to look at the files; for ever if there are none. Cancelling it is harmless.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(shown) if !shown.files.is_empty() => drop(shown.due.tick().await),
            _ => future::pending().await,
        }
    }

    /// Looks at the files, and uses them if they have changed and are good. What has changed since the last look is left
    /// alone until the next: somebody may be writing.
    pub(super) async fn look(&mut self) {
        let Some(shown) = &mut self.0 else { return };
        let files = shown.files.clone();
        let looked = tokio::task::spawn_blocking(move || files.version()).await;
        let Ok(version) = looked else { return };
        if version == shown.known {
            shown.changing = None;
        } else if shown.changing.as_ref() == Some(&version) {
            shown.changing = None;
            shown.known = version;
            shown.read_again().await;
        } else {
            shown.changing = Some(version);
        }
    }

    /// Uses what the configuration says now; that there is TLS at all is decided at the start.
    pub(super) fn reload(&mut self, told: Option<config::Tls>) {
        match (&mut self.0, told) {
            (Some(shown), Some(told)) => shown.reload(told),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => tracing::warn!("tls.mode changes at the next start only"),
        }
    }
}

impl Shown {
    async fn read_again(&mut self) {
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || files.read()).await;
        match read {
            Ok(Ok(content)) => {
                self.show(content.certificate, content.clients);
                tracing::info!("the files that [tls] names have changed, and new connections use them");
            }
            Ok(Err(error)) => {
                tracing::error!(
                    "the files that [tls] names have changed and are not used, but those before: {error}"
                );
            }
            // Only a stop breaks it off.
            Err(_) => {}
        }
    }

    fn reload(&mut self, told: config::Tls) {
        let certificate = match (&self.acme, told.source) {
            (None, Source::Files(certificate)) => Some(certificate),
            (Some(acme), Source::Acme(settings)) => {
                if *acme.settings() != settings {
                    tracing::warn!("what [tls] says of ACME changes at the next start only");
                }
                acme.try_again();
                None
            }
            (None, Source::Acme(_)) | (Some(_), Source::Files(_)) => {
                tracing::warn!("tls.mode changes at the next start only");
                return;
            }
        };
        (self.files, self.known, self.changing) = (told.files, told.version, None);
        self.show(certificate, told.clients);
    }

    fn show(&self, certificate: Option<Certificate>, clients: Option<ClientAuthority>) {
        // Whoever is let in by the new certificate is checked with the new authority.
        self.tls.admit(clients);
        if let Some(certificate) = certificate {
            self.tls.show(certificate);
        }
    }
}
