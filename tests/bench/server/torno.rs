//! Torno itself: the binary that is shipped, with a password to every request.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Certificate, Programs, Started, await_start, log_to, write};
use crate::{failure::Failure, process::Process};

const USER: &str = "bench";
const PASSWORD: &str = "a password of the benchmark";

/// Whether there is an engine, the machine's own, and somebody who may use it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Runs {
    None,
    OfBench,
}

/// Starts it with a configuration of its own. There is no switch for durability: every push is on the disk when it is
/// answered. The log is at `warn`, since the peers log no request either.
pub(super) fn start(
    programs: &Programs,
    folder: &Path,
    certificate: Option<&Certificate>,
    runs: Runs,
) -> Result<Started, Failure> {
    let file = folder.join("torno.toml");
    let mut text = "data = \"data\"\n[listen]\naddress = \"127.0.0.1:0\"\n".to_owned();
    text.push_str(match runs {
        Runs::None => "[executor]\nengine = \"unix:///nonexistent/docker.sock\"\n",
        Runs::OfBench => {
            "[executor]\nkeep_cache = \"0B\"\n\
            [projects.bench]\nresearchers = [\"bench\"]\nlimits = { memory = \"512MiB\" }\n"
        }
    });
    if certificate.is_some() {
        text.push_str("[tls]\nmode = \"files\"\ncertificate = \"certificate.pem\"\nkey = \"key.pem\"\n");
    }
    write(&file, text)?;
    super::make_folder(&folder.join("data"))?;
    add_user(programs, &file)?;

    let log = folder.join("log");
    let mut command = Command::new(&programs.torno);
    command.arg("serve").arg("--config").arg(&file).env("TORNO_LOG", "warn");
    log_to(&mut command, &log)?;
    let mut process = Process::start(&mut command)?;
    let address = await_start(&mut process, "torno", &log, || {
        let text = fs::read_to_string(&log).ok()?;
        // A line may be seen while it is being written.
        let (line, _) = text.split_once("listening on ")?.1.split_once('\n')?;
        line.parse().ok()
    })?;
    let authorization = Some(format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}"))));
    Ok(Started { address, authorization, process })
}

fn add_user(programs: &Programs, file: &Path) -> Result<(), Failure> {
    let mut command = Command::new(&programs.torno);
    command.args(["user", "add", USER, "--password-stdin", "--config"]).arg(file);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = Process::start(&mut command)?;
    process.give(PASSWORD)?;
    process.output().map(drop)
}
