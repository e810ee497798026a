//! The table of metrics: complete, well named, and equal to `METRICS.md`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use pushonce::metrics;
use pushonce_telemetry::{Metric, MetricKind, Unit};

/// The macros that would record a metric past its definition.
const RECORDING_MACROS: &[&str] = &["counter!(", "gauge!(", "histogram!("];

#[test]
fn reference_page_is_equal_to_the_definitions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("METRICS.md");
    let expected = metrics::reference();
    if env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &expected).expect("METRICS.md is writable");
    }
    let actual = fs::read_to_string(&path).unwrap_or_default();
    assert!(actual == expected, "METRICS.md differs from the code: run scripts/fix");
}

#[test]
fn names_are_unique_and_end_with_unit_and_type() {
    let mut names = BTreeSet::new();
    for Metric { name, kind, unit, help, .. } in metrics::all() {
        assert!(names.insert(name), "{name} is defined twice");
        assert!(name.starts_with("pushonce_"), "{name}");
        let base = name.strip_suffix("_total");
        assert_eq!(base.is_some(), kind == MetricKind::Counter, "{name}: _total is for counters");
        let base = base.unwrap_or(name);
        for candidate in [Unit::Seconds, Unit::Bytes] {
            let has_suffix = base.ends_with(candidate.as_str());
            assert_eq!(has_suffix, unit == candidate, "{name}: the suffix is the unit");
        }
        assert!(help.ends_with('.') && !help.contains(['\n', '|']), "{name}: {help}");
        if let MetricKind::Histogram { buckets } = kind {
            assert!(buckets.is_sorted() && !buckets.is_empty(), "{name}: buckets ascend");
        }
    }
}

#[test]
fn operations_page_names_only_metrics_that_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("OPERATIONS.md");
    let page = fs::read_to_string(path).expect("UTF-8");
    let is_part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mentioned: BTreeSet<_> =
        page.split(|c| !is_part_of_name(c)).filter(|word| word.starts_with("pushonce_")).collect();
    let known: BTreeSet<_> = metrics::all().iter().map(|metric| metric.name).collect();
    assert!(mentioned.len() > 20, "{mentioned:?}");
    assert!(mentioned.is_subset(&known), "{:?}", mentioned.difference(&known));
}

#[test]
fn metrics_are_recorded_only_through_their_definitions() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let this_file = Path::new(file!()).file_name();
    let mut sources = Vec::new();
    for folder in ["crates", "proto", "cluster-tests", "benches"] {
        collect_sources(&workspace.join(folder), &mut sources);
    }
    assert!(sources.len() > 100, "{} sources", sources.len());
    for path in sources {
        // The SDK records for the processes of its users.
        let is_exempt = path.starts_with(workspace.join("crates/telemetry"))
            || path.starts_with(workspace.join("crates/client"))
            || path.ends_with(Path::new("pushonce/tests").join(this_file.expect("a name")));
        let text = fs::read_to_string(&path).expect("UTF-8");
        for name in RECORDING_MACROS.iter().filter(|_| !is_exempt) {
            assert!(!text.contains(name), "{}: declare a Metric instead of {name}", path.display());
        }
    }
}

fn collect_sources(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_hidden = path.file_name().is_some_and(|name| name == "target" || name == "js");
        if path.is_dir() && !is_hidden {
            collect_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}
