//! What there is: repositories, tags, referrers.

use http::{Response, StatusCode, header};
use serde_json::{Value, json};
use torno_oci::{Digest, RepositoryName};
use torno_registry::{Referrer, Referrers, RegistryError};

use crate::{
    answer,
    body::Body,
    failure::Failure,
    public::{Asked, Public},
    query,
};

/// The most entries of a page, and of tags as many as come unasked.
pub(crate) const MAX_PAGE: usize = 1000;

/// How many repositories come unasked: a page of them costs more than one of tags, and Docker's registry gives as many.
const CATALOG_PAGE: usize = 100;

/// `GET /v2/_catalog` (Docker registry API: Listing Repositories), showing each what they may read.
pub(crate) async fn repositories(public: &Public, asked: &Asked) -> Result<Response<Body>, Failure> {
    let page = Page::of(asked, CATALOG_PAGE)?;
    if asked.who.access().is_some_and(|access| !access.lists()) {
        return Err(Failure::Catalog);
    }
    let names = public.registry.catalog(&asked.who, page.last.as_deref(), page.size + 1).await?;
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    Ok(page.answer("/v2/_catalog", names, |names| json!({"repositories": names})))
}

/// `GET /v2/<name>/tags/list` (distribution-spec: Listing Tags).
pub(crate) async fn tags(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
) -> Result<Response<Body>, Failure> {
    let page = Page::of(asked, MAX_PAGE)?;
    let permit = public.registry.pull_permit(&asked.who, name).await?;
    let tags = public.registry.tags(&permit, page.last.as_deref(), page.size + 1).await?;
    let tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
    let answer = |tags: &[String]| json!({"name": name.as_str(), "tags": tags});
    Ok(page.answer(&format!("/v2/{name}/tags/list"), tags, answer))
}

/// `GET /v2/<name>/referrers/<digest>` (distribution-spec: Listing Referrers).
pub(crate) async fn referrers(
    public: &Public,
    asked: &Asked,
    name: &RepositoryName,
    subject: &Digest,
) -> Result<Response<Body>, Failure> {
    let filter = asked.query("artifactType");
    let after = asked.query("last");
    // The specification allows no 404 here: of what one may not see, as of what is not there, the list is empty.
    let referrers = match public.registry.pull_permit(&asked.who, name).await {
        Ok(permit) => {
            public.registry.referrers(&permit, subject, filter.as_deref(), after.as_deref()).await?
        }
        Err(RegistryError::Refused(_)) => Referrers::default(),
        Err(other) => return Err(other.into()),
    };
    let mut response = answer::json_text(StatusCode::OK, index(&referrers.page));
    answer::set(response.headers_mut(), header::CONTENT_TYPE, torno_oci::media_types::OCI_INDEX);
    if filter.is_some() {
        answer::set(response.headers_mut(), answer::FILTERS, "artifactType");
    }
    if let (true, Some(last)) = (referrers.more, referrers.page.last()) {
        let filter = filter.iter().map(|filter| ("artifactType", filter.as_str()));
        let query = query::write([("last", last.digest.as_str())].into_iter().chain(filter));
        let link = format!("</v2/{name}/referrers/{subject}?{query}>; rel=\"next\"");
        answer::set(response.headers_mut(), header::LINK, &link);
    }
    Ok(response)
}

/// The descriptors are JSON already, so they are put together as they are.
fn index(referrers: &[Referrer]) -> String {
    let descriptors: Vec<&str> = referrers.iter().map(|referrer| referrer.descriptor.as_str()).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#,
        torno_oci::media_types::OCI_INDEX,
        descriptors.join(",")
    )
}

/// Which entries a client wants (distribution-spec: Listing Tags: `n` and `last`).
pub(crate) struct Page {
    pub(crate) size: usize,
    pub(crate) last: Option<String>,
    sized: Sized,
}

/// Whether the client set the size itself.
enum Sized {
    Asked,
    Default,
}

impl Page {
    fn of(asked: &Asked, unasked: usize) -> Result<Self, Failure> {
        Self::parse(asked.parts.uri.query().unwrap_or_default(), unasked)
    }

    /// `unasked` is the size of a page when the client sets none.
    pub(crate) fn parse(text: &str, unasked: usize) -> Result<Self, Failure> {
        let last = query::value(text, "last");
        match query::value(text, "n") {
            None => Ok(Self { size: unasked, last, sized: Sized::Default }),
            Some(text) => {
                let size: usize =
                    text.parse().map_err(|_| Failure::Query("n", "it is a number from 0 up".into()))?;
                Ok(Self { size: size.min(MAX_PAGE), last, sized: Sized::Asked })
            }
        }
    }

    /// A page of `entries`, which were asked for with one more than the page holds; that one tells of a next page.
    pub(crate) fn answer(
        &self,
        path: &str,
        mut entries: Vec<String>,
        value: impl Fn(&[String]) -> Value,
    ) -> Response<Body> {
        let more = entries.len() > self.size;
        entries.truncate(self.size);
        let mut response = answer::json(StatusCode::OK, &value(&entries));
        // A page of none has no last entry to go on from.
        if let (true, Some(last)) = (more, entries.last()) {
            let size = match self.sized {
                Sized::Asked => Some(self.size.to_string()),
                Sized::Default => None,
            };
            let size = size.iter().map(|size| ("n", size.as_str()));
            let link =
                format!("<{path}?{}>; rel=\"next\"", query::write(size.chain([("last", last.as_str())])));
            answer::set(response.headers_mut(), header::LINK, &link);
        }
        response
    }
}
