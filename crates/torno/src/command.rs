//! The subcommands, one file each, and what they share: finding the configuration and failing in words.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod check_config;
pub(crate) mod datasets;
pub(crate) mod df;
pub(crate) mod doctor;
pub(crate) mod execute;
pub(crate) mod gc;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod projects;
pub(crate) mod provenance;
pub(crate) mod runs;
pub(crate) mod serve;
pub(crate) mod token;
pub(crate) mod upkeep;
pub(crate) mod user;
pub(crate) mod verify;

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::fs::Mode;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use torno_audit::{Actor, Audit, AuditError, Event};
use torno_auth::{HtpasswdError, ProjectName, ScopeError, TokenId, UserName};
use torno_executor::{ExecutorError, ProjectPolicy};
use torno_oci::RunId;
use torno_registry::{BackupError, Ceiling, ImportError, Registry, RegistryError, RunState};

use crate::config::{Config, ConfigErrors, Environment, Within};

/// The configuration when none is named, in the current folder.
const FILE: &str = "torno.toml";

/// The exit code for a configuration that is wrong or missing (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

/// The mode of a folder that a group shares: what is made in it belongs to the group (set-group-ID), which may do all.
const SHARED: u32 = 0o2070;

/// Why a subcommand did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No configuration was named and none is here.
    #[error("no {FILE} here; make one with `torno init`, or name it with --config")]
    NoConfiguration,
    /// The configuration is wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// `init` never overwrites.
    #[error("nothing was written: {0} exists already; move it away, or name another folder")]
    Exists(PathBuf),
    /// A file or folder could not be made.
    #[error("{path} could not be made: {source}")]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The password file could not be read.
    #[error("the users cannot be read: {0}")]
    Users(#[source] HtpasswdError),
    /// The directory cannot be asked, ever.
    #[error("the directory of users cannot be asked: {0}")]
    Directory(#[source] torno_auth::AuthoritiesError),
    /// The identity provider cannot be asked, ever.
    #[error("the identity provider cannot be asked: {0}")]
    Provider(#[source] torno_server::ProviderError),
    /// Somebody could not be looked up.
    #[error("`{0}` is not in the password file, and nobody can be looked up elsewhere: {1}")]
    LookUp(UserName, #[source] torno_auth::DirectoryError),
    /// A user was not added, changed or removed.
    #[error("`{user}` was not {action}: {source}")]
    User {
        /// Who.
        user: UserName,
        /// What was to be done to them.
        action: &'static str,
        /// Why it was not.
        source: HtpasswdError,
    },
    /// No password could be had.
    #[error("no password was read: {0}")]
    Password(#[from] user::PasswordError),
    /// The system has no random numbers.
    #[error("no password could be made: {0}")]
    Random(#[from] getrandom::Error),
    /// There is no data directory yet.
    #[error("there is no registry at {0} yet; `torno serve` makes it")]
    NoRegistry(PathBuf),
    /// The data directory is there, for others.
    #[error(
        "{path} cannot be looked into: {source}; run this as root, or as the user that `torno serve` runs as"
    )]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration that was named is not there.
    #[error("there is no {0}; `torno init` makes a configuration, --config or TORNO_CONFIG names it")]
    NoSuchConfiguration(PathBuf),
    /// Runs are carried out by another process.
    #[error(
        "`torno serve` carries out runs here; `torno execute` does once the configuration says `[executor] within = \"execute\"`"
    )]
    NotApart,
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The record of what is done could not be written or read.
    #[error("{0}")]
    Audit(#[from] AuditError),
    /// The record is not what was written.
    #[error("the record is not whole: {0} found; docs/CUSTODIANS.md says what that means")]
    Record(u64),
    /// There is no record yet.
    #[error("there is no record in {0}")]
    NoRecord(PathBuf),
    /// There is no backup, or nothing was restored.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A backup lacks what its original lacks.
    #[error("{0} blobs could not be had; everything else is there")]
    Lost(usize),
    /// Nothing more could be imported or exported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// Some of what was to be imported was broken or refused.
    #[error("{0} things were left out; the rest is imported")]
    LeftOut(usize),
    /// Tokens cannot be signed.
    #[error("tokens cannot be given out: {0}")]
    Keys(#[source] torno_auth::KeyError),
    /// There is no such token, or it is revoked already.
    #[error("there is no token {0} that could be revoked; see `torno token list`")]
    NoToken(TokenId),
    /// A token would be nobody's.
    #[error(
        "there is no user `{0}`, and no robot of that name in the configuration; add one with `torno user add {0}`, or \
         write the name into `robots`"
    )]
    Nobody(UserName),
    /// A machine's token must say what it is for.
    #[error("`{0}` is a robot, whose tokens must say what they are good for; add --scope")]
    NoScope(UserName),
    /// What a token is good for is none.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The name is a machine's.
    #[error(
        "`{0}` is a robot in the configuration, which has no password; make a token with `torno token create --user {0}`"
    )]
    Robot(UserName),
    /// The executor failed.
    #[error("runs cannot be carried out: {0}")]
    Executor(#[from] ExecutorError),
    /// The host does not keep what is promised.
    #[error("no run is started on this host, for {0} mandatory lines")]
    Unfit(usize),
    /// Nobody has waited for what was asked.
    #[error("stopped before everything was tried; what had been made for it is removed")]
    Interrupted,
    /// There is no key to tell by.
    #[error("{0}")]
    ProvenanceKey(#[source] torno_executor::KeyError),
    /// A result is not to be believed.
    #[error("not verified: {0}")]
    Provenance(#[source] torno_executor::ProvenanceError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The process could not set itself up.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// There is no such dataset.
    #[error("there is no dataset `{0}`; see `torno datasets list`")]
    NoDataset(String),
    /// Only the engine reads what is in a volume.
    #[error("dataset `{0}` is a volume of the engine's, of which no fingerprint is known")]
    NoFolder(String),
    /// The data could not be read.
    #[error("the fingerprint is not known: {0}")]
    Fingerprint(#[source] ExecutorError),
    /// There is no such project.
    #[error("there is no project `{0}`; see `torno projects list`")]
    NoProject(ProjectName),
    /// There is no such run.
    #[error("there is no run {0}; see `torno runs list`")]
    NoRun(RunId),
    /// Some of several runs could not be dealt with; why was said of each.
    #[error("{0} of {1} runs were left as they are")]
    Runs(usize, usize),
    /// A run that is not over has no log yet.
    #[error("run {0} is {1}; what it prints is kept when it ends")]
    NoLog(RunId, RunState),
    /// A look at what is stored has found what somebody must do something about.
    #[error("left to do of what was found: {0}; docs/ADMINISTRATION.md says what can be done")]
    Damaged(u64),
    /// A look at what is stored was stopped.
    #[error("stopped before everything was looked at; `torno verify --resume` goes on")]
    Stopped,
    /// Where a look was stopped could not be read or written.
    #[error(
        "where the look was stopped could not be read or written (verify.stopped in the data directory): {0}"
    )]
    Notes(#[source] io::Error),
    /// What was to be said could not be written.
    #[error("the output could not be written: {0}")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Says it on stderr and turns it into the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            // One error on a line; only the count at the end is ours to introduce.
            Self::Configuration(errors) => {
                eprintln!("{errors}");
                ExitCode::from(BAD_CONFIGURATION)
            }
            Self::NoConfiguration | Self::NoSuchConfiguration(_) => {
                eprintln!("torno: {self}");
                ExitCode::from(BAD_CONFIGURATION)
            }
            _ => {
                eprintln!("torno: {self}");
                ExitCode::FAILURE
            }
        }
    }
}

/// What the configuration says of each project's runs.
pub(crate) type Projects = BTreeMap<ProjectName, ProjectPolicy>;

/// Does something with the registry in the data directory, beside the server that may be serving it.
pub(crate) fn with_registry<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Registry) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match config.data.join("torno.db").try_exists() {
        Ok(true) => with_new_registry(config, work),
        Ok(false) => Err(Failure::NoRegistry(config.data.clone())),
        Err(source) => Err(Failure::Unreadable { path: config.data.clone(), source }),
    }
}

/// The same, and makes the registry if there is none.
pub(crate) fn with_new_registry<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Registry) -> Result<T, Failure>,
) -> Result<T, Failure> {
    own_data(&config.data)?;
    let registry = open(config, Actor::command())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::Runtime)?.block_on(work(&registry))
}

/// Opens the registry for `itself`, in whose name is recorded what nobody asks for.
pub(crate) fn open(config: &Config, itself: Actor) -> Result<Registry, Failure> {
    let registry = Registry::open(&config.data, config.policy.clone(), config.registry)?;
    registry.set_ceilings(ceilings(&config.projects));
    let audit = Audit::new(config.audit.folder.clone(), config.audit.rotation)?;
    Ok(registry.recording(audit, itself))
}

/// What images may ask for when they are pushed.
pub(crate) fn ceilings(projects: &Projects) -> BTreeMap<ProjectName, Ceiling> {
    let ceiling = |policy: &ProjectPolicy| Ceiling {
        time: policy.limits.time,
        nano_cpus: policy.limits.cpus.nanos(),
        memory: policy.limits.memory.as_u64(),
    };
    projects.iter().map(|(name, policy)| (name.clone(), ceiling(policy))).collect()
}

/// Records durably what a command is about to do outside the registry, and does it.
pub(crate) fn recorded<T>(
    config: &Config,
    event: Event,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    own_data(&config.data)?;
    let audit = Audit::new(config.audit.folder.clone(), config.audit.rotation)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(Failure::Runtime)?;
    runtime.block_on(audit.before(&Actor::command(), event, async { work() }))
}

/// Each signal of a kind, from now on.
pub(crate) fn on(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(Failure::Runtime)
}

/// What is inside is confidential; an existing folder keeps the mode its owner gave it.
pub(crate) fn make_private_folder(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source: io::Error| Failure::Make { path: path.to_owned(), source })
}

/// Makes the data directory if there is none, and has this process make files that nobody else may read: only their
/// owner, or, where a server and an executor share the folder under two users (as `chmod 2770` makes it), their group.
/// Says so when a folder made by hand lets others in.
pub(crate) fn own_data(data: &Path) -> Result<(), Failure> {
    make_private_folder(data)?;
    let mode = std::fs::metadata(data).map_or(0, |found| found.permissions().mode());
    let shared = mode & SHARED == SHARED;
    let group = if shared { Mode::empty() } else { Mode::RWXG };
    rustix::process::umask(group | Mode::RWXO);
    let open = mode & if shared { 0o007 } else { 0o077 } != 0;
    if open {
        let (path, right) = (data.display(), if shared { "2770" } else { "700" });
        eprintln!("warning: data: other users of this machine can look into {path}; chmod {right} {path}");
    }
    Ok(())
}

pub(crate) async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|source| Failure::Listen { address, source })
}

/// Which configuration to read.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigFile {
    /// The configuration file [default: torno.toml in the current folder]
    #[arg(long, value_name = "FILE", env = "TORNO_CONFIG", hide_env_values = true, global = true)]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// Its path: the one named, or the one in the current folder.
    pub(crate) fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(FILE))
    }

    /// Reads it and says its warnings on stderr.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        self.load_within(Within::Serve)
    }

    /// The same for a process that carries out runs, or does not.
    pub(crate) fn load_within(&self, reader: Within) -> Result<Config, Failure> {
        if self.config.is_none() && !Path::new(FILE).exists() {
            return Err(Failure::NoConfiguration);
        }
        if let Ok(false) = self.path().try_exists() {
            return Err(Failure::NoSuchConfiguration(self.path().to_owned()));
        }
        let config = Config::load(self.path(), &Environment::of_this_process(), reader)?;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        Ok(config)
    }
}
