use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::*;

struct Signer {
    pkcs8: Vec<u8>,
    keys: Vec<u8>,
}

fn signer() -> Signer {
    let random = aws_lc_rs::rand::SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).expect("a key");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = json!({"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": encode(x), "y": encode(y)});
    let keys = json!({"keys": [{"kty": "of another kind"}, key]});
    Signer { pkcs8: pkcs8.as_ref().to_vec(), keys: keys.to_string().into_bytes() }
}

impl Signer {
    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("k".into());
        jsonwebtoken::encode(&header, claims, &EncodingKey::from_ec_der(&self.pkcs8)).expect("a token")
    }
}

fn provider() -> ProviderSettings {
    ProviderSettings {
        issuer: "https://id.example.org/site".parse().expect("an issuer"),
        client: "torno".into(),
        secret: ServicePassword::new("s").expect("a secret"),
        scopes: vec!["openid".into()],
        name_claim: "preferred_username".into(),
        groups_claim: "groups".into(),
        authorities: Authorities::of_this_machine(),
        token_lifetime: Duration::from_hours(1),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("time").as_secs()
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example.org/site", "aud": "torno", "sub": "1", "exp": now() + 60, "iat": now(),
        "nonce": "n", "preferred_username": "ada", "groups": ["/Team-A", "b", "not one", 7],
    })
}

#[test]
fn a_token_names_somebody_and_their_groups() {
    let signer = signer();
    let known = provider().check(&signer.sign(&claims()), &signer.keys, "n").expect("good");
    assert_eq!(known.name.as_str(), "ada");
    assert_eq!(known.groups.iter().map(GroupName::as_str).collect::<Vec<_>>(), ["b", "team-a"]);
    let mut several = claims();
    several["aud"] = json!(["torno", "other"]);
    several["azp"] = json!("torno");
    assert!(provider().check(&signer.sign(&several), &signer.keys, "n").is_ok());
}

#[test]
fn every_claim_counts() {
    let signer = signer();
    for (claim, value) in [
        ("iss", json!("https://id.example.org")),
        ("iss", json!("https://id.example.org/site/")),
        ("iss", Value::Null),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("aud", json!(["torno", "other"])),
        ("aud", Value::Null),
        ("azp", json!("other")),
        ("exp", json!(now() - 120)),
        ("exp", Value::Null),
        ("nbf", json!(now() + 120)),
        ("sub", Value::Null),
        ("nonce", json!("m")),
        ("nonce", json!("")),
        ("nonce", Value::Null),
        ("preferred_username", json!("a b")),
        ("preferred_username", json!(["ada"])),
        ("preferred_username", Value::Null),
    ] {
        let mut bad = claims();
        if value.is_null() {
            bad.as_object_mut().expect("claims").remove(claim);
        } else {
            bad[claim] = value.clone();
        }
        assert!(provider().check(&signer.sign(&bad), &signer.keys, "n").is_err(), "{claim}: {value}");
    }
    assert!(provider().check(&signer.sign(&claims()), &signer.keys, "").is_err(), "no nonce at all");
}

#[test]
fn only_the_providers_signature_counts() {
    let (ours, theirs) = (signer(), signer());
    let good = ours.sign(&claims());
    let check = |token: &str| provider().check(token, &ours.keys, "n");
    assert!(check(&good).is_ok());
    assert!(check(&theirs.sign(&claims())).is_err(), "another key of the same name");
    let parts: Vec<&str> = good.split('.').collect();
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let none = encode(json!({"alg": "none"}));
    // Signed with what is public: the key that checks, taken for a password.
    let secret = EncodingKey::from_secret(&ours.keys);
    let symmetric =
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &secret).expect("a token");
    assert!(matches!(check(&symmetric), Err(IdTokenError::Algorithm(Algorithm::HS256))));
    let mut other = claims();
    other["preferred_username"] = json!("admin");
    for bad in [
        String::new(),
        "a.b.c".into(),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], encode(other), parts[2]),
        format!("{good}{}", "x".repeat(MAX_TOKEN)),
    ] {
        assert!(check(&bad).is_err(), "{bad:.80}");
    }
    for keys in [&b""[..], b"{}", b"{\"keys\": []}", b"[1]"] {
        assert!(provider().check(&good, keys, "n").is_err());
    }
}

#[test]
fn addresses() {
    let issuer: Issuer = "https://id.example.org/site".parse().expect("an issuer");
    assert_eq!(issuer.configuration(), "https://id.example.org/site/.well-known/openid-configuration");
    assert!(issuer.is_at("https://id.example.org/token") && issuer.is_at("https://id.example.org:443/"));
    for elsewhere in [
        "http://id.example.org/token",
        "https://id.example.org:8443/",
        "https://169.254.169.254/",
        "https://x@id.example.org/",
        "file:///",
        "",
    ] {
        assert!(!issuer.is_at(elsewhere), "{elsewhere}");
    }
    for bad in ["", "id.example.org", "http://id.example.org", "https://u:p@x", "https://x?y", "https://x#y"]
    {
        assert_eq!(bad.parse::<Issuer>(), Err(IssuerError), "{bad}");
    }
}
