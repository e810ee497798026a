//! The parts of a node that end together.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

/// How long a stage may take to end before it is cut off.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(6);

/// Tasks that run until their stage is told to end.
pub(super) struct ShutdownStage {
    name: &'static str,
    token: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl ShutdownStage {
    /// Nothing yet; `what` is its name in the log.
    pub(super) fn new(name: &'static str) -> ShutdownStage {
        ShutdownStage { name, token: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// Cancelled when the stage is to end.
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// One more part.
    pub(super) fn spawn(
        &mut self,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(task);
    }

    /// Waits for the first part that ends although nobody told it to: a node cannot do its work
    /// without any of them.
    pub(super) async fn wait_for_failure(&mut self) -> anyhow::Error {
        let error = match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the node ended by itself"),
        };
        error.context(self.name)
    }

    /// Cancels every part and waits until all have ended, for `timeout` at most.
    ///
    /// # Errors
    /// When parts were aborted after `timeout`.
    pub(super) async fn shutdown(mut self, timeout: Duration) -> Result<(), Elapsed> {
        self.token.cancel();
        let tasks_ended = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(timeout, tasks_ended).await.inspect_err(|_| {
            tracing::warn!(
                stage = self.name,
                ?timeout,
                "parts of the node did not end in time, aborted"
            );
        })
    }
}
