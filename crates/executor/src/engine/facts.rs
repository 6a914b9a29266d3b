//! What an engine says of itself and its host, and what could be better.

use bollard::models::SystemInfo;

use super::{Engine, EngineError, limit};

/// Something about an engine or its host that is no promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub name: &'static str,
    /// What the engine says.
    pub value: String,
    /// What could be done, if something could.
    pub advice: Option<&'static str>,
}

impl Engine {
    /// What the engine says of itself. One whose answer cannot be understood may run containers all the same.
    pub(crate) async fn facts(&self) -> Result<Vec<Fact>, EngineError> {
        let docker = self.connected().await?;
        match self.call(limit::LIST, docker.info()).await {
            Ok(info) => Ok(facts(&info)),
            Err(EngineError::Refused { reason, .. }) => Ok(vec![Fact {
                name: "engine",
                value: format!("what it says of itself cannot be read: {reason}"),
                advice: None,
            }]),
            Err(error) => Err(error),
        }
    }
}

fn facts(info: &SystemInfo) -> Vec<Fact> {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
    let fact = |name, value: String, advice: Option<&'static str>| Fact { name, value, advice };
    let told = |name, value: Option<bool>, advice| {
        let (word, advice) = match value {
            Some(true) => ("yes", None),
            Some(false) => ("no", Some(advice)),
            None => ("unknown", None),
        };
        fact(name, word.into(), advice)
    };
    let options = info.security_options.clone().unwrap_or_default();
    let has = |option: &str| {
        options.iter().any(|line| line.split(',').any(|part| part == format!("name={option}")))
    };
    let driver = text(&info.driver);
    let copies = (driver == "vfs").then_some("each container copies its whole image; overlay2 does not");
    let version = info.cgroup_version.map_or_else(|| "unknown".into(), |version| version.to_string());
    let groups = format!(
        "version {version}, driver {}",
        info.cgroup_driver.map_or_else(|| "unknown".into(), |driver| driver.to_string())
    );
    let users = match (has("rootless"), has("userns")) {
        (true, _) => ("rootless", None),
        (false, true) => ("remapped", None),
        (false, false) => (
            "none",
            Some(
                "whoever became root in a container would be root here; `userns-remap` or a rootless engine makes it \
                 somebody without rights",
            ),
        ),
    };
    let confined = ["apparmor", "selinux"].into_iter().find(|name| has(name));
    let mut facts = vec![
        fact("engine", format!("{} on {}", text(&info.server_version), text(&info.operating_system)), None),
        fact("kernel", text(&info.kernel_version), None),
        fact("default runtime", text(&info.default_runtime), None),
        fact("storage driver", driver, copies),
        fact("control groups", groups, None),
        told("memory limit", info.memory_limit, "boot with `cgroup_enable=memory`"),
        told("swap limit", info.swap_limit, "boot with `swapaccount=1`, or have no swap"),
        told("process limit", info.pids_limit, "the kernel needs CONFIG_CGROUP_PIDS"),
        told("processor limit", info.cpu_cfs_quota, "the kernel needs CONFIG_CFS_BANDWIDTH"),
        told(
            "seccomp",
            Some(has("seccomp")),
            "the kernel needs CONFIG_SECCOMP_FILTER, and the engine libseccomp",
        ),
        fact(
            "AppArmor or SELinux",
            confined.unwrap_or("none").into(),
            confined.is_none().then_some("a second wall behind the first would be good"),
        ),
        fact("user namespace", users.0.into(), users.1),
        told(
            "live restore",
            info.live_restore_enabled,
            "an engine that restarts ends its runs; `live-restore` lets them go on",
        ),
        volumes(info),
    ];
    facts.extend(info.warnings.iter().flatten().map(|line| fact("the engine warns", line.clone(), None)));
    facts
}

/// Whether the disk under the volumes could bound each of them.
fn volumes(info: &SystemInfo) -> Fact {
    let status = info.driver_status.iter().flatten();
    let below = status.filter_map(|pair| match pair.as_slice() {
        [name, value] if name == "Backing Filesystem" => Some(value.as_str()),
        _ => None,
    });
    let value = below.into_iter().next().unwrap_or("unknown").to_owned();
    let root = info.docker_root_dir.as_deref().unwrap_or("its folder");
    Fact {
        name: "disk of the volumes",
        value: format!("{value}, at {root}"),
        advice: Some(
            "no quota bounds a volume before Torno sees how large it has become; give this folder a file system of its \
             own",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> SystemInfo {
        SystemInfo {
            server_version: Some("28.0".into()),
            driver: Some("overlay2".into()),
            driver_status: Some(vec![vec!["Backing Filesystem".into(), "xfs".into()], vec!["odd".into()]]),
            memory_limit: Some(true),
            swap_limit: Some(true),
            security_options: Some(vec!["name=seccomp,profile=builtin".into(), "name=rootless".into()]),
            live_restore_enabled: Some(true),
            ..SystemInfo::default()
        }
    }

    fn of<'a>(facts: &'a [Fact], name: &str) -> (&'a str, bool) {
        let fact = facts.iter().find(|fact| fact.name == name).expect("a fact");
        (fact.value.as_str(), fact.advice.is_some())
    }

    #[test]
    fn a_host_that_has_it_all_needs_little_advice() {
        let facts = facts(&info());
        assert_eq!(of(&facts, "seccomp"), ("yes", false));
        assert_eq!(of(&facts, "user namespace"), ("rootless", false));
        assert_eq!(of(&facts, "storage driver"), ("overlay2", false));
        assert_eq!(of(&facts, "swap limit"), ("yes", false));
        assert_eq!(of(&facts, "disk of the volumes"), ("xfs, at its folder", true));
        assert_eq!(of(&facts, "process limit"), ("unknown", false), "an engine that does not say so");
    }

    #[test]
    fn what_a_host_lacks_comes_with_advice() {
        let poor = SystemInfo {
            driver: Some("vfs".into()),
            swap_limit: Some(false),
            security_options: None,
            live_restore_enabled: Some(false),
            warnings: Some(vec!["WARNING: No swap limit support".into()]),
            ..info()
        };
        let facts = facts(&poor);
        for name in ["seccomp", "swap limit", "live restore"] {
            assert_eq!(of(&facts, name), ("no", true), "{name}");
        }
        assert_eq!(of(&facts, "user namespace"), ("none", true));
        assert_eq!(of(&facts, "storage driver"), ("vfs", true));
        assert_eq!(of(&facts, "the engine warns"), ("WARNING: No swap limit support", false));
    }
}
