//! Set-up: three nodes under the load of the proof: many topics and a hot one, publishers with keys
//! and in streams, subscribers on every node and transport that resume.
//! Fault: none; `kill -9` of the owner, of a majority; the owner sleeps and wakes; its disk loses power;
//! it is cut off from the others. The last two need a rig, and say so where there is none.
//! Claim: no promise is broken, as far as the checker can see in some seconds. `scripts/faults` runs
//! every fault for longer.

use pushonce_cluster_tests::checker::Promises;
use pushonce_cluster_tests::rig::left_out;
use pushonce_cluster_tests::runner::{self, Options, SHORT, Verdict};

/// One after the other: they share two cores with each other, and the times of one would be the
/// load of another.
#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_short_tier_breaks_a_promise() {
    let dir = tempfile::tempdir().expect("a directory").keep();
    let promises = Promises::PATIENT;
    let (dir_of_all, planted) = (dir.clone(), None);
    let options = Options { seed: 7, seconds: 10, promises, dir: dir_of_all, keep: false, planted };
    let mut failed = Vec::new();
    for row in runner::rows().into_iter().filter(|row| SHORT.contains(&row.name)) {
        let report = runner::run(row, &options).await;
        match &report.verdict {
            Verdict::Pass => {}
            Verdict::Fail(_) => failed.push(report.to_string()),
            // On a machine that is busy with something else little may happen: that is no failure.
            Verdict::Unknown(why) => left_out(row.name, why),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let _ = std::fs::remove_dir_all(dir);
}
