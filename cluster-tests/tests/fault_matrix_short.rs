//! Set-up: three nodes under the load of the proof: many topics and a hot one, publishers with keys
//! and in streams, subscribers on every node and transport that resume.
//! Fault: none; `kill -9` of the owner, of a majority; the owner sleeps and wakes; its disk loses power;
//! it is cut off from the others. The last two need a rig, and say so where there is none.
//! Claim: no promise is broken, as far as the checker can see in some seconds. `scripts/faults` runs
//! every fault for longer.

use pushonce_cluster_tests::checker::Guarantees;
use pushonce_cluster_tests::runner::{self, Options, RunVerdict, SHORT_TIER};
use pushonce_cluster_tests::testbed::report_skipped;

/// One after the other: they share two cores with each other, and the times of one would be the
/// load of another.
#[tokio::test(flavor = "multi_thread")]
async fn short_tier_faults_violate_no_invariant() {
    let dir = tempfile::tempdir().expect("a directory").keep();
    let promises = Guarantees::RELAXED;
    let (options_dir, fail_point) = (dir.clone(), None);
    let options =
        Options { seed: 7, seconds: 10, promises, dir: options_dir, keep: false, fail_point };
    let mut failed = Vec::new();
    for scenario in runner::scenarios().into_iter().filter(|row| SHORT_TIER.contains(&row.name)) {
        let report = runner::run(scenario, &options).await;
        match &report.verdict {
            RunVerdict::Pass => {}
            RunVerdict::Fail(_) => failed.push(report.to_string()),
            // On a machine that is busy with something else little may happen: that is no failure.
            RunVerdict::Unknown(reason) => report_skipped(scenario.name, reason),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let _ = std::fs::remove_dir_all(dir);
}
