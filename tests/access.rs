//! `[[access]]`: who may do what outside the projects, from outside.

use torno_tests::{Image, NO_ENGINE, PROJECTS, Site, Tools, layer, sha256};

const RULES: &str = r#"
[groups]
builders = ["ada", "bob"]
[[access]]
repositories = ["public/**"]
pull = ["@anyone"]
push = ["@builders"]
delete = ["bob"]
[[access]]
repositories = ["tools/**"]
pull = ["@users"]
push = ["@builders"]
[[access]]
repositories = ["closed/**"]
pull = ["ada"]
"#;

fn site() -> Site {
    let mut site = Site::new(&format!("{RULES}{PROJECTS}")).with("TORNO_EXECUTOR_ENGINE", NO_ENGINE);
    site.add_users(&["ada", "bob", "eve", "admin"]);
    site.start();
    site
}

#[test]
fn a_rule_judges_what_fits_it() {
    let site = site();
    let image = Image::new(&layer("rules"));
    image.push(&site.http("ada"), "tools/x", "v").expect(201);
    image.push(&site.http("bob"), "tools/x", "w").expect(201);
    image.push(&site.http("ada"), "public/x", "v").expect(201);
    image.push(&site.http("admin"), "closed/x", "v").expect(201);
    for (who, name, status) in [
        ("eve", "tools/x", 200),
        ("eve", "public/x", 200),
        ("eve", "closed/x", 404),
        ("bob", "closed/x", 404),
        ("ada", "closed/x", 200),
        ("admin", "closed/x", 200),
    ] {
        assert_eq!(site.http(who).get(&format!("/v2/{name}/manifests/v")).status, status, "{who}: {name}");
    }
    for (who, name) in [("eve", "tools/x"), ("eve", "tools/new"), ("ada", "closed/x"), ("ada", "closed/new")]
    {
        let message = site.http(who).post(&format!("/v2/{name}/blobs/uploads/")).expect_error(403, "DENIED");
        assert!(message.contains(who), "{message}");
        assert_eq!(message.contains("tools/**"), who == "ada", "{message}");
    }
    // Whose it is counts no longer.
    site.http("ada").delete("/v2/public/x/manifests/v").expect_error(403, "DENIED");
    site.http("bob").delete("/v2/public/x/manifests/v").expect(202);
    site.http("ada").delete("/v2/tools/x/manifests/v").expect_error(403, "DENIED");
    site.http("admin").delete("/v2/tools/x/manifests/v").expect(202);

    let catalog = |who: &str| site.http(who).get("/v2/_catalog").expect(200).json()["repositories"].clone();
    assert_eq!(catalog("eve"), serde_json::json!(["tools/x"]));
    assert_eq!(catalog("ada"), serde_json::json!(["closed/x", "tools/x"]));
}

#[test]
fn anybody_may_read_what_a_rule_gives_to_anyone_and_nothing_else() {
    let site = site();
    let (ada, anyone) = (site.http("ada"), site.anonymous());
    let image = Image::new(&layer("anyone"));
    for name in ["public/x", "tools/x", "ada/x", "run/heart/x"] {
        image.push(&ada, name, "v").expect(201);
    }
    let config = sha256(&image.config);
    // Clients ask here to be told how to log in.
    anyone.get("/v2/").expect_error(401, "UNAUTHORIZED");
    anyone.get("/v2/public/x/manifests/v").expect(200);
    anyone.get(&format!("/v2/public/x/blobs/{config}")).expect(200);
    anyone.get("/v2/public/x/tags/list").expect(200);
    assert_eq!(
        anyone.get("/v2/_catalog").expect(200).json()["repositories"],
        serde_json::json!(["public/x"])
    );
    for (method, path) in [
        ("GET", "/v2/tools/x/manifests/v"),
        ("GET", "/v2/tools/nothing/manifests/v"),
        ("GET", "/v2/ada/x/manifests/v"),
        ("GET", "/v2/run/heart/x/manifests/v"),
        ("GET", &format!("/v2/ada/x/blobs/{config}")),
        ("POST", "/v2/public/x/blobs/uploads/"),
        ("POST", "/v2/other/x/blobs/uploads/"),
        ("PUT", "/v2/public/x/manifests/w"),
        ("DELETE", "/v2/public/x/manifests/v"),
        ("DELETE", "/v2/public/nothing/manifests/v"),
    ] {
        let refused = anyone.send(method, path, &[], b"");
        refused.expect_error(401, "UNAUTHORIZED");
        assert!(refused.header("www-authenticate").starts_with("Bearer "), "{method} {path}");
    }
    let query = "/token?scope=repository:public/x:pull,push&scope=repository:ada/x:pull&offline_token=true";
    let given = anyone.get(query).expect(200).json();
    assert_eq!(given["scope"], "repository:ada/x: repository:public/x:pull");
    assert!(given.get("refresh_token").is_none(), "there is nobody to keep one");
    let bearer = site.bearer(given["token"].as_str().expect("a token"));
    bearer.get("/v2/").expect(200);
    bearer.get("/v2/public/x/manifests/v").expect(200);
    bearer.get("/v2/ada/x/manifests/v").expect_error(401, "UNAUTHORIZED");
}

#[test]
fn clients_read_without_logging_in() {
    let site = site();
    let tools = Tools::anonymous();
    let image = Image::new(&layer("clients"));
    image.push(&site.http("ada"), "public/x", "v").expect(201);
    image.push(&site.http("ada"), "ada/x", "v").expect(201);
    let name = |name: &str| format!("docker://{}/{name}:v", site.host());
    tools.skopeo_ok(&["inspect", "--raw", "--tls-verify=false", &name("public/x")]);
    let layout = format!("oci:{}:v", tools.text("layout"));
    tools.copy(&name("public/x"), &layout, &[]);
    let refused = tools.skopeo(&["inspect", "--raw", "--tls-verify=false", &name("ada/x")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("log in first"), "{refused:?}");
}
