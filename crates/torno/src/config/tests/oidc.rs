//! `[auth.oidc]`, good and bad.

use super::*;

const LEAST: &str = "[auth.oidc]\nissuer = \"https://id.example.org/site\"\nclient_id = \"torno\"\n\
    client_secret_file = \"secret\"\n";

fn with_secret(text: &str) -> Site {
    let site = Site::new();
    fs::write(site.path("secret"), text).expect("write");
    site
}

#[test]
fn the_least_there_can_be() {
    let config = with_secret("very secret\n").good(LEAST);
    assert!(config.warnings.iter().all(|warning| warning.contains("chmod 600")), "{:?}", config.warnings);
    assert!(!format!("{config:?}").contains("very secret"));
    let provider = config.auth.provider.expect("a provider");
    assert_eq!(provider.issuer.as_str(), "https://id.example.org/site");
    assert_eq!(provider.scopes, ["openid", "profile"]);
    assert_eq!(
        (provider.name_claim.as_str(), provider.groups_claim.as_str()),
        ("preferred_username", "groups")
    );
    assert_eq!(provider.token_lifetime, Duration::from_hours(30 * 24));
    let text = format!("{LEAST}scopes = [\"groups\"]");
    let config = with_secret("s").good(&text);
    assert_eq!(config.auth.provider.expect("a provider").scopes, ["openid", "groups"]);
    assert!(config.warnings.iter().any(|warning| warning.contains("openid")), "{:?}", config.warnings);
}

#[test]
fn what_is_wrong_is_named() {
    let site = with_secret("very secret");
    for (text, place, words) in [
        (LEAST.replace("https", "http"), "issuer", "not the address of a provider"),
        (LEAST.replace("issuer", "#"), "issuer", "say which provider"),
        (LEAST.replace("client_id", "#"), "client_id", "what Torno is called"),
        (LEAST.replace("client_secret_file", "#"), "client_secret_file", "in which file"),
        (LEAST.replace("\"secret\"", "\"nowhere\""), "client_secret_file", "nowhere: No such file"),
        (format!("{LEAST}client_secret = \"very secret\""), "client_secret", "did you mean"),
        (format!("{LEAST}ca = \"secret\""), "ca", "holds no certificate"),
        (format!("{LEAST}name_claim = \"\""), "name_claim", "visible"),
        (format!("{LEAST}token_lifetime = \"1h\""), "token_lifetime", "1day"),
    ] {
        let errors = site.errors(&text, &Environment::default());
        let [error] = &errors[..] else { panic!("{text}\n{errors:?}") };
        assert!(
            error.starts_with(&format!("auth.oidc.{place}: ")) && error.contains(words),
            "{text}\n{error}"
        );
        assert!(!error.contains("very secret"), "{error}");
    }
    let empty = with_secret("\n").errors(LEAST, &Environment::default());
    assert!(empty[0].contains("is empty"), "{empty:?}");
    let both = format!("[auth.ldap]\nurl = \"ldaps://x\"\nuser_base = \"dc=x\"\n{LEAST}");
    let errors = site.errors(&both, &Environment::default());
    assert!(errors[0].starts_with("auth.oidc: ") && errors[0].contains("keep one"), "{errors:?}");
}

#[test]
fn every_key_is_documented() {
    let errors = with_secret("s").errors(&format!("{LEAST}x = 1"), &Environment::default());
    assert_documented(&errors[0]);
}
