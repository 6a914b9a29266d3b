//! Signed bytes and their type in one document (DSSE 1.0.2, JSON form).

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};

use super::key::{PublicKey, SigningKey};

/// What is signed: a statement in JSON (in-toto attestation: Envelope).
const STATEMENT: &str = "application/vnd.in-toto+json";

/// More signatures than anybody puts under a statement.
const MAX_SIGNATURES: usize = 16;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Signature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// Why nothing in an envelope is believed.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// It is none.
    #[error("the signed statement cannot be read: {0}")]
    Malformed(&'static str),
    /// Nobody who is believed has signed it.
    #[error("it is signed by the key {found}, and not by one that is trusted here ({trusted})")]
    Stranger {
        /// What the signature calls its key, as far as that can be shown.
        found: String,
        /// Those that are.
        trusted: String,
    },
    /// The signature does not fit.
    #[error("the signature by the key {0} does not fit the statement: one of the two was changed")]
    Wrong(String),
}

/// A statement with its signature, in JSON.
pub(super) fn seal(statement: &[u8], key: &SigningKey) -> Result<Vec<u8>, serde_json::Error> {
    let signature = key.sign(&authenticated(STATEMENT, statement));
    serde_json::to_vec(&Envelope {
        payload: BASE64_STANDARD.encode(statement),
        payload_type: STATEMENT.to_owned(),
        signatures: vec![Signature { keyid: key.public().id(), sig: BASE64_STANDARD.encode(signature) }],
    })
}

/// The statement in an envelope, if one of the keys has signed it, and which.
pub(super) fn open<'k>(
    envelope: &[u8],
    trusted: &'k [PublicKey],
) -> Result<(Vec<u8>, &'k PublicKey), EnvelopeError> {
    let envelope: Envelope =
        serde_json::from_slice(envelope).map_err(|_| EnvelopeError::Malformed("it is no envelope"))?;
    if envelope.payload_type != STATEMENT {
        return Err(EnvelopeError::Malformed("what it holds is no in-toto statement"));
    }
    if envelope.signatures.len() > MAX_SIGNATURES {
        return Err(EnvelopeError::Malformed("it has too many signatures"));
    }
    let payload = BASE64_STANDARD.decode(&envelope.payload);
    let payload = payload.map_err(|_| EnvelopeError::Malformed("it is not in base64"))?;
    let signed = authenticated(&envelope.payload_type, &payload);
    let mut claimed = None;
    for Signature { keyid, sig } in &envelope.signatures {
        let signature = BASE64_STANDARD.decode(sig).unwrap_or_default();
        // What a signature calls its key is a hint only.
        if let Some(key) = trusted.iter().find(|key| key.has_signed(&signed, &signature)) {
            return Ok((payload, key));
        }
        if trusted.iter().any(|key| key.id() == *keyid) {
            return Err(EnvelopeError::Wrong(keyid.clone()));
        }
        claimed.get_or_insert(keyid);
    }
    let found = claimed.map_or_else(|| "of nobody".to_owned(), |id| shown(id));
    let trusted: Vec<String> = trusted.iter().map(PublicKey::id).collect();
    Err(EnvelopeError::Stranger { found, trusted: trusted.join(", ") })
}

/// What is signed (DSSE: Pre-Authentication Encoding).
fn authenticated(kind: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn shown(id: &str) -> String {
    id.chars().filter(char::is_ascii_graphic).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_the_specifications_own_example() {
        assert_eq!(
            authenticated("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn any_change_shows() {
        let folder = tempfile::tempdir().expect("folder");
        let key = SigningKey::open(&folder.path().join("a")).expect("a key");
        let trusted = [key.public().clone()];
        let sealed = seal(b"{\"a\":1}", &key).expect("sealed");
        let (statement, signer) = open(&sealed, &trusted).expect("as it was signed");
        assert_eq!((statement.as_slice(), signer), (&b"{\"a\":1}"[..], key.public()));
        for place in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                *changed.get_mut(place).expect("inside") ^= 1 << bit;
                // A change may leave the meaning as it is, of the hint for instance; never may it change the statement.
                if let Ok((statement, _)) = open(&changed, &trusted) {
                    assert_eq!(statement, b"{\"a\":1}", "bit {bit} of byte {place}");
                }
            }
        }
        let other = SigningKey::open(&folder.path().join("b")).expect("a key");
        let strange = open(&sealed, &[other.public().clone()]).expect_err("a stranger");
        assert!(
            matches!(&strange, EnvelopeError::Stranger { found, .. } if *found == key.public().id()),
            "{strange}"
        );
        let forged = seal(b"{\"a\":2}", &other).expect("sealed");
        let forged =
            String::from_utf8(forged).expect("text").replace(&other.public().id(), &key.public().id());
        assert!(matches!(open(forged.as_bytes(), &trusted), Err(EnvelopeError::Wrong(_))));
        let unsigned = br#"{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[]}"#;
        assert!(matches!(open(unsigned, &trusted), Err(EnvelopeError::Stranger { .. })));
        let one = r#"{"keyid":"x","sig":""}"#;
        for (count, few) in [(MAX_SIGNATURES, true), (MAX_SIGNATURES + 1, false)] {
            let many = vec![one; count].join(",");
            let many = format!(
                r#"{{"payload":"","payloadType":"application/vnd.in-toto+json","signatures":[{many}]}}"#
            );
            let refused = open(many.as_bytes(), &trusted).expect_err("nobody signed it");
            assert_eq!(matches!(refused, EnvelopeError::Stranger { .. }), few, "{count}");
        }
    }
}
