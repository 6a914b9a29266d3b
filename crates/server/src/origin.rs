//! Where clients reach this registry, as they see it: the scheme and host of the addresses that they are given.

use http::{HeaderValue, Uri};

use crate::{Outside, connection::Client, forwarded::Scheme, server::Settings};

/// The longest host that is repeated to a client, in bytes: the longest name there can be, and a port.
const MAX_HOST: usize = 261;

/// Such as `https://registry.example.org`. What a client calls this registry, by itself or in the words of a proxy, is what
/// it is told; nobody else sees it.
pub(crate) fn origin(settings: &Settings, client: &Client, uri: &Uri, host: Option<&HeaderValue>) -> String {
    let asked = host.and_then(|host| host.to_str().ok());
    let asked = asked.or_else(|| uri.authority().map(http::uri::Authority::as_str));
    let asked = client.host.as_deref().or(asked.filter(|host| is_host(host)));
    let host = asked.unwrap_or(&settings.hostname);
    let scheme = match (client.scheme, settings.outside) {
        (Scheme::Http, Outside::InClear) => "http",
        (Scheme::Http, Outside::Encrypted) if is_this_machine(host) => "http",
        // Whoever is sent to `http` sends a password there in clear. Behind a proxy nobody may be.
        (Scheme::Https, _) | (Scheme::Http, Outside::Encrypted) => "https",
    };
    format!("{scheme}://{host}")
}

/// A name or address, perhaps with a port: nothing that could end a quoted text.
pub(crate) fn is_host(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    (1..=MAX_HOST).contains(&text.len()) && text.bytes().all(known)
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Peer, Transport};

    fn of(host: Option<&str>, transport: Transport, outside: Outside) -> String {
        let host = host.map(|host| HeaderValue::from_str(host).expect("host"));
        let settings = Settings { outside, ..Settings::named("registry.example.org") };
        let client = Client::from(Peer { address: [192, 0, 2, 1].into(), transport, certified: None });
        origin(&settings, &client, &Uri::from_static("/v2/"), host.as_ref())
    }

    #[test]
    fn nobody_from_outside_is_sent_to_http() {
        let behind = |host| of(Some(host), Transport::Plain, Outside::Encrypted);
        assert_eq!(behind("registry.example.org"), "https://registry.example.org");
        assert_eq!(behind("192.0.2.7:5000"), "https://192.0.2.7:5000");
        for host in ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "LOCALHOST"] {
            assert_eq!(behind(host), format!("http://{host}"));
        }
        assert_eq!(of(Some("10.0.0.1"), Transport::Plain, Outside::InClear), "http://10.0.0.1");
        assert_eq!(of(Some("localhost"), Transport::Encrypted, Outside::Encrypted), "https://localhost");
    }

    #[test]
    fn a_proxy_knows_better() {
        let settings = Settings::named("registry.example.org");
        let peer = Peer { address: [127, 0, 0, 1].into(), transport: Transport::Plain, certified: None };
        let mut client = Client { scheme: Scheme::Https, ..peer.into() };
        let host = HeaderValue::from_static("127.0.0.1:5000");
        let told = |client: &Client| origin(&settings, client, &Uri::from_static("/v2/"), Some(&host));
        assert_eq!(told(&client), "https://127.0.0.1:5000");
        client.host = Some("a.example".into());
        assert_eq!(told(&client), "https://a.example");
        client.scheme = Scheme::Http;
        assert_eq!(told(&client), "https://a.example", "nobody from outside is sent to http");
    }

    #[test]
    fn what_is_no_host_is_not_repeated() {
        for host in
            [None, Some("a\"b"), Some("a b"), Some("a/b"), Some("user@b"), Some(""), Some(&"a".repeat(262))]
        {
            let found = of(host, Transport::Encrypted, Outside::Encrypted);
            assert_eq!(found, "https://registry.example.org", "{host:?}");
        }
    }
}
