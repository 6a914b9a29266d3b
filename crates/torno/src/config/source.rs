//! The files a configuration is made of: the main one and those in `projects.d` beside it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use bytesize::ByteSize;
use toml::Table;

use super::{
    error::{Cause, Place, Problems},
    value::show_size,
};

/// Thousands of projects fit; what is larger was not written by a person and is not meant.
const MAX_FILE_SIZE: ByteSize = ByteSize::mib(1);

/// The folder beside the main file.
pub(super) const FOLDER: &str = "projects.d";

/// The tables of all files.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) main: Table,
    /// The other files, sorted, each with its path relative to the main one.
    pub(super) beside: Vec<(String, Table)>,
}

/// Reads all files; none of them counts if one cannot be read, since what it would have said would be missing.
pub(super) fn read_all(path: &Path, main: &str, base: &Path, problems: &Problems) -> Option<Sources> {
    let table = read(path, main, problems);
    let mut beside = Vec::new();
    for name in names(&base.join(FOLDER), problems) {
        let path = base.join(FOLDER).join(&name);
        let name = format!("{FOLDER}/{name}");
        beside.extend(read(&path, &name, problems).map(|table| (name, table)));
    }
    table.filter(|_| problems.is_empty()).map(|main| Sources { main, beside })
}

/// The files of the folder that end in `.toml`, but for hidden ones, which editors leave behind.
fn names(folder: &Path, problems: &Problems) -> Vec<String> {
    let place = Place::File(FOLDER.into());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.error(&place, error);
            return Vec::new();
        }
    };
    let mut names = Vec::new();
    for entry in entries {
        match entry.map(|entry| entry.file_name().into_string()) {
            Ok(Ok(name)) => names.push(name),
            Ok(Err(name)) => {
                let words = format!("the file name {} is not UTF-8; rename the file", name.display());
                problems.error(&place, Cause::Value(words));
            }
            Err(error) => problems.error(&place, error),
        }
    }
    let toml = |name: &String| Path::new(name).extension().is_some_and(|extension| extension == "toml");
    names.retain(|name| toml(name) && !name.starts_with('.'));
    names.sort_unstable();
    names
}

fn read(path: &Path, name: &str, problems: &Problems) -> Option<Table> {
    parse(path).map_err(|cause| problems.error(&Place::File(name.to_owned()), cause)).ok()
}

fn parse(path: &Path) -> Result<Table, Cause> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_SIZE.as_u64() + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_SIZE.as_u64() {
        return Err(Cause::TooLarge(show_size(MAX_FILE_SIZE)));
    }
    toml::from_str(&text).map_err(|error| {
        let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(&text);
        let (line, column) = match before.rsplit_once('\n') {
            Some((lines, last)) => (lines.split('\n').count() + 1, last.chars().count() + 1),
            None => (1, before.chars().count() + 1),
        };
        Cause::Syntax { line, column, message: error.message().replace('\n', "; ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Table, Cause> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("torno.toml");
        fs::write(&path, text).expect("write");
        parse(&path)
    }

    #[test]
    fn a_slip_is_reported_with_its_line_and_column() {
        let text = "data = \"x\"\n\n[listen\naddress = 1\n";
        let error = parsed(text).expect_err("syntax");
        assert!(matches!(error, Cause::Syntax { line: 3, column: 8, .. }), "{error:?}");
        let error = parsed("a = = 1").expect_err("syntax");
        assert!(matches!(error, Cause::Syntax { line: 1, column: 5, .. }), "{error:?}");
        let error = parsed("a = 1\nb = 1\na = 2\n").expect_err("twice");
        assert!(matches!(error, Cause::Syntax { line: 3, column: 1, .. }), "{error:?}");
        let error = parsed("b = 1\n\"é\" = \"é\" x\n").expect_err("letters, not bytes");
        assert!(matches!(error, Cause::Syntax { line: 2, column: 11, .. }), "{error:?}");
    }

    #[test]
    fn the_largest_file_and_one_byte_more() {
        let limit = usize::try_from(MAX_FILE_SIZE.as_u64()).expect("fits");
        assert!(parsed(&"#".repeat(limit)).is_ok());
        assert!(matches!(parsed(&"#".repeat(limit + 1)), Err(Cause::TooLarge(_))));
    }

    #[test]
    fn what_is_not_text_or_not_a_file_cannot_be_read() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("torno.toml");
        fs::write(&path, [0xff, 0xfe]).expect("write");
        assert!(matches!(parse(&path), Err(Cause::Read(_))));
        assert!(matches!(parse(folder.path()), Err(Cause::Read(_))));
    }
}
