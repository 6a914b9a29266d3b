//! An HTTP client that asks for whatever a test wants and takes every answer.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use ureq::http::{HeaderMap, Request};

/// A client of one site, as one user.
#[derive(Clone, Debug)]
pub struct Http {
    agent: ureq::Agent,
    base: String,
    authorization: Option<String>,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Http {
    /// A client of another server, which does not log in.
    pub fn elsewhere(host: &str) -> Self {
        Self::new(host, None)
    }

    pub(crate) fn new(host: &str, login: Option<(&str, &str)>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_mins(2)))
            .build();
        let authorization =
            login.map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        Self { agent: config.into(), base: format!("http://{host}"), authorization }
    }

    pub(crate) fn with_bearer(host: &str, token: &str) -> Self {
        let authorization = Some(format!("Bearer {token}"));
        Self { authorization, ..Self::new(host, None) }
    }

    /// Sends a request; `path` may be a `Location`, absolute or relative.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.base) };
        let mut request = Request::builder().method(method).uri(url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_vec()).expect("a request");
        let agent = self.agent.clone();
        let response = agent.configure_request(request).allow_non_standard_methods(true).build();
        let mut response = agent.run(response).expect("an answer");
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a body");
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), body }
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &[])
    }

    /// `HEAD`.
    pub fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], &[])
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], &[])
    }

    /// `POST` without a body.
    pub fn post(&self, path: &str) -> Answer {
        self.send("POST", path, &[], &[])
    }

    /// The site's `127.0.0.1:<port>`.
    pub(crate) fn host(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    pub(crate) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// Starts an upload session; its location.
    #[track_caller]
    pub fn begin_upload(&self, repository: &str) -> String {
        self.post(&format!("/v2/{repository}/blobs/uploads/")).expect(202).header("location")
    }

    /// Pushes a blob with POST and PUT; its digest.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = crate::sha256(bytes);
        let location = self.begin_upload(repository);
        let headers = [("content-type", "application/octet-stream")];
        // Some registries keep their state in it.
        let and = if location.contains('?') { '&' } else { '?' };
        self.send("PUT", &format!("{location}{and}digest={digest}"), &headers, bytes).expect(201);
        digest
    }

    /// Pushes a manifest; the answer.
    pub fn push_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.send("PUT", &path, &[("content-type", media_type)], bytes)
    }
}

impl Answer {
    /// Fails unless this is the status.
    #[track_caller]
    pub fn expect(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// A header that must be there.
    #[track_caller]
    pub fn header(&self, name: &str) -> String {
        let value =
            self.headers.get(name).unwrap_or_else(|| panic!("no header `{name}` in {:?}", self.headers));
        value.to_str().expect("ASCII").to_owned()
    }

    /// Fails unless this is an answer whose `name` header is `value`.
    #[track_caller]
    pub fn expect_header(&self, name: &str, value: &str) -> &Self {
        assert_eq!(self.header(name), value, "{name}");
        self
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Fails unless this is an error of this status and code in the specification's form; its message.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> String {
        self.expect(status);
        let value = self.json();
        let error = &value["errors"][0];
        assert_eq!(error["code"], code, "{value}");
        let message = error["message"].as_str().expect("a message");
        assert!(!message.is_empty());
        message.to_owned()
    }
}
