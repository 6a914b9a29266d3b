//! Every attack, the promise it tests and the test, as the table that `docs/SECURITY.md` shows.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use torno_inside::ATTACKS;

/// What stands around the table in the page.
const BEGIN: &str = "<!-- attacks: written by the test of tests/hostile/table.rs -->\n";
const END: &str = "<!-- end of attacks -->\n";

/// Set to write the page instead of comparing with it.
const WRITE: &str = "TORNO_WRITE_DOCS";

/// Where the attacks of the probe are tried.
const PROBE: &str = "tests/hostile/doctor.rs";

/// An attack that is no program of the probe's.
struct Attack {
    name: &'static str,
    promise: &'static str,
    /// The file and the function of its test.
    file: &'static str,
    test: &'static str,
}

const OTHERS: &[Attack] = &[];

fn table() -> String {
    let mut text = String::from("| attack | promise | test |\n|---|---|---|\n");
    for attack in ATTACKS {
        let weight = if attack.mandatory { "" } else { " (advised)" };
        let _ = writeln!(text, "| `{}`{weight} | {} | `{PROBE}` |", attack.name, attack.promise);
    }
    for Attack { name, promise, file, test } in OTHERS {
        let _ = writeln!(text, "| {name} | {promise} | `{file}`: `{test}` |");
    }
    text
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_table_in_the_page_is_what_is_tried() {
    let page = root().join("docs/SECURITY.md");
    let text = fs::read_to_string(&page).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (shown, after) = rest.split_once(END).expect("where the table ends");
    let table = table();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&page, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
    } else {
        assert_eq!(
            shown, table,
            "if this is meant: {WRITE}=1 cargo test -p torno-tests --test hostile the_table"
        );
    }
}

#[test]
fn every_attack_of_the_table_has_its_test() {
    let mut told = BTreeSet::new();
    for Attack { name, promise, file, test } in OTHERS {
        let source = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let written = source.split("#[test]\nfn ").skip(1).any(|rest| rest.starts_with(&format!("{test}()")));
        assert!(written, "{name}: there is no test `{test}` in {file}");
        assert!(promise.ends_with('.') && told.insert(name), "{name}");
    }
}
