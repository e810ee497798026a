//! Waiting for what must become true.

use std::time::{Duration, Instant};

/// So many seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Asks again and again, a little apart, until the answer is there. After `limit` it panics with
/// what was waited for and the last reason why it was not so.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        let answer = tokio::time::timeout(limit, ask()).await;
        match answer.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(answer) => return answer,
            Err(why) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last: {why}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
