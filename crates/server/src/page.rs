//! The pages beside `/v2/`.

use axum::{Router, routing::get};

/// `/` tells a person with a browser what this is; `/healthz` tells a machine that the server answers.
pub(crate) fn routes(hostname: &str) -> Router {
    let text = format!(
        "This is Torno, a container registry that runs what is pushed to it.\n\n\
         docker login {hostname}\n\
         docker push {hostname}/run/<project>/<name>:<tag>\n\
         docker pull {hostname}/results/<project>/<name>:<tag>\n"
    );
    Router::new().route("/", get(move || async move { text })).route("/healthz", get(|| async { "ok\n" }))
}
