//! `[groups]`, `[datasets.*]` and `[projects.*]`, from the main file and from `projects.d`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use torno_auth::{Access, Members, Others, Project, ProjectName, Rerun, Sample, UserName, Visibility};
use torno_executor::{Dataset, LogPolicy, ProjectPolicy, Runtime, Service};
use torno_oci::DatasetName;
use torno_registry::{KeepImages, Resources};

use super::{
    auth::People,
    dataset, limits, reach,
    reader::{Item, TableReader},
    retention, value,
};

/// Where the data may not stand in the container: the kernel's own file systems, and paths that Torno fills.
const FORBIDDEN_MOUNTS: [&str; 7] = ["/proc", "/sys", "/dev", "/output", "/tmp", "/etc", "/run"];

/// What a project's own variables may not start with: `TORNO_` is what a run is told by Torno, `LD_` makes the
/// dynamic linker load other code than the image's, `NVIDIA_` tells NVIDIA's runtime which GPUs a run gets.
const FORBIDDEN_VARIABLES: [&str; 3] = ["TORNO_", "LD_", "NVIDIA_"];

const USERS: &str = "a list of user names, such as [\"ada\", \"@team\"]";
const USER: &str = "a user name in quotes";

/// Everybody who has logged in.
const USERS_GROUP: &str = "users";

/// Everybody.
const ANYONE_GROUP: &str = "anyone";

/// The tables as they stand in the files, by name.
#[derive(Debug, Default)]
pub(super) struct Definitions<'a> {
    groups: BTreeMap<String, Item<'a>>,
    datasets: BTreeMap<String, Item<'a>>,
    projects: BTreeMap<String, Item<'a>>,
}

/// What a dataset must stay clear of: the registry would be mounted into runs.
#[derive(Debug)]
pub(super) struct Private {
    /// The data directory with links followed; it may neither hold a dataset nor lie in one.
    pub(super) data: PathBuf,
    /// What else may not lie in a dataset, with a name for it.
    pub(super) others: Vec<(&'static str, PathBuf)>,
    /// Whether datasets must be found.
    pub(super) looks: Looks,
}

/// Where datasets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    /// Each must be found.
    Everywhere,
    /// Those that this process can find; another one, which mounts them, looks at all.
    WhereFound,
}

/// What the definitions say.
#[derive(Debug, Default)]
pub(super) struct Projects {
    pub(super) admins: Members,
    pub(super) robots: BTreeSet<UserName>,
    pub(super) access: Vec<Access>,
    pub(super) members: BTreeMap<ProjectName, Project>,
    pub(super) policies: BTreeMap<ProjectName, ProjectPolicy>,
    pub(super) datasets: Vec<Dataset>,
    pub(super) images: BTreeMap<ProjectName, KeepImages>,
}

/// The names that a project may speak of. Those with errors of their own are here too, so that one mistake is
/// reported once.
pub(super) struct Known<'r> {
    groups: BTreeMap<String, BTreeSet<UserName>>,
    datasets: BTreeMap<String, Option<Dataset>>,
    /// Names that are no people's.
    robots: &'r BTreeSet<UserName>,
    elsewhere: Elsewhere,
    /// What all runs may have together.
    total: Resources,
    /// What relative paths are relative to.
    base: &'r Path,
    private: &'r Private,
}

/// Whether a directory or an identity provider names groups too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Elsewhere {
    Yes,
    #[default]
    No,
}

/// Whether a list may hold `@users` and `@anyone`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Everybody {
    Allowed,
    No,
}

impl<'a> Definitions<'a> {
    /// Adds what stands in one file, whose main name is `main`.
    pub(super) fn gather(&mut self, root: &mut TableReader<'a>, main: &str) {
        for (key, known) in
            [("groups", &mut self.groups), ("datasets", &mut self.datasets), ("projects", &mut self.projects)]
        {
            for (name, item) in root.table(key).into_entries() {
                if let Some(earlier) = known.get(&name) {
                    let file = earlier.beside().unwrap_or(main);
                    item.refuse(format_args!("this name is defined in {file} already; keep one of the two"));
                } else {
                    known.insert(name, item);
                }
            }
        }
    }

    /// What they mean. Relative paths are relative to `base`; no run gets more than `total`.
    pub(super) fn read(
        self,
        base: &Path,
        private: &Private,
        mut people: People<'_>,
        total: Resources,
    ) -> Projects {
        let groups = self.groups.into_iter().map(|(name, item)| {
            let users = group(&name, item);
            (name, users)
        });
        let (groups, datasets) = (groups.collect(), dataset::read_all(self.datasets, base, private));
        let mut tables = Vec::new();
        let mut robots = people.robots.clone();
        for (name, item) in self.projects {
            let parsed: Option<ProjectName> = name.parse().map_err(|error| item.refuse(error)).ok();
            let warn = item.warning();
            let Some(mut table) = item.into_table() else { continue };
            // Every machine must be known before the first list of people is read.
            let own = table.take("robots").map(users).unwrap_or_default();
            robots.extend(own.iter().cloned());
            tables.push((parsed, table, own, warn));
        }
        let known =
            Known { groups, datasets, robots: &robots, elsewhere: people.elsewhere, total, base, private };
        let mut projects = Projects {
            admins: people.admins(&known),
            access: people.access(&known),
            robots: robots.clone(),
            ..Projects::default()
        };
        for (name, table, own, warn) in tables {
            known.project(name, table, own, warn, &mut projects);
        }
        projects.datasets = known.datasets.into_values().flatten().collect();
        projects
    }
}

fn group(name: &str, item: Item<'_>) -> BTreeSet<UserName> {
    if !value::is_name(name) {
        item.refuse(value::name_rule());
    }
    if [USERS_GROUP, ANYONE_GROUP].contains(&name) {
        item.refuse("this name has a meaning of its own in [[access]]; choose another");
    }
    users(item)
}

/// A list of user names.
pub(super) fn users(item: Item<'_>) -> BTreeSet<UserName> {
    let user = |item: Item<'_>| item.parse(USER, str::parse);
    item.into_list("a list of user names, such as [\"ada\"]").into_iter().filter_map(user).collect()
}

impl Known<'_> {
    fn project(
        &self,
        name: Option<ProjectName>,
        mut table: TableReader<'_>,
        robots: BTreeSet<UserName>,
        warn: impl FnOnce(&str),
        projects: &mut Projects,
    ) {
        let members = self.members(&mut table, robots);
        let policy = self.policy(&mut table);
        let members = Project { datasets: samples(&policy.datasets), ..members };
        let images = table.take("keep_images").and_then(|item| retention::keep_images(&item));
        table.finish();
        if members.researchers.is_empty() && members.robots.is_empty() {
            warn("this project has no researchers, so nobody can push to it");
        }
        if let Some(name) = name {
            projects.members.insert(name.clone(), members);
            projects.images.extend(images.map(|images| (name.clone(), images)));
            projects.policies.insert(name, policy);
        }
    }

    fn members(&self, table: &mut TableReader<'_>, robots: BTreeSet<UserName>) -> Project {
        let mut people =
            |key| table.take(key).map(|item| self.people(item, Everybody::No)).unwrap_or_default();
        Project {
            researchers: people("researchers"),
            robots,
            custodians: people("custodians"),
            visibility: table.take("visibility").and_then(|item| visibility(&item)).unwrap_or_default(),
            quota: table.take("quota").map(limits::quota_table).unwrap_or_default(),
            datasets: BTreeMap::new(),
            rerun: table.take("rerun").and_then(|item| rerun(&item)).unwrap_or_default(),
        }
    }

    fn policy(&self, table: &mut TableReader<'_>) -> ProjectPolicy {
        let defaults = ProjectPolicy::default();
        let datasets = table.take("datasets").map(|item| self.datasets(item)).unwrap_or_default();
        let secrets =
            table.take("secrets").map(|item| reach::secrets(item, self.base, self.private, &datasets));
        let services = table.take("allow").map(reach::services).unwrap_or_default();
        let runtime = table.take("runtime").and_then(|item| runtime(&item, &services));
        ProjectPolicy {
            datasets,
            services,
            secrets: secrets.unwrap_or_default(),
            mount: table.take("mount").and_then(|item| mount(&item)).unwrap_or(defaults.mount),
            environment: table.take("environment").map(environment).unwrap_or_default(),
            limits: limits::read(table.take("limits"), self.total, runtime),
            logs: table.take("logs").and_then(|item| logs(&item)).unwrap_or_default(),
            runtime,
        }
    }

    /// User names and groups.
    pub(super) fn people(&self, item: Item<'_>, everybody: Everybody) -> Members {
        let mut members = Members::default();
        for item in item.into_list(USERS) {
            item.parse(USER, |text| match text.strip_prefix('@') {
                Some(group) => self.group(group, everybody, &mut members),
                None => self.person(text, everybody, &mut members),
            });
        }
        members
    }

    fn person(&self, text: &str, everybody: Everybody, members: &mut Members) -> Result<(), String> {
        let user: UserName = text.parse().map_err(|error| format!("{error}"))?;
        // By rule a machine may do what people may; in a project and of a site it has a place of its own.
        if everybody == Everybody::No && self.robots.contains(&user) {
            return Err(format!("`{user}` is a robot, and this is for people; it stands in `robots` alone"));
        }
        members.users.insert(user);
        Ok(())
    }

    fn group(&self, group: &str, everybody: Everybody, members: &mut Members) -> Result<(), String> {
        match (group, everybody) {
            (USERS_GROUP, Everybody::Allowed) => members.others = members.others.max(Others::Users),
            (ANYONE_GROUP, Everybody::Allowed) => members.others = Others::Anyone,
            (USERS_GROUP | ANYONE_GROUP, Everybody::No) => {
                return Err(format!("`@{group}` may stand in [[access]] only; name the people here"));
            }
            _ => match self.groups.get(group) {
                // This one only, though a directory may have another of the name.
                Some(users) => members.users.extend(users.iter().cloned()),
                None if self.elsewhere == Elsewhere::Yes => {
                    members.groups.insert(group.parse().map_err(|error| format!("{error}"))?);
                }
                None => {
                    return Err(format!(
                        "there is no group `{}`; {}",
                        group.escape_debug(),
                        among(self.groups.keys())
                    ));
                }
            },
        }
        Ok(())
    }

    fn datasets(&self, item: Item<'_>) -> Vec<Dataset> {
        let mut seen = BTreeSet::new();
        let mut datasets = Vec::new();
        for item in item.into_list("a list of datasets, such as [\"retina\"]") {
            let found = item.parse("the name of a dataset in quotes", |text| {
                let (name, part) = match text.split_once('/') {
                    Some((name, part)) => (name, Some(part)),
                    None => (text, None),
                };
                let dataset = self.datasets.get(name).ok_or_else(|| {
                    let name = name.escape_debug();
                    format!("there is no dataset `{name}`; {}", among(self.datasets.keys()))
                })?;
                if !seen.insert(name.to_owned()) {
                    return Err(format!("`{name}` is in this list already"));
                }
                // One with errors of its own is reported where it stands.
                dataset.clone().map(|dataset| dataset::part_of(dataset, part)).transpose()
            });
            datasets.extend(found.flatten());
        }
        datasets
    }
}

/// A runtime under which runs reach what they may.
fn runtime(item: &Item<'_>, services: &[Service]) -> Option<Runtime> {
    let runtime = item.parse("\"runc\" or \"runsc\"", str::parse)?;
    if runtime == Runtime::Runsc && !services.is_empty() {
        item.refuse(
            "gVisor has a network of its own inside, which reaches no service; take `allow` away, or use \"runc\"",
        );
    }
    Some(runtime)
}

/// Which datasets a project can try programs on.
fn samples(datasets: &[Dataset]) -> BTreeMap<DatasetName, Sample> {
    let known = datasets.iter().filter_map(|dataset| {
        let sample = if dataset.sample.is_some() { Sample::Given } else { Sample::None };
        // A name that is none is reported where it stands.
        Some((dataset.name.parse().ok()?, sample))
    });
    known.collect()
}

/// The names there are, for somebody who wrote another.
fn among<'n>(names: impl Iterator<Item = &'n String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    if names.is_empty() { "there are none yet".into() } else { format!("there are: {}", names.join(", ")) }
}

fn visibility(item: &Item<'_>) -> Option<Visibility> {
    item.parse("\"owner\" or \"project\"", |text| match text {
        "owner" => Ok(Visibility::Owner),
        "project" => Ok(Visibility::Project),
        other => Err(format!(
            "`{}` is neither \"owner\" (each researcher sees their own) nor \"project\" (all see all)",
            other.escape_debug()
        )),
    })
}

fn rerun(item: &Item<'_>) -> Option<Rerun> {
    item.parse("\"always\" or \"changed\"", |text| match text {
        "always" => Ok(Rerun::Always),
        "changed" => Ok(Rerun::Changed),
        other => Err(format!(
            "`{}` is neither \"always\" (each push runs) nor \"changed\" (the same image under the same tag runs once)",
            other.escape_debug()
        )),
    })
}

fn logs(item: &Item<'_>) -> Option<LogPolicy> {
    item.parse("\"always\", \"on-failure\" or \"never\"", |text| match text {
        "always" => Ok(LogPolicy::Always),
        "on-failure" => Ok(LogPolicy::OnFailure),
        "never" => Ok(LogPolicy::Never),
        other => {
            Err(format!("`{}` is none of \"always\", \"on-failure\" and \"never\"", other.escape_debug()))
        }
    })
}

fn mount(item: &Item<'_>) -> Option<String> {
    item.parse("a path in quotes, such as \"/input\"", |text| {
        let shown = text.escape_debug();
        let steps = text.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'));
        let normal = steps.clone().count() > 0 && steps.clone().all(|step| !matches!(step, "" | "." | ".."));
        if !normal || text.contains(char::is_control) {
            return Err(format!(
                "`{shown}` is not a folder in the container; write a path from the root without `.`, `..` or a slash \
                 at the end, such as \"/input\""
            ));
        }
        match FORBIDDEN_MOUNTS.iter().find(|forbidden| Path::new(text).starts_with(forbidden)) {
            Some(forbidden) => Err(format!("{forbidden} is taken in every run; use another path")),
            None => Ok(text.to_owned()),
        }
    })
}

/// Never repeats a value: it may be a secret.
fn environment(item: Item<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, item) in item.into_table().into_iter().flat_map(TableReader::into_entries) {
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        if !starts || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            item.refuse("a variable's name has letters, digits and `_`, and does not start with a digit");
        }
        if let Some(prefix) = FORBIDDEN_VARIABLES.iter().find(|prefix| name.starts_with(**prefix)) {
            item.refuse(format_args!(
                "variables that start with {prefix} are not yours to set; use another name"
            ));
        }
        let value = item.parse("a text in quotes", |text| {
            if text.contains('\0') { Err("a variable cannot hold a NUL") } else { Ok(text.to_owned()) }
        });
        variables.extend(value.map(|value| (name, value)));
    }
    variables
}
