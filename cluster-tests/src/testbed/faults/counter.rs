//! Confirms a fault by a counter that only the fault increases.

use std::time::Duration;

use tokio::time::Instant;

use crate::faults::FaultState;

/// The time limit. Nodes exchange messages and write to disk more often than that.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Waits until the counter exceeds `before`. `counter` names the expected event in the error message.
pub(super) async fn confirm_grows(
    counter: &str,
    before: u64,
    mut read: impl FnMut() -> u64,
) -> FaultState {
    let start = Instant::now();
    while read() <= before {
        if start.elapsed() > TIMEOUT {
            return FaultState::Indeterminate(format!("no {counter} within {TIMEOUT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    FaultState::Active
}
