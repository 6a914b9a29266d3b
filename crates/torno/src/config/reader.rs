//! Reads TOML tables key by key: knows the path of each value, collects errors and refuses what nobody asked for.
//!
//! What the keys mean is not known here.

use std::{collections::BTreeMap, env, ffi::OsString, fmt};

use toml::{Table, Value};

use super::error::{Cause, Place, Problems};

/// What every variable of ours starts with.
const PREFIX: &str = "TORNO_";

/// The `TORNO_*` environment variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// Those this process was started with.
    pub(crate) fn of_this_process() -> Self {
        let ours = |(name, value): (OsString, OsString)| {
            let name = name.into_string().ok()?;
            name.starts_with(PREFIX).then_some((name, value))
        };
        Self(env::vars_os().filter_map(ours).collect())
    }

    /// Warns of variables that are not among the `known` but seem meant for Torno. Others are left alone:
    /// orchestrators set variables of their own that are named after the service, such as `TORNO_SERVICE_HOST`.
    pub(super) fn warn_of_strangers(&self, known: &[String], problems: &Problems) {
        let table = |name: &str| name.split('_').nth(1).map(str::to_owned);
        for name in self.0.keys().filter(|name| !known.contains(name)) {
            let place = Place::Variable(name.clone());
            if let Some(meant) = nearest(name, known.iter().map(String::as_str)) {
                problems.warn(&place, format_args!("this variable sets nothing; did you mean {meant}?"));
            } else if known.iter().any(|known| table(known) == table(name)) {
                problems
                    .warn(&place, "this variable sets nothing; only single values can be set by variables");
            }
        }
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name.to_owned(), value.into())).into())
    }
}

/// A table being read. Every key is asked for by name; what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct TableReader<'a> {
    place: Place,
    entries: Table,
    known: Vec<&'static str>,
    variables: Vec<String>,
    problems: &'a Problems,
}

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Item<'a> {
    place: Place,
    value: Value,
    problems: &'a Problems,
}

impl<'a> TableReader<'a> {
    /// The whole of a file; `beside` is its name if it is not the main file.
    pub(super) fn root(beside: Option<String>, entries: Table, problems: &'a Problems) -> Self {
        Self {
            place: Place::Key { beside, key: String::new() },
            entries,
            known: Vec::new(),
            variables: Vec::new(),
            problems,
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Item<'a>> {
        self.known.push(key);
        let value = self.entries.remove(key)?;
        Some(Item { place: self.place_of(key), value, problems: self.problems })
    }

    /// The value of a key that must be there; `words` say what to write.
    pub(super) fn require(&mut self, key: &'static str, words: &str) -> Option<Item<'a>> {
        let item = self.take(key);
        if item.is_none() {
            self.miss(key, words);
        }
        item
    }

    /// The value of a key, or of the variable that stands above it.
    pub(super) fn take_or_variable(
        &mut self,
        key: &'static str,
        environment: &Environment,
    ) -> Option<Item<'a>> {
        let written = self.take(key);
        let name = variable_of(&self.place_of(key));
        self.variables.push(name.clone());
        let Some(value) = environment.0.get(&name) else {
            return written;
        };
        let place = Place::Variable(name);
        let Some(value) = value.to_str() else {
            self.problems.error(&place, Cause::Value("its value is not UTF-8".into()));
            return None;
        };
        Some(Item { place, value: Value::String(value.to_owned()), problems: self.problems })
    }

    /// Says that a key which is not there must be; `words` say what to write.
    pub(super) fn miss(&self, key: &str, words: &str) {
        self.problems.error(&self.place_of(key), Cause::Value(words.to_owned()));
    }

    /// The table of that name, empty if it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        self.take(key).and_then(Item::into_table).unwrap_or_else(|| Self {
            place: self.place_of(key),
            entries: Table::new(),
            known: Vec::new(),
            variables: Vec::new(),
            problems: self.problems,
        })
    }

    /// Where a key of this table stands, or would.
    fn place_of(&self, key: &str) -> Place {
        match &self.place {
            Place::Key { beside, key: path } => Place::Key { beside: beside.clone(), key: join(path, key) },
            other => other.clone(),
        }
    }

    /// All the entries, for tables whose keys are names.
    pub(super) fn into_entries(self) -> impl Iterator<Item = (String, Item<'a>)> {
        let places: Vec<Place> = self.entries.keys().map(|key| self.place_of(key)).collect();
        let problems = self.problems;
        self.entries
            .into_iter()
            .zip(places)
            .map(move |((key, value), place)| (key, Item { place, value, problems }))
    }

    /// Refuses the keys that were not asked for, in these words.
    pub(super) fn finish_because(self, words: &str) {
        for key in self.entries.keys() {
            self.problems.error(&self.place_of(key), Cause::Value(words.to_owned()));
        }
    }

    /// Refuses the keys that were not asked for, and returns the variables that could have set some.
    pub(super) fn finish(self) -> Vec<String> {
        let mut known = self.known.clone();
        known.sort_unstable();
        for key in self.entries.keys() {
            let nearest = nearest(key, known.iter().copied());
            let cause = Cause::UnknownKey { nearest, known: known.clone() };
            self.problems.error(&self.place_of(key), cause);
        }
        self.variables
    }
}

impl<'a> Item<'a> {
    /// The file it stands in, if that is not the main one.
    pub(super) fn beside(&self) -> Option<&str> {
        match &self.place {
            Place::Key { beside, .. } => beside.as_deref(),
            Place::File(_) | Place::Variable(_) => None,
        }
    }

    /// Says that this value will not do.
    pub(super) fn refuse(&self, words: impl fmt::Display) {
        self.problems.error(&self.place, Cause::Value(words.to_string()));
    }

    /// Says later, when the value is gone, that it will not do.
    pub(super) fn refusal(&self) -> impl FnOnce(&str) + use<'a> {
        let (place, problems) = (self.place.clone(), self.problems);
        move |words| problems.error(&place, Cause::Value(words.to_owned()))
    }

    /// Says later, when the value is gone, that it is probably not meant.
    pub(super) fn warning(&self) -> impl FnOnce(&str) + use<'a> {
        let (place, problems) = (self.place.clone(), self.problems);
        move |words| problems.warn(&place, words)
    }

    /// The text, as `parse` understands it. `expected` says what belongs here, with an example.
    pub(super) fn parse<T, E: fmt::Display>(
        &self,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let Value::String(text) = &self.value else {
            return self.wrong_kind(expected);
        };
        parse(text).map_err(|error| self.refuse(error)).ok()
    }

    /// The whole number. A variable holds it as text.
    pub(super) fn integer(&self) -> Option<i64> {
        const EXPECTED: &str = "a whole number";
        match (&self.value, &self.place) {
            (Value::Integer(number), _) => Some(*number),
            (Value::String(text), Place::Variable(_)) => text
                .parse()
                .map_err(|_| self.refuse(format_args!("expected {EXPECTED}, found `{text}`")))
                .ok(),
            _ => self.wrong_kind(EXPECTED),
        }
    }

    /// The number, whole or not. A variable holds it as text.
    pub(super) fn number(&self) -> Option<f64> {
        const EXPECTED: &str = "a number, such as 2 or 0.5";
        match (&self.value, &self.place) {
            // Only numbers far beyond every limit here lose precision.
            #[expect(clippy::cast_precision_loss, reason = "see above")]
            (Value::Integer(number), _) => Some(*number as f64),
            (Value::Float(number), _) => Some(*number),
            (Value::String(text), Place::Variable(_)) => text
                .parse()
                .map_err(|_| self.refuse(format_args!("expected {EXPECTED}, found `{text}`")))
                .ok(),
            _ => self.wrong_kind(EXPECTED),
        }
    }

    /// True or false. A variable holds it as text.
    pub(super) fn boolean(&self) -> Option<bool> {
        const EXPECTED: &str = "true or false";
        match (&self.value, &self.place) {
            (Value::Boolean(truth), _) => Some(*truth),
            (Value::String(text), Place::Variable(_)) => text
                .parse()
                .map_err(|_| self.refuse(format_args!("expected {EXPECTED}, found `{text}`")))
                .ok(),
            _ => self.wrong_kind(EXPECTED),
        }
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, Value::Array(_))
    }

    /// The elements of the list; none if it is no list.
    pub(super) fn into_list(self, expected: &'static str) -> Vec<Self> {
        let Value::Array(values) = self.value else {
            self.wrong_kind::<()>(expected);
            return Vec::new();
        };
        let element = |(index, value)| {
            let place = match &self.place {
                Place::Key { beside, key } => {
                    Place::Key { beside: beside.clone(), key: format!("{key}[{index}]") }
                }
                other => other.clone(),
            };
            Self { place, value, problems: self.problems }
        };
        values.into_iter().enumerate().map(element).collect()
    }

    /// The table.
    pub(super) fn into_table(self) -> Option<TableReader<'a>> {
        let Value::Table(entries) = self.value else {
            return self.wrong_kind("a table");
        };
        Some(TableReader {
            place: self.place,
            entries,
            known: Vec::new(),
            variables: Vec::new(),
            problems: self.problems,
        })
    }

    /// Never repeats the value: it may be a secret in the wrong place.
    fn wrong_kind<T>(&self, expected: &'static str) -> Option<T> {
        let found = match &self.value {
            Value::String(_) => "a text",
            Value::Integer(_) => "a whole number without quotes",
            Value::Float(_) => "a number without quotes",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date or time",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        };
        self.problems.error(&self.place, Cause::Kind { expected, found });
        None
    }
}

/// `listen.address` → `TORNO_LISTEN_ADDRESS`.
fn variable_of(place: &Place) -> String {
    match place {
        Place::Key { key, .. } => format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "_")),
        Place::File(name) | Place::Variable(name) => name.clone(),
    }
}

/// The path of a key in a table, quoted as TOML would where it must be.
fn join(path: &str, key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let dot = if path.is_empty() { "" } else { "." };
    if !key.is_empty() && key.bytes().all(bare) {
        format!("{path}{dot}{key}")
    } else {
        format!("{path}{dot}{key:?}")
    }
}

/// The known word that was probably meant: at most a third of the letters wrong, and the fewest of all.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(wrong, candidate)| *wrong <= (candidate.len() / 3).max(1))
        .min_by_key(|(wrong, _)| *wrong)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_in_the_file() {
        assert_eq!(join("", "data"), "data");
        assert_eq!(join("projects", "retina-2"), "projects.retina-2");
        assert_eq!(join("projects", "a b"), "projects.\"a b\"");
        assert_eq!(join("projects", ""), "projects.\"\"");
    }

    #[test]
    fn only_what_is_close_is_suggested() {
        let known = ["address", "hostname"];
        assert_eq!(nearest("adress", known.into_iter()), Some("address"));
        assert_eq!(nearest("host_name", known.into_iter()), Some("hostname"));
        assert_eq!(nearest("port", known.into_iter()), None);
    }
}
