//! The log: lines on stderr, for a person or for journald.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging; `TORNO_LOG` sets how much (`warn`, `debug`, `torno_server=debug,info`, …), `info` by default.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("TORNO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).init();
}
