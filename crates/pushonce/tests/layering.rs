//! Who may use whom: the table of the design, held against what cargo says.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each crate may use of ours, beside itself.
const ALLOWED_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("proto", &["core"]),
    ("consensus", &["core", "proto"]),
    ("control", &["core", "consensus"]),
    ("shard", &["core", "consensus"]),
    ("relay", &["core", "proto"]),
    ("fanout", &["core"]),
    ("listener", &[]),
    ("websocket", &[]),
    ("quic", &[]),
    ("gateway", &["core", "proto", "fanout", "listener", "websocket", "quic"]),
    ("publish", &["core", "proto", "shard", "relay", "listener"]),
    ("client", &["core", "proto"]),
    ("console", &[]),
];

/// What only some may use of others'.
const RESTRICTED_LIBRARIES: &[(&str, &[&str])] = &[
    ("openraft", &["consensus"]),
    ("redb", &["consensus"]),
    ("quinn", &["client"]),
    ("quinn-proto", &["quic", "benches"]),
    ("quinn-udp", &["quic"]),
    ("rcgen", &["quic"]),
    ("flate2", &["websocket"]),
    ("sha1", &["websocket"]),
    ("clap", &["benches", "pushonce"]),
];

/// What the pure words may never need.
const FORBIDDEN_IN_CORE: &[&str] = &["tokio", "tonic", "openraft", "hyper", "quinn", "rand"];

#[test]
fn crates_depend_only_on_allowed_crates() {
    let packages = dependencies();
    for (name, allowed) in ALLOWED_DEPENDENCIES {
        let used = &packages[&format!("pushonce-{name}")];
        for dependency in used.iter().filter_map(|d| d.strip_prefix("pushonce-")) {
            assert!(allowed.contains(&dependency), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn every_workspace_crate_has_an_entry_in_the_layering_table() {
    let tested: BTreeSet<_> =
        ALLOWED_DEPENDENCIES.iter().map(|(name, _)| format!("pushonce-{name}")).collect();
    let exempt = ["pushonce", "pushonce-cluster-tests", "pushonce-benches"];
    for name in dependencies().keys().filter(|name| !exempt.contains(&name.as_str())) {
        assert!(tested.contains(name), "{name} has no row in the table of layers");
    }
}

#[test]
fn restricted_libraries_are_used_only_by_allowed_crates() {
    for (name, used) in dependencies() {
        let crate_name = name.strip_prefix("pushonce-").unwrap_or(&name);
        for (library, allowed) in RESTRICTED_LIBRARIES {
            assert!(
                !used.contains(*library) || allowed.contains(&crate_name),
                "{name} uses {library}"
            );
        }
    }
}

#[test]
fn core_has_no_io_dependencies() {
    let used = &dependencies()["pushonce-core"];
    for library in FORBIDDEN_IN_CORE {
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
    packages.iter().map(|package| (text(&package["name"]), runtime_dependencies(package))).collect()
}

fn runtime_dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().expect("a list of dependencies");
    all.iter().filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
