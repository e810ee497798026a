//! The parts of a node that end together.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a stage may take to end before it is cut off.
pub(super) const GRACE: Duration = Duration::from_secs(6);

/// Tasks that run until their stage is told to end.
pub(super) struct Stage {
    what: &'static str,
    token: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Stage {
    /// Nothing yet; `what` is its name in the log.
    pub(super) fn new(what: &'static str) -> Stage {
        Stage { what, token: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// Cancelled when the stage is to end.
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// One more part.
    pub(super) fn spawn(
        &mut self,
        part: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(part);
    }

    /// Waits for the first part that ends although nobody told it to: a node cannot do its work
    /// without any of them.
    pub(super) async fn broken(&mut self) -> anyhow::Error {
        let why = match self.tasks.join_next().await {
            Some(Ok(Err(why))) => why,
            Some(Err(why)) => why.into(),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the node ended by itself"),
        };
        why.context(self.what)
    }

    /// Tells every part to end, and waits until they did, but so long at most.
    pub(super) async fn end(mut self, within: Duration) {
        self.token.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("{} did not end within {within:?} and are cut off", self.what);
        }
    }
}
