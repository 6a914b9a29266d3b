//! The keys of `[tls]` for certificates by ACME.

use std::path::{Path, PathBuf};

use torno_server::{AcmeSettings, CertificateChain, Challenge, Contact, DirectoryUrl, DomainName};

use super::{
    super::{
        A_PATH,
        reader::{Environment, Item, TableReader},
        value,
    },
    Listen, refuse,
};

/// Where certificates are kept when the file does not say.
const FOLDER: &str = "certs";

/// Let's Encrypt puts no more into a certificate.
const MAX_NAMES: usize = 100;

/// What stands there, not yet looked at.
pub(super) struct Ordered<'a> {
    names: Option<Item<'a>>,
    contact: Option<Item<'a>>,
    directory: Option<Item<'a>>,
    root: Option<Item<'a>>,
    challenge: Option<Item<'a>>,
    folder: Option<Item<'a>>,
    folder_path: Option<PathBuf>,
}

pub(super) fn take<'a>(table: &mut TableReader<'a>, base: &Path, environment: &Environment) -> Ordered<'a> {
    let folder = table.take_or_variable("folder", environment);
    Ordered {
        names: table.take("hostnames"),
        contact: table.take_or_variable("contact", environment),
        directory: table.take_or_variable("directory", environment),
        root: table.take_or_variable("root", environment),
        challenge: table.take_or_variable("challenge", environment),
        folder_path: folder.as_ref().and_then(|item| item.parse(A_PATH, |text| value::path(text, base))),
        folder,
    }
}

impl<'a> Ordered<'a> {
    pub(super) fn items(&self) -> [&Option<Item<'a>>; 6] {
        [&self.names, &self.contact, &self.directory, &self.root, &self.challenge, &self.folder]
    }

    pub(super) fn folder(&self, base: &Path) -> PathBuf {
        self.folder_path.clone().unwrap_or_else(|| base.join(FOLDER))
    }

    /// What is wanted of which authority; what is wrong with it is said.
    pub(super) fn settings(
        self,
        table: &TableReader<'_>,
        listen: &Listen<'_>,
        base: &Path,
    ) -> Option<AcmeSettings> {
        let folder = self.folder(base);
        let directory = match &self.directory {
            None => Some(DirectoryUrl::lets_encrypt()),
            Some(item) => item.parse("the address of an ACME directory in quotes", str::parse),
        };
        let contact = match &self.contact {
            None => Some(None),
            Some(item) => item.parse("\"mailto:\" and an address", str::parse::<Contact>).map(Some),
        };
        let root = match &self.root {
            None => Some(None),
            Some(item) => {
                let path = item.parse(A_PATH, |text| value::path(text, base));
                path.filter(|path| {
                    CertificateChain::read(path).map_err(|error| refuse(item, path, &error)).is_ok()
                })
                .map(Some)
            }
        };
        let challenge = match &self.challenge {
            None => Some(Challenge::TlsAlpn),
            Some(item) => item.parse("\"tls-alpn-01\" or \"http-01\"", str::parse).filter(|challenge| {
                let heard = *challenge != Challenge::Http || listen.clear.is_some();
                if !heard {
                    item.refuse("the authority asks in clear then, so set `listen.http = \"0.0.0.0:80\"`");
                }
                heard
            }),
        };
        let names = names(self.names, table, listen);
        Some(AcmeSettings {
            directory: directory?,
            root: root?,
            contact: contact?,
            names: names?,
            challenge: challenge?,
            folder,
        })
    }
}

fn names(written: Option<Item<'_>>, table: &TableReader<'_>, listen: &Listen<'_>) -> Option<Vec<DomainName>> {
    const A_LIST: &str = "a list of names, such as [\"registry.example.org\"]";
    let miss = |words: &str| {
        table.miss("hostnames", words);
        None
    };
    let Some(item) = written else {
        let Some(name) = listen.hostname else {
            return miss(
                "say for which names a certificate is wanted: listen.hostname = \"registry.example.org\"",
            );
        };
        return match name.host().parse() {
            Ok(name) => Some(vec![name]),
            Err(error) => {
                miss(&format!("`listen.hostname` will not do for a certificate, so say for what: {error}"))
            }
        };
    };
    let (refuse, is_list) = (item.refusal(), item.is_list());
    let items = item.into_list(A_LIST);
    if !is_list {
        return None;
    }
    if items.is_empty() || items.len() > MAX_NAMES {
        refuse(&format!("a certificate is for 1 to {MAX_NAMES} names, and these are {}", items.len()));
        return None;
    }
    let parsed: Vec<Option<DomainName>> =
        items.iter().map(|item| item.parse("a name in quotes", str::parse)).collect();
    parsed.into_iter().collect()
}
