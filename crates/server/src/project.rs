//! `GET /api/projects/<project>/dry-run`: how to run an image at home as a project would run it.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use torno_auth::{ProjectName, Refusal};
use torno_registry::RegistryError;

use crate::{
    answer,
    body::{self, Body},
    failure::Failure,
    public::{Asked, Public},
};

/// How to run an image of each project at home; changed as a whole when the configuration is read again.
pub type DryRuns = Arc<ArcSwap<BTreeMap<ProjectName, DryRun>>>;

/// How to run an image of a project at home.
#[derive(Clone, Debug)]
pub struct DryRun {
    /// Commands for a shell, one each, that are given once.
    pub prepare: Vec<String>,
    /// The command that runs the image.
    pub command: String,
    /// All of it as a script.
    pub script: String,
}

/// A script, or JSON for whoever accepts that. A project that somebody does not belong to is unknown to them.
pub(crate) fn dry_run(
    public: &Public,
    asked: &Asked,
    project: &ProjectName,
) -> Result<Response<Body>, Failure> {
    let unknown = || RegistryError::from(Refusal::UnknownProject(project.clone()));
    if !public.registry.policy().knows_project(&asked.who, project) {
        return Err(unknown().into());
    }
    let dry_runs = public.dry_runs.load();
    let DryRun { prepare, command, script } = dry_runs.get(project).ok_or_else(unknown)?;
    let accepted = asked.parts.headers.get_all(header::ACCEPT).iter();
    let wants_json =
        accepted.filter_map(|value| value.to_str().ok()).any(|text| text.contains("application/json"));
    if wants_json {
        let value = json!({"project": project.as_str(), "prepare": prepare, "command": command});
        return Ok(answer::json(StatusCode::OK, &value));
    }
    let mut response = Response::new(body::full(script.clone()));
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
