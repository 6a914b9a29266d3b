//! What is signed: which result came from which image and which data (in-toto attestation: Statement v1; SLSA:
//! Provenance v1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use torno_oci::{Digest, media_types};

/// The form of the statement.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// What it speaks of.
pub(crate) const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// What was done: an image ran on data. It says what `externalParameters` means.
const BUILD: &str = "urn:torno:run:v1";
/// What the name of a dataset begins with.
const DATASET: &str = "dataset:";
/// What the dependency is called that ran.
const IMAGE: &str = "image";

/// A statement (in-toto attestation: Statement v1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Resource>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

/// Something that is known by its digest (in-toto attestation: `ResourceDescriptor`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resource {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uri: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    digest: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: Definition,
    run_details: Details,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    build_type: String,
    external_parameters: External,
    internal_parameters: Value,
    resolved_dependencies: Vec<Resource>,
}

/// What people chose: whoever pushed the image, and whoever wrote the project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct External {
    /// `run/<project>/<name>:<tag>`.
    pub reference: String,
    /// The image manifest that was pushed there.
    pub image: String,
    /// The project.
    pub project: String,
    /// Who pushed.
    pub owner: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Details {
    builder: Builder,
    metadata: Metadata,
    byproducts: Vec<Resource>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Builder {
    id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    invocation_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    started_on: Option<String>,
    finished_on: String,
}

/// What a statement is made of.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    /// `results/<project>/<name>:run-<n>`, for people.
    pub name: String,
    /// The manifest that was published.
    pub result: &'a Digest,
    /// What was chosen.
    pub external: External,
    /// What the image's manifest is.
    pub image_type: &'a str,
    /// The image.
    pub image: &'a Digest,
    /// What it was given, in JSON.
    pub plan: Value,
    /// The data it saw, with fingerprints where they are known.
    pub datasets: Vec<(&'a str, Option<&'a Digest>)>,
    /// Which Torno ran it.
    pub instance: &'a str,
    /// The run's number.
    pub run: u64,
    /// When it started and ended.
    pub times: (Option<String>, String),
    /// How it ended, in one word.
    pub outcome: String,
    /// What is in the result, each part by its title.
    pub parts: Vec<(&'a str, &'a Digest)>,
}

impl Statement {
    pub(crate) fn new(made: Made<'_>) -> Self {
        let (started_on, finished_on) = made.times;
        let image = Resource {
            name: IMAGE.to_owned(),
            digest: digest_set(made.image),
            media_type: made.image_type.to_owned(),
            ..Resource::default()
        };
        let datasets = made.datasets.into_iter().map(|(name, digest)| Resource {
            name: format!("{DATASET}{name}"),
            // Something must say which; without a fingerprint it is the name alone.
            uri: format!("urn:torno:dataset:{name}"),
            digest: digest.map(digest_set).unwrap_or_default(),
            ..Resource::default()
        });
        let parts = made.parts.into_iter().map(|(name, digest)| Resource {
            name: name.to_owned(),
            digest: digest_set(digest),
            media_type: media_types::OCI_LAYER_GZIP.to_owned(),
            ..Resource::default()
        });
        Self {
            kind: STATEMENT.to_owned(),
            subject: vec![Resource {
                name: made.name,
                digest: digest_set(made.result),
                ..Resource::default()
            }],
            predicate_type: PREDICATE.to_owned(),
            predicate: Predicate {
                build_definition: Definition {
                    build_type: BUILD.to_owned(),
                    external_parameters: made.external,
                    internal_parameters: json!({"plan": made.plan, "outcome": made.outcome}),
                    resolved_dependencies: std::iter::once(image).chain(datasets).collect(),
                },
                run_details: Details {
                    builder: Builder { id: format!("urn:torno:instance:{}", made.instance) },
                    metadata: Metadata {
                        invocation_id: format!("urn:torno:instance:{}:run:{}", made.instance, made.run),
                        started_on,
                        finished_on,
                    },
                    byproducts: parts.collect(),
                },
            },
        }
    }

    /// From its JSON; `None` when it speaks of something else.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let statement: Self = serde_json::from_slice(bytes).ok()?;
        let known = statement.kind == STATEMENT
            && statement.predicate_type == PREDICATE
            && statement.predicate.build_definition.build_type == BUILD;
        known.then_some(statement)
    }

    /// Whether it speaks of a manifest.
    pub(crate) fn is_about(&self, manifest: &Digest) -> bool {
        self.subject.iter().any(|subject| subject.digest == digest_set(manifest))
    }

    /// Which run it was: the last part of its name.
    pub(crate) fn run(&self) -> &str {
        let id = self.predicate.run_details.metadata.invocation_id.as_str();
        id.rsplit_once(':').map_or(id, |(_, run)| run)
    }

    pub(crate) fn external(&self) -> &External {
        &self.predicate.build_definition.external_parameters
    }

    /// The names of the datasets, with their fingerprints.
    pub(crate) fn datasets(&self) -> impl Iterator<Item = (&str, Option<String>)> {
        let dependencies = self.predicate.build_definition.resolved_dependencies.iter();
        dependencies.filter_map(|resource| {
            let name = resource.name.strip_prefix(DATASET)?;
            let digest = resource.digest.iter().next();
            Some((name, digest.map(|(algorithm, hex)| format!("{algorithm}:{hex}"))))
        })
    }

    /// How it ended, in one word.
    pub(crate) fn outcome(&self) -> &str {
        let outcome = self.predicate.build_definition.internal_parameters.get("outcome");
        outcome.and_then(Value::as_str).unwrap_or_default()
    }

    /// When it started, if that is known, and ended.
    pub(crate) fn times(&self) -> (Option<&str>, &str) {
        let metadata = &self.predicate.run_details.metadata;
        (metadata.started_on.as_deref(), &metadata.finished_on)
    }
}

/// A digest as in-toto writes it (in-toto attestation: `DigestSet`).
fn digest_set(digest: &Digest) -> BTreeMap<String, String> {
    let (algorithm, hex) = digest.as_str().split_once(':').unwrap_or_default();
    BTreeMap::from([(algorithm.to_owned(), hex.to_owned())])
}
