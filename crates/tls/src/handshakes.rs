//! [`Handshakes`]: a bounded number of handshakes at once, of which the oldest gives way.

use std::collections::VecDeque;

use tokio::task::{AbortHandle, JoinSet};

/// The handshakes of a listener, each in a task of its own, because the arithmetic of one must not delay the
/// others.
///
/// A new handshake beyond the maximum ends the oldest one. A peer that finishes needs a fraction of a second, so
/// that only a flood of more connections than the maximum in that time affects it. Connections that stay silent
/// never keep others out.
#[derive(Debug)]
pub struct Handshakes<T> {
    tasks: JoinSet<T>,
    concurrent_max: usize,
    /// Some of them may have finished.
    oldest_first: VecDeque<AbortHandle>,
}

/// The handshake gave way to a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it gave way to a newer handshake")]
pub struct Evicted;

impl<T: Send + 'static> Handshakes<T> {
    /// No handshakes yet, and at most `concurrent_max` at once.
    pub fn new(concurrent_max: usize) -> Handshakes<T> {
        Handshakes { tasks: JoinSet::new(), concurrent_max, oldest_first: VecDeque::new() }
    }

    /// Starts a handshake, which has its own deadline.
    pub fn start(&mut self, handshake: impl Future<Output = T> + Send + 'static) {
        if self.oldest_first.len() >= self.concurrent_max {
            self.oldest_first.retain(|task| !task.is_finished());
        }
        if self.oldest_first.len() >= self.concurrent_max {
            self.oldest_first.pop_front().inspect(AbortHandle::abort);
        }
        self.oldest_first.push_back(self.tasks.spawn(handshake));
    }

    /// The result of the next handshake that ends, or `None` when there is none. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<T, Evicted>> {
        let finished = self.tasks.join_next().await?;
        Some(finished.map_err(|_| Evicted))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn oldest_handshake_gives_way_and_finished_ones_do_not_count() {
        let mut handshakes = Handshakes::new(2);
        assert_eq!(handshakes.next().await, None);
        handshakes.start(ready(1));
        assert_eq!(handshakes.next().await, Some(Ok(1)));
        let (open, opened) = tokio::sync::oneshot::channel::<()>();
        handshakes.start(pending());
        handshakes.start(async {
            let _ = opened.await;
            2
        });
        // The finished one has made room, so that these two fit.
        assert!(futures::FutureExt::now_or_never(handshakes.next()).is_none());
        handshakes.start(pending());
        assert_eq!(handshakes.next().await, Some(Err(Evicted)));
        drop(open);
        assert_eq!(handshakes.next().await, Some(Ok(2)));
    }
}
