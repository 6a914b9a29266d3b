//! What is said of a run in its result: for programs in `run.json`, for archives in `ro-crate-metadata.json`.
//!
//! The person who pushed reads this. Nothing of the host is in it, and of the data the names alone.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};
use torno_oci::Digest;
use torno_registry::{Outcome, Run, ServiceTraffic};

use crate::{collect::Collected, moment};

/// How exactly memory is told: a run chooses how much it uses.
const MEMORY_STEP: u64 = 1 << 20;

/// What the crate says of itself.
const PROFILE: &str = "https://w3id.org/ro/wfrun/process/0.5";
/// What its words mean: `sha256` is of the second.
const CONTEXTS: [&str; 2] =
    ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"];

/// A run that is over, as far as its result tells.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// The run.
    pub run: &'a Run,
    /// The project it belongs to.
    pub project: &'a str,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// When its container started.
    pub started: Option<Timestamp>,
    /// When its container ended.
    pub finished: Timestamp,
    /// What it left, if it succeeded.
    pub output: Option<&'a Collected>,
    /// What it exchanged with services.
    pub traffic: &'a [ServiceTraffic],
}

impl Report<'_> {
    /// `run.json`.
    pub(crate) fn run_json(&self) -> Vec<u8> {
        let run = self.run;
        let files = self.files().map(
            |(path, size, digest)| json!({"path": format!("output/{path}"), "size": size, "sha256": digest.hex()}),
        );
        let left_out = self.output.map(|output| &output.left_out);
        let listed = left_out.into_iter().flat_map(|left_out| &left_out.listed);
        let document = json!({
            "version": 1,
            "run": run.id.number(),
            "project": self.project,
            "image": {
                "repository": run.repository.as_str(),
                "tag": run.tag.to_string(),
                "digest": run.image.as_str(),
            },
            "outcome": {"kind": kind(self.outcome), "message": self.outcome.to_string()},
            "queued": moment::shown(run.queued_at),
            "started": self.started.map(moment::shown),
            "finished": moment::shown(self.finished),
            "wallClockSeconds": self.wall_clock().map(|time| time.as_secs()),
            "datasets": self.datasets().collect::<Vec<_>>(),
            "services": self.traffic.iter().map(service).collect::<Vec<_>>(),
            "plan": self.plan(),
            "used": {
                "peakMemoryBytes": run.measured.peak_memory.map(|memory| memory.next_multiple_of(MEMORY_STEP)),
                "cpuSeconds": run.measured.cpu.map(tenths),
            },
            "output": files.collect::<Vec<_>>(),
            "outputBytes": self.files().map(|(_, size, _)| size).sum::<u64>(),
            "leftOut": listed
                .map(|(path, reason)| json!({"path": path, "reason": reason.to_string()}))
                .collect::<Vec<_>>(),
            "leftOutCount": left_out.map_or(0, |left_out| left_out.count),
        });
        written(&document)
    }

    /// `ro-crate-metadata.json` (RO-Crate 1.1, Process Run Crate 0.5), for the folder that `output/` is in.
    pub(crate) fn ro_crate(&self) -> Vec<u8> {
        let run = self.run;
        let what = format!("{}:{}", run.repository, run.tag);
        let (image, action) = (named_information(&run.image), format!("#run-{}", run.id));
        let (owner, terms) = (format!("#user-{}", run.owner), format!("#terms-of-{}", self.project));
        let datasets = run.given.iter().flat_map(|given| &given.datasets);
        let datasets: Vec<_> =
            datasets.map(|dataset| (format!("#dataset-{}", dataset.name), dataset.name.as_str())).collect();
        let files: Vec<_> =
            self.files().map(|(path, size, digest)| (file_id(path), path, size, digest)).collect();
        let results = links(files.iter().map(|(id, ..)| id));
        let mut graph = vec![
            json!({
                "@id": "ro-crate-metadata.json",
                "@type": "CreativeWork",
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
                "about": {"@id": "./"},
            }),
            json!({
                "@id": "./",
                "@type": "Dataset",
                "name": format!("Result of run {} of {what}", run.id),
                "description": format!("What run {} gave back: {}", run.id, self.outcome),
                "datePublished": iso_8601(self.finished),
                "conformsTo": {"@id": PROFILE},
                "license": {"@id": terms},
                "author": {"@id": owner},
                "hasPart": results,
                "mentions": {"@id": action},
            }),
            json!({"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}),
            json!({
                "@id": terms,
                "@type": "CreativeWork",
                "name": format!("Terms of the project {}", self.project),
                "description": "It was computed from confidential data: what may be done with it, the custodians of the \
                                project say.",
            }),
            json!({"@id": owner, "@type": "Person", "name": run.owner.to_string()}),
            json!({
                "@id": image,
                "@type": "SoftwareApplication",
                "name": what,
                "identifier": run.image.as_str(),
                "softwareVersion": run.image.as_str(),
            }),
            self.action(&action, &image, &owner, &links(datasets.iter().map(|(id, _)| id)), &results),
        ];
        graph.extend(datasets.iter().map(|(id, name)| json!({"@id": id, "@type": "Dataset", "name": name})));
        graph.extend(files.iter().map(|(id, path, size, digest)| {
            json!({
                "@id": id,
                "@type": "File",
                "name": path,
                "contentSize": size.to_string(),
                "sha256": digest.hex(),
            })
        }));
        written(&json!({"@context": CONTEXTS, "@graph": graph}))
    }

    /// That the image ran (Process Run Crate 0.5: Requirements of the action).
    fn action(&self, id: &str, image: &str, owner: &str, datasets: &Value, results: &Value) -> Value {
        let Run { id: number, repository, tag, .. } = self.run;
        let succeeded = *self.outcome == Outcome::Succeeded;
        let status = if succeeded { "CompletedActionStatus" } else { "FailedActionStatus" };
        let mut action = json!({
            "@id": id,
            "@type": "CreateAction",
            "name": format!("Run {number} of {repository}:{tag}"),
            "description": format!("{} ran {repository}:{tag} in the project {}", self.run.owner, self.project),
            "instrument": {"@id": image},
            "agent": {"@id": owner},
            "object": datasets,
            "result": results,
            "endTime": iso_8601(self.finished),
            "actionStatus": format!("http://schema.org/{status}"),
        });
        if let Some(action) = action.as_object_mut() {
            if let Some(started) = self.started {
                action.insert("startTime".into(), iso_8601(started).into());
            }
            if !succeeded {
                action.insert("error".into(), self.outcome.to_string().into());
            }
        }
        action
    }

    /// The data it saw.
    fn datasets(&self) -> impl Iterator<Item = Value> {
        self.run.given.iter().flat_map(|given| &given.datasets).map(|dataset| {
            let mut shown = json!({"name": dataset.name, "mount": dataset.mount});
            if let (Some(shown), Some(digest)) = (shown.as_object_mut(), &dataset.digest) {
                shown.insert("digest".into(), digest.as_str().into());
            }
            shown
        })
    }

    /// What it was held to; `null` of a run that an earlier Torno has started.
    pub(crate) fn plan(&self) -> Value {
        self.run.given.as_ref().map_or(Value::Null, |given| {
            let limits = &given.limits;
            json!({
                "network": given.network,
                "user": given.user,
                "limits": {
                    "nanoCpus": limits.nano_cpus,
                    "memoryBytes": limits.memory_bytes,
                    "pids": limits.pids,
                    "seconds": limits.time().as_secs_f64(),
                    "outputBytes": limits.output_bytes,
                    "outputEntries": limits.output_entries,
                    "tmpBytes": limits.tmp_bytes,
                    "logBytes": limits.log_bytes,
                    "gpus": limits.gpus,
                },
            })
        })
    }

    fn files(&self) -> impl Iterator<Item = (&str, u64, &Digest)> {
        self.output.into_iter().flat_map(Collected::files)
    }

    fn wall_clock(&self) -> Option<Duration> {
        self.started.and_then(|started| moment::between(started, self.finished))
    }
}

fn service(traffic: &ServiceTraffic) -> Value {
    let ServiceTraffic { service, connections, refused, sent, received } = traffic;
    json!({
        "service": service,
        "connections": roughly(*connections),
        "refusedConnections": roughly(*refused),
        "bytesSent": roughly(*sent),
        "bytesReceived": roughly(*received),
    })
}

/// Up to a power of two: a run chooses how much it exchanges, to the byte, and could say with that what nobody would see in
/// its output. The site has the exact number.
fn roughly(number: u64) -> u64 {
    if number == 0 { 0 } else { number.checked_next_power_of_two().unwrap_or(u64::MAX) }
}

/// Down to a tenth of a second.
fn tenths(time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "no run takes 2^52 tenths of a second")]
    let tenths = (time.as_millis() / 100) as f64;
    tenths / 10.0
}

/// The one word of an outcome, as it is kept in the database.
pub(crate) fn kind(outcome: &Outcome) -> String {
    let value = serde_json::to_value(outcome).unwrap_or_default();
    value.get("kind").and_then(Value::as_str).unwrap_or("unknown").to_owned()
}

/// Relative to the folder that `output/` is in (RO-Crate 1.1: identifiers of files are URI paths).
fn file_id(path: &str) -> String {
    path.bytes().fold("output/".to_owned(), |id, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            id + char::from(byte).encode_utf8(&mut [0; 4])
        } else {
            id + &format!("%{byte:02X}")
        }
    })
}

/// A digest as a URI that needs no host (RFC 6920, section 3).
fn named_information(digest: &Digest) -> String {
    let algorithm = digest.algorithm().name().replacen("sha", "sha-", 1);
    let bytes = hex::decode(digest.hex()).unwrap_or_default();
    format!("ni:///{algorithm};{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// To entities; a list of one is that one (RO-Crate 1.1, appendix: RO-Crate JSON-LD).
fn links<'a>(ids: impl Iterator<Item = &'a String>) -> Value {
    let mut links: Vec<Value> = ids.map(|id| json!({"@id": id})).collect();
    if links.len() == 1 { links.remove(0) } else { links.into() }
}

/// With the offset that Process Run Crate writes instead of `Z`.
fn iso_8601(at: Timestamp) -> String {
    moment::shown(at).replace('Z', "+00:00")
}

fn written(document: &Value) -> Vec<u8> {
    let mut bytes = format!("{document:#}").into_bytes();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use std::io;

    use torno_oci::{Priority, RunId};
    use torno_registry::{Given, GivenDataset, GivenLimits, Measured, RunState};

    use crate::collect;

    use super::*;

    fn run() -> Run {
        Run {
            id: RunId::new(7).expect("number"),
            repository: "run/retina/unet".parse().expect("name"),
            tag: "v1".parse().expect("tag"),
            owner: "ada".parse().expect("user"),
            image: Digest::sha256(b"image"),
            state: RunState::Collecting,
            attempt: 1,
            priority: Priority::Normal,
            cancel: None,
            retry_of: None,
            time_limit: None,
            queued_at: "2026-01-01T00:00:00Z".parse().expect("time"),
            not_before: None,
            started_at: None,
            finished_at: None,
            result: None,
            given: Some(Given {
                datasets: vec![
                    GivenDataset { name: "eyes".into(), mount: "/input/eyes".into(), digest: None },
                    GivenDataset {
                        name: "ears".into(),
                        mount: "/input/ears".into(),
                        digest: Some(Digest::sha256(b"ears")),
                    },
                ],
                network: "none".into(),
                user: "65532:65532".into(),
                limits: GivenLimits {
                    nano_cpus: 1,
                    memory_bytes: 2,
                    pids: 3,
                    millis: 4500,
                    output_bytes: 5,
                    output_entries: 6,
                    tmp_bytes: 7,
                    log_bytes: 8,
                    gpus: 1,
                },
            }),
            measured: Measured { peak_memory: Some((3 << 20) + 1), cpu: Some(Duration::from_millis(1299)) },
        }
    }

    fn output() -> Collected {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, kind) in
            [("output/ä b.csv", tar::EntryType::Regular), ("output/l", tar::EntryType::Symlink)]
        {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(0);
            archive.append_data(&mut header, path, io::empty()).expect("in memory");
        }
        let bytes = archive.into_inner().expect("in memory");
        let bounds = collect::Bounds { bytes: 0, entries: 2, depth: 32 };
        collect::collect(bytes.as_slice(), &std::env::temp_dir(), bounds).expect("archive")
    }

    #[test]
    fn a_report_says_what_was_given_used_and_left() {
        let output = output();
        let run = run();
        let report = Report {
            run: &run,
            project: "retina",
            outcome: &Outcome::Succeeded,
            started: Some("2026-01-01T00:00:01Z".parse().expect("time")),
            finished: "2026-01-01T00:00:03.5Z".parse().expect("time"),
            output: Some(&output),
            traffic: &[ServiceTraffic {
                service: "db:5432".into(),
                connections: 1,
                refused: 0,
                sent: 3,
                received: 1024,
            }],
        };
        let json: Value = serde_json::from_slice(&report.run_json()).expect("json");
        assert_eq!(json["run"], 7);
        assert_eq!(json["outcome"], json!({"kind": "succeeded", "message": "succeeded"}));
        assert_eq!(json["wallClockSeconds"], 2);
        let service = json!({
            "service": "db:5432", "connections": 1, "refusedConnections": 0, "bytesSent": 4, "bytesReceived": 1024,
        });
        assert_eq!(json["services"], json!([service]));
        let digest = Digest::sha256(b"ears");
        let eyes = json!({"name": "eyes", "mount": "/input/eyes"});
        let ears = json!({"name": "ears", "mount": "/input/ears", "digest": digest.as_str()});
        assert_eq!(json["datasets"], json!([eyes, ears]));
        assert_eq!(json["plan"]["limits"]["seconds"], 4.5);
        // What it used is told in steps.
        assert_eq!(json["used"], json!({"peakMemoryBytes": 4 << 20, "cpuSeconds": 1.2}));
        assert_eq!(json["output"][0]["path"], "output/ä b.csv");
        assert_eq!(json["leftOut"], json!([{"path": "output/l", "reason": "a symbolic link"}]));
        let ro_crate: Value = serde_json::from_slice(&report.ro_crate()).expect("json");
        let graph = ro_crate["@graph"].as_array().expect("graph");
        let find = |kind: &str| graph.iter().find(|node| node["@type"] == kind).expect("node");
        assert_eq!(find("CreateAction")["result"], json!({"@id": "output/%C3%A4%20b.csv"}));
        assert_eq!(find("CreateAction")["endTime"], "2026-01-01T00:00:03+00:00");
        // By `printf image | openssl dgst -sha256 -binary | base64 | tr +/ -_`.
        assert_eq!(
            find("SoftwareApplication")["@id"],
            "ni:///sha-256;YQXWzHavQAMl6U1YjOURvlv9u3O0N9xR7KQ5F9ekPj0"
        );
        assert_eq!(
            find("CreateAction")["object"],
            json!([{"@id": "#dataset-eyes"}, {"@id": "#dataset-ears"}])
        );
    }
}
