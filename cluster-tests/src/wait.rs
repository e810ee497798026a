//! Waiting for what must become true.

use std::time::{Duration, Instant};

/// So many seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Asks again and again, a little apart, until the answer is there. After `limit` it panics with
/// what was waited for and the last reason why it was not so.
pub async fn wait_until<T>(
    condition: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        let answer = tokio::time::timeout(limit, check()).await;
        match answer.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > limit => {
                panic!("{condition}: not within {limit:?}; last: {error}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
