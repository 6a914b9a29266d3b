//! The distribution specification, requirement by requirement, asked of a running Torno over HTTP: version 1.1 and,
//! where Torno offers it, the draft of 1.2 (several tags at once, `digest-algorithm`, `n=0`).
//!
//! Every module has one test, with a server of its own that ends with it. The test goes through a table of
//! requirements, each a function and a repository of its own, prints their names, and fails with the names of all
//! that do not hold. The doc comment of a requirement says where it stands and what it asks.

use std::{
    any::Any,
    fmt::Write as _,
    panic::{self, AssertUnwindSafe},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};
use torno_tests::{Answer, Http, Image, OCI_IMAGE, OCI_INDEX, Site, layer, sha256};

/// Goes through requirements, section by section: `requirements! { "<section>" => [<function>, …], … }`, perhaps with
/// `configured [("<TORNO_ variable>", "<value>"), …];` before them.
macro_rules! requirements {
    ($(configured [$($setting:expr),+ $(,)?];)? $($section:literal => [$($check:ident),+ $(,)?]),+ $(,)?) => {
        $crate::conform(&[$($($setting),+)?], &[$($($crate::Requirement {
            section: $section,
            name: stringify!($check),
            check: $check,
        }),+),+])
    };
}

mod catalog;
mod condition;
mod configured;
mod discover;
mod errors;
mod manage;
mod pull;
mod push_blob;
mod push_manifest;

/// The media type of a blob on its way in.
const BYTES: (&str, &str) = ("content-type", "application/octet-stream");

/// The media type of the empty descriptor (image-spec, Manifest: Guidance for an Empty Descriptor).
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// One thing that the specification asks for.
struct Requirement {
    section: &'static str,
    name: &'static str,
    check: fn(&Case<'_>),
}

/// What a requirement is asked with.
struct Case<'a> {
    site: &'a Site,
    /// Who asks.
    ada: Http,
    /// A repository name that no other requirement uses.
    repository: String,
}

/// Asks each requirement and fails with all that do not hold.
fn conform(settings: &[(&str, &str)], requirements: &[Requirement]) {
    let site = settings.iter().fold(Site::new(""), |site, (variable, value)| site.with(variable, value));
    let mut site = site;
    site.add_users(&["ada", "bob"]);
    site.start();
    let mut failed = String::new();
    for Requirement { section, name, check } in requirements {
        let case = Case { site: &site, ada: site.http("ada"), repository: format!("conformance/{name}") };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| check(&case)));
        println!("{section}: {name} {}", if outcome.is_ok() { "holds" } else { "FAILS" });
        if let Err(cause) = outcome {
            let _ = write!(failed, "\n{section}: {name}: {}", words(cause.as_ref()));
        }
    }
    assert!(failed.is_empty(), "of {} requirements, these do not hold:{failed}", requirements.len());
}

fn words(cause: &(dyn Any + Send)) -> &str {
    let owned = cause.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

impl Case<'_> {
    /// A path below the repository.
    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// Another repository name of this requirement's own.
    fn beside(&self) -> String {
        format!("{}/beside", self.repository)
    }

    /// Bytes that no other requirement pushes.
    fn bytes(&self, seed: &str) -> Vec<u8> {
        layer(&format!("{seed} {}", self.repository))
    }

    fn get(&self, rest: &str) -> Answer {
        self.ada.get(&self.path(rest))
    }

    fn head(&self, rest: &str) -> Answer {
        self.ada.head(&self.path(rest))
    }

    fn delete(&self, rest: &str) -> Answer {
        self.ada.delete(&self.path(rest))
    }

    /// `POST` to where upload sessions begin, with a query or none.
    fn post(&self, query: &str) -> Answer {
        self.ada.post(&self.path(&format!("blobs/uploads/{query}")))
    }

    /// Begins an upload session; its location.
    #[track_caller]
    fn begin(&self) -> String {
        location(self.post("").expect(202))
    }

    /// `PATCH` with a `Content-Range`.
    fn chunk(&self, location: &str, range: &str, bytes: &[u8]) -> Answer {
        self.ada.send("PATCH", location, &[BYTES, ("content-range", range)], bytes)
    }

    /// `PUT` that closes an upload session.
    fn close(&self, location: &str, digest: &str, bytes: &[u8]) -> Answer {
        self.ada.send("PUT", &closing(location, digest), &[BYTES], bytes)
    }

    /// Fails unless the blob can be pulled from the repository.
    #[track_caller]
    fn assert_blob(&self, digest: &str, bytes: &[u8]) {
        let pulled = self.get(&format!("blobs/{digest}"));
        assert!(pulled.expect(200).body == bytes, "other bytes came back");
    }

    /// Pushes an image of this requirement's own under a tag or its digest.
    #[track_caller]
    fn image(&self, seed: &str, tag: &str) -> Image {
        let image = Image::new(&self.bytes(seed));
        image.push(&self.ada, &self.repository, tag).expect(201);
        image
    }

    fn put(&self, reference: &str, media_type: &str, bytes: &[u8]) -> Answer {
        self.ada.push_manifest(&self.repository, reference, media_type, bytes)
    }

    /// Pushes a manifest of JSON by its digest; that digest and the answer.
    fn put_json(&self, manifest: &Value) -> (String, Answer) {
        let bytes = manifest.to_string().into_bytes();
        let digest = sha256(&bytes);
        let media_type = manifest["mediaType"].as_str().expect("a mediaType");
        let answer = self.put(&digest, media_type, &bytes);
        (digest, answer)
    }

    /// An image manifest with the empty config, which is pushed, and no layers.
    fn artifact(&self) -> Value {
        self.ada.push_blob(&self.repository, b"{}");
        json!({"schemaVersion": 2, "mediaType": OCI_IMAGE, "config": descriptor(EMPTY, b"{}"), "layers": []})
    }
}

/// The warnings of an answer, each in the form of the specification (Warnings); their texts.
#[track_caller]
fn warnings(answer: &Answer) -> Vec<String> {
    let values = answer.headers.get_all("warning").iter().map(|value| value.to_str().expect("ASCII"));
    let values: Vec<&str> = values.collect();
    assert!(values.iter().map(|value| value.len()).sum::<usize>() <= 4096);
    let text = |value: &&str| {
        value.strip_prefix("299 - \"").and_then(|text| text.strip_suffix('"')).map(str::to_owned)
    };
    values.iter().map(|value| text(value).unwrap_or_else(|| panic!("{value}"))).collect()
}

/// A descriptor by SHA-256.
fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

/// An index without manifests.
fn empty_index() -> Value {
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
}

/// A JSON object with one more field, or another value of it.
fn with(value: &Value, field: &str, new: &Value) -> Value {
    let mut value = value.clone();
    value[field] = new.clone();
    value
}

/// `sha512:<hex>` of some bytes.
fn sha512(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().fold("sha512:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The `Location` of an answer: absolute, or a path on this registry.
#[track_caller]
fn location(answer: &Answer) -> String {
    let location = answer.header("location");
    assert!(location.starts_with('/') || location.starts_with("http://"), "{location}");
    location
}

/// A session's location with the digest added to whatever query it has.
fn closing(location: &str, digest: &str) -> String {
    let sign = if location.contains('?') { '&' } else { '?' };
    format!("{location}{sign}digest={digest}")
}
