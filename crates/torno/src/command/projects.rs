//! `torno projects`: which there are, what their runs are given, and how to run an image as one of them would.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use torno_auth::{Members, Project, ProjectName};
use torno_executor::{DataPlace, DryRun, ProjectPolicy, Runtime, Service};

use super::{ConfigFile, Failure};
use crate::config::Config;

const EXAMPLES: &str = "\
Examples:
  torno projects list
  torno projects show retina      its people, data and limits, and the docker run command for trying at home";

/// See which projects there are and what their runs are given
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Projects {
    #[command(flatten)]
    file: ConfigFile,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the projects
    List,
    /// Print what the configuration says of a project, and how to run an image at home as it would
    Show {
        /// The project's name
        project: ProjectName,
    },
}

impl Projects {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.file.load()?;
        let text = match &self.action {
            Action::List => config.projects.iter().fold(String::new(), |mut text, (name, policy)| {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{name}  {}", datasets(policy));
                text
            }),
            Action::Show { project } => {
                let unknown = || Failure::NoProject(project.clone());
                let policy = config.projects.get(project).ok_or_else(unknown)?;
                let members = config.policy.projects.get(project).ok_or_else(unknown)?;
                details(project, policy, members, &host(&config))
            }
        };
        io::stdout().write_all(text.as_bytes()).map_err(Failure::Output)
    }
}

/// The name that people reach the registry by.
pub(crate) fn host(config: &Config) -> String {
    config.hostname.as_ref().map_or_else(|| config.address.to_string(), ToString::to_string)
}

fn datasets(policy: &ProjectPolicy) -> String {
    let each = policy.datasets.iter().map(|dataset| {
        let volume = match &dataset.place {
            DataPlace::Folder(_) => "",
            DataPlace::Volume(_) => " (a volume)",
        };
        let sample = if dataset.sample.is_some() { " (with a sample)" } else { "" };
        format!("{}{volume}{sample}", dataset.name)
    });
    let names: Vec<_> = each.collect();
    if names.is_empty() { "no data".into() } else { names.join(", ") }
}

/// What a run reaches, and where it is looked for: an admin compares the two.
fn services(policy: &ProjectPolicy) -> String {
    let each: Vec<_> = policy.services.iter().map(Service::in_full).collect();
    if each.is_empty() { "nothing".into() } else { each.join(", ") }
}

/// Their names. Where they are kept is in the configuration.
fn secrets(policy: &ProjectPolicy) -> String {
    let names: Vec<_> = policy.secrets.keys().map(|name| format!("/run/secrets/{name}")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn people(members: &Members) -> String {
    let users = members.users.iter().map(ToString::to_string);
    let groups = members.groups.iter().map(|group| format!("@{group}"));
    let all: Vec<_> = users.chain(groups).collect();
    if all.is_empty() { "-".into() } else { all.join(", ") }
}

fn details(name: &ProjectName, policy: &ProjectPolicy, members: &Project, host: &str) -> String {
    let limits = &policy.limits;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("project", name.to_string());
    line("researchers", people(&members.researchers));
    line("custodians", people(&members.custodians));
    line("data", datasets(policy));
    line("mount", policy.mount.clone());
    line("runtime", policy.runtime.map_or("the engine's own", Runtime::name).to_owned());
    line("reaches", services(policy));
    line("secrets", secrets(policy));
    line("memory", limits.memory.to_string());
    line("pids", limits.pids.to_string());
    line("time", humantime::format_duration(limits.time).to_string());
    line("output", format!("{}, {} entries", limits.output, limits.entries));
    text.push_str("\nAt home, on the sample:\n\n");
    text.push_str(&DryRun::new(name, policy, host).script());
    text
}
