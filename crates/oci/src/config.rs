//! What Torno needs to know of an image's configuration before it runs it (image-spec: Image Configuration).

use oci_spec::image as spec;

use crate::{
    Platform, WishError, Wishes,
    spelling::{self, LEAF, Shape},
};

/// The largest image configuration read, in bytes: far above what builders write, far below what hurts.
pub const MAX_CONFIG_SIZE: usize = 4 * 1024 * 1024;

/// The most `VOLUME`s an image that runs may declare; each becomes a mount.
const MAX_VOLUMES: usize = 16;

/// The most variables an image that runs may set: engines compare each with each, and take minutes for 100,000.
const MAX_VARIABLES: usize = 1000;

/// What is read below, and what the engine obeys though it is not.
const KEYS: Shape = Shape(&[
    ("os", LEAF),
    ("architecture", LEAF),
    ("rootfs", Shape(&[("type", LEAF), ("diff_ids", LEAF)])),
    (
        "config",
        Shape(&[
            ("Cmd", LEAF),
            ("Entrypoint", LEAF),
            ("Env", LEAF),
            ("Labels", LEAF),
            ("Volumes", LEAF),
            ("WorkingDir", LEAF),
        ]),
    ),
]);

/// The configuration of an image that can run: there is no value of this type for one that cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunConfig {
    /// Names of the environment variables that the image sets.
    pub environment: Vec<String>,
    /// The paths the image declares as volumes, absolute and normal.
    pub volumes: Vec<String>,
    /// The working directory; empty when the image says nothing.
    pub working_directory: String,
    /// The names of all labels: an engine puts them on the container, where other programs of the host obey them.
    pub labels: Vec<String>,
    /// What the labels ask.
    pub wishes: Wishes,
}

/// Why an image cannot run here, and the way out. The Docker client shows this to the person who pushed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Larger than [`MAX_CONFIG_SIZE`].
    #[error("the image's configuration is larger than {MAX_CONFIG_SIZE} bytes")]
    TooLarge,
    /// Not an image configuration.
    #[error("the image's configuration cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Built for another machine.
    #[error(
        "the image is built for {image} and this site runs {site}; build it with `docker build --platform {site}`"
    )]
    Platform {
        /// The image's platform.
        image: Platform,
        /// The engine's.
        site: Platform,
    },
    /// Nothing to start.
    #[error("the image has no command to run; add a CMD or an ENTRYPOINT to its Dockerfile")]
    NoCommand,
    /// A working directory that is not one inside the container.
    #[error("the image's WORKDIR is `{0}`; use a folder of the image's own, such as /app")]
    WorkingDirectory(String),
    /// A volume that cannot be mounted.
    #[error(
        "the image declares the VOLUME `{0}`; use an absolute path outside /proc, /sys and /dev, or remove the line"
    )]
    Volume(String),
    /// More than 16 volumes.
    #[error("the image declares {0} VOLUMEs; at most {MAX_VOLUMES} can be mounted")]
    Volumes(usize),
    /// More than 1000 variables.
    #[error("the image sets {0} variables; at most {MAX_VARIABLES} can be: put the rest into a file")]
    Variables(usize),
    /// Labels that ask for what cannot be given.
    #[error(transparent)]
    Wish(#[from] WishError),
}

impl RunConfig {
    /// Reads an image configuration and checks that it can run on `site`.
    pub fn parse(bytes: &[u8], site: &Platform) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_CONFIG_SIZE {
            return Err(ConfigError::TooLarge);
        }
        spelling::check(bytes, KEYS)?;
        let parsed: spec::ImageConfiguration = serde_json::from_slice(bytes)?;
        let image = Platform { os: parsed.os().to_string(), architecture: parsed.architecture().to_string() };
        if image != *site {
            return Err(ConfigError::Platform { image, site: site.clone() });
        }
        let config = parsed.config().clone().unwrap_or_default();
        let words = |words: &Option<Vec<String>>| words.as_ref().map_or(0, Vec::len);
        if words(config.entrypoint()) + words(config.cmd()) == 0 {
            return Err(ConfigError::NoCommand);
        }
        let working_directory = config.working_dir().clone().unwrap_or_default();
        if !working_directory.is_empty() && !is_ordinary_path(&working_directory) {
            return Err(ConfigError::WorkingDirectory(shorten(&working_directory)));
        }
        let mut volumes = config.volumes().clone().unwrap_or_default();
        volumes.sort();
        if volumes.len() > MAX_VOLUMES {
            return Err(ConfigError::Volumes(volumes.len()));
        }
        if let Some(volume) =
            volumes.iter().find(|volume| !is_ordinary_path(volume) || volume.trim_matches('/').is_empty())
        {
            return Err(ConfigError::Volume(shorten(volume)));
        }
        if words(config.env()) > MAX_VARIABLES {
            return Err(ConfigError::Variables(words(config.env())));
        }
        let names = config.env().iter().flatten();
        let environment = names.map(|entry| entry.split('=').next().unwrap_or_default().to_owned()).collect();
        let labels = config.labels().clone().unwrap_or_default();
        let wishes = Wishes::parse(&labels)?;
        let mut labels: Vec<_> = labels.into_keys().collect();
        labels.sort();
        Ok(Self { environment, volumes, working_directory, labels, wishes })
    }
}

/// Absolute, without `.` and `..`, and not inside a file system of the kernel's.
fn is_ordinary_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let mut components = rest.split('/').filter(|component| !component.is_empty());
    let kernel = matches!(components.clone().next(), Some("proc" | "sys" | "dev"));
    !kernel && components.all(|component| component != "." && component != "..") && !path.contains('\0')
}

fn shorten(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn site() -> Platform {
        Platform { os: "linux".into(), architecture: "amd64".into() }
    }

    fn parse(config: &serde_json::Value) -> Result<RunConfig, ConfigError> {
        let value = json!({
            "os": "linux", "architecture": "amd64", "config": config,
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        RunConfig::parse(value.to_string().as_bytes(), &site())
    }

    #[test]
    fn an_image_with_a_command_runs() {
        let config =
            parse(&json!({"Cmd": ["/x"], "Env": ["A=1", "LD_PRELOAD=/x"], "Volumes": {"/data": {}}}));
        let config = config.expect("runs");
        assert_eq!(config.environment, ["A", "LD_PRELOAD"]);
        assert_eq!(config.volumes, ["/data"]);
    }

    #[test]
    fn what_cannot_run_is_refused_with_the_way_out() {
        assert!(matches!(parse(&json!({})), Err(ConfigError::NoCommand)));
        for bad in ["/proc/self/cwd", "//proc/x", "/sys", "/a/../proc", "relative", "/dev/fd/7"] {
            let refused = parse(&json!({"Cmd": ["/x"], "WorkingDir": bad}));
            assert!(matches!(refused, Err(ConfigError::WorkingDirectory(_))), "{bad}");
        }
        for bad in ["/proc", "/", "//", "/a/./b", "relative"] {
            let refused = parse(&json!({"Cmd": ["/x"], "Volumes": {bad: {}}}));
            assert!(matches!(refused, Err(ConfigError::Volume(_))), "{bad}");
        }
        let volumes: serde_json::Map<_, _> = (0..17).map(|n| (format!("/v{n}"), json!({}))).collect();
        assert!(matches!(parse(&json!({"Cmd": ["/x"], "Volumes": volumes})), Err(ConfigError::Volumes(17))));
    }

    #[test]
    fn variables_are_counted() {
        let with = |count: usize| {
            let variables: Vec<String> = (0..count).map(|number| format!("V{number}=x")).collect();
            parse(&json!({"Cmd": ["/x"], "Env": variables}))
        };
        assert_eq!(with(1000).expect("at the limit").environment.len(), 1000);
        assert!(matches!(with(1001), Err(ConfigError::Variables(1001))));
    }

    #[test]
    fn an_arm_laptop_is_told_what_to_type() {
        let arm = json!({"os": "linux", "architecture": "arm64", "config": {"Cmd": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": []}});
        let error = RunConfig::parse(arm.to_string().as_bytes(), &site()).expect_err("refused");
        assert!(error.to_string().contains("docker build --platform linux/amd64"), "{error}");
    }

    #[test]
    fn wishes_in_another_spelling_are_refused() {
        for key in ["volumes", "env", "labels", "workingdir", "ENTRYPOINT", "cmd"] {
            let refused = parse(&json!({"Cmd": ["/x"], key: null}));
            assert!(matches!(refused, Err(ConfigError::Json(_))), "{key}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = RunConfig::parse(&bytes, &site());
        }
    }
}
