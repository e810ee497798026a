//! Groups of tasks that end together when a node stops.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

/// How long a stage may take to end before its tasks are aborted.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(6);

/// Tasks that run until their stage is shut down.
pub(super) struct ShutdownStage {
    name: &'static str,
    token: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl ShutdownStage {
    /// An empty stage; `name` is its name in the log.
    pub(super) fn new(name: &'static str) -> ShutdownStage {
        ShutdownStage { name, token: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// A token that is cancelled when the stage shuts down.
    pub(super) fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Adds a task.
    pub(super) fn spawn(
        &mut self,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(task);
    }

    /// Waits for the first task that ends although the stage was not shut down: a node cannot work without
    /// any of them.
    pub(super) async fn wait_for_failure(&mut self) -> anyhow::Error {
        let error = match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the node ended unexpectedly"),
        };
        error.context(self.name)
    }

    /// Shuts the stage down: cancels the token, and waits for all tasks for at most `timeout`.
    ///
    /// # Errors
    /// When tasks were aborted after `timeout`.
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
