//! The allowed dependencies between the crates, verified against the output of cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The crates of the workspace that each crate may depend on.
const ALLOWED_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("auth", &["core", "listener", "telemetry"]),
    ("proto", &["core"]),
    ("ca", &["core"]),
    ("peer", &["core", "proto", "ca", "telemetry", "tls"]),
    ("consensus", &["core", "proto", "peer", "telemetry"]),
    ("control", &["core", "consensus", "telemetry"]),
    ("shard", &["core", "consensus", "telemetry"]),
    ("relay", &["core", "proto", "peer", "telemetry"]),
    ("fanout", &["core", "telemetry"]),
    ("fuzz", &[]),
    ("listener", &["core", "telemetry"]),
    ("websocket", &[]),
    ("webtransport", &[]),
    ("quic", &["telemetry", "tls"]),
    (
        "gateway",
        &[
            "core",
            "auth",
            "proto",
            "fanout",
            "listener",
            "quic",
            "telemetry",
            "tls",
            "websocket",
            "webtransport",
        ],
    ),
    ("publish", &["core", "auth", "proto", "listener", "telemetry", "tls"]),
    ("client", &["core", "proto"]),
    ("console", &[]),
    ("demo", &["core", "client", "instruments"]),
    ("instruments", &[]),
    ("loadgen", &["core", "proto", "client", "instruments"]),
    ("simulation", &["core", "proto", "client", "cluster-tests"]),
    ("telemetry", &[]),
    ("tls", &["core", "listener", "telemetry"]),
    ("test-node", &["quic"]),
];

/// Libraries that only some crates may depend on.
const RESTRICTED_LIBRARIES: &[(&str, &[&str])] = &[
    ("openraft", &["consensus"]),
    ("redb", &["consensus"]),
    ("quinn", &["client"]),
    ("quinn-proto", &["quic", "benches"]),
    ("quinn-udp", &["quic"]),
    ("rcgen", &["ca", "quic", "tls"]),
    ("flate2", &["gateway", "websocket"]),
    ("sha1", &["websocket"]),
    ("web-transport-proto", &["webtransport"]),
    ("clap", &["benches", "demo", "loadgen", "pushonce", "simulation"]),
    ("metrics", &["client", "telemetry"]),
    ("hdrhistogram", &["benches", "instruments"]),
    ("indicatif", &["loadgen"]),
    ("libfuzzer-sys", &["fuzz"]),
];

/// Libraries that the core crate must not depend on.
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
        assert!(tested.contains(name), "{name} has no row in ALLOWED_DEPENDENCIES");
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

/// Libraries that a service does not build which only publishes.
const FORBIDDEN_IN_PUBLISHER: &[&str] =
    &["quinn", "quinn-proto", "axum", "protox", "tokio-websockets"];

#[test]
fn sdk_without_features_brings_no_server_and_no_transport_of_subscribers() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package=pushonce-client", "--no-default-features"])
        .args(["--edges=normal,build", "--prefix=none", "--format={p}"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("text");
    let names: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("tonic"), "{tree}");
    for library in FORBIDDEN_IN_PUBLISHER {
        assert!(!names.contains(library), "the SDK without features uses {library}");
    }
}

/// The runtime dependencies of each package, without those of its tests and its build.
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
