//! What a run is given and held to, as a command for whoever tries a program at home.
//!
//! It is made from the very plan that a run is made from. What the program cannot tell from inside, such as where its log
//! goes, is left out; of the seccomp profile the engine's own takes the place, which allows a little more.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use torno_auth::ProjectName;
use torno_oci::{RunConfig, RunId};
use torno_registry::Gpu;

use crate::{
    ProjectPolicy,
    instance::Instance,
    plan::{
        Capabilities, Confinement, DataMount, HealthCheck, Namespace, Network, OUTPUT, Plan, Resources,
        SECRETS, Subject,
    },
};

/// How to run an image of a project at home as it would run at the site, on the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// Shell commands that are given once, in a folder of one's own; some are remarks.
    pub prepare: Vec<String>,
    /// One `docker run` command for a shell, in which `$IMAGE` is the image.
    pub command: String,
}

impl DryRun {
    /// The one of a project at a registry of this name. It names nothing of the site's machine.
    pub fn new(project: &ProjectName, policy: &ProjectPolicy, host: &str) -> Self {
        let instance = Instance::of_nobody();
        let image = "\"$IMAGE\"";
        // Of an image that is not known yet; one's own engine looks at the image that it is given.
        let config = RunConfig::default();
        let elsewhere = at_the_site(policy);
        // The services of the site, and what they ask for, are not to be had at home, nor in a try.
        // It has the runtime that is there, and needs no room for another's threads.
        let policy = &ProjectPolicy {
            services: Vec::new(),
            secrets: BTreeMap::new(),
            runtime: None,
            ..policy.clone()
        };
        let nowhere = Path::new("");
        // Which ones is the site's to choose; of the command, their number counts.
        let gpus: Vec<Gpu> = (0..policy.limits.gpus).map(Gpu::new).collect();
        let subject = Subject {
            instance: &instance,
            run: RunId::FIRST,
            attempt: 1,
            project,
            image,
            sockets: nowhere,
            secrets: nowhere,
            gpus: &gpus,
        };
        let plan = Plan::new(&subject, &config, policy);
        // Only what an image declares can be in the way.
        let plan = plan.ok();
        let command = plan.as_ref().map(command).unwrap_or_default();
        let mut prepare = vec![format!("IMAGE={}", quoted(&format!("{host}/run/{project}/NAME:TAG")))];
        prepare.extend(elsewhere);
        for data in plan.iter().flat_map(|plan| &plan.data) {
            let folder = home(data, policy);
            let name = &data.dataset;
            prepare.push(format!("mkdir -p {folder}"));
            let sampled = policy.datasets.iter().any(|known| known.name == *name && known.sample.is_some());
            prepare.push(if sampled {
                let image = quoted(&format!("{host}/samples/{name}"));
                let from = quoted(&format!(":/input/{}", part(policy, name)));
                format!("docker cp \"$(docker create {image})\"{from} {folder}")
            } else {
                format!("# there is no sample of {name}: put files of the same form into {folder}")
            });
        }
        prepare.push("mkdir -p output && chmod 777 output".into());
        Self { prepare, command }
    }

    /// All of it as a script.
    pub fn script(&self) -> String {
        let mut text =
            String::from("# Name your image in the first line. The rest is as it is at the site.\n");
        for line in self.prepare.iter().chain([&self.command]) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

/// What a run of the project has that is not to be had at home, as remarks. Where it is stays the site's.
fn at_the_site(policy: &ProjectPolicy) -> Vec<String> {
    let services: Vec<_> = policy.services.iter().map(ToString::to_string).collect();
    let secrets: Vec<_> = policy.secrets.keys().map(|name| format!("{SECRETS}/{name}")).collect();
    let told = [("reaches", services), ("finds", secrets)].into_iter().filter(|(_, what)| !what.is_empty());
    told.map(|(does, what)| format!("# a run {does} {}; a try and the command below do not", what.join(", ")))
        .collect()
}

/// What is copied of a sample: the part of it that runs see.
fn part(policy: &ProjectPolicy, name: &str) -> String {
    let dataset = policy.datasets.iter().find(|known| known.name == *name);
    match dataset.and_then(|dataset| dataset.part.as_ref()) {
        Some(part) => format!("{part}/."),
        None => ".".into(),
    }
}

/// The folder at home that stands for a dataset.
fn home(data: &DataMount, policy: &ProjectPolicy) -> String {
    match policy.datasets.as_slice() {
        [_] => "input".into(),
        _ => format!("input/{}", data.dataset),
    }
}

/// A plan as a command. Everything of it is named here, so that whoever adds something says what becomes of it.
fn command(plan: &Plan) -> String {
    let Plan {
        name: _,
        image,
        labels: _,
        hostname,
        user,
        // The image's own, which its engine looks up.
        working_directory: _,
        environment,
        taken_away: _,
        data,
        secrets: _,
        relay: _,
        volume: _,
        tmpfs,
        confinement,
        // Left out above.
        runtime: _,
        resources,
        gpus,
        time: _,
    } = plan;
    let mut words = vec!["docker run --rm".to_owned()];
    words.extend(confined(confinement));
    words.push(option("hostname", hostname));
    words.push(option("user", user));
    words.extend(limited(resources));
    words.extend((!gpus.is_empty()).then(|| option("gpus", &gpus.len().to_string())));
    words.extend(tmpfs.iter().map(|(path, options)| option("tmpfs", &format!("{path}:{options}"))));
    words.extend(environment.iter().map(|(name, value)| option("env", &format!("{name}={value}"))));
    let single = data.len() == 1;
    for mount in data {
        let folder = if single { "input".into() } else { format!("input/{}", mount.dataset) };
        words.push(bind(&folder, &mount.target, ",readonly"));
    }
    words.push(bind("output", OUTPUT, ""));
    // The shell's own variable, not a word to be quoted.
    words.push(image.clone());
    words.join(" ")
}

fn confined(confinement: &Confinement) -> Vec<String> {
    let Confinement {
        network: Network::None | Network::WithRelay(_),
        read_only_root,
        capabilities: Capabilities::None,
        no_new_privileges,
        system_calls: _,
        ipc: Namespace::Private,
        cgroups: Namespace::Private,
        init,
        health_check: HealthCheck::None,
        stop_signal: _,
        // Every engine hides such paths by itself.
        masked: _,
        read_only: _,
    } = confinement;
    let always =
        ["--network none", "--cap-drop ALL", "--ipc private", "--cgroupns private", "--no-healthcheck"];
    let said = [
        (*no_new_privileges, "--security-opt no-new-privileges"),
        (*read_only_root, "--read-only"),
        (*init, "--init"),
    ];
    let said = said.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word);
    always.into_iter().chain(said).map(str::to_owned).collect()
}

fn limited(resources: &Resources) -> Vec<String> {
    let Resources { memory, shm, nano_cpus, pids, ulimits, oom_score_adj: _, log_file: _, log_files: _ } =
        resources;
    let cpus = format!("{}.{:09}", nano_cpus / 1_000_000_000, nano_cpus % 1_000_000_000);
    let mut words = vec![
        option("memory", &memory.to_string()),
        option("memory-swap", &memory.to_string()),
        option("shm-size", &shm.to_string()),
        option("cpus", cpus.trim_end_matches('0').trim_end_matches('.')),
        option("pids-limit", &pids.to_string()),
    ];
    words.extend(ulimits.iter().map(|(name, value)| option("ulimit", &format!("{name}={value}:{value}"))));
    words
}

fn option(name: &str, value: &str) -> String {
    format!("--{name} {}", quoted(value))
}

/// A folder below the current one at a place in the container. Docker reads the value as a line of CSV.
fn bind(folder: &str, target: &str, more: &str) -> String {
    let target = format!("target={target}");
    let target =
        if target.contains(['"', ',']) { format!("\"{}\"", target.replace('"', "\"\"")) } else { target };
    format!("--mount type=bind,source=\"$PWD\"/{folder},{}{more}", quoted(&target))
}

/// One word for a shell, whatever is in it.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, process::Command};

    use proptest::prelude::*;

    use crate::Dataset;

    use super::*;

    fn made(policy: &ProjectPolicy) -> DryRun {
        DryRun::new(&"retina".parse().expect("project"), policy, "registry.example.org")
    }

    /// The words that a shell makes of a command.
    fn words(command: &str) -> Vec<String> {
        let script = format!("printf '%s\\0' {command}");
        let shell =
            Command::new("sh").env("IMAGE", "the image").env("PWD", "/here").arg("-c").arg(script).output();
        let text = String::from_utf8(shell.expect("a shell").stdout).expect("UTF-8");
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    #[test]
    fn a_shell_makes_of_it_what_is_meant() {
        let policy = ProjectPolicy {
            datasets: vec![Dataset::folder("eyes", "/srv/secret")],
            mount: "/opt/a, \"b\" $(c)".into(),
            environment: BTreeMap::from([("WILD".into(), "it's\n$HOME `x` \"y\" \\".into())]),
            ..ProjectPolicy::default()
        };
        let made = made(&policy);
        let words = words(&made.command);
        let has = |word: &str| assert!(words.iter().any(|known| known == word), "{word}: {words:#?}");
        has("WILD=it's\n$HOME `x` \"y\" \\");
        assert!(
            words.iter().any(|word| {
                word.starts_with("type=bind,source=/")
                    && word.ends_with("/input,\"target=/opt/a, \"\"b\"\" $(c)\",readonly")
            }),
            "{words:#?}"
        );
        assert_eq!(words.last().map(String::as_str), Some("the image"));
        assert!(!made.script().contains("secret"), "where the data is stays the site's");
        assert!(made.prepare.iter().any(|line| line.starts_with("# there is no sample of eyes")));
    }

    #[test]
    fn every_option_of_a_plain_project() {
        let sampled =
            |name: &str| Dataset { sample: Some("/srv/sample".into()), ..Dataset::folder(name, "/srv/data") };
        let policy = ProjectPolicy {
            datasets: vec![sampled("ears"), sampled("eyes")],
            services: vec!["db.internal:5432 = 10.0.0.5:5433".parse().expect("a service")],
            secrets: BTreeMap::from([("db-password".into(), "/etc/secret".into())]),
            ..ProjectPolicy::default()
        };
        crate::plan::samples::reviewed("dry-run", &made(&policy).script());
    }

    #[test]
    fn at_home_any_gpus_will_do() {
        let of = |gpus| {
            let limits = crate::Limits { gpus, ..crate::Limits::default() };
            made(&ProjectPolicy { limits, ..ProjectPolicy::default() }).command
        };
        assert!(of(2).contains(" --gpus 2 ") && !of(2).contains("NVIDIA_"), "{}", of(2));
        assert!(!of(0).contains("--gpus"), "{}", of(0));
    }

    proptest! {
        #[test]
        fn whatever_a_value_is_a_shell_takes_it_for_one_word(text in "[^\0]{0,20}") {
            prop_assert_eq!(words(&quoted(&text)), [text]);
        }
    }
}
