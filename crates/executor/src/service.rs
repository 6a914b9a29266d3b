//! A TCP service of the site, as the configuration names it.

use std::{fmt, net::IpAddr, str::FromStr};

/// The longest name, in bytes (RFC 1035, section 2.3.4), and the longest part of one.
const NAME: usize = 253;
const LABEL: usize = 63;

/// A TCP service that the runs of a project may reach: the name and port they know it by, and the address that is dialled
/// for them.
///
/// It is written `NAME:PORT`, or `NAME:PORT = HOST:PORT` where the two differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    name: Box<str>,
    port: u16,
    host: Box<str>,
    host_port: u16,
}

/// Why a text names no service.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ServiceError {
    /// There is no port, or none that there can be.
    #[error("`{0}` does not end in a port from 1 to 65535; write for example \"db.internal:5432\"")]
    Port(String),
    /// The name that runs are to use is none.
    #[error(
        "`{0}` is not a host's name: names have lower-case letters, digits, `-` and `.`, with no wildcard; write for \
         example \"db.internal:5432\""
    )]
    Name(String),
    /// Runs have a network of their own, in which no other address exists.
    #[error(
        "`{0}` is an address, and a run reaches services by name only; give it a name: \"db.internal:5432 = {0}:5432\""
    )]
    Address(String),
    /// A name that means the run itself.
    #[error("`{0}` is the run itself to every program; use another name")]
    Itself(String),
    /// The host to dial is neither a name nor an address.
    #[error(
        "`{0}` is neither a host's name nor an address; write an IPv6 address in brackets: \"[fd00::5]:5432\""
    )]
    Host(String),
}

impl Service {
    /// What runs call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// At which port they find it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As runs know it and, where that differs, what is dialled. For those who may know how the site's network looks.
    pub fn in_full(&self) -> String {
        let Self { name, port, host, host_port } = self;
        if (name, port) == (host, host_port) {
            return self.to_string();
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
        format!("{self} (at {host}:{host_port})")
    }

    /// What is dialled: a name, which the site resolves with each connection, or an address; and the port.
    pub(crate) fn dialled(&self) -> (&str, u16) {
        (&self.host, self.host_port)
    }
}

impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let (seen, dialled) = text.split_once('=').map_or((text, None), |(seen, at)| (seen, Some(at)));
        let (name, port) = with_port(seen.trim())?;
        if name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return Err(ServiceError::Address(shown(name)));
        }
        if !is_host_name(name) {
            return Err(ServiceError::Name(shown(name)));
        }
        if name == "localhost" || name.ends_with(".localhost") {
            return Err(ServiceError::Itself(shown(name)));
        }
        let (host, host_port) = match dialled {
            None => (name, port),
            Some(dialled) => {
                let (host, port) = with_port(dialled.trim())?;
                (host_to_dial(host).ok_or_else(|| ServiceError::Host(shown(host)))?, port)
            }
        };
        Ok(Self { name: name.into(), port, host: host.into(), host_port })
    }
}

impl fmt::Display for Service {
    /// As runs know it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

fn with_port(text: &str) -> Result<(&str, u16), ServiceError> {
    let found = text.rsplit_once(':').and_then(|(host, port)| {
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port.parse().ok().filter(|port| *port > 0 && digits)?;
        Some((host, port))
    });
    found.ok_or_else(|| ServiceError::Port(shown(text)))
}

/// A name or an address, IPv6 in brackets, which are taken away.
fn host_to_dial(host: &str) -> Option<&str> {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok());
    }
    (host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(host)).then_some(host)
}

/// Whether it can stand in `/etc/hosts` and mean one host: what ends in a number would be read as an address (RFC 3696,
/// section 2).
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        !label.is_empty() && label.len() <= LABEL && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= NAME && text.split('.').all(label) && last.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Enough of a text to recognise it in a message.
fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Service {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_service_is_a_name_and_where_it_is() {
        let plain = parsed("db.internal:5432");
        assert_eq!(
            (plain.name(), plain.port(), plain.dialled()),
            ("db.internal", 5432, ("db.internal", 5432))
        );
        for (text, dialled) in [
            ("db:1=127.0.0.1:15432", ("127.0.0.1", 15432)),
            ("db:65535 = [fd00::5]:5432", ("fd00::5", 5432)),
            (" db:5 =  db-7.example.org:6 ", ("db-7.example.org", 6)),
        ] {
            assert_eq!(parsed(text).dialled(), dialled, "{text}");
        }
        assert_eq!(parsed("db:5 = x.example:6").to_string(), "db:5");
        assert_eq!(parsed("db:5 = db:5").in_full(), "db:5");
        assert_eq!(parsed("db:5 = x.example:6").in_full(), "db:5 (at x.example:6)");
        assert_eq!(parsed("db:5 = [fd00::5]:5").in_full(), "db:5 (at [fd00::5]:5)");
    }

    #[test]
    fn what_names_no_service_is_refused() {
        type Refusal = fn(&ServiceError) -> bool;
        let cases: [(&str, Refusal); 22] = [
            ("", |e| matches!(e, ServiceError::Port(_))),
            ("db", |e| matches!(e, ServiceError::Port(_))),
            ("db:", |e| matches!(e, ServiceError::Port(_))),
            ("db:0", |e| matches!(e, ServiceError::Port(_))),
            ("db:65536", |e| matches!(e, ServiceError::Port(_))),
            ("db:+5", |e| matches!(e, ServiceError::Port(_))),
            ("db:5432=", |e| matches!(e, ServiceError::Port(_))),
            ("db:5432=x", |e| matches!(e, ServiceError::Port(_))),
            (":5432", |e| matches!(e, ServiceError::Name(_))),
            ("*.internal:5432", |e| matches!(e, ServiceError::Name(_))),
            ("DB.internal:5432", |e| matches!(e, ServiceError::Name(_))),
            ("db..internal:5432", |e| matches!(e, ServiceError::Name(_))),
            ("-db:5432", |e| matches!(e, ServiceError::Name(_))),
            ("db\n10.0.0.1 x:5432", |e| matches!(e, ServiceError::Name(_))),
            ("db:1:5432", |e| matches!(e, ServiceError::Name(_))),
            ("1.2.3:5432", |e| matches!(e, ServiceError::Name(_))),
            ("10.0.0.1:5432", |e| matches!(e, ServiceError::Address(_))),
            ("[fd00::5]:5432", |e| matches!(e, ServiceError::Address(_))),
            ("localhost:5432", |e| matches!(e, ServiceError::Itself(_))),
            ("x.localhost:5432", |e| matches!(e, ServiceError::Itself(_))),
            ("db:5=fd00::5:5432", |e| matches!(e, ServiceError::Host(_))),
            ("db:5=[10.0.0.1]:5432", |e| matches!(e, ServiceError::Host(_))),
        ];
        for (text, refused) in cases {
            let error = text.parse::<Service>().expect_err(text);
            assert!(refused(&error), "{text}: {error}");
        }
    }

    #[test]
    fn names_have_a_longest() {
        let name = |last: usize| format!("{0}.{0}.{0}.{1}", "a".repeat(LABEL), "b".repeat(last));
        assert_eq!(name(61).len(), NAME);
        parsed(&format!("{}:1", name(61)));
        assert!(format!("{}:1", name(62)).parse::<Service>().is_err());
        assert!(format!("{}:1", "a".repeat(LABEL + 1)).parse::<Service>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_service_or_is_refused(text in "[a-z0-9.:=\\[\\] *-]{0,40}") {
            if let Ok(service) = text.parse::<Service>() {
                prop_assert_eq!(service.to_string().parse::<Service>().map(|s| s.to_string()), Ok(service.to_string()));
            }
        }
    }
}
