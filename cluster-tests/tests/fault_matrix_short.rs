//! Set-up: three nodes under the load of the fault matrix: many topics and a hot one, publishers with keys
//! and in streams, subscribers on every node and transport that resume.
//! Fault: none; the disk of the owner loses power; the owner is partitioned. The last two need a testbed, and are
//! reported as skipped where there is none.
//! Claim: no invariant is violated within some seconds. `scripts/faults` runs every fault for longer.

use pushonce_cluster_tests::checker::Guarantees;
use pushonce_cluster_tests::runner::{self, Options, RunVerdict, SHORT_TIER};
use pushonce_cluster_tests::testbed::report_skipped;

/// One fault after the other: in parallel they would share two cores, and each would be load for the others.
#[tokio::test(flavor = "multi_thread")]
async fn short_tier_faults_violate_no_invariant() {
    let dir = tempfile::tempdir().expect("create a directory").keep();
    let guarantees = Guarantees::RELAXED;
    let (options_dir, fail_point) = (dir.clone(), None);
    let options =
        Options { seed: 7, seconds: 10, guarantees, dir: options_dir, keep: false, fail_point };
    let mut failed = Vec::new();
    for scenario in runner::scenarios().into_iter().filter(|row| SHORT_TIER.contains(&row.name)) {
        let report = runner::run(scenario, &options).await;
        match &report.verdict {
            RunVerdict::Pass => {}
            RunVerdict::Fail(_) => failed.push(report.to_string()),
            // On a busy machine little may happen, which is not a failure.
            RunVerdict::Unknown(reason) => report_skipped(scenario.name, reason),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let _ = std::fs::remove_dir_all(dir);
}
