//! What a reverse proxy says of those it speaks for: `X-Forwarded-For`, `-Proto` and `-Host`.
//!
//! Anybody can send these headers, so only what comes from the addresses of [`Proxies`] is looked at. RFC 7239's
//! `Forwarded` never is: a proxy that sets the one passes the other on as a client sent it, and whoever honours both
//! believes the client.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::{
    connection::{Client, Peer},
    origin::is_host,
};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The addresses of proxies: one, or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyRange(IpNet);

/// This is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyRangeError {
    /// Neither an address nor a range.
    #[error("write an address or a range of them, such as \"127.0.0.1\" or \"10.0.0.0/8\"")]
    Syntax,
    /// A range with every address in it.
    #[error(
        "every address is in this range, and anybody could claim to be anybody; name the proxies' addresses"
    )]
    Everybody,
}

impl FromStr for ProxyRange {
    type Err = ProxyRangeError;

    fn from_str(text: &str) -> Result<Self, ProxyRangeError> {
        let range = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address.to_canonical()),
            Err(_) => text.parse::<IpNet>().map_err(|_| ProxyRangeError::Syntax)?,
        };
        if range.prefix_len() == 0 { Err(ProxyRangeError::Everybody) } else { Ok(Self(range.trunc())) }
    }
}

impl fmt::Display for ProxyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies(Vec<ProxyRange>);

impl FromIterator<ProxyRange> for Proxies {
    fn from_iter<I: IntoIterator<Item = ProxyRange>>(ranges: I) -> Self {
        Self(ranges.into_iter().collect())
    }
}

/// Whether a client's own connection, up to here or to the proxy in front, is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Proxies {
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.0.contains(&address))
    }

    /// Who sends a request that came from `peer` with these headers.
    pub(crate) fn client(&self, peer: Peer, headers: &HeaderMap) -> Client {
        let address = peer.address;
        let mut client = Client::from(peer);
        if !self.contains(address) {
            return client;
        }
        // What it has shown is the proxy's own, whoever it speaks for.
        client.certified = None;
        match last(headers, &PROTO) {
            Some(proto) if proto.eq_ignore_ascii_case("https") => client.scheme = Scheme::Https,
            Some(proto) if proto.eq_ignore_ascii_case("http") => client.scheme = Scheme::Http,
            _ => {}
        }
        client.host = last(headers, &HOST).filter(|host| is_host(host)).map(Into::into);
        client.address = self.end_of_chain(address, headers);
        client
    }

    /// Follows the chain from its end, where the proxy next to us has written: the first address that is no proxy's. What
    /// stands before it, that client may have sent. Where the chain makes no sense it ends.
    fn end_of_chain(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut found = peer;
        for text in backwards(headers, &FOR) {
            let Some(address) = address(text) else { break };
            found = address;
            if !self.contains(address) {
                break;
            }
        }
        found
    }
}

/// The elements of a header's lists, the last one first. A line that is not ASCII is one element that is none.
fn backwards<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines: Vec<_> = headers.get_all(name).iter().collect();
    lines.into_iter().rev().flat_map(|line| line.to_str().unwrap_or_default().rsplit(',')).map(str::trim)
}

fn last<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    backwards(headers, name).next()
}

/// An address as proxies write it: some add the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse::<IpAddr>().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::{connection::Transport, tls::Certified};

    fn proxies() -> Proxies {
        ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]
            .map(|text| text.parse().expect("a range"))
            .into_iter()
            .collect()
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn client(peer: &str, lines: &[(&'static str, &str)]) -> Client {
        let peer =
            Peer { address: peer.parse().expect("an address"), transport: Transport::Plain, certified: None };
        proxies().client(peer, &headers(lines))
    }

    #[track_caller]
    fn assert_from(peer: &str, chain: &[&str], from: &str) {
        let lines: Vec<_> = chain.iter().map(|line| ("x-forwarded-for", *line)).collect();
        assert_eq!(client(peer, &lines).address.to_string(), from, "{peer} {chain:?}");
    }

    /// A proxy may have to show a certificate; it is not that of those it speaks for.
    #[test]
    fn the_certificate_of_a_proxy_logs_nobody_in() {
        let certified = Some(Arc::new(Certified::named("ada")));
        let peer = |address: &str| Peer {
            address: address.parse().expect("an address"),
            transport: Transport::Encrypted,
            certified: certified.clone(),
        };
        assert!(
            proxies().client(peer("198.51.100.1"), &HeaderMap::new()).certified(&HeaderMap::new()).is_some()
        );
        assert!(
            proxies().client(peer("127.0.0.1"), &HeaderMap::new()).certified(&HeaderMap::new()).is_none()
        );
    }

    #[test]
    fn the_last_address_that_is_no_proxy_is_the_client() {
        assert_from("127.0.0.1", &["192.0.2.7"], "192.0.2.7");
        assert_from("127.0.0.1", &["192.0.2.7, 10.1.2.3"], "192.0.2.7");
        assert_from("10.9.9.9", &["192.0.2.7", "10.1.2.3, 10.4.5.6"], "192.0.2.7");
        assert_from("127.0.0.1", &["192.0.2.7:4711"], "192.0.2.7");
        assert_from("127.0.0.1", &["[2001:db8::7]:4711"], "2001:db8::7");
        assert_from("127.0.0.1", &["[2001:db8::7]"], "2001:db8::7");
        assert_from("fd00::1", &["::ffff:192.0.2.7"], "192.0.2.7");
        // A client within the proxies' own range.
        assert_from("127.0.0.1", &["10.1.2.3"], "10.1.2.3");
        assert_from("127.0.0.1", &[], "127.0.0.1");
    }

    #[test]
    fn who_claims_to_be_another_is_not_believed() {
        // Not from a proxy at all.
        assert_from("192.0.2.66", &["192.0.2.7"], "192.0.2.66");
        assert_from("127.0.0.2", &["192.0.2.7"], "127.0.0.2");
        // In front of what the proxy has added.
        assert_from("127.0.0.1", &["198.51.100.1, 192.0.2.66"], "192.0.2.66");
        assert_from("127.0.0.1", &["198.51.100.1", "192.0.2.66"], "192.0.2.66");
        assert_from("127.0.0.1", &["198.51.100.1, 127.0.0.1, 192.0.2.66, 10.0.0.1"], "192.0.2.66");
        // Nothing that makes sense: whom we know last.
        for nonsense in ["", "unknown", "1.2.3", "192.0.2.7;x", "_hidden", "192.0.2.7 192.0.2.8", ","] {
            assert_from("127.0.0.1", &["192.0.2.7", nonsense], "127.0.0.1");
            assert_from("127.0.0.1", &[&format!("192.0.2.7,{nonsense}, 10.0.0.1")], "10.0.0.1");
        }
        // The other header is nobody's.
        assert_eq!(client("127.0.0.1", &[("forwarded", "for=192.0.2.7")]).address.to_string(), "127.0.0.1");
    }

    #[test]
    fn scheme_and_host_are_the_proxys() {
        let told = |peer, lines: &[_]| {
            let client = client(peer, lines);
            (client.scheme, client.host.as_deref().unwrap_or("-").to_owned())
        };
        let said = [("x-forwarded-proto", "https"), ("x-forwarded-host", "registry.example.org:8443")];
        assert_eq!(told("127.0.0.1", &said), (Scheme::Https, "registry.example.org:8443".into()));
        assert_eq!(told("192.0.2.66", &said), (Scheme::Http, "-".into()), "not from a proxy");
        assert_eq!(told("127.0.0.1", &[]), (Scheme::Http, "-".into()));
        let lists = [("x-forwarded-proto", "http, HTTPS"), ("x-forwarded-host", "evil.example, a.example")];
        assert_eq!(told("127.0.0.1", &lists), (Scheme::Https, "a.example".into()));
        for bad in ["", "a b", "a\"b", "a/b", "user@host", "a,", "a\\b", "a;b", &"a".repeat(262)] {
            let said = [("x-forwarded-host", bad), ("x-forwarded-proto", bad)];
            assert_eq!(told("127.0.0.1", &said), (Scheme::Http, "-".into()), "{bad}");
        }
    }

    #[test]
    fn ranges() {
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1/128"),
        ] {
            assert_eq!(text.parse::<ProxyRange>().expect(text).to_string(), shown);
        }
        for bad in ["", "localhost", "10.0.0.0/33", "10.0.0/8", "127.0.0.1:80", "*"] {
            assert_eq!(bad.parse::<ProxyRange>(), Err(ProxyRangeError::Syntax), "{bad}");
        }
        for all in ["0.0.0.0/0", "::/0"] {
            assert_eq!(all.parse::<ProxyRange>(), Err(ProxyRangeError::Everybody));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_none_reach_a_header(chain: Vec<u8>, host: Vec<u8>) {
            let mut headers = HeaderMap::new();
            for (name, bytes) in [(FOR, chain), (HOST, host.clone()), (PROTO, host)] {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.append(name, value);
                }
            }
            let peer = Peer { address: IpAddr::from([127, 0, 0, 1]), transport: Transport::Plain, certified: None };
            let host = proxies().client(peer, &headers).host.unwrap_or_default();
            prop_assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'), "{}", host);
        }
    }
}
