//! People who log in with a browser at an identity provider, from outside.

use std::net::TcpListener;

use serde_json::{Value, json};
use torno_tests::{Answer, IdentityProvider, Image, NO_ENGINE, Site, layer, wait_until};

const PROJECTS: &str = "[projects.heart]\nresearchers = [\"@heart-team\"]\ncustodians = [\"cora\"]\n";

fn site(provider: &IdentityProvider) -> Site {
    let extra = format!("{}{PROJECTS}", provider.table());
    let mut site = Site::new(&extra).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    let file = site.path("torno.toml");
    let text = std::fs::read_to_string(&file).expect("torno.toml");
    std::fs::write(&file, text.replace("robots = []", "robots = [\"ci\"]")).expect("write");
    site.add_users(&["admin", "cora"]);
    site.start();
    site
}

fn ada() -> Value {
    json!({"preferred_username": "ada", "groups": ["/heart-team", "Staff <b>"]})
}

/// Somebody opens the page, logs in at the provider and comes back; the page they see.
fn log_in(
    site: &Site,
    provider: &IdentityProvider,
    claims: &Value,
    change: impl FnOnce(&mut Value),
) -> Answer {
    let sent = site.anonymous().get("/login");
    sent.expect(303);
    let back = provider.log_in(&sent, claims, change);
    assert!(back.starts_with(&format!("http://{}/login/callback?", site.host())), "{back}");
    site.anonymous().get(&back)
}

fn text(page: &Answer) -> String {
    String::from_utf8(page.body.clone()).expect("UTF-8")
}

/// The token on a page.
fn token(page: &Answer) -> Option<String> {
    let text = text(page);
    let start = text.find("torno_")?;
    let token = text[start..].split('<').next()?;
    Some(token.to_owned())
}

#[test]
fn somebody_comes_back_with_a_token_and_their_groups() {
    let provider = IdentityProvider::start();
    let mut site = site(&provider);
    let page = log_in(&site, &provider, &ada(), |_| {});
    page.expect(200);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        page.expect_header(name, value);
    }
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    assert!(page.headers.get("set-cookie").is_none());
    let shown = text(&page);
    assert!(shown.contains(&format!("docker login -u ada {}", site.host())), "{shown}");
    let token = token(&page).expect("a token");
    let http = site.http_with("ada", &token);
    Image::new(&layer("oidc")).push(&http, "run/heart/x", "v").expect(201);
    let named = http.get("/api/whoami").expect(200).json();
    assert_eq!((&named["name"], &named["groups"]), (&json!("ada"), &json!(["heart-team"])));
    site.http_with("bob", &token).get("/v2/").expect_error(401, "UNAUTHORIZED");
    assert!(!site.log().contains(&token) && !site.log().contains("secret%with"));
    let listed = site.torno_ok(&["token", "list", "--user", "ada"]);
    assert!(listed.contains("login by browser"), "{listed}");
    log_in(&site, &provider, &json!({"preferred_username": "admin"}), |_| {}).expect(403);
    for (user, event) in [("ada", "login"), ("ada", "token_issued"), ("admin", "login_failed")] {
        wait_until(event, || {
            let recorded = site.torno_ok(&["audit", "show", "--event", event, "--json"]);
            let named = |line: &str| line.contains("provider") && line.contains(&format!("\"{user}\""));
            recorded.lines().any(named).then_some(())
        });
    }
    // Somebody of the password file who has the name afterwards is somebody else; and so is a site without a provider.
    site.add_users(&["ada"]);
    http.get("/v2/").expect_error(401, "UNAUTHORIZED");
    site.torno_ok(&["user", "remove", "ada"]);
    http.get("/v2/").expect(200);
    let file = site.path("torno.toml");
    let config = std::fs::read_to_string(&file).expect("torno.toml");
    std::fs::write(&file, config.replace(&provider.table(), "").replace("\"@heart-team\"", ""))
        .expect("write");
    site.stop();
    site.start();
    http.get("/v2/").expect_error(401, "UNAUTHORIZED");
    site.anonymous().get("/login").expect(404);
}

#[test]
fn what_is_wrong_with_an_id_token_lets_nobody_in() {
    let provider = IdentityProvider::start();
    let site = site(&provider);
    for (what, part, value) in [
        ("another nonce", "/nonce", json!("another")),
        ("no nonce", "/nonce", Value::Null),
        ("another audience", "/claims/aud", json!("other")),
        ("another issuer", "/claims/iss", json!("https://id.example.org/site")),
        ("expired", "/claims/exp", json!(1_700_000_000)),
        ("another key", "/key", json!("other.key")),
        ("no signature", "/algorithm", json!("none")),
        ("another algorithm", "/algorithm", json!("HS256")),
        ("another verifier", "/code_challenge", json!("x")),
        ("another address", "/redirect_uri", json!("https://elsewhere.example.org/")),
    ] {
        let page = log_in(&site, &provider, &ada(), |login| {
            let (at, name) = part.rsplit_once('/').expect("a part");
            login.pointer_mut(at).expect("an object")[name] = value;
        });
        assert!(page.status == 403 && token(&page).is_none(), "{what}: {} {}", page.status, text(&page));
    }
    assert_eq!(site.torno_ok(&["token", "list"]).lines().count(), 1);
    log_in(&site, &provider, &ada(), |_| {}).expect(200);
}

#[test]
fn a_login_is_finished_once_and_by_who_began_it() {
    let provider = IdentityProvider::start();
    let site = site(&provider);
    let sent = site.anonymous().get("/login");
    let back = provider.log_in(sent.expect(303), &ada(), |_| {});
    site.anonymous().get(&back).expect(200);
    site.anonymous().get(&back).expect(400);
    // A code that is good, with another login: that one has another verifier.
    let back = provider.log_in(&site.anonymous().get("/login"), &ada(), |_| {});
    let code = back.split("code=").nth(1).and_then(|rest| rest.split('&').next()).expect("a code");
    let other = site.anonymous().get("/login");
    let state = other
        .header("location")
        .split("state=")
        .nth(1)
        .expect("a state")
        .split('&')
        .next()
        .expect("it")
        .to_owned();
    site.anonymous().get(&format!("/login/callback?code={code}&state={state}")).expect(403);
    for query in ["", "?code=x", "?state=x&code=x", "?error=access_denied&state=%3Cscript%3E", "?state="] {
        let page = site.anonymous().get(&format!("/login/callback{query}"));
        page.expect(400);
        assert!(!text(&page).contains("<script"), "{}", text(&page));
    }
    site.anonymous().post("/login").expect(405);
    site.anonymous().post("/login/callback").expect(405);
    assert_eq!(site.torno_ok(&["token", "list"]).lines().count(), 2, "one token and the head");
}

#[test]
fn nobody_takes_a_name_that_is_somebody_elses() {
    let provider = IdentityProvider::start();
    let site = site(&provider);
    for (name, words) in [
        (json!("admin"), "belongs to somebody else"),
        (json!("cora"), "belongs to somebody else"),
        (json!("ci"), "belongs to somebody else"),
        (json!("<script>alert(1)</script>"), "no user name"),
        (json!("a b"), "no user name"),
        (json!(""), "no user name"),
        (Value::Null, "does not say who you are"),
        (json!(7), "does not say who you are"),
    ] {
        let page = log_in(&site, &provider, &json!({"preferred_username": name}), |_| {});
        page.expect(403);
        let shown = text(&page);
        assert!(shown.contains(words) && !shown.contains("<script"), "{name}: {shown}");
        assert!(token(&page).is_none(), "{shown}");
    }
    assert_eq!(site.torno_ok(&["token", "list"]).lines().count(), 1);
}

#[test]
fn only_the_providers_own_host_is_spoken_to() {
    let provider = IdentityProvider::start();
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("https://{}", trap.local_addr().expect("an address"));
    for lie in [
        json!({"token_endpoint": format!("{address}/token")}),
        json!({"jwks_uri": format!("{address}/keys")}),
        json!({"jwks_uri": provider.base().replace("https", "http")}),
        json!({"authorization_endpoint": format!("{address}/authorize")}),
        json!({"issuer": provider.base()}),
        json!({"redirect": format!("{address}/")}),
        json!({"token_endpoint": 7}),
    ] {
        provider.say(&lie);
        let site = site(&provider);
        let page = site.anonymous().get("/login");
        assert_eq!(page.status, 503, "{lie}: {}", text(&page));
        assert!(!text(&page).contains("127.0.0.1"), "{}", text(&page));
        site.http("admin").get("/v2/").expect(200);
    }
    trap.set_nonblocking(true).expect("a socket");
    assert!(trap.accept().is_err(), "somebody came");
}

#[test]
fn a_provider_that_is_down_is_told_and_asked_again() {
    let mut provider = IdentityProvider::start();
    let site = site(&provider);
    let page = log_in(&site, &provider, &ada(), |_| {});
    let token = token(&page).expect("a token");
    let sent = site.anonymous().get("/login");
    let back = provider.log_in(&sent, &ada(), |_| {});
    provider.stop();
    let page = site.anonymous().get(&back);
    page.expect(503);
    assert!(text(&page).contains("try again in a minute"), "{}", text(&page));
    // Who has a token needs no provider, nor does the password file.
    site.http_with("ada", &token).get("/v2/").expect(200);
    site.http("admin").get("/v2/").expect(200);
    provider.resume();
    wait_until("it is asked again", || {
        (log_in(&site, &provider, &ada(), |_| {}).status == 200).then_some(())
    });
}
