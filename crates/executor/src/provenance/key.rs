//! What statements are signed with, and whom they are believed by: Ed25519 (RFC 8032).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use torno_auth::write_key;

/// The key that signs. Others in its folder that end alike have signed before.
const SIGNING: &str = "key.pk8";
const KEPT: &str = "pk8";

/// What stands before the 32 bytes of a public key (RFC 8410: Subject Public Key Fields).
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// The largest file that is looked for public keys in: thousands of them.
const MAX_FILE: u64 = 1 << 20;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not a key of Torno's.
    #[error(
        "{0} is no key that Torno made; restore it from a backup, or move it away, and Torno makes another"
    )]
    Damaged(PathBuf),
    /// Nothing was ever signed here.
    #[error("there is no key in {0} yet; the first start of `torno serve` makes it")]
    None(PathBuf),
    /// No public key, or another one than Ed25519.
    #[error("{0} holds no Ed25519 public key in PEM, as `torno provenance key` prints it")]
    NotPublic(PathBuf),
    /// The system makes no keys.
    #[error("no key could be made")]
    Make,
}

/// Signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.public.id()).finish_non_exhaustive()
    }
}

/// Whom a signature is believed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl SigningKey {
    /// The key in a folder, made if there is none and readable by its owner only. Blocks.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(SIGNING);
        let io = |source| KeyError::Io { path: path.clone(), source };
        match fs::read(&path) {
            Ok(bytes) => Self::of(&bytes).ok_or(KeyError::Damaged(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new());
                let document = document.map_err(|_| KeyError::Make)?;
                write_key(&path, document.as_ref()).map_err(io)?;
                tracing::info!(
                    "results are signed with a new key; `torno provenance key` prints its public half"
                );
                Self::of(document.as_ref()).ok_or(KeyError::Make)
            }
            Err(error) => Err(io(error)),
        }
    }

    fn of(pkcs8: &[u8]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(Self { pair, public })
    }

    /// The half that others may have.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The signature of some bytes; always the same.
    pub(super) fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.pair.sign(bytes).as_ref().to_vec()
    }
}

impl PublicKey {
    /// The keys that sign, or have signed, in a folder; the one that signs first. Blocks.
    pub fn of_folder(folder: &Path) -> Result<Vec<Self>, KeyError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Io { path, source }
        };
        let mut paths = Vec::new();
        match fs::read_dir(folder) {
            Ok(entries) => {
                for entry in entries {
                    paths.push(entry.map_err(io(folder))?.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(folder)(error)),
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == KEPT));
        paths.sort_by_key(|path| (path.file_name().is_none_or(|name| name != SIGNING), path.clone()));
        if paths.is_empty() {
            return Err(KeyError::None(folder.to_owned()));
        }
        let read = |path: PathBuf| {
            let bytes = fs::read(&path).map_err(io(&path))?;
            SigningKey::of(&bytes).map(|key| key.public).ok_or(KeyError::Damaged(path))
        };
        paths.into_iter().map(read).collect()
    }

    /// The keys in a file in PEM (RFC 7468). Blocks.
    pub fn of_file(path: &Path) -> Result<Vec<Self>, KeyError> {
        let io = |source| KeyError::Io { path: path.to_owned(), source };
        let none = || KeyError::NotPublic(path.to_owned());
        if fs::metadata(path).map_err(io)?.len() > MAX_FILE {
            return Err(none());
        }
        let text = String::from_utf8(fs::read(path).map_err(io)?).map_err(|_| none())?;
        let keys: Option<Vec<Self>> = text.split(BEGIN).skip(1).map(Self::of_pem).collect();
        keys.filter(|keys| !keys.is_empty()).ok_or_else(none)
    }

    /// From what follows the first line.
    fn of_pem(text: &str) -> Option<Self> {
        let body: String = text.split_once(END)?.0.split_ascii_whitespace().collect();
        let der = BASE64_STANDARD.decode(body).ok()?;
        Some(Self(der.strip_prefix(&PREFIX)?.try_into().ok()?))
    }

    /// The key in DER (RFC 8410).
    fn der(&self) -> Vec<u8> {
        [&PREFIX[..], &self.0].concat()
    }

    /// The key in PEM, as `openssl pkey -pubin` reads it.
    pub fn pem(&self) -> String {
        format!("{BEGIN}\n{}\n{END}\n", BASE64_STANDARD.encode(self.der()))
    }

    /// What a signature calls its key: the SHA-256 of the key in DER, in hexadecimal.
    pub fn id(&self) -> String {
        hex::encode(Sha256::digest(self.der()))
    }

    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(bytes, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("folder");
        let keys = folder.path().join("keys/provenance");
        assert!(matches!(PublicKey::of_folder(&keys), Err(KeyError::None(_))));
        let made = SigningKey::open(&keys).expect("made");
        assert_eq!(SigningKey::open(&keys).expect("read").public(), made.public());
        let permissions = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((permissions(&keys), permissions(&keys.join(SIGNING))), (0o700, 0o600));
        // One that was replaced is still believed.
        fs::rename(keys.join(SIGNING), keys.join("2026.pk8")).expect("moved");
        let next = SigningKey::open(&keys).expect("made");
        assert_ne!(next.public(), made.public());
        let both = PublicKey::of_folder(&keys).expect("both");
        assert_eq!(both, [next.public().clone(), made.public().clone()]);
        let file = folder.path().join("public.pem");
        fs::write(&file, both.iter().map(PublicKey::pem).collect::<String>()).expect("written");
        assert_eq!(PublicKey::of_file(&file).expect("read"), both);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(SIGNING);
        let key = SigningKey::open(folder.path()).expect("made");
        let bytes = fs::read(&path).expect("read");
        // Any byte of it, the private and the public half, or one more or less.
        for place in 0..bytes.len() {
            let mut wrong = bytes.clone();
            *wrong.get_mut(place).expect("inside") ^= 1;
            fs::write(&path, wrong).expect("written");
            let opened = SigningKey::open(folder.path());
            assert!(!opened.is_ok_and(|opened| opened.public() == key.public()), "byte {place}");
        }
        fs::write(&path, bytes.get(1..).expect("inside")).expect("written");
        assert!(matches!(SigningKey::open(folder.path()), Err(KeyError::Damaged(_))));
        let file = folder.path().join("public.pem");
        let pem = key.public().pem();
        for wrong in
            ["", "x", BEGIN, &pem.replace(END, ""), &pem.replace("MCow", "MCox"), &pem.replace('\n', "!\n")]
        {
            fs::write(&file, wrong).expect("written");
            assert!(matches!(PublicKey::of_file(&file), Err(KeyError::NotPublic(_))), "{wrong}");
        }
    }

    #[test]
    fn a_signature_is_that_of_rfc_8032() {
        // RFC 8032, section 7.1, test 2: the secret, the public key, the message and its signature.
        let secret =
            hex::decode("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").expect("hex");
        let public =
            hex::decode("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c").expect("hex");
        let pair = Ed25519KeyPair::from_seed_and_public_key(&secret, &public).expect("a key");
        let public = PublicKey(public.try_into().expect("32 bytes"));
        let key = SigningKey { pair, public: public.clone() };
        let signature = key.sign(&[0x72]);
        let expected = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
            085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";
        assert_eq!(hex::encode(&signature), expected);
        assert!(public.has_signed(&[0x72], &signature));
        assert!(!public.has_signed(&[0x73], &signature) && !public.has_signed(&[0x72], &[]));
    }
}
