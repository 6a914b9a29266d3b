//! The registry over HTTP, without any client's habits.

use torno_tests::{Image, Site, layer};

#[test]
fn an_image_goes_in_and_comes_out() {
    let site = Site::start_with("", &["ada"]);
    let ada = site.http("ada");
    let image = Image::new(&layer("an image"));
    let pushed = image.push(&ada, "tools/x", "v1");
    pushed.expect(201);
    assert_eq!(pushed.header("docker-content-digest"), image.digest());
    for reference in ["v1", &image.digest()] {
        let pulled = ada.get(&format!("/v2/tools/x/manifests/{reference}"));
        assert_eq!(pulled.expect(200).body, image.manifest());
        assert_eq!(pulled.header("content-type"), image.media_type);
    }
}
