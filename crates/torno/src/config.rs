//! The configuration: one TOML file, the files in `projects.d` beside it, and `TORNO_*` variables on top.
//!
//! Whatever is wrong is reported at once, each with the path of its key. What comes out needs no further check.
//! Every key is described in `docs/CONFIGURATION.md`.

mod audit;
mod auth;
mod dataset;
mod error;
mod gc;
mod ldap;
mod limits;
mod listen;
mod oidc;
mod project;
mod reach;
mod reader;
mod retention;
mod source;
mod storage;
#[cfg(test)]
mod tests;
mod tls;
mod value;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use torno_auth::{Policy, ProjectName, Quota};
use torno_executor::{Attack, Dataset, ProjectPolicy, Settings};
use torno_registry::{Presence, Retention, Rule};
use torno_server::{Limits, Outside, Proxies};

pub(crate) use audit::Audit;
pub(crate) use auth::Auth;
pub(crate) use error::ConfigErrors;
pub(crate) use gc::Gc;
pub(crate) use reader::Environment;
pub(crate) use storage::Scrub;
pub(crate) use tls::{Files, Source, Tls, Version};
pub(crate) use value::Hostname;

use auth::People;
use error::{Place, Problems};
use limits::QuotaKey;
use project::{Definitions, Looks, Private};
use reader::{Item, TableReader};
use tls::Exposure;

/// Where people reach Torno when the file does not say.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);

/// The data directory when the file does not name one.
const DATA: &str = "registry-data";

/// The engine when the file does not name one.
const ENGINE: &str = "/var/run/docker.sock";

/// The folder in memory when the file does not name one.
const VOLATILE: &str = "/dev/shm";

/// A machine with room for more confidential runs than this at once would be a cluster, which one engine is not.
const CONCURRENT_RUNS: RangeInclusive<u32> = 1..=64;

/// 0 keeps nothing free; more than a pebibyte is on no disk, so it is a wrong unit.
const KEEP_FREE: RangeInclusive<ByteSize> = ByteSize::b(0)..=ByteSize::pib(1);

/// 0 keeps nothing; see [`KEEP_FREE`] for the other end.
const KEEP_CACHE: RangeInclusive<ByteSize> = KEEP_FREE;

/// More often is more work for the engine than its runs are; less often, what is left over is in the way for hours.
const RECONCILE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

/// An engine that restarts is away for some seconds; one that is away for a day is not coming back by itself.
const PATIENCE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_hours(24);

/// What has failed ten times fails again.
const ATTEMPTS: RangeInclusive<u32> = 1..=10;

/// Reverse proxies and clients give up on a silent server after some minutes.
const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(5);

/// How long a pull waits when the file does not say: short runs are done by then.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// A service manager that waits longer than this for a server to stop is told so on purpose.
const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(1);

/// How long requests under way may take to end when the file does not say. A large layer on a slow line takes
/// longer; its client goes on where it was cut off, or starts again.
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// One second still lets a client go on at once; what rests for longer than a month has been forgotten.
const UPLOAD_LIFETIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(30 * 24);

/// Less than a byte is none; more than a gibibyte is more than a client should have to send again.
const CHUNK_MIN_LENGTH: RangeInclusive<ByteSize> = ByteSize::b(1)..=ByteSize::gib(1);

/// All that Torno is told.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The data directory, absolute. It may not exist yet.
    pub(crate) data: PathBuf,
    /// Where to listen.
    pub(crate) address: SocketAddr,
    /// The name that people use in `docker login`; `None`: the address.
    pub(crate) hostname: Option<Hostname>,
    /// Where to listen for those who come in clear, if there is TLS; `None`: nowhere.
    pub(crate) clear: Option<SocketAddr>,
    /// How people are spoken to over TLS; `None`: they speak in clear.
    pub(crate) tls: Option<Tls>,
    /// How long requests under way may take to end when the server stops.
    pub(crate) drain: Duration,
    /// How many connections there may be, and how long a peer may take.
    pub(crate) limits: Limits,
    /// The reverse proxies that are believed when they say whom they speak for.
    pub(crate) proxies: Proxies,
    /// How people log in.
    pub(crate) auth: Auth,
    /// How other machines reach Torno when it speaks in clear.
    pub(crate) outside: Outside,
    /// Who may do what.
    pub(crate) policy: Policy,
    /// What the registry is told at start.
    pub(crate) registry: torno_registry::Settings,
    /// The chunks of blobs that clients are asked to make at least this large; `None`: as small as they like.
    pub(crate) chunk_min_length: Option<ByteSize>,
    /// What the executor is told at start.
    pub(crate) executor: Settings,
    /// Which process carries out runs.
    pub(crate) within: Within,
    /// What the runs of each project are given; the same projects as in `policy`.
    pub(crate) projects: BTreeMap<ProjectName, ProjectPolicy>,
    /// Every dataset, whether a project uses it or not.
    pub(crate) datasets: Vec<Dataset>,
    /// How long a pull of a result waits for its run.
    pub(crate) result_wait: Duration,
    /// When garbage is collected.
    pub(crate) gc: Gc,
    /// When everything that is stored is looked at again.
    pub(crate) scrub: Scrub,
    /// What is kept, and for how long.
    pub(crate) retention: Retention,
    /// The record of what is done.
    pub(crate) audit: Audit,
    /// What is allowed but probably not meant, a sentence each.
    pub(crate) warnings: Vec<String>,
}

impl Config {
    /// Reads the configuration, or says everything that is wrong with it.
    pub(crate) fn load(path: &Path, environment: &Environment, reader: Within) -> Result<Self, ConfigErrors> {
        let problems = Problems::default();
        let file = path;
        let main = path.file_name().unwrap_or(path.as_os_str()).display().to_string();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let base = path.parent().unwrap_or(Path::new("/")).to_owned();
        let Some(sources) = source::read_all(&path, &main, &base, &problems) else {
            return Err(problems.into_errors(file));
        };

        let mut definitions = Definitions::default();
        let mut root = TableReader::root(None, sources.main, &problems);
        definitions.gather(&mut root, &main);
        let (settings, people) = Fixed::read(root, &base, environment, &problems);
        for (name, table) in sources.beside {
            let mut root = TableReader::root(Some(name), table, &problems);
            definitions.gather(&mut root, &main);
            root.finish_because(&format!(
                "only groups, datasets and projects may stand in projects.d; move this to {main}"
            ));
        }
        let mut others = vec![
            ("configuration", path),
            ("folder of projects", base.join(source::FOLDER)),
            ("password file", settings.auth.htpasswd.clone()),
            ("engine socket", settings.executor.engine.clone()),
            ("record of what is done", settings.audit.folder.clone()),
        ];
        others.extend(settings.tls.files.iter().cloned());
        others.extend(settings.auth.files.iter().cloned());
        let looks = match (settings.within, reader) {
            (Within::Execute, Within::Serve) => Looks::WhereFound,
            _ => Looks::Everywhere,
        };
        let private = Private { data: value::resolve(&settings.data), others, looks };
        let projects = definitions.read(&base, &private, people, settings.executor.total);
        let warnings = problems.finish(file)?;
        let Fixed {
            data,
            address,
            hostname,
            clear,
            tls,
            drain,
            limits,
            proxies,
            auth,
            quota,
            registry: Stored { registry, chunk_min_length },
            executor,
            within,
            result_wait,
            gc,
            scrub,
            retention: rules,
            audit,
        } = settings;
        Ok(Self {
            data,
            address,
            hostname,
            clear: clear.filter(|_| tls.tls.is_some()),
            tls: tls.tls,
            drain,
            limits,
            proxies,
            auth,
            outside: match tls.exposure {
                Exposure::Anywhere => Outside::InClear,
                Exposure::ThisMachine => Outside::Encrypted,
            },
            policy: Policy {
                admins: projects.admins,
                robots: projects.robots,
                projects: projects.members,
                access: projects.access,
                quota,
            },
            registry,
            chunk_min_length,
            executor,
            within,
            projects: projects.policies,
            datasets: projects.datasets,
            result_wait,
            gc,
            scrub,
            retention: Retention { rules, images: projects.images },
            audit,
            warnings,
        })
    }
}

/// A process that may carry out runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within {
    /// `torno serve`, which then holds the engine's socket and must find the datasets.
    Serve,
    /// `torno execute`, so that whoever parses the network has neither.
    Execute,
}

/// What stands in the tables whose keys are known beforehand.
struct Fixed {
    data: PathBuf,
    address: SocketAddr,
    hostname: Option<Hostname>,
    clear: Option<SocketAddr>,
    tls: tls::Told,
    drain: Duration,
    limits: Limits,
    proxies: Proxies,
    auth: Auth,
    quota: Quota,
    registry: Stored,
    executor: Settings,
    within: Within,
    result_wait: Duration,
    gc: Gc,
    scrub: Scrub,
    retention: Vec<Rule>,
    audit: Audit,
}

/// What stands in `[registry]`.
struct Stored {
    registry: torno_registry::Settings,
    chunk_min_length: Option<ByteSize>,
}

impl Fixed {
    fn read<'a>(
        mut root: TableReader<'a>,
        base: &Path,
        environment: &Environment,
        problems: &Problems,
    ) -> (Self, People<'a>) {
        let mut variables = Vec::new();
        let data = root
            .take_or_variable("data", environment)
            .and_then(|item| item.parse(A_PATH, |text| data_directory(text, base)))
            .unwrap_or_else(|| base.join(DATA));

        let mut listen = root.table("listen");
        let address = listen.take_or_variable("address", environment);
        let hostname = listen
            .take_or_variable("hostname", environment)
            .and_then(|item| item.parse("a host name in quotes", value::hostname));
        let drain = listen
            .take_or_variable("drain", environment)
            .and_then(|item| limits::time_within(&item, &DRAIN))
            .unwrap_or(DEFAULT_DRAIN);
        let limits = listen::limits(&mut listen, environment);
        let proxies = listen::proxies(&mut listen);
        let written = listen.take_or_variable("http", environment);
        let clear = written
            .as_ref()
            .and_then(|item| item.parse("an address in quotes, such as \"0.0.0.0:80\"", value::address));
        variables.extend(listen.finish());

        let listen = tls::Listen { hostname: hostname.as_ref(), clear: written.as_ref() };
        let tls = tls::read(root.table("tls"), &listen, base, environment, &mut variables);
        let address = address
            .and_then(|item| {
                item.parse("an address in quotes, such as \"127.0.0.1:5000\"", |text| {
                    listen_address(text, tls.exposure)
                })
            })
            .unwrap_or(ADDRESS);
        if hostname.is_none() && address.ip().is_unspecified() {
            let place = Place::Key { beside: None, key: "listen.hostname".into() };
            problems.warn(
                &place,
                format_args!("nobody can log in to {address}; say by which name people reach it"),
            );
        }

        if let Some(Tls { source: Source::Acme(settings), .. }) = &tls.tls {
            tls::warn_of_reach(settings, address, clear, problems);
        }

        let (auth, people) = auth::read(&mut root, base, &data, environment, &mut variables);

        let mut quotas = root.table("quotas");
        let quota = limits::quota(|key| {
            let key = match key {
                QuotaKey::Bytes => "user_bytes",
                QuotaKey::Repositories => "user_repositories",
                QuotaKey::QueuedRuns => "user_queued_runs",
                QuotaKey::DailyRuns => "user_daily_runs",
            };
            quotas.take_or_variable(key, environment)
        });
        variables.extend(quotas.finish());

        let mut registry = registry(root.table("registry"), environment, &mut variables);
        registry.registry.check = storage::read(root.table("storage"), environment, &mut variables);
        let (executor, within) = executor(root.table("executor"), environment, &mut variables);

        let mut results = root.table("results");
        let result_wait = results
            .take_or_variable("wait", environment)
            .and_then(|item| limits::time_within(&item, &WAIT))
            .unwrap_or(DEFAULT_WAIT);
        variables.extend(results.finish());

        let gc = gc::read(root.table("gc"), environment, &mut variables);
        let scrub = storage::read_scrub(root.table("scrub"), environment, &mut variables);
        let audit = audit::read(root.table("audit"), base, &data, environment, &mut variables);
        let retention = root.take("retention").map(retention::read).unwrap_or_default();

        variables.extend(root.finish());
        environment.warn_of_strangers(&variables, problems);
        let fixed = Self {
            data,
            address,
            hostname,
            clear,
            tls,
            drain,
            limits,
            proxies,
            auth,
            quota,
            registry,
            executor,
            within,
            result_wait,
            gc,
            scrub,
            retention,
            audit,
        };
        (fixed, people)
    }
}

const A_PATH: &str = "a path in quotes";

fn registry(mut table: TableReader<'_>, environment: &Environment, variables: &mut Vec<String>) -> Stored {
    let mut presence = |key| match table.take_or_variable(key, environment).and_then(|item| item.boolean()) {
        Some(true) => Presence::Optional,
        Some(false) | None => Presence::Required,
    };
    let (children, blobs) = (presence("sparse_indexes"), presence("sparse_images"));
    let upload_lifetime = table
        .take_or_variable("upload_lifetime", environment)
        .and_then(|item| limits::time_within(&item, &UPLOAD_LIFETIME))
        .unwrap_or(torno_registry::DEFAULT_UPLOAD_LIFETIME);
    let chunk_min_length = table
        .take_or_variable("chunk_min_length", environment)
        .and_then(|item| limits::size_within(&item, &CHUNK_MIN_LENGTH));
    variables.extend(table.finish());
    let check = torno_registry::Check::default();
    Stored {
        registry: torno_registry::Settings { children, blobs, upload_lifetime, check },
        chunk_min_length,
    }
}

fn executor(
    mut table: TableReader<'_>,
    environment: &Environment,
    variables: &mut Vec<String>,
) -> (Settings, Within) {
    let engine = table
        .take_or_variable("engine", environment)
        .and_then(|item| item.parse("the socket of the engine in quotes", value::engine))
        .unwrap_or_else(|| ENGINE.into());
    let concurrent_runs = table
        .take_or_variable("concurrent_runs", environment)
        .and_then(|item| limits::count_within(&item, &CONCURRENT_RUNS))
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or(1);
    let keep_free = table
        .take_or_variable("keep_free", environment)
        .and_then(|item| limits::size_within(&item, &KEEP_FREE))
        .unwrap_or(ByteSize::gib(1));
    let keep_cache = table
        .take_or_variable("keep_cache", environment)
        .and_then(|item| limits::size_within(&item, &KEEP_CACHE))
        .unwrap_or(ByteSize::gib(10));
    let reconcile = table
        .take_or_variable("reconcile", environment)
        .and_then(|item| limits::time_within(&item, &RECONCILE))
        .unwrap_or(Duration::from_mins(1));
    let patience = table
        .take_or_variable("patience", environment)
        .and_then(|item| limits::time_within(&item, &PATIENCE))
        .unwrap_or(Duration::from_mins(10));
    let attempts = table
        .take_or_variable("attempts", environment)
        .and_then(|item| limits::count_within(&item, &ATTEMPTS))
        .map_or(3, u64::from);
    let within = table
        .take_or_variable("within", environment)
        .and_then(|item| item.parse("\"serve\" or \"execute\"", within))
        .unwrap_or(Within::Serve);
    let volatile = table
        .take_or_variable("volatile", environment)
        .and_then(|item| item.parse("the path of a folder in quotes", value::folder_in_memory))
        .unwrap_or_else(|| VOLATILE.into());
    let accept = table.take("accept").map(accepted).unwrap_or_default();
    let cpus = table.take_or_variable("cpus", environment);
    let memory = table.take_or_variable("memory", environment);
    let gpus = table.take_or_variable("gpus", environment);
    let total = limits::total(cpus.as_ref(), memory.as_ref(), gpus.as_ref());
    variables.extend(table.finish());
    let settings = Settings {
        engine,
        concurrent_runs,
        accept,
        keep_free,
        keep_cache,
        total,
        volatile,
        reconcile,
        patience,
        attempts,
    };
    (settings, within)
}

fn within(text: &str) -> Result<Within, String> {
    match text {
        "serve" => Ok(Within::Serve),
        "execute" => Ok(Within::Execute),
        _ => Err("runs are carried out within \"serve\", or within \"execute\", a process of its own".into()),
    }
}

/// What may be missing on this host, which its custodians had better know.
fn accepted(item: Item<'_>) -> Vec<&'static Attack> {
    const EXPECTED: &str = "the name of a line of `torno doctor` in quotes";
    let known = |text: &str| torno_executor::attack(text).ok_or("`torno doctor` has no line of this name");
    let names = item.into_list("a list of lines of `torno doctor` in quotes, such as [\"memory\"]");
    let accepted = names.iter().filter_map(|item| {
        let attack = item.parse(EXPECTED, known)?;
        item.warning()(&format!("runs are started although this may not be so here: {}", attack.promise));
        Some(attack)
    });
    accepted.collect()
}

fn data_directory(text: &str, base: &Path) -> Result<PathBuf, String> {
    let path = value::path(text, base)?;
    if path.exists() && !path.is_dir() {
        return Err(format!(
            "{} is not a folder; name a folder, which is made if it does not exist",
            path.display()
        ));
    }
    Ok(path)
}

fn listen_address(text: &str, exposure: Exposure) -> Result<SocketAddr, String> {
    let address = value::address(text)?;
    // `::ffff:127.0.0.1` is loopback too.
    if address.ip().to_canonical().is_loopback() || exposure == Exposure::Anywhere {
        return Ok(address);
    }
    Err(format!(
        "{address} can be reached from other machines, and without TLS passwords would travel there in clear; set \
         `tls.mode` to \"acme\" or \"files\", or listen on 127.0.0.1 with a reverse proxy that speaks TLS in \
         front, or, on a network where nobody can listen in, set `tls.i_know_passwords_travel_in_clear = true`"
    ))
}
