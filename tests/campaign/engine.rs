//! Runs while the server is killed, where there is an engine.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use torno_tests::{Image, busybox, sha256};

use crate::{
    client::Client,
    failure::Failure,
    model::World,
    phase,
    server::Server,
    store::Store,
    tally::{Tally, Wrong},
};

/// For `executor.engine`: none is there, so runs stay queued.
pub(crate) const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// How long the runs that are left at the end may take, and the engine to be left as it was.
const PATIENCE: Duration = Duration::from_mins(10);

/// Makes images that run.
#[derive(Debug)]
pub(crate) struct Runnable {
    layer: Vec<u8>,
}

impl Runnable {
    /// With busybox in them.
    pub(crate) fn new(folder: &Path) -> Result<Self, Failure> {
        let root = folder.join("busybox");
        let made = fs::create_dir_all(root.join("bin"))
            .and_then(|()| fs::copy(busybox(), root.join("bin/busybox")).map(drop));
        made.map_err(Failure::io("an image's layer"))?;
        let mut tar = Command::new("tar");
        tar.args(["--create", "--owner=0", "--group=0", "--mode=a+rX", "--directory"]).arg(&root).arg(".");
        let output = tar.output().map_err(Failure::io("tar"))?;
        if !output.status.success() {
            return Err(Failure::program("tar", &output));
        }
        Ok(Self { layer: output.stdout })
    }

    /// An image whose run leaves a file, and which no other is like.
    pub(crate) fn image(&self, number: u64) -> Image {
        let script = format!("echo {number} > /output/number");
        Image::with_config(&self.layer, &json!({"Cmd": ["/bin/busybox", "sh", "-c", script]}))
    }
}

/// Waits until every run has ended; each whose push was acknowledged must have a result that can be pulled, or an end
/// with a name. Then the engine must hold nothing of them.
pub(crate) fn finish(server: &Server, worlds: &[Mutex<World>], tally: &Tally) -> Result<(), Failure> {
    let when = "at the end";
    let data = server.data();
    let store = Store::open(&data, tally, when)?;
    let all_ended = wait(|| Ok(store.unfinished_runs()?.is_empty()))?;
    for run in store.unfinished_runs()? {
        tally.wrong(Wrong::Lost, when, &format!("a run does not end: {run}"));
    }
    if !all_ended {
        return Ok(());
    }
    let client = Client::new(server);
    let mut results = 0;
    for world in worlds {
        let world = world.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, repository) in world.repositories {
            let Some(result) = name.strip_prefix("run/") else { continue };
            for tag in repository.tags.keys() {
                match store.outcome(&name, tag)?.as_deref() {
                    Some("succeeded") => {
                        results += 1;
                        if let Err(why) = pull(&client, &format!("results/{result}"), tag) {
                            tally.wrong(Wrong::Lost, when, &format!("the result {result}:{tag}: {why}"));
                        }
                    }
                    Some(other) => tally.odd(format_args!("the run {name}:{tag} ended with {other}")),
                    // Whether there must be one was asked after every kill.
                    None => {}
                }
            }
        }
    }
    println!("runs: {results} succeeded, each with its result");
    let instance = fs::read_to_string(data.join("instance")).map_err(Failure::io("instance"))?;
    let leftovers = || torno_tests::leftovers(instance.trim());
    if !wait(|| Ok(leftovers().is_empty()))? {
        for left in leftovers() {
            tally.wrong(Wrong::Leaked, when, &format!("the engine still has {left:?}"));
        }
    }
    Ok(())
}

/// Pulls a result whole.
fn pull(client: &Client, name: &str, tag: &str) -> Result<(), String> {
    let get = |path: String| {
        let answer = client.ask("GET", &path).map_err(|unanswered| unanswered.0)?;
        if answer.status == 200 { Ok(answer.body) } else { Err(format!("{path}: {}", answer.status)) }
    };
    let manifest = get(format!("/v2/{name}/manifests/{tag}"))?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).map_err(|error| error.to_string())?;
    let layers = manifest["layers"].as_array().ok_or("no layers")?;
    for part in layers.iter().chain([&manifest["config"]]) {
        let digest = part["digest"].as_str().ok_or("no digest")?;
        if sha256(&get(format!("/v2/{name}/blobs/{digest}"))?) != digest {
            return Err(format!("{digest} has other bytes"));
        }
    }
    Ok(())
}

/// Whether it came to be so.
fn wait(mut is_so: impl FnMut() -> Result<bool, Failure>) -> Result<bool, Failure> {
    let since = Instant::now();
    while !is_so()? {
        if since.elapsed() > PATIENCE {
            return Ok(false);
        }
        phase::go_on()?;
        thread::park_timeout(Duration::from_millis(200));
    }
    Ok(true)
}

/// Removes what a server has left in the engine. Dropped after the server, whatever became of that.
#[derive(Debug)]
pub(crate) struct Tidy<'a>(pub(crate) &'a Path);

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        if let Ok(instance) = fs::read_to_string(self.0.join("instance")) {
            torno_tests::remove(&torno_tests::leftovers(instance.trim()));
        }
    }
}
