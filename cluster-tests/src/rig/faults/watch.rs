//! How a fault sees that it is there: a number grows that grows by nothing else.

use std::time::Duration;

use tokio::time::Instant;

use crate::faults::Confirmed;

/// Nodes say something to each other, and write something, more often than that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Installed as soon as the number is higher than it was.
pub(super) async fn grows(what: &str, before: u64, mut number: impl FnMut() -> u64) -> Confirmed {
    let start = Instant::now();
    while number() <= before {
        if start.elapsed() > PATIENCE {
            return Confirmed::Indeterminate(format!("no {what} in {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Confirmed::Installed
}
