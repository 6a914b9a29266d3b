//! Which names may stand in a result.

use super::Reason;

/// The longest component, in bytes: what Linux file systems take.
const MAX_COMPONENT: usize = 255;
/// The longest path, in bytes: every archive format and file system in use takes it.
const MAX_PATH: usize = 1024;
/// Begins the name of a whiteout, which deletes files of lower layers (image-spec, Layer: Whiteouts).
const WHITEOUT: &str = ".wh.";
/// The folder the engine's archive is of.
const ROOT: &str = "output";

/// How an engine names what is in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// By the folder's own name: `output/`, `output/x`. So does Docker.
    Folder,
    /// As if the folder were the root: `/`, `/x`. So does Podman with a folder that is a volume.
    Root,
}

impl Names {
    /// By the name of the folder itself, which stands first.
    pub(super) fn of_folder(path: &[u8]) -> Self {
        if path == b"/" { Self::Root } else { Self::Folder }
    }

    /// The name that the other way would have given; one that is in neither leads nowhere.
    pub(super) fn below_output(self, path: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Folder => path,
            Self::Root if path.starts_with(b"/") => [ROOT.as_bytes(), &path].concat(),
            Self::Root => [b"/", path.as_slice()].concat(),
        }
    }
}

/// A path of the archive, relative to the output folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RelativePath {
    /// The folder itself.
    Root,
    /// Something in it.
    Inside {
        /// Components joined by `/`.
        path: String,
        /// The folder it is in; `None` directly in the root.
        parent: Option<String>,
        /// Whether it was written as a folder, with `/` behind it.
        folder: bool,
    },
}

/// Reads a path of the archive.
pub(super) fn relative(path: &[u8]) -> Result<RelativePath, Reason> {
    let text = std::str::from_utf8(path).map_err(|_| Reason::Name)?;
    let (text, folder) = text.strip_suffix('/').map_or((text, false), |text| (text, true));
    if text == ROOT {
        return Ok(RelativePath::Root);
    }
    let inside = text.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/')).ok_or(Reason::Name)?;
    let plain = |component: &str| {
        !component.is_empty()
            && component != "."
            && component != ".."
            && component.len() <= MAX_COMPONENT
            && !component.starts_with(WHITEOUT)
            && !component.chars().any(char::is_control)
    };
    let fits = inside.len() <= MAX_PATH;
    if !fits || !inside.split('/').all(plain) {
        return Err(Reason::Name);
    }
    let parent = inside.rsplit_once('/').map(|(parent, _)| parent.to_owned());
    Ok(RelativePath::Inside { path: inside.to_owned(), parent, folder })
}

/// How many names a path of the archive has below the output folder, whatever they are.
pub(super) fn depth(path: &[u8]) -> u32 {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
    u32::try_from(names.saturating_sub(1)).unwrap_or(u32::MAX)
}

/// A path that stays out, for people to read: short, on one line, without effect on a terminal.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().take(MAX_COMPONENT).flat_map(|character| {
        // Also the characters that turn the direction of what follows, which make a name look like another.
        let hidden = character.is_control() || matches!(character, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let escaped: Box<dyn Iterator<Item = char>> =
            if hidden { Box::new(character.escape_default()) } else { Box::new(std::iter::once(character)) };
        escaped
    }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(path: &str) -> bool {
        matches!(relative(path.as_bytes()), Ok(RelativePath::Inside { .. }))
    }

    #[test]
    fn plain_names_pass() {
        for good in ["output/a", "output/a/b/", "output/ä b", "output/..a", "output/a.wh.b", "output/-rf"] {
            assert!(inside(good), "{good}");
        }
        assert_eq!(relative(b"output/"), Ok(RelativePath::Root));
        assert_eq!(relative(b"output"), Ok(RelativePath::Root));
    }

    #[test]
    fn others_do_not() {
        for bad in [
            "",
            "/",
            "a",
            "/output/a",
            "output//a",
            "output/../a",
            "output/./a",
            "output/a/..",
            "output/.",
            "outputs/a",
            "output/a\nb",
            "output/a\u{7}",
            "output/.wh.a",
            "output/.wh..wh..opq",
            "output/.wh.d/a",
            "output//",
            "./output/a",
            "output\\..\\a/../b",
        ] {
            assert!(relative(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(relative(b"output/\xff").is_err());
    }

    #[test]
    fn limits_are_inclusive() {
        assert!(inside(&format!("output/{}", "a".repeat(MAX_COMPONENT))));
        assert!(!inside(&format!("output/{}", "a".repeat(MAX_COMPONENT + 1))));
        let long = |length: usize| {
            "a/".repeat(8)
                + &["b".repeat(250), "c".repeat(250), "d".repeat(250)].join("/")
                + "/"
                + &"e".repeat(length - 16 - 753)
        };
        assert!(inside(&format!("output/{}", long(MAX_PATH))));
        assert!(!inside(&format!("output/{}", long(MAX_PATH + 1))));
    }

    #[test]
    fn what_is_shown_is_harmless() {
        assert_eq!(shown(b"output/\x1b[2J\n\xff"), "output/\\u{1b}[2J\\n\u{fffd}");
        assert_eq!(shown("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(shown(&vec![b'a'; 10_000]).len(), MAX_COMPONENT);
    }
}
