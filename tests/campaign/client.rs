//! An HTTP client for a server that may die at any moment.

use std::time::Duration;

use ureq::http::Request;

use crate::server::Server;

/// One client of a server.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    authorization: String,
}

/// An answer that came whole.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: String,
    pub(crate) body: Vec<u8>,
}

/// No answer, or one that was cut off: whether the request had an effect is not known.
#[derive(Debug)]
pub(crate) struct Unanswered(pub(crate) String);

impl Client {
    /// Nothing of it outlives the server's process, so each start has new ones.
    pub(crate) fn new(server: &Server) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_mins(1)))
            .build();
        Self { agent: config.into(), base: server.base(), authorization: Server::authorization() }
    }

    /// Sends a request; `path` may be a `Location`.
    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Answer, Unanswered> {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let unanswered = |error: &dyn std::fmt::Display| Unanswered(format!("{method} {url}: {error}"));
        let request = Request::builder()
            .method(method)
            .uri(&url)
            .header("authorization", &self.authorization)
            .header("content-type", content_type)
            .body(body.to_vec())
            .map_err(|error| unanswered(&error))?;
        let request = self.agent.configure_request(request).allow_non_standard_methods(true).build();
        let mut response = self.agent.run(request).map_err(|error| unanswered(&error))?;
        let location = response.headers().get("location").and_then(|value| value.to_str().ok());
        let (status, location) = (response.status().as_u16(), location.unwrap_or_default().to_owned());
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec();
        Ok(Answer { status, location, body: body.map_err(|error| unanswered(&error))? })
    }

    /// A request without a body.
    pub(crate) fn ask(&self, method: &str, path: &str) -> Result<Answer, Unanswered> {
        self.send(method, path, "application/octet-stream", &[])
    }
}
