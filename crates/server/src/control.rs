//! `/api/runs/<n>/…` and `/api/projects/<project>/pause`, for who has no shell at the site: stopping a run, repeating it,
//! moving it up, pausing a project.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use torno_audit::Actor;
use torno_auth::{Identity, RunControl};
use torno_oci::{Priority, ProjectName, RunId};
use torno_registry::{Controlled, Pause, RegistryError};

use crate::{
    answer,
    body::{self, Body},
    failure::Failure,
    public::{Asked, Public},
};

/// The longest text that says a priority, in bytes.
const MAX_TEXT: usize = 256;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What the text of `PUT /api/runs/<n>/priority` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    priority: String,
}

/// Refuses what a page of another site has a browser ask for. There are no cookies, but a browser also adds a password
/// that was typed into its own window, or a certificate, to whatever any page asks for.
pub(crate) fn from_no_other_page(headers: &HeaderMap, own: &str) -> Result<(), Failure> {
    let own_page = headers.get_all(header::ORIGIN).iter().all(|origin| origin.as_bytes() == own.as_bytes());
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    if own_page
        && sites.all(|site| ["same-origin", "none"].iter().any(|own| site.as_bytes() == own.as_bytes()))
    {
        Ok(())
    } else {
        Err(Failure::OtherPage)
    }
}

/// `POST /api/runs/<n>/cancel` and `…/retry`.
pub(crate) async fn run(
    public: &Public,
    who: &Identity,
    by: Actor,
    run: RunId,
    control: RunControl,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.run_permit(who, control, run).await?;
    let registry = Arc::clone(&public.registry);
    let done = public.to_the_end(async move { registry.control(&permit, &by).await }).await?;
    tracing::info!(%run, ?control, user = %who, "a run is controlled");
    let (status, value) = match done {
        Controlled::Cancelled => (StatusCode::OK, json!({"run": run.number(), "state": "cancelled"})),
        Controlled::Stopping => (StatusCode::ACCEPTED, json!({"run": run.number(), "state": "stopping"})),
        Controlled::Retried { run: again, repository, tag } => {
            let result = repository.results().map(|results| format!("{results}:{tag}"));
            let value = json!({
                "run": again.number(), "state": "queued", "retry_of": run.number(), "result": result,
            });
            (StatusCode::CREATED, value)
        }
        Controlled::Prioritized(priority) => {
            (StatusCode::OK, json!({"run": run.number(), "priority": priority.as_str()}))
        }
    };
    Ok(answer::json(status, &value))
}

/// `PUT /api/runs/<n>/priority` with `{"priority": "high"}`.
pub(crate) async fn prioritize(
    public: &Public,
    asked: Asked,
    number: RunId,
) -> Result<Response<Body>, Failure> {
    let text = match body::collect(asked.body, MAX_TEXT).await {
        Err(Failure::TooLarge { .. }) => return Err(Failure::Priority),
        text => text?,
    };
    let wish: Wish = serde_json::from_slice(&text).map_err(|_| Failure::Priority)?;
    let priority: Priority = wish.priority.parse().map_err(|_| Failure::Priority)?;
    run(public, &asked.who, asked.by, number, RunControl::Prioritize(priority)).await
}

/// `POST /api/projects/<project>/pause`.
pub(crate) async fn pause(
    public: &Public,
    asked: Asked,
    project: ProjectName,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.policy().pause(&asked.who, &project).map_err(RegistryError::from)?;
    let (registry, by) = (Arc::clone(&public.registry), asked.by);
    let before = public.to_the_end(async move { registry.pause(&permit, &by).await }).await?;
    tracing::info!(%project, user = %asked.who, "a project is paused");
    Ok(paused(&project, true, before.as_ref()))
}

/// `POST /api/projects/<project>/resume`.
pub(crate) async fn resume(
    public: &Public,
    asked: Asked,
    project: ProjectName,
) -> Result<Response<Body>, Failure> {
    let permit = public.registry.policy().pause(&asked.who, &project).map_err(RegistryError::from)?;
    let (registry, by) = (Arc::clone(&public.registry), asked.by);
    let before = public.to_the_end(async move { registry.resume(&permit, &by).await }).await?;
    tracing::info!(%project, user = %asked.who, "a project goes on");
    Ok(paused(&project, false, before.as_ref()))
}

fn paused(project: &ProjectName, now: bool, before: Option<&Pause>) -> Response<Body> {
    let value = json!({"project": project.as_str(), "paused": now, "was_paused": before.is_some()});
    answer::json(StatusCode::OK, &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_other_sites_control_nothing() {
        const OWN: &str = "https://registry.example.org";
        let headers = |fields: &[(HeaderName, &'static str)]| -> HeaderMap {
            fields.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect()
        };
        for good in [
            headers(&[]),
            headers(&[(header::ORIGIN, OWN)]),
            headers(&[(header::ORIGIN, OWN), (SEC_FETCH_SITE, "same-origin")]),
            headers(&[(SEC_FETCH_SITE, "none")]),
        ] {
            assert!(from_no_other_page(&good, OWN).is_ok(), "{good:?}");
        }
        for bad in [
            headers(&[(header::ORIGIN, "https://evil.example.org")]),
            headers(&[(header::ORIGIN, "http://registry.example.org")]),
            headers(&[(header::ORIGIN, "null")]),
            headers(&[(SEC_FETCH_SITE, "cross-site")]),
            headers(&[(SEC_FETCH_SITE, "same-site")]),
            headers(&[(header::ORIGIN, OWN), (SEC_FETCH_SITE, "cross-site")]),
        ] {
            assert!(matches!(from_no_other_page(&bad, OWN), Err(Failure::OtherPage)), "{bad:?}");
        }
        let mut two = headers(&[(header::ORIGIN, OWN)]);
        two.append(header::ORIGIN, "https://evil.example.org".parse().expect("a value"));
        assert!(from_no_other_page(&two, OWN).is_err());
    }
}
