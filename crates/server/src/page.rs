//! The pages beside `/v2/`.

use axum::{Extension, Router, routing::get};

/// Where whoever asks for a page reaches this registry.
#[derive(Clone, Debug)]
pub(crate) struct Origin(pub(crate) String);

/// `/` tells a person with a browser what this is; `/healthz` tells a machine that the server answers. Each request
/// brings its [`Origin`].
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/", get(async |Extension(origin): Extension<Origin>| welcome(&origin)))
        .route("/healthz", get(async || "ok\n"))
}

fn welcome(Origin(origin): &Origin) -> String {
    let host = origin.split_once("://").map_or(origin.as_str(), |(_, host)| host);
    format!(
        "This is Torno, a container registry that runs what is pushed to it.\n\n\
         docker login {host}\n\
         docker push {host}/run/<project>/<name>:<tag>\n\
         docker pull {host}/results/<project>/<name>:<tag>\n\n\
         Other clients of the OCI distribution specification: {origin}/v2/\n"
    )
}
