//! `[tls]`: whether people speak TLS to Torno, and with which certificate.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use torno_server::{Certificate, CertificateChain, PrivateKey};

use super::{
    A_PATH,
    reader::{Environment, Item, TableReader},
    value,
};

/// What `[tls]` says.
pub(super) struct Told {
    /// `None` without TLS, and where it cannot be had.
    pub(super) certificate: Option<Certificate>,
    /// Whether an address that other machines can reach will do.
    pub(super) exposure: Exposure,
    /// The files of the pair, whether they are used or not.
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

/// How Torno speaks to people.
#[derive(Clone, Copy)]
enum Mode {
    Off,
    Files,
}

/// Reads the table, and the files it names if they are used.
pub(super) fn read(
    mut table: TableReader<'_>,
    base: &Path,
    environment: &Environment,
    variables: &mut Vec<String>,
) -> Told {
    let written = table.take_or_variable("mode", environment);
    let given = written.is_some();
    let mode = written.and_then(|item| item.parse("\"off\" or \"files\"", mode));
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
    let certificate = match mode {
        Some(Mode::Files) => {
            if chain.is_none() {
                table.miss(
                    "certificate",
                    "say where the certificate is: certificate = \"certs/fullchain.pem\"",
                );
            }
            if key.is_none() {
                table.miss(
                    "key",
                    "say where the private key of the certificate is: key = \"certs/privkey.pem\"",
                );
            }
            pair(chain.as_ref().zip(paths.0.as_deref()), key.as_ref().zip(paths.1.as_deref()))
        }
        Some(Mode::Off) => {
            for item in chain.iter().chain(&key) {
                item.warning()("`tls.mode` is \"off\", so this is not used");
            }
            None
        }
        None => None,
    };
    variables.extend(table.finish());
    let files = [paths.0.map(|path| ("TLS certificate", path)), paths.1.map(|path| ("TLS key", path))];
    Told { certificate, exposure, files: files.into_iter().flatten().collect() }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "off" => Ok(Mode::Off),
        "files" => Ok(Mode::Files),
        "acme" => {
            Err("certificates cannot be had by ACME yet; write \"files\", and let a client such as certbot \
                       bring them"
                .into())
        }
        other => Err(format!(
            "`{}` is not a mode; write \"files\" for TLS with a certificate of your own, or \"off\", with \
             `listen.address` on 127.0.0.1 and a reverse proxy that speaks TLS in front",
            other.escape_debug()
        )),
    }
}

/// Loads both files, so that what is wrong with either is said at once.
fn pair(chain: Option<(&Item<'_>, &Path)>, key: Option<(&Item<'_>, &Path)>) -> Option<Certificate> {
    let refuse = |item: &Item<'_>, path: &Path, error: &dyn std::fmt::Display| {
        item.refuse(format_args!("{}: {error}", path.display()));
    };
    let certificates = chain.and_then(|(item, path)| {
        CertificateChain::read(path).map_err(|error| refuse(item, path, &error)).ok()
    });
    let (item, path) = key?;
    let key = PrivateKey::read(path).map_err(|error| refuse(item, path, &error)).ok()?;
    warn_of_readers(item, path);
    Certificate::new(certificates?, key).map_err(|error| refuse(item, path, &error)).ok()
}

/// A group may be meant, as with Debian's `ssl-cert`; everybody is not.
fn warn_of_readers(item: &Item<'_>, path: &Path) {
    if fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o007 != 0) {
        let path = path.display();
        item.warning()(&format!("other users of this machine can read {path}; chmod o= {path}"));
    }
}
