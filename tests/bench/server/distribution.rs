//! The reference registry, without authentication and without an access log, which costs it least.

use std::{path::Path, process::Command};

use super::{Programs, Started, await_start, free_address, listens, log_to, write};
use crate::{failure::Failure, process::Process};

pub(super) fn start(programs: &Programs, folder: &Path) -> Result<Started, Failure> {
    let address = free_address()?;
    let config = format!(
        "version: 0.1\n\
         log: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage:\n\
         \x20 filesystem: {{rootdirectory: \"{}\"}}\n\
         \x20 cache: {{blobdescriptor: inmemory}}\n\
         \x20 maintenance: {{uploadpurging: {{enabled: false}}}}\n\
         http: {{addr: \"{address}\"}}\n",
        folder.join("data").display()
    );
    let (file, log) = (folder.join("config.yml"), folder.join("log"));
    write(&file, config)?;
    let mut command = Command::new(&programs.distribution);
    command.arg("serve").arg(&file).env("OTEL_TRACES_EXPORTER", "none");
    log_to(&mut command, &log)?;
    let mut process = Process::start(&mut command)?;
    await_start(&mut process, "distribution", &log, || listens(address))?;
    Ok(Started { address, authorization: None, process })
}
