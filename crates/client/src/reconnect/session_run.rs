//! One session, from its first request to its end.

use std::time::Duration;

use pushonce_core::{Backoff, GapReason, Topic};
use pushonce_proto::client::{ErrorCode, ServerEvent};
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{ClosedByCaller, RECONNECT_BACKOFF, RetryState};
use crate::event_queue::{EventSender, LatestUpdate, ReceiverDropped};
use crate::metrics;
use crate::resume_state::{NewestOnly, ResumeState, SessionAction, SubscriptionRequest};
use crate::server_address::ServerAddress;
use crate::session::{AUTHENTICATE_ID, Session, SessionEnd};
use crate::subscriber::{SubscriberEvent, TopicCommand};
use crate::token::{self, TokenProvider};

/// How long, at most, a server with a stale topic is kept the first time: the owner may be back soon, and
/// all clients of an isolated node move to its neighbours. Doubled with each further server with a stale
/// topic, because then the servers are not the cause.
const STALE_TIMEOUT_INITIAL: Duration = Duration::from_secs(1);
const STALE_DOUBLINGS_MAX: u32 = 6;

/// A running session.
pub(super) struct SessionRun<'a> {
    session: Session,
    server: &'a ServerAddress,
    token: Option<&'a TokenProvider>,
    resume_state: &'a mut ResumeState,
    retry: &'a mut RetryState,
    events: &'a EventSender,
    /// Delay before rejected topics are requested again.
    topic_backoff: Backoff,
    timers: Timers,
    leave_reason: String,
}

/// What happens at a time, if nothing else happens before.
#[derive(Default)]
struct Timers {
    /// Topics that were rejected for a time are requested again.
    request_at: Option<Instant>,
    renew_token_at: Option<Instant>,
    /// The session ends because the server asked for it.
    leave_at: Option<Instant>,
    /// The session ends because of a stale topic.
    switch_at: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Timer {
    Request,
    RenewToken,
    Leave,
    Switch,
}

/// Why the session is over.
enum Stop {
    Session(SessionEnd),
    /// The session ends because the subscriber does.
    Subscriber,
}

impl From<ReceiverDropped> for Stop {
    fn from(_: ReceiverDropped) -> Stop {
        Stop::Subscriber
    }
}

impl From<SessionEnd> for Stop {
    fn from(end: SessionEnd) -> Stop {
        Stop::Session(end)
    }
}

impl<'a> SessionRun<'a> {
    pub(super) fn new(
        session: Session,
        server: &'a ServerAddress,
        token: Option<&'a TokenProvider>,
        resume_state: &'a mut ResumeState,
        retry: &'a mut RetryState,
        events: &'a EventSender,
    ) -> SessionRun<'a> {
        SessionRun {
            session,
            server,
            token,
            resume_state,
            retry,
            events,
            topic_backoff: RECONNECT_BACKOFF,
            timers: Timers::default(),
            leave_reason: String::new(),
        }
    }

    /// Runs the session to its end.
    pub(super) async fn run(
        mut self,
        commands: &mut mpsc::UnboundedReceiver<TopicCommand>,
    ) -> Result<SessionEnd, ClosedByCaller> {
        match self.run_until_stop(commands).await {
            Stop::Session(end) => Ok(end),
            Stop::Subscriber => {
                self.session.close().await;
                Err(ClosedByCaller)
            }
        }
    }

    async fn run_until_stop(
        &mut self,
        commands: &mut mpsc::UnboundedReceiver<TopicCommand>,
    ) -> Stop {
        let connected = SubscriberEvent::Connected { server: self.server.clone() };
        if let Err(dropped) = self.events.send(connected).await {
            return dropped.into();
        }
        let requests = self.resume_state.begin_session();
        if let Err(stop) = self.request(requests).await {
            return stop;
        }
        loop {
            let step = tokio::select! {
                event = self.session.next() => match event {
                    Ok(event) => self.on_event(event).await,
                    Err(end) => Err(end.into()),
                },
                timer = self.timers.next() => self.on_timer(timer).await,
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command).await,
                    None => Err(Stop::Subscriber),
                },
            };
            if let Err(stop) = step {
                return stop;
            }
        }
    }

    async fn request(&mut self, requests: Vec<SubscriptionRequest>) -> Result<(), Stop> {
        for request in requests {
            self.session.subscribe(request).await?;
        }
        Ok(())
    }

    async fn on_command(&mut self, command: TopicCommand) -> Result<(), Stop> {
        match command {
            TopicCommand::Add { topic, from, options } => {
                self.leave(&topic).await?;
                self.resume_state.add_topic(topic, from, options);
                let requests = self.resume_state.take_new_requests();
                self.request(requests).await
            }
            TopicCommand::Remove { topic } => self.leave(&topic).await,
            TopicCommand::Close => Err(Stop::Subscriber),
        }
    }

    async fn leave(&mut self, topic: &Topic) -> Result<(), Stop> {
        match self.resume_state.leave_topic(topic) {
            Some(id) => Ok(self.session.unsubscribe(id, topic).await?),
            None => Ok(()),
        }
    }

    async fn on_timer(&mut self, timer: Timer) -> Result<(), Stop> {
        match timer {
            Timer::Request => {
                let requests = self.resume_state.take_requests();
                self.request(requests).await
            }
            Timer::RenewToken => match self.token {
                Some(provider) => Ok(self.session.authenticate(provider).await?),
                None => Ok(()),
            },
            Timer::Switch => {
                self.retry.stale_sessions =
                    (self.retry.stale_sessions + 1).min(STALE_DOUBLINGS_MAX);
                let reason = "the server lost contact with the owner of a topic";
                Err(SessionEnd::retryable(reason).into())
            }
            Timer::Leave => {
                let reason = format!("the server shuts down: {}", self.leave_reason);
                Err(SessionEnd::retryable(reason).into())
            }
        }
    }

    async fn on_event(&mut self, event: ServerEvent) -> Result<(), Stop> {
        match &event {
            ServerEvent::Authenticated { expires, .. } => {
                let delay = token::renewal_delay(*expires);
                self.timers.renew_token_at = Some(Instant::now() + delay);
            }
            // A server without issuers serves everyone.
            ServerEvent::Error {
                id: Some(AUTHENTICATE_ID), code: ErrorCode::NotSupported, ..
            } => return Ok(()),
            _ => {}
        }
        let action = self.resume_state.on_event(event);
        self.on_action(action).await?;
        // Not earlier: a node that accepts the session but serves no topic would be contacted again and
        // again without a growing delay.
        if self.resume_state.is_fully_subscribed() {
            self.retry.backoff.reset();
            self.topic_backoff.reset();
        }
        self.set_switch_timer();
        Ok(())
    }

    async fn on_action(&mut self, action: SessionAction) -> Result<(), Stop> {
        match action {
            SessionAction::Ignore => {}
            SessionAction::Deliver(event) => {
                if matches!(event, SubscriberEvent::Message { .. } | SubscriberEvent::Live { .. }) {
                    self.retry.stale_sessions = 0;
                }
                let is_rejection = matches!(event, SubscriberEvent::Rejected { .. });
                self.deliver(event).await?;
                if is_rejection && self.resume_state.is_empty() {
                    return Err(SessionEnd::permanent("every topic was rejected").into());
                }
            }
            SessionAction::RequestAgain => {
                let requests = self.resume_state.take_new_requests();
                self.request(requests).await?;
            }
            SessionAction::RetryLater { message, retry_after } => {
                if self.timers.request_at.is_none() {
                    tracing::warn!(server = %self.server, %message, "topic not available, retrying");
                }
                let delay = self.topic_backoff.next_delay(rand::random()).max(retry_after);
                self.timers.request_at.get_or_insert_with(|| Instant::now() + delay);
            }
            SessionAction::Leave { within, reconnect_after, reason } => {
                self.retry.reconnect_after = reconnect_after;
                self.timers.leave_at.get_or_insert_with(|| Instant::now() + random_within(within));
                self.leave_reason = reason;
            }
            SessionAction::Close(end) => return Err(end.into()),
        }
        Ok(())
    }

    /// Leaves a server with a stale topic after a time, if there is another one.
    fn set_switch_timer(&mut self) {
        if !self.resume_state.has_stale_topics() {
            self.timers.switch_at = None;
        } else if self.retry.has_other_servers {
            let stale_timeout = STALE_TIMEOUT_INITIAL * (1 << self.retry.stale_sessions);
            let switch_at = Instant::now() + random_within(stale_timeout);
            self.timers.switch_at.get_or_insert(switch_at);
        }
    }

    /// Delivers an event of the session to the caller. With newest-only delivery it does not wait for the
    /// caller, so that the session is read further.
    async fn deliver(&self, event: SubscriberEvent) -> Result<(), Stop> {
        metrics::record_event(&event);
        let newest_only = match &event {
            SubscriberEvent::Message { topic, .. } => self.resume_state.newest_only(topic),
            SubscriberEvent::Gap { topic, gap } if gap.reason == GapReason::Conflated => {
                self.resume_state.newest_only(topic)
            }
            _ => None,
        };
        match (newest_only, event) {
            (Some(NewestOnly { reports_gaps }), SubscriberEvent::Message { topic, message }) => {
                let update = LatestUpdate::Message(message);
                Ok(self.events.replace_latest(topic, update, reports_gaps)?)
            }
            (Some(NewestOnly { reports_gaps }), SubscriberEvent::Gap { topic, gap }) => {
                Ok(self.events.replace_latest(topic, LatestUpdate::Skipped(gap), reports_gaps)?)
            }
            (_, event) => Ok(self.events.send(event).await?),
        }
    }
}

impl Timers {
    /// Waits for the next timer and disarms it; never returns without one. Cancel safe.
    async fn next(&mut self) -> Timer {
        let first = [Timer::Request, Timer::RenewToken, Timer::Leave, Timer::Switch]
            .into_iter()
            .filter_map(|timer| Some(((*self.time_of(timer))?, timer)))
            .min_by_key(|(at, _)| *at);
        let Some((at, timer)) = first else { return std::future::pending().await };
        tokio::time::sleep_until(at).await;
        *self.time_of(timer) = None;
        timer
    }

    fn time_of(&mut self, timer: Timer) -> &mut Option<Instant> {
        match timer {
            Timer::Request => &mut self.request_at,
            Timer::RenewToken => &mut self.renew_token_at,
            Timer::Leave => &mut self.leave_at,
            Timer::Switch => &mut self.switch_at,
        }
    }
}

/// A random time within `span`, so that the clients of a node that shuts down do not all leave at once.
fn random_within(span: Duration) -> Duration {
    span.mul_f64(rand::rng().random())
}
