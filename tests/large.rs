//! A layer of 1 GiB through the clients, while the server's memory stays where it is.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use torno_tests::{Docker, Site, Watch};

const MIB: usize = 1024 * 1024;
const GIB: u64 = 1024 * 1024 * 1024;

/// The most memory the server may have used at any time, in KiB.
const MAX_MEMORY: u64 = 64 * 1024;

#[test]
fn a_gibibyte_goes_in_and_out_in_little_memory() {
    let site = Site::start_with("", &["ada"]);
    let docker = Docker::login(&site, "ada");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let mut clock = Clock(Instant::now());
    let watch = Watch::begin(site.pid());

    write_tar(Path::new(&path("large.tar")));
    let name = docker.name("large/docker:1");
    docker.remember(&name);
    docker.ok(&["import", &path("large.tar"), &name]);
    fs::remove_file(path("large.tar")).expect("remove");
    let id = docker.ok(&["image", "inspect", "--format", "{{.Id}}", &name]);
    clock.say("import");

    docker.ok(&["push", "--quiet", &name]);
    clock.say("docker push");
    assert!(site.blob_bytes() > GIB, "what does not compress is all there");
    docker.ok(&["image", "rm", &name]);
    docker.ok(&["pull", "--quiet", &name]);
    assert_eq!(docker.ok(&["image", "inspect", "--format", "{{.Id}}", &name]), id, "every byte");
    clock.say("docker pull");
    docker.ok(&["image", "rm", &name]);

    let registry = format!("docker://{name}");
    let layout = format!("oci:{}:1", path("layout"));
    skopeo(&docker, &["copy", "--quiet", "--src-tls-verify=false", &registry, &layout]);
    clock.say("skopeo from the registry");
    // So that the layer really travels again: what the registry has is not sent.
    skopeo(&docker, &["delete", "--tls-verify=false", &registry]);
    site.torno_ok(&["gc", "--grace", "0s"]);
    assert_eq!(site.blob_bytes(), 0);
    let again = format!("docker://{}", docker.name("large/skopeo:1"));
    skopeo(&docker, &["copy", "--quiet", "--dest-tls-verify=false", &layout, &again]);
    assert!(site.blob_bytes() > GIB);
    clock.say("skopeo to the registry");

    let peak = watch.end();
    eprintln!("the server used at most {} MiB", peak / 1024);
    assert!(peak < MAX_MEMORY, "the server used {peak} KiB");
}

/// Says how long each step took.
struct Clock(Instant);

impl Clock {
    fn say(&mut self, what: &str) {
        eprintln!("{what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// A tar with one file of 1 GiB that does not compress: noise, repeated farther apart than gzip looks back, each
/// time with another number in front.
fn write_tar(path: &Path) {
    let mut state = 88_172_645_463_325_252_u64;
    let mut block = Vec::with_capacity(MIB);
    while block.len() < MIB {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend(state.to_le_bytes());
    }
    let mut header = tar::Header::new_ustar();
    header.set_path("noise").expect("a path");
    header.set_size(GIB);
    header.set_mode(0o644);
    header.set_cksum();
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    file.write_all(header.as_bytes()).expect("write");
    for number in 0..GIB / MIB as u64 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).expect("write");
    }
    file.write_all(&[0; 1024]).expect("write");
    file.flush().expect("write");
}

#[track_caller]
fn skopeo(docker: &Docker, arguments: &[&str]) {
    let mut command = Command::new("skopeo");
    command.env("REGISTRY_AUTH_FILE", docker.auth_file()).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("skopeo");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
