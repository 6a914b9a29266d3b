//! The files that TLS is read from, which others renew while Torno runs.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use torno_server::{
    Certificate, CertificateChain, ClientAuthority, ClientLogin, PrivateKey, RevocationLists, TlsError,
};

/// Where they are. Those that are not used are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// The certificate and its key.
    pub(super) pair: Option<(PathBuf, PathBuf)>,
    pub(super) clients: Option<Clients>,
}

/// What clients' certificates are checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clients {
    pub(super) authority: PathBuf,
    pub(super) revoked: Option<PathBuf>,
    pub(super) demand: ClientLogin,
}

/// What was read from them.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) certificate: Option<Certificate>,
    pub(crate) clients: Option<ClientAuthority>,
}

/// What changes when one of the files does: written to, replaced, or a link to it turned to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Version(Vec<Option<[i64; 5]>>);

/// A file that will not do.
#[derive(Debug)]
pub(crate) struct FileError {
    path: PathBuf,
    error: TlsError,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.error)
    }
}

impl Files {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Their present version. It blocks for as long as it takes to look at four names.
    pub(crate) fn version(&self) -> Version {
        let pair = self.pair.iter().flat_map(|(chain, key)| [chain, key]);
        let clients =
            self.clients.iter().flat_map(|clients| [Some(&clients.authority), clients.revoked.as_ref()]);
        Version(pair.chain(clients.flatten()).map(|path| look(path).ok()).collect())
    }

    /// Reads them as the configuration did. What is wrong with one is wrong with all.
    pub(crate) fn read(&self) -> Result<Content, FileError> {
        let certificate = self.pair.as_ref().map(|(chain, key)| {
            let chain = CertificateChain::read(chain).map_err(of(chain))?;
            Certificate::new(chain, PrivateKey::read(key).map_err(of(key))?).map_err(of(key))
        });
        let clients = self.clients.as_ref().map(|Clients { authority, revoked, demand }| {
            let revoked = revoked.as_ref().map(|path| RevocationLists::read(path).map_err(of(path)));
            let chain = CertificateChain::read(authority).map_err(of(authority))?;
            ClientAuthority::new(&chain, revoked.transpose()?, *demand).map_err(of(authority))
        });
        Ok(Content { certificate: certificate.transpose()?, clients: clients.transpose()? })
    }
}

/// The time of the last change of the file's node cannot be set back, as that of its content can.
fn look(path: &Path) -> io::Result<[i64; 5]> {
    let found = fs::metadata(path)?;
    let [inode, device, size] = [found.ino(), found.dev(), found.size()].map(u64::cast_signed);
    Ok([inode, device, size, found.ctime(), found.ctime_nsec()])
}

fn of(path: &Path) -> impl FnOnce(TlsError) -> FileError + use<> {
    let path = path.to_owned();
    move |error| FileError { path, error }
}
