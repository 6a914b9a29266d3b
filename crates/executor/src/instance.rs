//! Which Torno this is, among those that share an engine; and the lock that keeps it the only one of its data.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    str::FromStr,
};

use torno_oci::RunId;

use crate::ExecutorError;

/// Says whose a container or volume is.
pub(crate) const INSTANCE_LABEL: &str = "org.torno.instance";
/// Says which run a container or volume belongs to.
pub(crate) const RUN_LABEL: &str = "org.torno.run";
/// Says how often the run had been claimed when it was made.
const ATTEMPT_LABEL: &str = "org.torno.attempt";

/// The id of one data directory, kept in it: 16 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance(Box<str>);

impl Instance {
    /// Reads the id from the data directory, or draws one and writes it there. Blocks.
    pub(crate) fn of(data: &Path) -> Result<Self, ExecutorError> {
        let path = data.join("instance");
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|()| ExecutorError::Instance(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let instance = Self::draw()?;
                instance.write(data).map_err(ExecutorError::io(&path))?;
                Ok(instance)
            }
            Err(error) => Err(ExecutorError::io(&path)(error)),
        }
    }

    /// One that nobody else has.
    pub(crate) fn draw() -> Result<Self, ExecutorError> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(ExecutorError::Random)?;
        Ok(Self(hex::encode(bytes).into()))
    }

    /// Durable before it is used: containers that bear an id nobody remembers would never be removed.
    fn write(&self, data: &Path) -> io::Result<()> {
        let new = data.join("instance.new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(file, "{}", self.0)?;
        file.sync_all()?;
        fs::rename(&new, data.join("instance"))?;
        File::open(data)?.sync_all()
    }

    /// One that is no data directory's, for what is planned and not done.
    pub(crate) fn of_nobody() -> Self {
        Self("0".repeat(16).into())
    }

    /// The id as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a run's container, and of its volume.
    pub(crate) fn container(&self, run: RunId) -> String {
        format!("torno-{}-run-{run}", self.0)
    }

    /// The repository that the engine is to think a run's image comes from. Of its own for each run, so that one run
    /// does not remove what another needs, and with the id in it, so that what is left over is found again.
    pub(crate) fn repository(&self, run: RunId) -> String {
        format!("torno-{}/run-{run}", self.0)
    }

    /// The run whose image has this name, if it is one of this instance.
    pub(crate) fn run_of_image(&self, name: &str) -> Option<RunId> {
        let (repository, _digest) = name.split_once('@')?;
        let (rest, run) = repository.rsplit_once("/run-")?;
        let (_host, instance) = rest.rsplit_once('/')?;
        (instance.strip_prefix("torno-") == Some(&*self.0)).then(|| run.parse().ok())?
    }

    /// What marks a run's container and volume.
    pub(crate) fn labels(&self, run: RunId, attempt: u64) -> BTreeMap<String, String> {
        BTreeMap::from([
            (INSTANCE_LABEL.to_owned(), self.0.to_string()),
            (RUN_LABEL.to_owned(), run.to_string()),
            (ATTEMPT_LABEL.to_owned(), attempt.to_string()),
        ])
    }
}

impl FromStr for Instance {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hexadecimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() == 16 && hexadecimal { Ok(Self(text.into())) } else { Err(()) }
    }
}

/// The right to execute the runs of a data directory, held by one process at a time until it ends.
#[derive(Debug)]
pub(crate) struct ExecutorLock(#[expect(dead_code, reason = "held for its lock")] File);

impl ExecutorLock {
    /// Takes the lock, or says who cannot have it. Blocks.
    pub(crate) fn take(data: &Path) -> Result<Self, ExecutorError> {
        let path = data.join("executor.lock");
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(ExecutorError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(ExecutorError::Taken),
            Err(TryLockError::Error(error)) => Err(ExecutorError::io(&path)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_drawn_once() {
        let folder = tempfile::tempdir().expect("folder");
        let first = Instance::of(folder.path()).expect("drawn");
        assert_eq!(Instance::of(folder.path()).expect("read"), first);
        fs::write(folder.path().join("instance"), "torno-1 label=x").expect("write");
        assert!(matches!(Instance::of(folder.path()), Err(ExecutorError::Instance(_))));
    }

    #[test]
    fn images_are_told_apart_by_instance_and_run() {
        let instance: Instance = "0123456789abcdef".parse().expect("an id");
        let run = RunId::new(12).expect("a number");
        let name = format!("127.0.0.1:1234/{}@sha256:00", instance.repository(run));
        assert_eq!(instance.run_of_image(&name), Some(run));
        for other in
            ["127.0.0.1:1/run/p/n@sha256:00", "127.0.0.1:1/torno-0000000000000000/run-12@sha256:00", "x"]
        {
            assert_eq!(instance.run_of_image(other), None, "{other}");
        }
    }

    #[test]
    fn one_executor_at_a_time() {
        let folder = tempfile::tempdir().expect("folder");
        let held = ExecutorLock::take(folder.path()).expect("free");
        assert!(matches!(ExecutorLock::take(folder.path()), Err(ExecutorError::Taken)));
        drop(held);
        assert!(ExecutorLock::take(folder.path()).is_ok());
    }
}
