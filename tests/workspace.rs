//! The rooms of the house and which may know of which.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Every room and the rooms it may name (docs/ARCHITECTURE.md). `tests` and what is below stand outside.
const ARROWS: &[(&str, &[&str])] = &[
    ("torno-oci", &[]),
    ("torno-audit", &["torno-oci"]),
    ("torno-auth", &["torno-oci"]),
    ("torno-blob", &["torno-oci"]),
    ("torno-metadata", &["torno-oci"]),
    ("torno-registry", &["torno-audit", "torno-auth", "torno-blob", "torno-metadata", "torno-oci"]),
    ("torno-server", &["torno-audit", "torno-auth", "torno-oci", "torno-registry"]),
    ("torno-inside", &[]),
    ("torno-executor", &["torno-auth", "torno-inside", "torno-oci", "torno-registry"]),
    (
        "torno",
        &["torno-audit", "torno-auth", "torno-executor", "torno-oci", "torno-registry", "torno-server"],
    ),
];

/// Libraries that belong to one room only.
const OWNED: &[(&str, &[&str])] = &[
    // Beside it tests, which damage and compare the database, and `make crash`, which looks at what a crash has left.
    ("rusqlite", &["torno-metadata", "torno-tests", "torno-crash"]),
    ("bollard", &["torno-executor"]),
    // The executor asks the engine one thing with it whose answer bollard cannot read.
    ("hyper", &["torno-executor", "torno-server"]),
    ("axum", &["torno-server"]),
    // Whom clients and directories must trust; and clients in tests.
    ("rustls", &["torno-auth", "torno-server", "torno-bench", "torno-tests"]),
    ("ldap3", &["torno-auth"]),
    ("tokio-rustls", &["torno-server"]),
    ("instant-acme", &["torno-server"]),
    ("hyper-rustls", &["torno-server"]),
    // Beside the server tests, which make certificates that have expired.
    ("rcgen", &["torno-server", "torno-tests"]),
    ("clap", &["torno"]),
    ("bcrypt", &["torno-auth"]),
    ("jsonwebtoken", &["torno-auth"]),
    ("globset", &["torno-auth"]),
];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata");
    let names = |package: &cargo_metadata::Package| {
        let normal =
            package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        normal.map(|dependency| dependency.name.clone()).collect()
    };
    metadata.packages.iter().map(|package| (package.name.to_string(), names(package))).collect()
}

#[test]
fn arrows_point_one_way() {
    let mut found = dependencies();
    for outside in ["torno-tests", "torno-bench", "torno-crash"] {
        found.remove(outside).expect("a package of the tests");
    }
    for (room, allowed) in ARROWS {
        let names = found.remove(*room).unwrap_or_else(|| panic!("there is no room `{room}`"));
        let arrows: BTreeSet<&str> =
            names.iter().map(String::as_str).filter(|name| name.starts_with("torno")).collect();
        let strangers: Vec<_> = arrows.iter().filter(|name| !allowed.contains(name)).collect();
        assert!(strangers.is_empty(), "`{room}` must not know of {strangers:?}");
    }
    assert!(found.is_empty(), "rooms that docs/ARCHITECTURE.md does not show: {:?}", found.keys());
}

#[test]
fn each_library_is_in_its_room() {
    for (room, names) in dependencies() {
        for (library, owners) in OWNED {
            let allowed = owners.contains(&room.as_str());
            assert!(allowed || !names.contains(*library), "`{library}` is not for `{room}`");
        }
    }
}
