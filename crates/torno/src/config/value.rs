//! Single values as people write them: sizes, durations, addresses, paths, names.

use std::{
    fmt,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;

/// The longest path of the folder in memory. The kernel takes 107 bytes for a socket (Linux: `sockaddr_un`), and
/// `/torno-<id>/run-<number>/relay/<service>` takes up to 70 of them.
const MAX_VOLATILE_LENGTH: usize = 36;

/// The longest name of a dataset or a group, in bytes. Names stand in paths inside the container and in messages.
const MAX_NAME_LENGTH: usize = 64;

/// The name that people type in `docker login`: a host, or a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hostname(Box<str>);

impl Hostname {
    /// Without the port.
    pub(crate) fn host(&self) -> &str {
        match self.0.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.0,
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An IP address and a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "`{}` is not an IP address and a port; write for example \"127.0.0.1:5000\" or \"[::1]:5000\"",
            text.escape_debug()
        )
    })
}

/// A name that Docker clients take for a registry and not for a path on Docker Hub.
pub(super) fn hostname(text: &str) -> Result<Hostname, String> {
    let shown = text.escape_debug();
    if text.contains("://") || text.contains('/') {
        return Err(format!("`{shown}` has a scheme or a path; write only the host, or host:port"));
    }
    let ip = text.parse::<SocketAddr>();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if ip.is_err() => (host, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // 253 is the longest name DNS can hold, in letters.
    let named = host.len() <= 253 && host.split('.').all(label);
    let ported = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0));
    if ip.is_err() && !(named && ported) {
        return Err(format!(
            "`{shown}` is not a host name; write lower-case letters, digits, `-` and `.`, and perhaps a port, such \
             as \"registry.example.org\" or \"registry.example.org:5000\""
        ));
    }
    if !text.contains(['.', ':']) && text != "localhost" {
        return Err(format!(
            "Docker clients take `{text}/…` for a path on Docker Hub; add a domain or a port, such as \"{text}:5000\""
        ));
    }
    Ok(Hostname(text.into()))
}

/// The socket of the engine.
pub(super) fn engine(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://").map(Path::new) {
        Some(path) if path.is_absolute() && path.parent().is_some() => Ok(path.to_owned()),
        _ => Err(format!(
            "`{}` is not a local socket; write for example \"unix:///var/run/docker.sock\", since Torno speaks to no \
             engine on another machine",
            text.escape_debug()
        )),
    }
}

/// A folder in memory. It need not be there yet: who starts no runs needs none.
pub(super) fn folder_in_memory(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() || text.contains('\0') {
        return Err("this is not a path from the root; name a folder in memory, such as \"/dev/shm\"".into());
    }
    match text.len() {
        0..=MAX_VOLATILE_LENGTH => Ok(path.to_owned()),
        length => Err(format!(
            "its name has {length} bytes, and sockets in it would get too long names; use one of at most \
             {MAX_VOLATILE_LENGTH} bytes"
        )),
    }
}

/// A path on this machine, relative to `base` if it does not start at the root.
pub(super) fn path(text: &str, base: &Path) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("this is not a path".into());
    }
    std::path::absolute(base.join(text)).map_err(|error| format!("`{}`: {error}", text.escape_debug()))
}

/// Where a path leads once links are followed, though its end need not exist yet.
pub(super) fn resolve(path: &Path) -> PathBuf {
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return rest.components().fold(real, |mut real, component| {
                match component {
                    Component::Normal(name) => real.push(name),
                    Component::ParentDir => drop(real.pop()),
                    Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
                }
                real
            });
        }
    }
    path.to_owned()
}

/// The name of a dataset or a group.
pub(super) fn is_name(text: &str) -> bool {
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    starts
        && text.len() <= MAX_NAME_LENGTH
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}

/// What [`is_name`] asks for, in words.
pub(super) fn name_rule() -> String {
    format!(
        "a name has 1 to {MAX_NAME_LENGTH} lower-case letters, digits, `-` and `_`, and starts with a letter or a digit"
    )
}

/// A number of bytes with its unit.
pub(super) fn size(text: &str) -> Result<ByteSize, String> {
    let example = "write a number and a unit, such as \"512MiB\" or \"4GiB\"";
    if text.parse::<f64>().is_ok() {
        return Err(format!("`{text}` has no unit; {example}"));
    }
    text.parse().map_err(|_| format!("`{}` is not a size; {example}", text.escape_debug()))
}

/// A size in the largest unit that shows it exactly.
pub(super) fn show_size(size: ByteSize) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let bytes = size.as_u64();
    let exact = units.iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    exact.map_or_else(|| format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A length of time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let example = "write a number and a unit, such as \"30s\", \"90m\" or \"2h 30m\"";
    if text.parse::<f64>().is_ok() {
        return Err(format!("`{text}` has no unit; {example}"));
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("`{}` is not a length of time; {example}", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("4GiB"), Ok(ByteSize::gib(4)));
        assert_eq!(size("1.5 MiB"), Ok(ByteSize::kib(1536)));
        for bad in ["4", "0", "1.5", "", "GiB", "4 gigs", "-1GiB", "4GiB\n"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size("4").expect_err("no unit").contains("has no unit"));
        for (shown, size) in [
            ("6MiB", ByteSize::mib(6)),
            ("1536KiB", ByteSize::kib(1536)),
            ("5B", ByteSize::b(5)),
            ("0B", ByteSize::b(0)),
        ] {
            assert_eq!(show_size(size), shown);
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("2h 30m"), Ok(Duration::from_mins(150)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for bad in ["30", "0", "", "-1s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_names() {
        for good in [
            "registry.example.org",
            "localhost",
            "registry:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "a.b:65535",
        ] {
            assert_eq!(hostname(good).expect(good).to_string(), good);
        }
        for bad in ["https://a.b", "a.b/c", "", "a..b", "-a.b", "A.b", "a.b:0", "a.b:65536", "a.b:", "a b.c"]
        {
            assert!(hostname(bad).is_err(), "{bad}");
        }
        assert!(hostname("registry").expect_err("bare").contains("Docker Hub"));
        assert!(hostname(&format!("{}.b", "a".repeat(63))).is_ok());
        assert!(hostname(&format!("{}.b", "a".repeat(64))).is_err());
        let long = vec!["a".repeat(49); 5].join(".");
        assert!(hostname(&format!("{long}.bbb")).is_ok(), "253 letters");
        assert!(hostname(&format!("{long}.bbbb")).is_err(), "254 letters");
    }

    #[test]
    fn engines() {
        assert_eq!(engine("unix:///run/x.sock"), Ok(PathBuf::from("/run/x.sock")));
        for bad in ["tcp://127.0.0.1:2375", "unix://x.sock", "unix:///", "/run/x.sock", ""] {
            assert!(engine(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names() {
        assert!(is_name("retina-2_b"));
        for bad in ["", "-a", "_a", "A", "a b", "a.b", "../a", "é"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_name(&"a".repeat(MAX_NAME_LENGTH)));
        assert!(!is_name(&"a".repeat(MAX_NAME_LENGTH + 1)));
    }

    #[test]
    fn links_are_followed_though_the_end_does_not_exist() {
        let folder = tempfile::tempdir().expect("folder");
        let real = folder.path().canonicalize().expect("real");
        std::fs::create_dir(real.join("there")).expect("folder");
        std::os::unix::fs::symlink("there", real.join("link")).expect("link");
        assert_eq!(resolve(&real.join("link/new/data")), real.join("there/new/data"));
        assert_eq!(resolve(&real.join("link/new/../data")), real.join("there/data"));
    }
}
