//! The catalog, which the specification has no more (Docker registry API: Listing Repositories) and clients still use.

use torno_tests::{Answer, Image, OCI_IMAGE};

use crate::Case;

#[test]
fn catalog() {
    requirements! {
        "Listing Repositories" => [
            each_sees_what_they_may_read,
            a_link_leads_to_the_next_repositories,
            a_repository_without_manifests_is_not_listed,
            an_emptied_repository_disappears,
        ],
    }
}

#[track_caller]
fn names(answer: &Answer) -> Vec<String> {
    serde_json::from_value(answer.expect(200).json()["repositories"].clone()).expect("a list of names")
}

/// What somebody sees of this requirement's own repositories.
#[track_caller]
fn seen(case: &Case<'_>, who: &str) -> Vec<String> {
    let all = names(&case.site.http(who).get("/v2/_catalog"));
    all.into_iter().filter(|name| name.starts_with(&case.repository)).collect()
}

/// Listing Repositories: of others' repositories nobody sees the name.
fn each_sees_what_they_may_read(case: &Case<'_>) {
    case.image("ada's", "v");
    let bobs = format!("{}/bobs", case.repository);
    Image::new(&case.bytes("bob's")).push(&case.site.http("bob"), &bobs, "v").expect(201);
    assert_eq!(seen(case, "ada"), std::slice::from_ref(&case.repository));
    assert_eq!(seen(case, "bob"), [bobs]);
    case.site.anonymous().get("/v2/_catalog").expect_error(401, "UNAUTHORIZED");
}

/// Listing Repositories: `n` and `last` cut the list into pages, with a `Link` to the next one.
fn a_link_leads_to_the_next_repositories(case: &Case<'_>) {
    let image = Image::new(&case.bytes("pages"));
    let mine: Vec<String> = ["a", "b", "c"].map(|name| format!("{}/{name}", case.repository)).into();
    for name in &mine {
        image.push(&case.ada, name, "v").expect(201);
    }
    let mut found = Vec::new();
    let mut path = Some(format!("/v2/_catalog?n=2&last={}", case.repository));
    while let Some(here) = path {
        let answer = case.ada.get(&here);
        let page = names(&answer);
        assert!(!page.is_empty() && page.len() <= 2, "{page:?}");
        found.extend(page);
        let link = answer.headers.get("link").map(|link| link.to_str().expect("ASCII").to_owned());
        path = link.map(|link| {
            let target = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
            target.unwrap_or_else(|| panic!("{link}")).to_owned()
        });
    }
    found.retain(|name| mine.contains(name));
    assert_eq!(found, mine);
    assert!(names(&case.ada.get("/v2/_catalog?n=0")).is_empty());
}

/// Listing Repositories: blobs alone are a push under way.
fn a_repository_without_manifests_is_not_listed(case: &Case<'_>) {
    case.ada.push_blob(&case.repository, &case.bytes("alone"));
    case.begin();
    assert!(seen(case, "ada").is_empty());
}

/// Listing Repositories: with its last tag or its last manifest a repository goes, and comes back with the next.
fn an_emptied_repository_disappears(case: &Case<'_>) {
    let image = case.image("emptied", "v");
    case.put("w", OCI_IMAGE, &image.manifest()).expect(201);
    case.delete("manifests/v").expect(202);
    assert_eq!(seen(case, "ada"), std::slice::from_ref(&case.repository));
    case.delete("manifests/w").expect(202);
    assert!(seen(case, "ada").is_empty());
    case.image("again", "v");
    assert_eq!(seen(case, "ada"), std::slice::from_ref(&case.repository));
    let tags = case.get("manifests/v");
    case.delete(&format!("manifests/{}", tags.header("docker-content-digest"))).expect(202);
    assert!(seen(case, "ada").is_empty());
}
