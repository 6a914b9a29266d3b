//! Confidential data of the site, and where it is.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Confidential data of the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name in the configuration; one component of a path. Researchers see it.
    pub name: String,
    /// Where the whole of it is. Researchers never see this.
    pub place: DataPlace,
    /// Where a part of it, or something like it, is that may be given away.
    pub sample: Option<PathBuf>,
    /// The folder below, of both, that a project's runs see in place of the whole: names with `/` between. Not of a volume.
    pub part: Option<String>,
}

/// Where data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataPlace {
    /// A folder on the host, absolute.
    Folder(PathBuf),
    /// A volume of the engine's, which somebody else has made.
    Volume(VolumeName),
}

impl DataPlace {
    /// The folder, if it is one.
    pub fn as_folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(path) => Some(path),
            Self::Volume(_) => None,
        }
    }
}

impl fmt::Display for DataPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

impl Dataset {
    /// A folder without a sample.
    pub fn folder(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self::at(name, DataPlace::Folder(path.into()))
    }

    /// Data somewhere, without a sample.
    pub fn at(name: impl Into<String>, place: DataPlace) -> Self {
        Self { name: name.into(), place, sample: None, part: None }
    }

    /// What runs see of it.
    pub fn seen(&self) -> DataPlace {
        match (&self.place, &self.part) {
            (DataPlace::Folder(whole), Some(part)) => DataPlace::Folder(whole.join(part)),
            (whole, _) => whole.clone(),
        }
    }
}

/// The name of a volume of the engine's that is not Torno's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeName(Box<str>);

/// Why a text names no volume that data can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeNameError {
    /// The engine takes no such name.
    #[error(
        "this is no name of a volume: it begins with a letter or a digit, and has at most 255 of these, `_`, `.` and `-`"
    )]
    Spelling,
    /// A volume of a run, which goes with it.
    #[error("names that begin with `torno-` are those of Torno's own volumes, which go with their runs")]
    Own,
}

impl VolumeName {
    /// The longest, in bytes: it is the name of a folder.
    const MAX_LENGTH: usize = 255;

    /// As the engine knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = VolumeNameError;

    fn from_str(text: &str) -> Result<Self, VolumeNameError> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if !first || text.len() > Self::MAX_LENGTH || !text.bytes().all(inner) {
            return Err(VolumeNameError::Spelling);
        }
        if text.starts_with("torno-") { Err(VolumeNameError::Own) } else { Ok(Self(text.into())) }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_have_names_that_engines_take() {
        let longest = "a".repeat(VolumeName::MAX_LENGTH);
        for good in ["retina", "R2_x.y-z", "0", longest.as_str()] {
            assert_eq!(good.parse::<VolumeName>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        let too_long = "a".repeat(VolumeName::MAX_LENGTH + 1);
        for bad in ["", "-x", ".x", "/srv/data", "a/b", "a:ro", "a b", "é", too_long.as_str()] {
            assert_eq!(bad.parse::<VolumeName>(), Err(VolumeNameError::Spelling), "{bad}");
        }
        assert_eq!("torno-0-run-1".parse::<VolumeName>(), Err(VolumeNameError::Own));
    }

    #[test]
    fn a_part_is_one_of_a_folder() {
        let folder = Dataset { part: Some("a/b".into()), ..Dataset::folder("d", "/srv") };
        assert_eq!(folder.seen(), DataPlace::Folder("/srv/a/b".into()));
        let volume = Dataset::at("d", DataPlace::Volume("v".parse().expect("a name")));
        assert_eq!((volume.seen(), volume.seen().as_folder()), (volume.place.clone(), None));
    }
}
