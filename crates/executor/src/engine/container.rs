//! What the engine knows of containers. The client library takes no state it has no name for, and Podman has one more
//! (`stopped`: ended, and not put away yet), so the answers are read here, of which no state's name decides.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use bollard::ClientVersion;
use hyper::Request;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;

use super::{EngineError, Held, INSTANCE_LABEL, limit, run_of, wire};

/// What the engine knows of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// Whether it runs now.
    pub running: bool,
    /// When it started, if it ever did.
    pub started: Option<Timestamp>,
    /// When it ended, if it ever did.
    pub finished: Option<Timestamp>,
    /// Its exit status: 128 and the signal's number when a signal ended it.
    pub status: i64,
    /// Whether the kernel ended a process of it for want of memory.
    pub out_of_memory: bool,
    /// The bytes of memory it may have.
    pub memory: u64,
    /// The devices that were asked for by their names, such as GPUs.
    pub devices: Vec<String>,
}

/// `ContainerInspectResponse` of the Docker API, as far as it is of use.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Inspected {
    state: Option<State>,
    host_config: Option<HostConfig>,
}

/// `ContainerState` of the Docker API.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct State {
    running: bool,
    started_at: Option<String>,
    finished_at: Option<String>,
    exit_code: i64,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
}

/// `HostConfig` of the Docker API.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    memory: i64,
    device_requests: Option<Vec<DeviceRequest>>,
}

/// `DeviceRequest` of the Docker API.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DeviceRequest {
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<Vec<String>>,
}

/// `ContainerSummary` of the Docker API.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Summary {
    id: String,
    labels: Option<HashMap<String, String>>,
}

impl From<Inspected> for Container {
    fn from(found: Inspected) -> Self {
        let (state, host) = (found.state.unwrap_or_default(), found.host_config.unwrap_or_default());
        let requests = host.device_requests.into_iter().flatten();
        Self {
            running: state.running,
            started: state.started_at.as_deref().and_then(moment),
            finished: state.finished_at.as_deref().and_then(moment),
            status: state.exit_code,
            out_of_memory: state.oom_killed,
            memory: u64::try_from(host.memory).unwrap_or_default(),
            devices: requests.flat_map(|request| request.device_ids.unwrap_or_default()).collect(),
        }
    }
}

/// What is known of a container of this name.
pub(super) async fn inspect(
    socket: &Path,
    version: &ClientVersion,
    name: &str,
) -> Result<Container, EngineError> {
    let path = format!("{}/containers/{name}/json", wire::base(version));
    Ok(wire::json::<Inspected>(socket, Request::get(path), limit::INSPECT).await?.into())
}

/// Every container whose instance is this one.
pub(super) async fn list(
    socket: &Path,
    version: &ClientVersion,
    instance: &str,
) -> Result<BTreeSet<Held>, EngineError> {
    let filters = json!({"label": [format!("{INSTANCE_LABEL}={instance}")]}).to_string();
    let filters = utf8_percent_encode(&filters, NON_ALPHANUMERIC);
    let path = format!("{}/containers/json?all=true&filters={filters}", wire::base(version));
    let found: Vec<Summary> = wire::json(socket, Request::get(path), limit::LIST).await?;
    Ok(found
        .into_iter()
        .map(|Summary { id, labels }| Held { run: run_of(labels.as_ref()), name: id })
        .collect())
}

/// The engine writes the year 1 for what has not happened.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|at| *at > Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Container {
        serde_json::from_str::<Inspected>(text).expect("an answer").into()
    }

    #[test]
    fn what_has_not_happened_has_no_moment() {
        assert_eq!(moment("0001-01-01T00:00:00Z"), None);
        assert!(moment("2026-01-02T03:04:05.404738097Z").is_some());
    }

    #[test]
    fn a_state_of_any_name_is_read() {
        for name in ["exited", "stopped", "of the next release"] {
            let container = read(&format!(
                r#"{{"State": {{"Status": "{name}", "Running": false, "OOMKilled": true, "ExitCode": 137,
                    "StartedAt": "2026-01-02T03:04:05Z", "FinishedAt": "0001-01-01T00:00:00Z"}},
                    "HostConfig": {{"Memory": 7,
                        "DeviceRequests": [{{"DeviceIDs": ["0", "2"]}}, {{"DeviceIDs": null}}]}}}}"#
            ));
            let expected = Container {
                running: false,
                started: moment("2026-01-02T03:04:05Z"),
                finished: None,
                status: 137,
                out_of_memory: true,
                memory: 7,
                devices: vec!["0".into(), "2".into()],
            };
            assert_eq!(container, expected);
        }
        let none = read(r#"{"HostConfig": {"Memory": -1, "DeviceRequests": null}}"#);
        assert_eq!((none.memory, none.devices), (0, Vec::new()));
    }
}
