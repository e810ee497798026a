//! Waiting for a condition with a time limit.

use std::time::{Duration, Instant};

/// A duration of `n` seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Polls `check` every 50 ms until it succeeds. Panics after `limit`, with the condition and the last error.
pub async fn wait_until<T>(
    condition: &str,
    limit: Duration,
    mut check: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        let answer = tokio::time::timeout(limit, check()).await;
        match answer.unwrap_or_else(|_| Err("no reply".to_owned())) {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > limit => {
                panic!("{condition}: not within {limit:?}; last error: {error}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
