//! `[tls]`: whether people speak TLS to Torno, with which certificate, and which they may show themselves.

mod acme;
mod files;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use torno_server::{
    AcmeSettings, Certificate, CertificateChain, ClientAuthority, ClientLogin, PrivateKey, RevocationLists,
};

use super::{
    A_PATH, Hostname,
    error::{Place, Problems},
    reader::{Environment, Item, TableReader},
    value,
};

pub(crate) use files::{Files, Version};

/// How people are spoken to over TLS.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// Where the certificate comes from.
    pub(crate) source: Source,
    /// Whose certificates of clients are accepted; `None`: nobody is asked for one.
    pub(crate) clients: Option<ClientAuthority>,
    /// What all of that was read from.
    pub(crate) files: Files,
    /// Their version, from before they were read.
    pub(crate) version: Version,
}

/// Where the certificate comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// From files that somebody else renews.
    Files(Certificate),
    /// From an authority, by ACME.
    Acme(AcmeSettings),
}

/// What `[tls]` says.
pub(super) struct Told {
    /// `None` without TLS, and where it cannot be had.
    pub(super) tls: Option<Tls>,
    /// Whether an address that other machines can reach will do.
    pub(super) exposure: Exposure,
    /// The files and folders it names, whether they are used or not.
    pub(super) files: Vec<(&'static str, PathBuf)>,
}

/// Where Torno may listen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposure {
    /// Anywhere: nobody reads on the way, or somebody has said that it does not matter.
    Anywhere,
    /// On this machine only: passwords would travel in clear.
    ThisMachine,
}

/// What `[listen]` says that matters here.
pub(super) struct Listen<'a> {
    pub(super) hostname: Option<&'a Hostname>,
    pub(super) clear: Option<&'a Item<'a>>,
}

/// How Torno speaks to people.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Off,
    Files,
    Acme,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Files => "files",
            Self::Acme => "acme",
        }
    }
}

/// Reads the table, and the files it names if they are used.
pub(super) fn read(
    mut table: TableReader<'_>,
    listen: &Listen<'_>,
    base: &Path,
    environment: &Environment,
    variables: &mut Vec<String>,
) -> Told {
    let written = table.take_or_variable("mode", environment);
    let given = written.is_some();
    let mode = written.and_then(|item| item.parse("\"off\", \"files\" or \"acme\"", mode));
    let chain = table.take_or_variable("certificate", environment);
    let key = table.take_or_variable("key", environment);
    let in_clear = match table.take_or_variable("i_know_passwords_travel_in_clear", environment) {
        None => false,
        // Whoever wrote something else than a truth is told so once.
        Some(item) => item.boolean().unwrap_or(true),
    };
    // A mode that is none has been refused; what follows from it is not another error.
    let mode = if given { mode } else { Some(Mode::Off) };
    let exposure = match mode {
        Some(Mode::Off) if !in_clear => Exposure::ThisMachine,
        _ => Exposure::Anywhere,
    };
    let path = |item: &Item<'_>| item.parse(A_PATH, |text| value::path(text, base));
    let paths = (chain.as_ref().and_then(path), key.as_ref().and_then(path));
    let ordered = acme::take(&mut table, base, environment);
    let clients = Clients::take(&mut table, base, environment);

    let unused = |items: &[&Option<Item<'_>>], mode: Mode| {
        for item in items.iter().copied().flatten() {
            item.warning()(&format!("`tls.mode` is \"{}\", so this is not used", mode.name()));
        }
    };
    let pair = paths.0.clone().zip(paths.1.clone()).filter(|_| mode == Some(Mode::Files));
    let read_from = Files { pair, clients: clients.files() };
    let version = read_from.version();
    let mut files = named([("TLS certificate", &paths.0), ("TLS key", &paths.1)]);
    let source = match mode {
        Some(mode @ Mode::Files) => {
            unused(&ordered.items(), mode);
            let pair =
                read_pair(&table, (chain.as_ref(), paths.0.as_deref()), (key.as_ref(), paths.1.as_deref()));
            pair.map(Source::Files)
        }
        Some(mode @ Mode::Acme) => {
            unused(&[&chain, &key], mode);
            files.push(("folder of certificates", ordered.folder(base)));
            ordered.settings(&table, listen, base).map(Source::Acme)
        }
        Some(mode @ Mode::Off) => {
            unused(&[&chain, &key], mode);
            unused(&ordered.items(), mode);
            unused(&clients.items(), mode);
            if let Some(clear) = listen.clear {
                clear.warning()("`tls.mode` is \"off\", so this is not used");
            }
            None
        }
        None => None,
    };
    files.extend(named([("authority of clients", &clients.authority_path), ("CRL", &clients.revoked_path)]));
    let admitted = match mode {
        Some(Mode::Files | Mode::Acme) => clients.read(&table),
        Some(Mode::Off) | None => None,
    };
    variables.extend(table.finish());
    let tls = source.map(|source| Tls { source, clients: admitted, files: read_from, version });
    Told { tls, exposure, files }
}

fn named<const N: usize>(files: [(&'static str, &Option<PathBuf>); N]) -> Vec<(&'static str, PathBuf)> {
    let named = |(name, path): (&'static str, &Option<PathBuf>)| Some((name, path.clone()?));
    files.into_iter().filter_map(named).collect()
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "off" => Ok(Mode::Off),
        "files" => Ok(Mode::Files),
        "acme" => Ok(Mode::Acme),
        other => Err(format!(
            "`{}` is not a mode; write \"acme\" for TLS with a certificate from Let's Encrypt or another authority, \
             \"files\" for TLS with a certificate of your own, or \"off\", with `listen.address` on 127.0.0.1 and a \
             reverse proxy that speaks TLS in front",
            other.escape_debug()
        )),
    }
}

type Named<'i, 'a> = (Option<&'i Item<'a>>, Option<&'i Path>);

/// Loads both files, so that what is wrong with either is said at once.
fn read_pair(table: &TableReader<'_>, chain: Named<'_, '_>, key: Named<'_, '_>) -> Option<Certificate> {
    if chain.0.is_none() {
        table.miss("certificate", "say where the certificate is: certificate = \"certs/fullchain.pem\"");
    }
    if key.0.is_none() {
        table.miss("key", "say where the private key of the certificate is: key = \"certs/privkey.pem\"");
    }
    let certificates = chain.0.zip(chain.1).and_then(|(item, path)| {
        CertificateChain::read(path).map_err(|error| refuse(item, path, &error)).ok()
    });
    let (item, path) = key.0.zip(key.1)?;
    let key = PrivateKey::read(path).map_err(|error| refuse(item, path, &error)).ok()?;
    warn_of_readers(item, path);
    Certificate::new(certificates?, key).map_err(|error| refuse(item, path, &error)).ok()
}

fn refuse(item: &Item<'_>, path: &Path, error: &dyn std::fmt::Display) {
    item.refuse(format_args!("{}: {error}", path.display()));
}

/// A group may be meant, as with Debian's `ssl-cert`; everybody is not.
fn warn_of_readers(item: &Item<'_>, path: &Path) {
    if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o007 != 0) {
        let path = path.display();
        item.warning()(&format!("other users of this machine can read {path}; chmod o= {path}"));
    }
}

/// The keys that speak of clients' certificates.
struct Clients<'a> {
    authority: Option<Item<'a>>,
    authority_path: Option<PathBuf>,
    revoked: Option<Item<'a>>,
    revoked_path: Option<PathBuf>,
    login: Option<Item<'a>>,
    demand: ClientLogin,
}

impl<'a> Clients<'a> {
    fn take(table: &mut TableReader<'a>, base: &Path, environment: &Environment) -> Self {
        let path = |item: &Item<'_>| item.parse(A_PATH, |text| value::path(text, base));
        let authority = table.take_or_variable("client_ca", environment);
        let revoked = table.take_or_variable("client_crl", environment);
        let login = table.take_or_variable("client_login", environment);
        let demand = login.as_ref().and_then(|item| item.parse("\"optional\" or \"required\"", demand));
        Self {
            authority_path: authority.as_ref().and_then(path),
            authority,
            revoked_path: revoked.as_ref().and_then(path),
            revoked,
            login,
            demand: demand.unwrap_or(ClientLogin::Optional),
        }
    }

    fn items(&self) -> [&Option<Item<'a>>; 3] {
        [&self.authority, &self.revoked, &self.login]
    }

    fn read(&self, table: &TableReader<'_>) -> Option<ClientAuthority> {
        if self.authority.is_none() && (self.revoked.is_some() || self.login.is_some()) {
            table.miss(
                "client_ca",
                "say who signs the certificates of clients: client_ca = \"certs/people.pem\"",
            );
        }
        let (item, path) = self.authority.as_ref().zip(self.authority_path.as_deref())?;
        let chain = CertificateChain::read(path).map_err(|error| refuse(item, path, &error)).ok();
        let revoked = match self.revoked.as_ref().zip(self.revoked_path.as_deref()) {
            None => None,
            // A list that was refused is not left out.
            Some((item, path)) => {
                Some(RevocationLists::read(path).map_err(|error| refuse(item, path, &error)).ok()?)
            }
        };
        ClientAuthority::new(&chain?, revoked, self.demand).map_err(|error| refuse(item, path, &error)).ok()
    }

    fn files(&self) -> Option<files::Clients> {
        let authority = self.authority_path.clone()?;
        Some(files::Clients { authority, revoked: self.revoked_path.clone(), demand: self.demand })
    }
}

fn demand(text: &str) -> Result<ClientLogin, String> {
    match text {
        "optional" => Ok(ClientLogin::Optional),
        "required" => Ok(ClientLogin::Required),
        other => Err(format!(
            "`{}` is neither; write \"optional\": who has no certificate logs in with a password, or \"required\": who \
             has none is not spoken to",
            other.escape_debug()
        )),
    }
}

/// Says what an authority that checks a name will not find here.
pub(super) fn warn_of_reach(
    settings: &AcmeSettings,
    address: SocketAddr,
    clear: Option<SocketAddr>,
    problems: &Problems,
) {
    let place = |key: &str| Place::Key { beside: None, key: key.to_owned() };
    if settings.directory.is_lets_encrypt() {
        if address.ip().to_canonical().is_loopback() {
            let words =
                format_args!("Let's Encrypt cannot reach {address} to check your names, and gives nothing");
            problems.warn(&place("listen.address"), words);
        }
        for name in settings.names.iter().filter(|name| !name.is_public()) {
            let words =
                format_args!("Let's Encrypt gives no certificate for {name}, which only this site knows");
            problems.warn(&place("tls.hostnames"), words);
        }
    }
    let (key, port) = match (settings.challenge, clear) {
        (torno_server::Challenge::TlsAlpn, _) => ("listen.address", address.port()),
        (torno_server::Challenge::Http, Some(clear)) => ("listen.http", clear.port()),
        (torno_server::Challenge::Http, None) => return,
    };
    let asked = settings.challenge.port();
    if port != asked {
        problems.warn(
            &place(key),
            format_args!(
                "the authority checks your names at port {asked}; see that it leads to port {port} here"
            ),
        );
    }
}
