//! Images that are attacks before anything of them runs.

use std::fs;

use serde_json::{Value, json};
use torno_tests::{Docker, Image, busybox, sha256};

use crate::{gzip, honest, image_of, program, site};

/// A tar archive of one entry whose header says exactly this.
pub(crate) fn entry(archive: &mut Vec<u8>, kind: tar::EntryType, path: &str, link: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o777);
    header.set_size(bytes.len() as u64);
    // Past the checks of the library, which is the point.
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn ended(mut archive: Vec<u8>) -> Vec<u8> {
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// An image of busybox and these further layers, whose command lists the root.
fn with_layers(layers: Vec<Vec<u8>>) -> Image {
    let busybox = program("busybox", &fs::read(busybox()).expect("busybox"));
    let archives: Vec<Vec<u8>> = std::iter::once(busybox).chain(layers).collect();
    image_of(&archives, &json!({"Cmd": ["/busybox", "find", "/", "-xdev", "-maxdepth", "2"]}))
}

/// The engine unpacks as root: what climbs out of a layer would be the host's.
#[test]
fn layers_cannot_write_outside_the_image() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let outside = tempfile::tempdir().expect("a folder");
    let target = outside.path().join("escaped");
    let absolute = target.to_str().expect("UTF-8");
    let climbing = format!("{}{absolute}", "../".repeat(20).trim_end_matches('/'));
    let folder = outside.path().to_str().expect("UTF-8");
    let regular = tar::EntryType::Regular;
    let attacks: Vec<(&str, Vec<u8>)> = vec![
        ("absolute", {
            let mut archive = Vec::new();
            entry(&mut archive, regular, absolute, "", b"x");
            archive
        }),
        ("climbing", {
            let mut archive = Vec::new();
            entry(&mut archive, regular, &climbing, "", b"x");
            archive
        }),
        ("through-a-link", {
            let mut archive = Vec::new();
            entry(&mut archive, tar::EntryType::Symlink, "way", folder, b"");
            entry(&mut archive, regular, "way/escaped", "", b"x");
            archive
        }),
        ("through-a-climbing-link", {
            let mut archive = Vec::new();
            entry(
                &mut archive,
                tar::EntryType::Symlink,
                "way",
                &format!("{}{folder}", "../".repeat(20).trim_end_matches('/')),
                b"",
            );
            entry(&mut archive, regular, "way/escaped", "", b"x");
            archive
        }),
        ("hard-link", {
            let mut archive = Vec::new();
            entry(&mut archive, tar::EntryType::Link, "stolen", "../../../../../../../../etc/passwd", b"");
            archive
        }),
        ("whiteout", {
            let mut archive = Vec::new();
            entry(&mut archive, regular, "../../.wh.kept", "", b"");
            entry(
                &mut archive,
                regular,
                &format!("{}{folder}/.wh.kept", "../".repeat(20).trim_end_matches('/')),
                "",
                b"",
            );
            entry(&mut archive, regular, "a/../.wh..", "", b"");
            entry(&mut archive, regular, ".wh...", "", b"");
            archive
        }),
    ];
    fs::write(outside.path().join("kept"), "kept").expect("write");
    let passwd = fs::read("/etc/passwd").expect("users");
    for (name, archive) in attacks {
        let image = with_layers(vec![ended(archive)]);
        image.push(&site.http("ada"), &format!("run/p/{name}"), "1").expect(201);
        let run = u64::try_from(site.runs()).expect("a number");
        let state = site.wait_for_run(run);
        assert!(!target.exists(), "{name} wrote outside: {state}");
        assert_eq!(fs::read(outside.path().join("kept")).expect("kept"), b"kept", "{name}");
        assert_eq!(fs::read("/etc/passwd").expect("users"), passwd, "{name}");
        let log =
            String::from_utf8_lossy(&site.torno(&["runs", "log", &run.to_string()]).stdout).into_owned();
        assert!(!log.contains("root:x:0"), "{name}: {log}");
    }
    honest(&site, &ada, "honest");
}

fn pushed(site: &torno_tests::Site, name: &str, image: &Image) -> Result<u64, String> {
    let answer = image.push(&site.http("ada"), &format!("run/p/{name}"), "1");
    if answer.status == 201 {
        Ok(u64::try_from(site.runs()).expect("a number"))
    } else {
        Err(format!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)))
    }
}

#[test]
fn layers_that_are_not_what_they_are_said_to_be_end_their_run() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    // A layer whose configuration tells another digest of what is in it.
    let mut lying = with_layers(vec![program("x", b"x")]);
    let mut config: Value = serde_json::from_slice(&lying.config).expect("JSON");
    config["rootfs"]["diff_ids"][1] = json!(sha256(b"something else"));
    lying.config = config.to_string().into_bytes();
    // One that is no archive, and one that is cut off.
    let mut garbage = with_layers(vec![program("x", b"x")]);
    garbage.layers[1] = gzip(&[7; 4096]);
    let mut cut = with_layers(vec![program("x", &[1; 100_000])]);
    let half = cut.layers[1].len() / 2;
    cut.layers[1].truncate(half);
    for (name, image) in [("lying", lying), ("garbage", garbage), ("cut", cut)] {
        let run = pushed(&site, name, &image).expect("the registry does not unpack");
        let state = site.wait_for_run(run);
        assert_ne!(state, "succeeded", "{name}");
    }
    honest(&site, &ada, "honest");
}

#[test]
fn many_layers_a_long_history_and_a_large_configuration_end_in_words() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let many = with_layers((0..499).map(|number| program(&format!("l{number}"), b"x")).collect());
    let with = |change: &dyn Fn(&mut Value)| {
        let mut image = with_layers(Vec::new());
        let mut config: Value = serde_json::from_slice(&image.config).expect("JSON");
        change(&mut config);
        image.config = config.to_string().into_bytes();
        image
    };
    let history = with(&|config| {
        config["history"] = (0..20_000)
            .map(|number| json!({"created_by": format!("RUN {number}"), "empty_layer": true}))
            .collect();
    });
    let large = with(&|config| config["config"]["Labels"] = json!({"x": "x".repeat(16 << 20)}));
    let variables = with(&|config| {
        config["config"]["Env"] = (0..100_000).map(|number| json!(format!("V{number}=x"))).collect();
    });
    for (name, image, words) in [
        ("many", many, "500 layers; at most 127 can run"),
        ("large", large, "configuration is larger than"),
        ("variables", variables, "sets 100000 variables; at most 1000"),
    ] {
        let refusal = pushed(&site, name, &image).expect_err("refused at the push");
        assert!(refusal.contains(words), "{name}: {refusal}");
    }
    let run = pushed(&site, "history", &history).expect("long, and nothing to anybody");
    assert_eq!(site.wait_for_run(run), "succeeded");
    honest(&site, &ada, "honest");
}

/// These bytes in one frame of Zstandard (RFC 8878), in which a block of equal bytes is four bytes: more than any tool
/// would make of it, and as valid.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    /// The most that a block may become, and the window that says so.
    const BLOCK: usize = 128 << 10;
    const WINDOW: u8 = 7 << 3;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, WINDOW];
    let mut blocks = bytes.chunks(BLOCK).peekable();
    while let Some(block) = blocks.next() {
        let equal = block.iter().all(|byte| *byte == block[0]);
        let size = u32::try_from(block.len()).expect("a block");
        let head = size << 3 | u32::from(equal) << 1 | u32::from(blocks.peek().is_none());
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.extend_from_slice(if equal { &block[..1] } else { block });
    }
    frame
}

/// A layer that is small and becomes large, which is the engine's to unpack: what that costs its disk, and that nothing
/// bounds it, is in `docs/SECURITY.md`. Not every engine knows Zstandard; one that does not ends the run in words.
#[test]
fn a_compressed_bomb_costs_torno_no_memory() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let http = site.http("ada");
    let bomb = program("bomb", &vec![0; 256 << 20]);
    let small = zstd(&bomb);
    let gzipped = with_layers(vec![bomb]);
    assert!(gzipped.layers[1].len() < 4 << 20 && small.len() < 256 << 10);
    let mut zipped = gzipped.clone();
    let before = torno_tests::memory(site.pid());
    let run = pushed(&site, "gzip", &gzipped).expect("it is small");
    assert_eq!(site.wait_for_run(run), "succeeded");

    zipped.layers[1] = small;
    for blob in zipped.layers.iter().chain([&zipped.config]) {
        http.push_blob("run/p/zstd", blob);
    }
    let mut manifest: Value = serde_json::from_slice(&zipped.manifest()).expect("JSON");
    manifest["layers"][1]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
    http.push_manifest("run/p/zstd", "1", zipped.media_type, manifest.to_string().as_bytes()).expect(201);
    let run = u64::try_from(site.runs()).expect("a number");
    let state = site.wait_for_run(run);
    let unknown = "the command could not be started: a layer of the image is broken, or packed with Zstandard, which not \
        every engine can unpack; build it with gzip layers";
    assert!(["succeeded", unknown].contains(&state.as_str()), "{state}");
    let grown = torno_tests::memory(site.pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB: it was unpacked here");
    honest(&site, &ada, "honest");
}
