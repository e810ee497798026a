//! Who may use whom: the table of the design, held against what cargo says.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each crate may use of ours, beside itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("proto", &["core"]),
    ("consensus", &["core", "proto"]),
    ("control", &["core", "consensus"]),
    ("shard", &["core", "consensus"]),
    ("relay", &["core", "proto"]),
    ("fanout", &["core"]),
    ("listener", &[]),
    ("gateway", &["core", "proto", "fanout", "listener"]),
    ("publish", &["core", "proto", "shard", "relay", "listener"]),
    ("client", &["core", "proto"]),
    ("console", &[]),
];

/// What only some may use of others'.
const RESERVED: &[(&str, &[&str])] = &[
    ("openraft", &["consensus"]),
    ("redb", &["consensus"]),
    ("quinn", &["gateway", "client"]),
    ("clap", &["benches", "pushonce"]),
];

/// What the pure words may never need.
const NOT_IN_CORE: &[&str] = &["tokio", "tonic", "openraft", "hyper", "quinn", "rand"];

#[test]
fn no_crate_uses_what_is_not_its_to_use() {
    let packages = dependencies();
    for (name, allowed) in MAY_USE {
        let used = &packages[&format!("pushonce-{name}")];
        for dependency in used.iter().filter_map(|d| d.strip_prefix("pushonce-")) {
            assert!(allowed.contains(&dependency), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn every_crate_of_ours_has_its_row() {
    let tested: BTreeSet<_> = MAY_USE.iter().map(|(name, _)| format!("pushonce-{name}")).collect();
    let beside = ["pushonce", "pushonce-cluster-tests", "pushonce-benches"];
    for name in dependencies().keys().filter(|name| !beside.contains(&name.as_str())) {
        assert!(tested.contains(name), "{name} has no row in the table of layers");
    }
}

#[test]
fn libraries_of_one_purpose_are_named_in_one_place() {
    for (name, used) in dependencies() {
        let ours = name.strip_prefix("pushonce-").unwrap_or(&name);
        for (library, allowed) in RESERVED {
            assert!(!used.contains(*library) || allowed.contains(&ours), "{name} uses {library}");
        }
    }
}

#[test]
fn the_core_is_pure() {
    let used = &dependencies()["pushonce-core"];
    for library in NOT_IN_CORE {
        assert!(!used.contains(*library), "pushonce-core uses {library}");
    }
}

/// By package: what it needs to run, without what only its tests and its build need.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--locked"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages.iter().map(|package| (text(&package["name"]), needs(package))).collect()
}

fn needs(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().expect("a list of dependencies");
    all.iter().filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
