//! What keeps a browser from being turned against a person: headers of answers that a browser may show.
//!
//! Torno sets no cookies, and says nowhere which version it is.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{connection::Client, forwarded::Scheme};

/// Nothing is loaded, run, framed or sent elsewhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
);

/// A year.
const HTTPS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What every document gets, unless whoever made it knew better.
const DOCUMENT: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    // Pages are for whoever has asked.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// Sets the headers of an answer to this client. `hostname` is the name people know this registry by.
pub(crate) fn guard(headers: &mut HeaderMap, client: &Client, hostname: &str) {
    // A manifest or blob is what its type says, even if it looks like a page.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !is_document(headers) {
        return;
    }
    for (name, value) in DOCUMENT {
        headers.entry(name).or_insert(value);
    }
    if client.scheme == Scheme::Https && is_name(hostname) {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HTTPS_ONLY);
    }
}

/// Whether a browser would show an answer as a page. Whoever pushes a manifest chooses its type, so all do but those
/// that are known to be harmless.
fn is_document(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    let Ok(text) = value.to_str() else { return true };
    let kind = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let harmless = ["application/json", "application/octet-stream"].contains(&kind.as_str())
        || ["application/vnd.oci.", "application/vnd.docker."].iter().any(|prefix| kind.starts_with(prefix));
    !harmless
}

/// A name with nothing else on its other ports that might not speak TLS: browsers remember the name alone.
fn is_name(hostname: &str) -> bool {
    hostname.contains('.') && !hostname.contains(':') && hostname.parse::<std::net::IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Transport;

    fn guarded(kind: Option<&'static str>, scheme: Scheme, hostname: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let client = Client {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            transport: Transport::Plain,
            scheme,
            host: None,
            certified: None,
        };
        guard(&mut headers, &client, hostname);
        headers
    }

    #[test]
    fn whatever_a_browser_may_show_is_guarded() {
        let pages = [
            "text/html; charset=utf-8",
            "TEXT/HTML",
            "image/svg+xml",
            "application/xhtml+xml",
            "text/plain",
            "x",
        ];
        for page in pages {
            let headers = guarded(Some(page), Scheme::Http, "registry.example.org");
            for (name, value) in DOCUMENT {
                assert_eq!(headers.get(&name), Some(&value), "{page}: {name}");
            }
            assert_eq!(headers.get(header::X_CONTENT_TYPE_OPTIONS).expect("a header"), "nosniff");
            assert!(!headers.contains_key(header::STRICT_TRANSPORT_SECURITY));
        }
        for other in
            ["application/json", "application/vnd.oci.image.manifest.v1+json", "application/octet-stream"]
        {
            let headers = guarded(Some(other), Scheme::Https, "registry.example.org");
            assert_eq!(headers.len(), 2, "{other}: {headers:?}");
        }
        assert_eq!(guarded(None, Scheme::Https, "registry.example.org").len(), 1);
    }

    #[test]
    fn only_a_name_of_its_own_is_kept_to_https() {
        let told = |scheme, hostname| {
            guarded(Some("text/html"), scheme, hostname).contains_key(header::STRICT_TRANSPORT_SECURITY)
        };
        assert!(told(Scheme::Https, "registry.example.org"));
        assert!(!told(Scheme::Http, "registry.example.org"));
        for hostname in ["registry.example.org:5000", "192.0.2.1", "[::1]:5000", "localhost"] {
            assert!(!told(Scheme::Https, hostname), "{hostname}");
        }
    }
}
