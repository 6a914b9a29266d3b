//! What must hold of every parser that reads a stranger's bytes, whatever the bytes are. Each function takes bytes
//! and panics when something does not hold of them. `make fuzz` looks for such bytes for a minute each; the tests
//! below try the seeds in `fuzz/seeds/` and what is near them.

#![expect(clippy::missing_panics_doc, reason = "failing is what properties do")]

use std::str;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use torno_auth::{Action, Scope, Secret, Wish};
use torno_oci::{
    Descriptor, Digest, Manifest, ManifestKind, MediaType, Namespace, Reference, RepositoryName, Tag,
    UploadId,
};

use crate::{
    Settings,
    catalog::{MAX_PAGE, Page},
    challenge::Challenge,
    connection::{Client, Peer, Transport},
    credentials::{self, Authorization},
    failure::Failure,
    origin::origin,
    query, range,
    route::{Route, RouteError},
};

/// A property under the name of its fuzz target and of its folder of seeds.
pub type Property = fn(&[u8]);

/// Every property there is.
pub const ALL: [(&str, Property); 8] = [
    ("route", route),
    ("range", wanted_range),
    ("content_range", content_range),
    ("reference", reference),
    ("manifest", manifest),
    ("authorization", authorization),
    ("query", query_string),
    ("scope", scope),
];

/// A method (the first byte chooses) and a path: a route written as a path is that route again, escaped or not, and
/// who is told of other methods is told of ones that work.
pub fn route(data: &[u8]) {
    const METHODS: [Method; 7] = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let Some((first, path)) = data.split_first() else { return };
    let (method, Ok(path)) = (&METHODS[usize::from(*first) % METHODS.len()], str::from_utf8(path)) else {
        return;
    };
    match Route::parse(method, path) {
        Ok(route) => {
            let written = written(&route);
            assert_eq!(Route::parse(method, &written).as_ref(), Ok(&route), "{written}");
            let escape = |byte: u8| if byte == b'/' { "/".to_owned() } else { format!("%{byte:02x}") };
            let (root, rest) = ["/v2/", "/api/"]
                .into_iter()
                .find_map(|root| written.strip_prefix(root).map(|rest| (root, rest)))
                .expect("a root");
            let escaped = format!("{root}{}", rest.bytes().map(escape).collect::<String>());
            assert_eq!(Route::parse(method, &escaped).as_ref(), Ok(&route), "{escaped}");
            assert!(!written.split('/').any(|part| part == ".." || part == "."), "{written}");
        }
        Err(RouteError::Method(allowed)) => {
            for allowed in allowed.split(", ") {
                assert_ne!(allowed, method.as_str());
                let allowed = allowed.parse().expect("a method");
                assert!(
                    !matches!(Route::parse(&allowed, path), Err(RouteError::Method(_))),
                    "{allowed} {path}"
                );
            }
        }
        Err(_) => {}
    }
}

fn written(route: &Route) -> String {
    match route {
        Route::Base => "/v2/".into(),
        Route::Catalog => "/v2/_catalog".into(),
        Route::ReadBlob(name, digest) | Route::DeleteBlob(name, digest) => {
            format!("/v2/{name}/blobs/{digest}")
        }
        Route::ReadManifest(name, reference)
        | Route::PutManifest(name, reference)
        | Route::DeleteManifest(name, reference) => format!("/v2/{name}/manifests/{reference}"),
        Route::BeginUpload(name) => format!("/v2/{name}/blobs/uploads/"),
        Route::PatchUpload(name, id)
        | Route::FinishUpload(name, id)
        | Route::UploadStatus(name, id)
        | Route::CancelUpload(name, id) => format!("/v2/{name}/blobs/uploads/{id}"),
        Route::Tags(name) => format!("/v2/{name}/tags/list"),
        Route::Referrers(name, digest) => format!("/v2/{name}/referrers/{digest}"),
        Route::Whoami => "/api/whoami".into(),
        Route::DryRun(project) => format!("/api/projects/{project}/dry-run"),
        Route::PauseProject(project) => format!("/api/projects/{project}/pause"),
        Route::ResumeProject(project) => format!("/api/projects/{project}/resume"),
        Route::CancelRun(run) => format!("/api/runs/{run}/cancel"),
        Route::RetryRun(run) => format!("/api/runs/{run}/retry"),
        Route::PrioritizeRun(run) => format!("/api/runs/{run}/priority"),
    }
}

fn with(name: HeaderName, value: &[u8]) -> Option<HeaderMap> {
    Some([(name, HeaderValue::from_bytes(value).ok()?)].into_iter().collect())
}

/// A size (the first eight bytes) and a `Range`: what is served lies within the size, and is what a client reads from
/// the `Content-Range` of the answer.
pub fn wanted_range(data: &[u8]) {
    let Some((size, text)) = data.split_first_chunk() else { return };
    let size = u64::from_le_bytes(*size);
    let Some(headers) = with(header::RANGE, text) else { return };
    match range::wanted(&headers, size) {
        Ok(Some(range)) => {
            assert!(range.start < range.end && range.end <= size, "{range:?} of {size}");
            let (first, last) = (range.start, range.end - 1);
            let again = with(header::RANGE, format!("bytes={first}-{last}").as_bytes()).expect("a header");
            assert_eq!(range::wanted(&again, size).expect("a range").as_ref(), Some(&range));
            let told = with(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}").as_bytes());
            assert_eq!(range::brought(&told.expect("a header")).expect("a range"), Some(range));
        }
        Ok(None) => {}
        Err(failure) => assert!(matches!(failure, Failure::Range { size: told } if told == size)),
    }
}

/// A `Content-Range`: either bytes in their order or refused, and the same however it is written.
pub fn content_range(data: &[u8]) {
    let Some(headers) = with(header::CONTENT_RANGE, data) else { return };
    match range::brought(&headers) {
        Ok(range) => {
            let range = range.expect("a header that is there is not passed over");
            assert!(range.start < range.end, "{range:?}");
            for text in [
                format!("{}-{}", range.start, range.end - 1),
                format!("bytes {}-{}/*", range.start, range.end - 1),
            ] {
                let again = with(header::CONTENT_RANGE, text.as_bytes()).expect("a header");
                assert_eq!(range::brought(&again).expect("a range").as_ref(), Some(&range), "{text}");
            }
        }
        Err(failure) => assert!(matches!(failure, Failure::ContentRange)),
    }
}

/// Any name there is: what is taken is taken as it is written, and is safe in a path and in a header.
pub fn reference(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let safe = |taken: &str| {
        assert_eq!(taken, text);
        assert!(taken.bytes().all(|byte| byte.is_ascii_graphic()) && !taken.contains(".."));
    };
    if let Ok(name) = text.parse::<RepositoryName>() {
        safe(name.as_str());
        assert!(!text.starts_with('/') && !text.ends_with('/') && !text.contains("//"));
        let namespace = match name.namespace() {
            Namespace::Run { project, name } => Some(format!("run/{project}/{name}")),
            Namespace::Results { project, name } => Some(format!("results/{project}/{name}")),
            Namespace::Try { project, name } => Some(format!("try/{project}/{name}")),
            Namespace::TryResults { project, name } => Some(format!("try-results/{project}/{name}")),
            Namespace::Sample { dataset } => Some(format!("samples/{dataset}")),
            Namespace::Reserved | Namespace::Plain => None,
        };
        assert!(namespace.is_none_or(|whole| whole == text));
        if let Some(results) = name.results() {
            assert_eq!(results.source(), Some(name));
        }
    }
    let tag = text.parse::<Tag>();
    if let Ok(tag) = &tag {
        assert_eq!(tag.as_str(), text);
        assert!(!text.starts_with(['.', '-']) && !text.contains(['/', ':', '@']));
    }
    let digest = text.parse::<Digest>();
    if let Ok(digest) = &digest {
        safe(digest.as_str());
        assert_eq!(format!("{}:{}", digest.algorithm().name(), digest.hex()), text);
        assert_eq!(digest.hex().len(), Digest::of(digest.algorithm(), b"").hex().len());
    }
    assert!(tag.is_err() || digest.is_err(), "both a tag and a digest");
    match text.parse::<Reference>() {
        Ok(reference) => assert_eq!(reference.to_string(), text),
        Err(_) => assert!(tag.is_err() && digest.is_err()),
    }
    if let Ok(id) = text.parse::<UploadId>() {
        safe(id.as_str());
    }
    if let Ok(kind) = text.parse::<MediaType>() {
        assert_eq!(kind.as_str().parse(), Ok(kind.clone()));
        assert!(text.trim_start().starts_with(kind.as_str()));
    }
}

/// A manifest: it means what any reader of JSON reads in it, written otherwise it means the same, and a key that
/// matters cannot stand there a second time in another spelling.
pub fn manifest(data: &[u8]) {
    let Ok(parsed) = Manifest::parse(None, data) else { return };
    // Numbers and escapes in what nobody looks at may be beyond what a value holds.
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    assert_eq!(Manifest::parse(Some(&parsed.media_type), data).expect("the same bytes"), parsed);
    let again = Manifest::parse(None, value.to_string().as_bytes());
    assert_eq!(again.expect("the same JSON"), parsed);

    assert_eq!(value["schemaVersion"], 2);
    let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
    match &parsed.kind {
        ManifestKind::Image { config, layers } => {
            same(config, &value["config"]);
            assert_eq!(layers.len(), list("layers").len());
            for (layer, value) in layers.iter().zip(&list("layers")) {
                same(layer, value);
            }
        }
        ManifestKind::Index { children } => {
            assert_eq!(children.len(), list("manifests").len());
            for (child, value) in children.iter().zip(&list("manifests")) {
                same(&child.descriptor, value);
                if let Some(platform) = &child.platform {
                    assert_eq!(json!(platform.os), value["platform"]["os"]);
                    assert_eq!(json!(platform.architecture), value["platform"]["architecture"]);
                }
            }
        }
    }
    match &parsed.subject {
        Some(subject) => same(subject, &value["subject"]),
        None => assert!(value["subject"].is_null()),
    }

    for key in ["schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject"] {
        let mut twisted = value.clone();
        twisted[key.to_uppercase()] = Value::Null;
        assert!(Manifest::parse(None, twisted.to_string().as_bytes()).is_err(), "{key}");
    }
}

fn same(descriptor: &Descriptor, value: &Value) {
    assert_eq!(value["digest"], descriptor.digest.as_str());
    assert_eq!(value["size"], descriptor.size);
    let kind = value["mediaType"].as_str().map(str::parse);
    assert_eq!(kind, Some(Ok(descriptor.media_type.clone())));
}

/// An `Authorization`: who is taken for somebody is the same when it is written anew; and the answer to who is not
/// (the bytes are what the client calls this registry, and stand in the message) is a challenge and JSON.
pub fn authorization(data: &[u8]) {
    match credentials::parse(data) {
        Some(Authorization::Basic { user, password }) => {
            assert!(!user.contains(':'));
            let encoded = STANDARD.encode(format!("{user}:{password}"));
            for scheme in ["Basic", "bAsIc"] {
                let Some(Authorization::Basic { user: again, password: too }) =
                    credentials::parse(format!("{scheme} {encoded}").as_bytes())
                else {
                    panic!("a name and a password")
                };
                assert_eq!((&again, &too), (&user, &password));
            }
        }
        Some(Authorization::Bearer(token)) => {
            let Some(Authorization::Bearer(again)) = credentials::parse(format!("bEaReR {token}").as_bytes())
            else {
                panic!("a token")
            };
            assert_eq!(again, token);
        }
        None => {}
    }
    let settings = Settings::named("registry.example.org");
    let client =
        Client::from(Peer { address: [192, 0, 2, 1].into(), transport: Transport::Plain, certified: None });
    let host = HeaderValue::from_bytes(data).ok();
    let realm = origin(&settings, &client, &Uri::from_static("/v2/"), host.as_ref());
    let challenge =
        Challenge::Bearer { realm, service: settings.hostname, scope: "repository:a:pull".into() };
    let host = String::from_utf8_lossy(data);
    let response = Failure::Unauthenticated(host.clone().into_owned()).answer(&host, "0", &challenge);
    assert_eq!(response.status(), 401);
    let challenges: Vec<_> = response.headers().get_all(header::WWW_AUTHENTICATE).iter().collect();
    let [challenge] = challenges[..] else { panic!("{challenges:?}") };
    let (scheme, parameters) = challenge.to_str().expect("ASCII").split_once(' ').expect("parameters");
    assert_eq!(scheme, "Bearer");
    let parameters: Vec<(&str, &str)> =
        parameters.split(',').map(|parameter| parameter.split_once('=').expect("a value")).collect();
    assert_eq!(parameters.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["realm", "service", "scope"]);
    for (_, value) in parameters {
        let inside =
            value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).expect("a quoted string");
        assert!(!inside.contains(['"', '\\']), "{inside}");
    }
    let body = response.into_body().collect().now_or_never().expect("a whole body").expect("no error");
    let body: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    assert!(body["errors"][0]["message"].as_str().expect("a message").contains(&*host));
}

/// A query: written anew it reads the same and is a query still, and the link to a next page leads to that page.
pub fn query_string(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let pairs: Vec<_> = query::pairs(text).collect();
    let written = query::write(pairs.iter().map(|(name, value)| (&**name, &**value)));
    assert_eq!(query::pairs(&written).collect::<Vec<_>>(), pairs, "{written}");
    assert!(
        written.len() > usize::from(u16::MAX / 2) || format!("/?{written}").parse::<Uri>().is_ok(),
        "{written}"
    );
    for (name, _) in &pairs {
        assert_eq!(query::values(text, name).first(), query::value(text, name).as_ref());
    }
    let parse = |text: &str| Page::parse(text, MAX_PAGE);
    let Ok(page) = parse(text) else { return };
    assert!(page.size <= MAX_PAGE);
    // Longer names than any there is make links longer than any header.
    let last: String = page.last.clone().unwrap_or_default().chars().take(200).collect();
    let answer = page.answer("/v2/_catalog", vec![last.clone(); page.size + 1], |names| json!(names));
    let link = answer.headers().get(header::LINK).map(|link| link.to_str().expect("ASCII"));
    assert_eq!(link.is_some(), page.size > 0);
    if let Some(link) = link {
        let url =
            link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).expect("a link");
        assert!(!url.contains(['<', '>', '"']));
        let next = url.parse::<Uri>().expect("a path").query().map(parse).expect("a query");
        let next = next.expect("a page");
        assert_eq!((next.size, next.last), (page.size, Some(last)));
    }
}

/// What a token is asked, or said, to be good for: a wish stays within its bounds and never holds more than the actions
/// there are; a scope that is written anew is the same, and a secret that is none is no other's.
pub fn scope(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut wish = Wish::default();
    wish.add(text);
    assert!(wish.repositories.len() <= Wish::MAX);
    for (name, actions) in &wish.repositories {
        let actions: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
        let mut again = Wish::default();
        again.add(&format!("repository:{name}:{}", actions.join(",")));
        assert_eq!(again.repositories.get(name), wish.repositories.get(name), "{name}");
    }
    if let Ok(scope) = text.parse::<Scope>() {
        assert_eq!(scope.to_string().parse().as_ref(), Ok(&scope));
        for name in wish.repositories.keys() {
            let again: Scope = scope.to_string().parse().expect("it was read before");
            for action in Action::ALL {
                assert_eq!(scope.allows(action, name), again.allows(action, name));
            }
        }
    }
    if let Some(secret) = Secret::parse(text) {
        assert_eq!(secret.expose(), text);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

    use super::*;

    fn fuzz() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
    }

    fn seeds(name: &str) -> Vec<Vec<u8>> {
        let entries = fs::read_dir(fuzz().join("seeds").join(name)).expect("a folder of seeds");
        let seeds: Vec<_> =
            entries.map(|seed| fs::read(seed.expect("an entry").path()).expect("a seed")).collect();
        assert!(!seeds.is_empty(), "{name}");
        seeds
    }

    #[test]
    fn every_property_has_a_fuzz_target_and_holds_of_its_seeds() {
        let targets = fs::read_dir(fuzz().join("fuzz_targets")).expect("targets").count();
        assert_eq!(targets, ALL.len());
        for (name, property) in ALL {
            assert!(fuzz().join("fuzz_targets").join(format!("{name}.rs")).exists(), "{name}");
            for seed in seeds(name) {
                property(&seed);
            }
        }
    }

    /// A seed with some bytes of it replaced by others, of its own or any.
    fn near(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        let any_bytes = prop::collection::vec(any::<u8>(), 0..8);
        let places = (any::<Index>(), any::<Index>(), any::<Index>(), any::<Index>());
        (prop::sample::select(seeds), any_bytes, places, any::<bool>()).prop_map(
            |(mut seed, other, (a, b, c, d), own)| {
                let ends = |one: Index, two: Index, length: usize| {
                    let (one, two) = (one.index(length + 1), two.index(length + 1));
                    one.min(two)..one.max(two)
                };
                let piece = if own { seed[ends(c, d, seed.len())].to_vec() } else { other };
                let at = ends(a, b, seed.len());
                seed.splice(at, piece);
                seed
            },
        )
    }

    #[test]
    fn every_property_holds_near_its_seeds_and_anywhere() {
        for (name, property) in ALL {
            let bytes = prop_oneof![4 => near(seeds(name)), 1 => any::<Vec<u8>>()];
            let run =
                TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })
                    .run(&bytes, |bytes| {
                        property(&bytes);
                        Ok(())
                    });
            run.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// Seeds that are all refused would leave most of a property untried.
    #[test]
    fn seeds_are_taken() {
        let parsed = seeds("manifest").iter().filter(|seed| Manifest::parse(None, seed).is_ok()).count();
        assert!(parsed >= 4, "{parsed}");
        let routed =
            seeds("route").iter().filter(|seed| Route::parse(&Method::GET, path(seed)).is_ok()).count();
        assert!(routed >= 4, "{routed}");
        assert!(seeds("authorization").iter().any(|seed| credentials::parse(seed).is_some()));
    }

    fn path(seed: &[u8]) -> &str {
        str::from_utf8(&seed[1..]).expect("UTF-8")
    }
}
