//! Keeps a session: when it ends, opens the next one at the next server after a delay.

mod session_run;

use std::collections::VecDeque;
use std::time::Duration;

use pushonce_core::{Backoff, FailPoint};
use pushonce_proto::close::Reconnect;
use tokio::sync::mpsc;

use crate::event_queue::EventSender;
use crate::metrics;
use crate::resume_state::ResumeState;
use crate::server_address::ServerAddress;
use crate::session::{ConnectOptions, EndCause, Session, SessionEnd};
use crate::subscriber::{SubscriberEvent, TopicCommand};
use session_run::SessionRun;

/// The caller closed or dropped the subscriber.
struct ClosedByCaller;

/// Delays between sessions and between calls, as `proto/README.md` requires. At most five seconds: after an
/// operator restarts a node, its clients should return soon.
pub(crate) const RECONNECT_BACKOFF: Backoff =
    Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Delays and timeouts across sessions.
struct RetryState {
    /// Delay before the next session.
    backoff: Backoff,
    /// Whether there are other servers.
    has_other_servers: bool,
    /// Number of consecutive sessions that were left because of stale topics.
    stale_sessions: u32,
    /// How long the server of this session must not be contacted again.
    reconnect_after: Duration,
    /// Whether there was a session before.
    has_been_connected: bool,
}

/// Keeps the sessions of one subscriber.
pub(crate) struct SubscriberTask {
    /// The next server is the first.
    pub(crate) servers: VecDeque<ServerAddress>,
    pub(crate) connect_options: ConnectOptions,
    pub(crate) resume_state: ResumeState,
    pub(crate) commands: mpsc::UnboundedReceiver<TopicCommand>,
    pub(crate) events: EventSender,
}

/// Runs session after session, until a reconnect is pointless or the caller closes or drops the subscriber.
pub(crate) async fn run(mut task: SubscriberTask) {
    let mut retry = RetryState::new(task.connect_options.backoff.clone());
    loop {
        if task.wait_for_topic().await.is_err() {
            return;
        }
        let Some(server) = task.servers.pop_front() else { return };
        retry.has_other_servers = !task.servers.is_empty();
        let Ok(end) = task.run_session(&server, &mut retry).await else { return };
        let retry_in = retry.delay_after(&end);
        let event = SubscriberEvent::Disconnected { server, reason: end.reason, retry_in };
        if task.events.send(event).await.is_err() {
            return;
        }
        let Some(delay) = retry_in else { return };
        if task.pause(delay).await.is_err() {
            return;
        }
    }
}

impl SubscriberTask {
    /// Opens a session with `server` and runs it to its end. A server that cannot be used is removed from the list if
    /// there are others.
    async fn run_session(
        &mut self,
        server: &ServerAddress,
        retry: &mut RetryState,
    ) -> Result<SessionEnd, ClosedByCaller> {
        let end = match Session::open(&self.connect_options, server).await {
            Ok(session) => {
                retry.has_been_connected = true;
                metrics::record_session(self.connect_options.transport);
                let token = self.connect_options.token.as_ref();
                let SubscriberTask { resume_state, commands, events, .. } = self;
                SessionRun::new(session, server, token, resume_state, retry, events)
                    .run(commands)
                    .await?
            }
            Err(end) if is_permanent(&end) && FailPoint::WrongServerEndsSubscriber.is_active() => {
                return Ok(end);
            }
            // The settings of this client are right, so the certificate of the server has to be replaced.
            Err(end) if end.cause == EndCause::Certificate && retry.has_been_connected => {
                SessionEnd { reconnect: Reconnect::Later, ..end }
            }
            Err(end) if is_permanent(&end) => SessionEnd { cause: EndCause::Protocol, ..end },
            Err(end) => end,
        };
        if end.cause == EndCause::Protocol && retry.has_other_servers {
            return Ok(SessionEnd::retryable(end.reason));
        }
        self.servers.push_back(server.clone());
        Ok(end)
    }

    /// Waits until there is a topic to subscribe to.
    async fn wait_for_topic(&mut self) -> Result<(), ClosedByCaller> {
        while self.resume_state.is_empty() {
            let command = self.commands.recv().await.ok_or(ClosedByCaller)?;
            self.apply(command)?;
        }
        Ok(())
    }

    /// Waits for `delay`, and applies commands meanwhile.
    async fn pause(&mut self, delay: Duration) -> Result<(), ClosedByCaller> {
        let pause = tokio::time::sleep(delay);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                command = self.commands.recv() => self.apply(command.ok_or(ClosedByCaller)?)?,
            }
        }
    }

    /// Applies a command while there is no session.
    fn apply(&mut self, command: TopicCommand) -> Result<(), ClosedByCaller> {
        match command {
            TopicCommand::Add { topic, from, options } => {
                self.resume_state.add_topic(topic, from, options);
            }
            TopicCommand::Remove { topic } => self.resume_state.remove_topic(&topic),
            TopicCommand::Close => return Err(ClosedByCaller),
        }
        Ok(())
    }
}

fn is_permanent(end: &SessionEnd) -> bool {
    end.reconnect == Reconnect::No
}

impl RetryState {
    fn new(backoff: Backoff) -> RetryState {
        RetryState {
            backoff,
            has_other_servers: false,
            stale_sessions: 0,
            reconnect_after: Duration::ZERO,
            has_been_connected: false,
        }
    }

    /// The delay before the next session; `None` if there is none.
    fn delay_after(&mut self, end: &SessionEnd) -> Option<Duration> {
        let reconnect_after = std::mem::take(&mut self.reconnect_after);
        // The requested delay does not apply to other servers.
        let delay_min = if self.has_other_servers { Duration::ZERO } else { reconnect_after };
        let delay = match end.reconnect {
            Reconnect::Yes => self.backoff.next_delay(rand::random()),
            Reconnect::Later => self.backoff.next_delay_long(rand::random()),
            Reconnect::No => return None,
        };
        Some(delay.max(delay_min))
    }
}
