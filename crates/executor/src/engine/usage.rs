//! How large volumes are. The client library knows only the newest shape of this answer, so the call is made here.

use std::{collections::HashMap, path::Path};

use bollard::ClientVersion;
use hyper::Request;
use serde_json::Value;

use super::{EngineError, limit, wire};

/// More than any limit. An engine walks a volume by whole paths, and a program that makes folders in folders until
/// those are longer than the kernel takes ends every walk of what it writes.
pub(super) const UNMEASURABLE: u64 = u64::MAX;

/// The size of every volume, by name: [`UNMEASURABLE`] of one that the engine tried to walk and could not.
pub(super) async fn volume_sizes(
    socket: &Path,
    version: &ClientVersion,
) -> Result<HashMap<String, u64>, EngineError> {
    let answer: Value = wire::json(socket, Request::get(path(version)), limit::MEASURE).await?;
    Ok(sizes(&answer))
}

/// Older engines measure images and containers as well, whatever they are asked; from 1.52 on the list is left
/// out unless it is asked for.
fn path(version: &ClientVersion) -> String {
    let query = match (version.major_version, version.minor_version) {
        (1, ..42) => "",
        (1, 42..52) => "?type=volume",
        _ => "?type=volume&verbose=true",
    };
    format!("{}/system/df{query}", wire::base(version))
}

fn sizes(answer: &Value) -> HashMap<String, u64> {
    let items = answer.pointer("/VolumeUsage/Items").or_else(|| answer.get("Volumes"));
    let volumes = items.and_then(Value::as_array).into_iter().flatten();
    let size = |volume: &Value| {
        let name = volume.get("Name")?.as_str()?.to_owned();
        let size = volume.pointer("/UsageData/Size")?;
        // -1 when the engine could not measure it. What goes away during the walk is not the cause of that.
        Some((name, size.as_u64().or_else(|| size.as_i64().map(|_| UNMEASURABLE))?))
    };
    volumes.filter_map(size).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_shapes_are_read() {
        let volume =
            json!([{"Name": "a", "UsageData": {"Size": 7}}, {"Name": "b", "UsageData": {"Size": -1}}, {}]);
        let expected = HashMap::from([("a".to_owned(), 7), ("b".to_owned(), UNMEASURABLE)]);
        assert_eq!(sizes(&json!({"Volumes": volume})), expected);
        assert_eq!(sizes(&json!({"VolumeUsage": {"Items": volume}, "Volumes": null})), expected);
        assert!(sizes(&json!({"Volumes": null})).is_empty());
    }

    #[test]
    fn each_version_is_asked_in_its_words() {
        let asked = |minor_version| path(&ClientVersion { major_version: 1, minor_version });
        assert_eq!(asked(41), "/v1.41/system/df");
        assert_eq!(asked(51), "/v1.51/system/df?type=volume");
        assert_eq!(asked(52), "/v1.52/system/df?type=volume&verbose=true");
    }
}
