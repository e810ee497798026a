//! Waiting for what must become true.

use std::future::Future;
use std::time::{Duration, Instant};

/// So many seconds.
pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Asks again and again, a little apart, until the answer is there. After `limit` it panics with
/// what was waited for and the last reason why it was not so.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(why) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last: {why}")
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
