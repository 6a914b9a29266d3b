//! `torno init`: a folder to start from.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use torno_auth::{Htpasswd, UserName};

use super::{FILE, Failure};

/// The configuration that is written. It says what Torno does without it, so that all of it can be changed in place.
const CONFIGURATION: &str = include_str!("init/torno.toml");

/// The first admin, who stands in [`CONFIGURATION`].
const ADMIN: &str = "admin";

/// No `l`, `o`, `0` or `1`, which look alike. There are 32, so five bits of a random byte choose fairly.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Of five bits each: 120 bits, which nobody guesses.
const PASSWORD_LENGTH: usize = 24;

const EXAMPLES: &str = "\
Examples:
  torno init              in the current folder
  torno init /srv/torno   in a folder that is made if it does not exist

Written are torno.toml, registry-data/ and certs/, and the first admin, whose password is printed once.
Nothing that exists is ever overwritten.";

/// Make a configuration, the folders and the first admin
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Init {
    /// The folder to write to
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
}

impl Init {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let file = self.folder.join(FILE);
        let data = self.folder.join("registry-data");
        let htpasswd = data.join("htpasswd");
        // A link that leads nowhere exists too.
        if let Some(path) = [&file, &htpasswd].into_iter().find(|path| path.symlink_metadata().is_ok()) {
            return Err(Failure::Exists(path.clone()));
        }
        let admin: UserName = ADMIN.parse().expect("this name is within the rule");

        fs::create_dir_all(&self.folder).map_err(not_made(&self.folder))?;
        write(&file)?;
        self.fill(&data, &htpasswd, admin).inspect_err(|_| {
            // Ours, and made just now: without it the same command can be tried again.
            drop(fs::remove_file(&file));
        })
    }

    /// Makes the rest, once the configuration is ours.
    fn fill(&self, data: &Path, htpasswd: &Path, admin: UserName) -> Result<(), Failure> {
        let password = password()?;
        private_folder(data)?;
        private_folder(&self.folder.join("certs"))?;
        Htpasswd::add(htpasswd, &admin, &password).map_err(|source| Failure::User {
            user: admin,
            action: "added",
            source,
        })?;
        self.say_what_is_next(&password).map_err(|error| {
            // Nobody has seen the password.
            drop(fs::remove_file(htpasswd));
            Failure::Output(error)
        })
    }

    fn say_what_is_next(&self, password: &str) -> io::Result<()> {
        let folder = self.folder.display();
        let enter = if self.folder == Path::new(".") {
            String::new()
        } else {
            format!("cd {} && ", quoted(&self.folder))
        };
        let mut out = io::stdout().lock();
        write!(
            out,
            "Made {FILE}, registry-data/ and certs/ in {folder}\n\n\
             The first admin:\n  \
             user      {ADMIN}\n  \
             password  {password}\n\
             The password is shown only now; change it with `torno user passwd {ADMIN}`.\n\n\
             Next:\n  \
             {enter}torno check-config\n  \
             torno serve\n  \
             docker login -u {ADMIN} 127.0.0.1:5000\n"
        )?;
        out.flush()
    }
}

fn not_made(path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    let path = path.to_owned();
    move |source| Failure::Make { path, source }
}

fn write(path: &Path) -> Result<(), Failure> {
    let made = File::options().write(true).create_new(true).mode(0o644).open(path);
    let mut file = made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::Exists(path.to_owned()),
        _ => not_made(path)(error),
    })?;
    file.write_all(CONFIGURATION.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| {
        drop(fs::remove_file(path));
        not_made(path)(error)
    })
}

/// Makes a folder for its owner only. One that exists is left as it is, but a door that is open is pointed at.
fn private_folder(path: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {
            let mode = fs::metadata(path).map_err(not_made(path))?.permissions().mode();
            if mode & 0o077 != 0 {
                let shown = quoted(path);
                eprintln!(
                    "warning: {shown} can be entered by other users of this machine; `chmod 700 {shown}`"
                );
            }
            Ok(())
        }
        made => made.map_err(not_made(path)),
    }
}

fn password() -> Result<String, getrandom::Error> {
    let mut bytes = [0; PASSWORD_LENGTH];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

/// A path as a shell wants it.
fn quoted(path: &Path) -> String {
    let shown = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if shown.bytes().all(plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
        KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
    };

    use super::*;
    use crate::config::{Config, Environment, Within};

    #[test]
    fn passwords_are_long_unambiguous_and_new() {
        let (one, two) = (password().expect("random"), password().expect("random"));
        assert_ne!(one, two);
        assert_eq!(one.len(), PASSWORD_LENGTH);
        assert_eq!(ALPHABET.iter().collect::<BTreeSet<_>>().len(), ALPHABET.len(), "no letter twice");
        assert!(!ALPHABET.iter().any(|letter| b"lo01".contains(letter)));
    }

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/srv/torno-2")), "/srv/torno-2");
        assert_eq!(quoted(Path::new("it's here")), r"'it'\''s here'");
    }

    /// What is written says what holds without it, but for the admin.
    #[test]
    fn the_written_configuration_is_the_default_one() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(FILE);
        fs::write(&path, CONFIGURATION).expect("write");
        let mut written = Config::load(&path, &Environment::default(), Within::Serve).expect("good");
        assert_eq!(written.policy.admins.users.iter().map(UserName::as_str).collect::<Vec<_>>(), [ADMIN]);
        assert!(written.warnings.is_empty());
        written.policy.admins.users.clear();
        fs::write(&path, "").expect("write");
        let default = Config::load(&path, &Environment::default(), Within::Serve).expect("good");
        assert_eq!(format!("{written:?}"), format!("{default:?}"));
    }

    /// The examples are good too once the `#` before them is taken away.
    #[test]
    fn the_commented_examples_are_good() {
        let folder = tempfile::tempdir().expect("folder");
        let data = folder.path().join("retina");
        fs::create_dir(&data).expect("folder");
        let uncommented = CONFIGURATION.lines().map(|line| line.strip_prefix("#:").unwrap_or(line));
        let text = uncommented.collect::<Vec<_>>().join("\n");
        assert!(text.contains("/srv/data/retina"));
        let text = text.replace("/srv/data/retina", &data.display().to_string());
        assert!(text.contains("mode = \"off\""));
        make_certificates(&folder.path().join("certs"));
        let password = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.path().join("ldap-password"));
        password.and_then(|mut file| file.write_all(b"secret\n")).expect("write");
        // What one mode uses the other does not, and says so.
        for (mode, unused) in [("files", 6), ("acme", 2)] {
            let text = text.replace("mode = \"off\"", &format!("mode = \"{mode}\""));
            let path = folder.path().join(FILE);
            fs::write(&path, text).expect("write");
            let config = Config::load(&path, &Environment::default(), Within::Serve).expect("good");
            assert_eq!((config.projects.len(), config.datasets.len()), (1, 1));
            assert!(config.auth.directory.is_some() && config.tls.is_some_and(|tls| tls.clients.is_some()));
            let (said, others): (Vec<_>, Vec<_>) =
                config.warnings.iter().partition(|warning| warning.ends_with("so this is not used"));
            assert_eq!(said.len(), unused, "{said:?}");
            let meant =
                |warning: &String| warning.contains("port 443") || warning.starts_with("executor.accept");
            assert!(others.iter().all(|warning| meant(warning)), "{others:?}");
        }
    }

    /// The files that the examples name.
    fn make_certificates(certs: &Path) {
        private_folder(certs).expect("folder");
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let write = |name: &str, text: String| {
            let file = File::options().write(true).create_new(true).mode(0o600).open(certs.join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes())).expect("write");
        };
        write("privkey.pem", key.serialize_pem());
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        for name in ["fullchain.pem", "people.pem", "authority.pem", "directory-ca.pem"] {
            write(name, issuer.pem());
        }
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2049, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        write("people.crl", list.signed_by(&issuer).expect("a list").pem().expect("PEM"));
    }
}
