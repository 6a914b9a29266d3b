//! Tokens, good and bad.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;

const HOST: &str = "registry.example.org";
const LIFETIME: Duration = Duration::from_mins(5);

struct Site {
    folder: tempfile::TempDir,
    tokens: Tokens,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let tokens = Tokens::open(&folder.path().join("token"), HOST).expect("keys");
        Self { folder, tokens }
    }

    fn reopened(&self, service: &str) -> Tokens {
        Tokens::open(&self.folder.path().join("token"), service).expect("keys")
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join("token")).expect("folder");
        entries.map(|entry| entry.expect("entry").path()).collect()
    }
}

fn ada() -> Identity {
    Identity::of("ada".parse().expect("name"))
}

fn access() -> Wish {
    let repositories = [("run/heart/x".parse().expect("name"), [Action::Pull, Action::Push].into())].into();
    Wish { repositories, catalog: false }
}

#[test]
fn a_token_says_who_and_what() {
    let site = Site::new();
    let who = ada()
        .in_groups(["staff".parse().expect("group")].into())
        .proven_by(Proof::Token("0123456789ab".parse().expect("id")))
        .limited_to("pull:run/**".parse().expect("scope"));
    let voucher: Voucher = "00112233445566778899aabbccddeeff".parse().expect("voucher");
    let issued = site.tokens.issue(&who, &access(), Some(&voucher), LIFETIME).expect("issued");
    let name = "run/heart/x".parse().expect("name");
    // Once by its signature and once from memory.
    for _ in 0..2 {
        let bearer = site.tokens.check(&issued.token).expect("good");
        assert_eq!(bearer.identity.name(), who.name());
        assert_eq!(bearer.identity.groups(), who.groups());
        assert_eq!(bearer.identity.proof(), who.proof());
        assert_eq!(bearer.identity.limit(), who.limit());
        assert_eq!(bearer.voucher.as_ref(), Some(&voucher));
        let scope = bearer.identity.access().expect("a scope");
        assert!(scope.allows(Action::Push, &name) && !scope.allows(Action::Delete, &name));
        assert!(!scope.lists());
    }
    assert!(site.reopened(HOST).check(&issued.token).is_ok(), "the key outlives the process");
    assert!(site.reopened("other.example.org").check(&issued.token).is_err(), "it is for one service");
    let listing = Wish { catalog: true, ..Wish::default() };
    let listing = site.tokens.issue(&who, &listing, None, LIFETIME).expect("issued");
    assert!(site.tokens.check(&listing.token).expect("good").identity.access().expect("a scope").lists());
    let anonymous = site.tokens.issue(&Identity::anonymous(), &access(), None, LIFETIME).expect("issued");
    assert_eq!(site.tokens.check(&anonymous.token).expect("good").identity.name(), None);
}

#[test]
fn keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let site = Site::new();
    let mode = |path: &Path| fs::metadata(path).expect("file").permissions().mode() & 0o777;
    assert_eq!(mode(&site.folder.path().join("token")), 0o700);
    let files = site.files();
    assert_eq!(files.len(), 1);
    assert_eq!(mode(&files[0]), 0o600);
}

#[test]
fn tokens_expire() {
    let site = Site::new();
    let issued = site.tokens.issue(&ada(), &access(), None, Duration::ZERO).expect("issued");
    assert!(site.tokens.check(&issued.token).is_err());
    let day = site.tokens.issue(&ada(), &access(), None, Duration::from_hours(24)).expect("issued");
    assert_eq!(day.lifetime, MAX_LIFETIME, "none is good for longer");
}

#[test]
fn forged_tokens_are_known() {
    let site = Site::new();
    let other = Site::new();
    let good = site.tokens.issue(&ada(), &access(), None, LIFETIME).expect("issued").token;
    let foreign = other.tokens.issue(&ada(), &access(), None, LIFETIME).expect("issued").token;
    let parts: Vec<&str> = good.split('.').collect();
    let json = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).expect("base64")).expect("text");
    let root = json(&payload.replace("\"ada\"", "\"root\""));
    let kid = jsonwebtoken::decode_header(&good).expect("header").kid.expect("kid");
    let none = json(r#"{"alg":"none","typ":"JWT"}"#);
    let none_with_key = json(&format!(r#"{{"alg":"none","typ":"JWT","kid":"{kid}"}}"#));
    // The public key is known to whoever asks long enough: it must be no secret for a keyed hash.
    let hmac = Header { kid: Some(kid.clone()), ..Header::new(Algorithm::HS256) };
    let public = Key::of(&fs::read(&site.files()[0]).expect("key"), UNIX_EPOCH).expect("key");
    let public = Sha256::digest(public.id.as_bytes());
    let claims: serde_json::Value = serde_json::from_str(&payload).expect("JSON");
    let confused = jsonwebtoken::encode(&hmac, &claims, &EncodingKey::from_secret(&public)).expect("signed");
    for bad in [
        foreign,
        format!("{}.{root}.{}", parts[0], parts[2]),
        format!("{none}.{}.", parts[1]),
        format!("{none_with_key}.{root}."),
        format!("{}.{}", parts[0], parts[1]),
        confused,
        String::new(),
        "a.b.c".into(),
        "x".repeat(MAX_TOKEN_LENGTH + 1),
    ] {
        assert!(site.tokens.check(&bad).is_err(), "{bad}");
    }
    assert!(site.tokens.check(&good).is_ok());
}

#[test]
fn keys_follow_each_other_and_overlap() {
    let site = Site::new();
    let now = SystemTime::now();
    let old = site.tokens.issue(&ada(), &access(), None, LIFETIME).expect("issued").token;
    site.tokens.rotate(now).expect("rotated");
    assert_eq!(site.files().len(), 1, "not yet");
    let later = now + SIGNS;
    site.tokens.rotate(later).expect("rotated");
    assert_eq!(site.files().len(), 2);
    assert!(site.tokens.check(&old).is_ok(), "the older key is still trusted");
    let new = site.tokens.issue(&ada(), &access(), None, LIFETIME).expect("issued").token;
    let kid = |token: &str| jsonwebtoken::decode_header(token).expect("header").kid;
    assert_ne!(kid(&old), kid(&new), "and the new one signs");
    site.tokens.rotate(later + TRUSTED + Duration::from_secs(1)).expect("rotated");
    assert_eq!(site.files().len(), 1);
    assert!(site.tokens.check(&old).is_err(), "the older key is gone");
    assert!(site.tokens.check(&new).is_ok());
}

#[test]
fn a_key_that_is_removed_is_trusted_no_longer() {
    let site = Site::new();
    let token = site.tokens.issue(&ada(), &access(), None, LIFETIME).expect("issued").token;
    assert!(site.tokens.check(&token).is_ok());
    fs::remove_file(&site.files()[0]).expect("removed");
    site.tokens.rotate(SystemTime::now()).expect("rotated");
    assert!(site.tokens.check(&token).is_err());
}

#[test]
fn a_key_that_is_removed_while_tokens_are_checked_is_trusted_no_longer() {
    let site = Site::new();
    for round in 0..20 {
        let issue = |_| site.tokens.issue(&ada(), &access(), None, LIFETIME).expect("issued").token;
        let tokens: Vec<String> = (0..200).map(issue).collect();
        fs::remove_file(&site.files()[0]).expect("removed");
        std::thread::scope(|scope| {
            // It is in the middle of one of them when the keys change.
            let checks = scope.spawn(|| while tokens.iter().all(|token| site.tokens.check(token).is_ok()) {});
            site.tokens.rotate(SystemTime::now()).expect("rotated");
            checks.join().expect("checked");
        });
        let good = tokens.iter().filter(|token| site.tokens.check(token).is_ok()).count();
        assert_eq!(good, 0, "round {round}");
    }
}

#[test]
fn what_ends_too_late_is_good_at_no_time() {
    let site = Site::new();
    // Given out while the clock was wrong.
    let ends_in = |time: Duration| {
        let now = seconds(SystemTime::now());
        let claims = Claims {
            iss: HOST.into(),
            sub: "ada".into(),
            aud: HOST.into(),
            exp: now + time.as_secs(),
            nbf: now,
            iat: now,
            jti: String::new(),
            access: Vec::new(),
            grp: BTreeSet::new(),
            tok: None,
            lim: None,
            vch: None,
        };
        let made = made_at(&site.files()[0]).expect("a key");
        let key = Key::of(&fs::read(&site.files()[0]).expect("read"), made).expect("a key");
        let header = Header { kid: Some(key.id), ..Header::new(Algorithm::EdDSA) };
        let token = jsonwebtoken::encode(&header, &claims, &key.sign).expect("signed");
        site.tokens.check(&token)
    };
    assert!(ends_in(MAX_LIFETIME).is_ok(), "at the limit");
    // A second may begin meanwhile.
    assert!(ends_in(MAX_LIFETIME + Duration::from_secs(30)).is_err(), "past it");
    assert!(ends_in(Duration::from_hours(24 * 365)).is_err());
}

#[test]
fn what_is_given_out_is_taken_up_to_the_limit() {
    let site = Site::new();
    // Some 300 bytes each, and then one byte more at a time.
    let name = |number: usize, length: usize| format!("{number:03}{}", "x".repeat(length)).parse();
    let with = |length: usize| {
        let names =
            (0..44).map(|number| name(number, 200)).chain((44..50).map(|number| name(number, length)));
        let repositories = names.map(|name| (name.expect("name"), [Action::Pull].into())).collect();
        site.tokens.issue(&ada(), &Wish { repositories, catalog: false }, None, LIFETIME)
    };
    let mut longest = 0;
    let past = (1..200).find_map(|length| match with(length) {
        Ok(issued) => {
            assert!(site.tokens.check(&issued.token).is_ok(), "{} bytes", issued.token.len());
            longest = issued.token.len();
            None
        }
        Err(IssueError::TooLong(past)) => Some(past),
        Err(IssueError::Key(error)) => panic!("{error}"),
    });
    // Six names grow by a byte each, which are eight in Base64.
    assert!(longest > MAX_TOKEN_LENGTH - 8 && longest <= MAX_TOKEN_LENGTH, "{longest}");
    assert!(past.is_some_and(|past| past > MAX_TOKEN_LENGTH && past <= longest + 8), "{past:?}");
}
