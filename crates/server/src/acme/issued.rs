//! A certificate that an authority has issued, with its key: what it is for, and how long it holds.

use std::time::{Duration, SystemTime};

use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, time::ASN1Time,
};

use crate::tls::{Certificate, CertificateChain, PrivateKey, TlsError};

use super::DomainName;

/// A certificate and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) certificate: Certificate,
    names: Vec<String>,
    from: SystemTime,
    until: SystemTime,
    until_shown: String,
}

/// Why something is no certificate that could be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssuedError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("what it is for, or how long it holds, cannot be read: {0}")]
    Content(String),
}

impl Issued {
    /// Reads the private key and the chain, both PEM.
    pub(super) fn parse(key: &[u8], chain: &[u8]) -> Result<Self, IssuedError> {
        let chain = CertificateChain::parse(chain)?;
        let content = |error: &dyn std::fmt::Display| IssuedError::Content(error.to_string());
        let (_, leaf) = X509Certificate::from_der(chain.leaf()).map_err(|error| content(&error))?;
        let alternatives = leaf.subject_alternative_name().map_err(|error| content(&error))?;
        let alternatives = alternatives.into_iter().flat_map(|found| &found.value.general_names);
        let names = alternatives.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let (names, validity) = (names.collect(), leaf.validity());
        let (from, until) = (time(validity.not_before), time(validity.not_after));
        let until_shown = validity.not_after.to_string();
        let certificate = Certificate::new(chain, PrivateKey::parse(key)?)?;
        Ok(Self { certificate, names, from, until, until_shown })
    }

    /// Whether it is for all of these.
    pub(super) fn is_for(&self, names: &[DomainName]) -> bool {
        names.iter().all(|name| self.names.iter().any(|found| found == name.as_str()))
    }

    /// When it is time for the next one: a third of its life is left for tries that fail.
    pub(super) fn renewal(&self) -> SystemTime {
        self.from + self.until.duration_since(self.from).unwrap_or_default() * 2 / 3
    }

    /// Until when it holds, for people.
    pub(super) fn until(&self) -> &str {
        &self.until_shown
    }

    pub(super) fn has_ended(&self) -> bool {
        self.until < SystemTime::now()
    }
}

/// What lies before 1970 has long ended.
fn time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.timestamp().try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn issued(names: &[&str]) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut parameters = CertificateParams::new(names).expect("names");
        parameters.not_before = date_time_ymd(2026, 1, 1);
        parameters.not_after = date_time_ymd(2026, 1, 31);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Issued::parse(key.serialize_pem().as_bytes(), certificate.pem().as_bytes()).expect("both")
    }

    fn names(names: &[&str]) -> Vec<DomainName> {
        names.iter().map(|name| name.parse().expect(name)).collect()
    }

    #[test]
    fn a_third_of_its_life_is_left_at_renewal() {
        let issued = issued(&["a.b"]);
        let day = Duration::from_hours(24);
        assert_eq!(issued.renewal(), issued.from + 20 * day);
        assert_eq!(issued.until, issued.from + 30 * day);
    }

    #[test]
    fn it_must_be_for_every_name() {
        let issued = issued(&["a.b", "c.d"]);
        assert!(issued.is_for(&names(&["c.d"])) && issued.is_for(&names(&["c.d", "a.b"])));
        assert!(!issued.is_for(&names(&["a.b", "e.f"])) && !issued.is_for(&names(&["x.a.b"])));
    }

    #[test]
    fn a_key_of_another_certificate_will_not_do() {
        let (one, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let parameters = CertificateParams::new(["a.b".to_owned()]).expect("a name");
        let certificate = parameters.self_signed(&one).expect("a certificate").pem();
        let mixed = Issued::parse(other.serialize_pem().as_bytes(), certificate.as_bytes());
        assert!(matches!(mixed, Err(IssuedError::Tls(TlsError::Mismatch))), "{mixed:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(key: Vec<u8>, chain: Vec<u8>) {
            let _ = Issued::parse(&key, &chain);
        }
    }
}
