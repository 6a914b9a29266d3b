//! `GET /api/whoami`: what somebody is here and what they may push to, for people who wonder why they were refused.

use http::{Response, StatusCode};
use serde_json::json;
use torno_auth::Identity;

use crate::{answer, body::Body, public::Public};

pub(crate) fn answer(public: &Public, who: &Identity) -> Response<Body> {
    let standing = public.registry.policy().standing(who);
    let names = |projects: &[torno_auth::ProjectName]| -> Vec<String> {
        projects.iter().map(ToString::to_string).collect()
    };
    let value = json!({
        "name": who.name().map(ToString::to_string),
        "groups": who.groups().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "logged_in_with": who.proof().to_string(),
        "token_good_for": who.limit().map(ToString::to_string),
        "admin": standing.admin,
        "robot": standing.robot,
        "researcher_in": names(&standing.researcher),
        "custodian_of": names(&standing.custodian),
        "may_push_to": standing.push,
    });
    answer::json(StatusCode::OK, &value)
}
