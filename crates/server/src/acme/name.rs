//! What an order speaks of: names, the authority's directory, whom to write to.

use std::{fmt, str::FromStr};

use http::Uri;

/// A name that a certificate can be had for: of at least one label, in lower case, no wildcard and no address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainName(Box<str>);

impl DomainName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether anybody outside this site can know it: public authorities give no certificate for others.
    pub fn is_public(&self) -> bool {
        /// Set aside for use within a site or a machine (RFC 2606, 6762, 8375 and ICANN).
        const INNER: &[&[&str]] = &[
            &["local"],
            &["localhost"],
            &["internal"],
            &["test"],
            &["example"],
            &["invalid"],
            &["lan"],
            &["home"],
            &["home", "arpa"],
        ];
        let labels: Vec<&str> = self.0.split('.').collect();
        labels.len() > 1 && !INNER.iter().any(|inner| labels.ends_with(inner))
    }
}

impl FromStr for DomainName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = text.escape_debug();
        if text.starts_with("*.") {
            return Err(format!(
                "`{shown}` stands for many names, which only DNS could prove; write each name that people use"
            ));
        }
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Err(format!("`{shown}` is an address, and certificates are ordered for names"));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // 253 is the longest name DNS can hold, in letters.
        if text.len() <= 253 && text.split('.').all(label) {
            return Ok(Self(text.into()));
        }
        Err(format!(
            "`{shown}` is not a name; write lower-case letters, digits, `-` and `.`, such as \"registry.example.org\", \
             without a port"
        ))
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an authority says what it offers (RFC 8555, section 7.1.1): over HTTPS only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryUrl(Box<str>);

impl DirectoryUrl {
    /// That of Let's Encrypt.
    pub fn lets_encrypt() -> Self {
        Self("https://acme-v02.api.letsencrypt.org/directory".into())
    }

    /// Whether it is Let's Encrypt's, for tries or in earnest.
    pub fn is_lets_encrypt(&self) -> bool {
        let host = self.0.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
        host.is_some_and(|host| host.ends_with(".letsencrypt.org"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for a folder: what is another authority's, or for tries only, is kept apart.
    pub(super) fn folder(&self) -> String {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
        let address = self.0.trim_start_matches("https://").trim_end_matches('/');
        address.chars().map(|letter| if plain(letter) { letter } else { '_' }).take(200).collect()
    }
}

impl FromStr for DirectoryUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = text.escape_debug();
        let uri: Uri = text.parse().map_err(|error| format!("`{shown}` is not a URL: {error}"))?;
        let host = uri.host().filter(|host| !host.is_empty() && *host != "." && *host != "..");
        if uri.scheme_str() != Some("https") || host.is_none() {
            return Err(format!(
                "`{shown}` is not the directory of a certificate authority; write its address, such as \
                 \"https://ca.example.org/acme/directory\""
            ));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a name or password in the address would stand in the log; write it without".into());
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for DirectoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom an authority may write to: `mailto:` and an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact(Box<str>);

impl Contact {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Contact {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.strip_prefix("mailto:").unwrap_or_default();
        let plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"?,<>()\"\\:;@".contains(&byte))
        };
        match address.split_once('@') {
            Some((user, host)) if plain(user) && plain(host) => Ok(Self(text.into())),
            _ => Err(format!(
                "`{}` is nobody one could write to; write \"mailto:\" and one address, such as \
                 \"mailto:admin@example.org\"",
                text.escape_debug()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["registry.example.org", "localhost", "a-b.c", "xn--bcher-kva.example"] {
            assert_eq!(good.parse::<DomainName>().expect(good).as_str(), good);
        }
        for bad in ["", "*.a.b", "127.0.0.1", "::1", "a..b", "A.b", "a.b:443", "-a.b", "a.b.", "a b"] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad}");
        }
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        assert!(longest.parse::<DomainName>().is_ok(), "253 letters");
        assert!(format!("{longest}d").parse::<DomainName>().is_err(), "254 letters");
    }

    #[test]
    fn names_that_nobody_outside_knows() {
        let is_public = |name: &str| name.parse::<DomainName>().expect(name).is_public();
        assert!(is_public("registry.example.org") && is_public("a.b.arpa"));
        for inner in ["localhost", "registry", "a.local", "a.internal", "a.home.arpa", "home.arpa"] {
            assert!(!is_public(inner), "{inner}");
        }
    }

    #[test]
    fn directories_are_https_and_have_folders_of_their_own() {
        let folder = |url: &str| url.parse::<DirectoryUrl>().expect(url).folder();
        assert_eq!(DirectoryUrl::lets_encrypt().folder(), "acme-v02.api.letsencrypt.org_directory");
        assert_eq!(folder("https://127.0.0.1:14000/dir"), "127.0.0.1_14000_dir");
        assert_eq!(folder("https://a/../../x"), "a_.._.._x");
        for bad in
            ["", "a", "/dir", "http://a/dir", "https://", "https:///dir", "https://u:p@a/dir", "https://../"]
        {
            assert!(bad.parse::<DirectoryUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn contacts() {
        assert!("mailto:admin@example.org".parse::<Contact>().is_ok());
        for bad in [
            "",
            "admin@example.org",
            "mailto:",
            "mailto:a",
            "mailto:a@b,c@d",
            "mailto:a@b?subject=x",
            "mailto:a@b@c",
        ] {
            assert!(bad.parse::<Contact>().is_err(), "{bad}");
        }
    }
}
