//! How a fault sees that it is there: a number grows that grows by nothing else.

use std::time::Duration;

use tokio::time::Instant;

use crate::faults::FaultState;

/// Nodes say something to each other, and write something, more often than that.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Installed as soon as the number is higher than it was.
pub(super) async fn confirm_grows(
    counter: &str,
    before: u64,
    mut read: impl FnMut() -> u64,
) -> FaultState {
    let start = Instant::now();
    while read() <= before {
        if start.elapsed() > TIMEOUT {
            return FaultState::Indeterminate(format!("no {counter} in {TIMEOUT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    FaultState::Active
}
