//! `[auth.oidc]`: people who log in with a browser, at an identity provider.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use torno_auth::{Authorities, ProviderSettings, ServicePassword};

use super::{
    A_PATH, ldap, limits,
    reader::{Environment, Item, TableReader},
    value,
};

/// What is asked of the provider when the file does not say: who somebody is, and their name.
const SCOPES: [&str; 2] = ["openid", "profile"];

/// The claims with somebody's name and groups when the file does not say.
const NAME_CLAIM: &str = "preferred_username";
const GROUPS_CLAIM: &str = "groups";

/// Shorter, and people would log in several times a day; longer, and who has left stays.
const TOKEN_LIFETIME: RangeInclusive<Duration> = Duration::from_hours(24)..=Duration::from_hours(365 * 24);

/// The same when the file does not say.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_hours(30 * 24);

/// Reads the table. `files` is told which files it names.
pub(super) fn read(
    mut table: TableReader<'_>,
    base: &Path,
    environment: &Environment,
    variables: &mut Vec<String>,
    files: &mut Vec<(&'static str, PathBuf)>,
) -> Option<ProviderSettings> {
    let mut require = |key, words: &str| {
        let item = table.take_or_variable(key, environment);
        if item.is_none() {
            table.miss(key, words);
        }
        item
    };
    let issuer = require("issuer", "say which provider: issuer = \"https://id.example.org/realms/site\"");
    let client = require("client_id", "say what Torno is called there: client_id = \"torno\"");
    let secret = require("client_secret_file", "say in which file the secret of `client_id` is");
    let issuer = issuer.and_then(|item| item.parse("an address in quotes", str::parse));
    let client = client.and_then(|item| item.parse("a text in quotes", visible));
    let path = |item: &Item<'_>| item.parse(A_PATH, |text| value::path(text, base));
    let secret = secret.and_then(|item| {
        let path = path(&item)?;
        files.push(("secret for the identity provider", path.clone()));
        let secret = ServicePassword::new(&ldap::secret_file(&item, &path)?);
        if secret.is_none() {
            item.refuse(format_args!("{} is empty; write the secret of `client_id` into it", path.display()));
        }
        secret
    });
    let authorities = match table.take_or_variable("ca", environment) {
        None => Some(Authorities::of_this_machine()),
        Some(item) => path(&item).and_then(|path| {
            let read = Authorities::read(&path);
            read.map_err(|error| item.refuse(format_args!("{}: {error}", path.display()))).ok()
        }),
    };
    let scopes = table.take("scopes").map_or_else(|| SCOPES.map(str::to_owned).to_vec(), scopes);
    let mut claim = |key, default: &str| {
        let item = table.take_or_variable(key, environment);
        item.and_then(|item| item.parse("the name of a claim in quotes", visible))
            .unwrap_or_else(|| default.into())
    };
    let (name_claim, groups_claim) = (claim("name_claim", NAME_CLAIM), claim("groups_claim", GROUPS_CLAIM));
    let token_lifetime = table
        .take_or_variable("token_lifetime", environment)
        .and_then(|item| limits::time_within(&item, &TOKEN_LIFETIME))
        .unwrap_or(DEFAULT_TOKEN_LIFETIME);
    variables.extend(table.finish());
    Some(ProviderSettings {
        issuer: issuer?,
        client: client?,
        secret: secret?,
        scopes,
        name_claim,
        groups_claim,
        authorities: authorities?,
        token_lifetime,
    })
}

/// With `openid` among them, without which a provider says nothing of who somebody is.
fn scopes(item: Item<'_>) -> Vec<String> {
    let warn = item.warning();
    let scope = |item: Item<'_>| item.parse("a scope in quotes", visible);
    let mut scopes: Vec<String> = item
        .into_list("a list of scopes, such as [\"openid\", \"profile\"]")
        .into_iter()
        .filter_map(scope)
        .collect();
    if !scopes.iter().any(|scope| scope == "openid") {
        warn("\"openid\" is asked for as well");
        scopes.insert(0, "openid".into());
    }
    scopes
}

fn visible(text: &str) -> Result<String, &'static str> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("write visible characters, without spaces") }
}
