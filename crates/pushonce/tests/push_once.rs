//! Runs `pushonce bench push-once` with few viewers, and verifies its counts.

use std::process::Command;

use serde_json::Value;

#[test]
fn push_once_costs_the_site_one_request_per_change_for_any_number_of_viewers() {
    let output = Command::new(env!("CARGO_BIN_EXE_pushonce"))
        .args([
            "bench",
            "push-once",
            "--viewers",
            "5,20",
            "--changes",
            "2",
            "--polls",
            "3",
            "--json",
        ])
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    let requests = |viewers: u64, method: &str| {
        let rows = report["rows"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["viewers"] == viewers && row["way"] == method);
        row.unwrap_or_else(|| panic!("{method} is missing"))["requests"].as_f64()
    };
    for viewers in [5, 20] {
        let per_viewer = viewers as f64;
        assert_eq!(requests(viewers, "reload"), Some(per_viewer));
        assert_eq!(requests(viewers, "poll"), Some(3.0 * per_viewer));
        assert_eq!(requests(viewers, "push-all"), Some(per_viewer));
        assert_eq!(requests(viewers, "push-once"), Some(1.0));
    }
}
