//! Where a result comes from, signed: which image ran on which data, for whom. Attached to each result, so that whoever
//! has the public key can tell years later what the result is worth.

mod envelope;
mod key;
mod statement;
mod verify;

use torno_registry::StoredManifest;

use crate::{
    instance::Instance,
    moment,
    pack::{Attachment, Packed},
    report::{self, Report},
};

use statement::{External, Made, PREDICATE, Statement};

pub use envelope::EnvelopeError;
pub use key::{KeyError, PublicKey, SigningKey};
pub use verify::{Provenance, ProvenanceError, verify};

/// Where the signing key is in the data directory.
pub const KEYS: &str = "keys/provenance";

/// The artifact type of the manifest that has a statement.
const STATEMENTS: &str = "application/vnd.in-toto+json";
/// What the statement is in, with its signature.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

/// What a statement says that is not in the report.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    /// The image manifest that ran.
    pub image: &'a StoredManifest,
    /// Which Torno ran it.
    pub instance: &'a Instance,
    /// What it signs with.
    pub key: &'a SigningKey,
}

/// The signed statement of a result. The same run, collected again, makes the same.
pub(crate) fn attachment(
    report: &Report<'_>,
    origin: &Origin<'_>,
    packed: &Packed,
) -> Result<Attachment, serde_json::Error> {
    let run = report.run;
    let datasets = run.given.iter().flat_map(|given| &given.datasets);
    let results = run.repository.results().map_or_else(String::new, |results| results.to_string());
    let statement = Statement::new(Made {
        name: format!("{results}:run-{}", run.id),
        result: &packed.digest,
        external: External {
            reference: format!("{}:{}", run.repository, run.tag),
            image: run.image.to_string(),
            project: report.project.to_owned(),
            owner: run.owner.to_string(),
        },
        image_type: origin.image.media_type.as_str(),
        image: &origin.image.digest,
        plan: report.plan(),
        datasets: datasets.map(|dataset| (dataset.name.as_str(), dataset.digest.as_ref())).collect(),
        instance: origin.instance.as_str(),
        run: run.id.number(),
        times: (report.started.map(moment::shown), moment::shown(report.finished)),
        outcome: report::kind(report.outcome),
        parts: packed.parts.iter().map(|(title, digest)| (*title, digest)).collect(),
    });
    Ok(Attachment {
        artifact_type: STATEMENTS,
        media_type: ENVELOPE,
        title: "provenance.dsse.json",
        // As BuildKit and cosign name it.
        annotations: vec![("in-toto.io/predicate-type", PREDICATE), ("predicateType", PREDICATE)],
        bytes: envelope::seal(&serde_json::to_vec(&statement)?, origin.key)?,
    })
}
