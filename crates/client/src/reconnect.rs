//! Keeps a session: when it ends, opens the next one at the next server after a delay.

use std::collections::VecDeque;
use std::time::Duration;

use pushonce_core::{Backoff, FailPoint, GapReason};
use pushonce_proto::client::{ErrorCode, ServerEvent};
use pushonce_proto::close::Reconnect;
use rand::Rng;
use tokio::time::Instant;

use crate::event_queue::{EventSender, LatestUpdate};
use crate::resume_state::{NewestOnly, ResumeState, SessionAction};
use crate::server_address::ServerAddress;
use crate::session::{AUTHENTICATE_ID, ConnectOptions, Session, SessionEnd};
use crate::subscriber::SubscriberEvent;
use crate::token::{self, TokenProvider};

/// The subscriber was dropped.
struct SubscriberDropped;

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

/// How long, at most, a server with a stale topic is kept the first time: the owner may be back soon, and
/// all clients of an isolated node move to its neighbours. Doubled with each further server with a stale
/// topic, because then the servers are not the cause.
const STALE_TIMEOUT_INITIAL: Duration = Duration::from_secs(1);
const STALE_DOUBLINGS_MAX: u32 = 6;

/// Runs session after session, until a reconnect is pointless or the subscriber is dropped.
pub(crate) async fn run(
    mut servers: VecDeque<ServerAddress>,
    connect_options: ConnectOptions,
    mut resume_state: ResumeState,
    events: EventSender,
) {
    let mut retry = RetryState {
        backoff: RECONNECT_BACKOFF,
        has_other_servers: false,
        stale_sessions: 0,
        reconnect_after: Duration::ZERO,
        has_been_connected: false,
    };
    while let Some(server) = servers.pop_front() {
        retry.has_other_servers = !servers.is_empty();
        let end = match Session::open(&connect_options, &server).await {
            Err(end)
                if end.reconnect == Reconnect::No
                    && FailPoint::WrongServerEndsSubscriber.is_active() =>
            {
                Ok(end)
            }
            // The settings of this client are right, so the certificate of the server has to be replaced.
            Err(end) if end.is_untrusted && retry.has_been_connected => {
                servers.push_back(server.clone());
                Ok(SessionEnd { reconnect: Reconnect::Later, ..end })
            }
            // This server is not tried again. The others may be usable.
            Err(end) if end.reconnect == Reconnect::No && retry.has_other_servers => {
                Ok(SessionEnd::retryable(end.reason))
            }
            opened => {
                servers.push_back(server.clone());
                match opened {
                    Ok(session) => {
                        retry.has_been_connected = true;
                        let token = connect_options.token.as_ref();
                        let state = &mut resume_state;
                        run_session(session, token, state, &server, &mut retry, &events).await
                    }
                    Err(end) => Ok(end),
                }
            }
        };
        let backoff = &mut retry.backoff;
        let Ok(SessionEnd { reason, reconnect, .. }) = end else { return };
        let retry_in = match reconnect {
            Reconnect::Yes => Some(backoff.next_delay(rand::random())),
            Reconnect::Later => Some(backoff.next_delay_long(rand::random())),
            Reconnect::No => None,
        };
        let reconnect_after = std::mem::take(&mut retry.reconnect_after);
        // The requested delay does not apply to other servers.
        let delay_min = if retry.has_other_servers { Duration::ZERO } else { reconnect_after };
        let retry_in = retry_in.map(|delay| delay.max(delay_min));
        let event = SubscriberEvent::Disconnected { server, reason, retry_in };
        if send_event(&events, event).await.is_err() {
            return;
        }
        match retry_in {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return,
        }
    }
}

/// Runs one session to its end.
async fn run_session(
    mut session: Session,
    token: Option<&TokenProvider>,
    resume_state: &mut ResumeState,
    server: &ServerAddress,
    retry: &mut RetryState,
    events: &EventSender,
) -> Result<SessionEnd, SubscriberDropped> {
    send_event(events, SubscriberEvent::Connected { server: server.clone() }).await?;
    let mut requests = resume_state.begin_session();
    let mut topic_backoff = RECONNECT_BACKOFF;
    let (mut request_at, mut leave_at, mut switch_at) = (None, None, None);
    let (mut renew_at, mut leave_reason) = (None, String::new());
    loop {
        for request in requests.drain(..) {
            if let Err(end) = session.subscribe(request).await {
                return Ok(end);
            }
        }
        let event = tokio::select! {
            event = session.next() => event,
            () = wait_until(request_at) => {
                request_at = None;
                requests = resume_state.take_requests();
                continue;
            }
            () = wait_until(renew_at) => {
                renew_at = None;
                if let Some(provider) = token
                    && let Err(end) = session.authenticate(provider).await
                {
                    return Ok(end);
                }
                continue;
            }
            () = wait_until(switch_at) => {
                retry.stale_sessions = (retry.stale_sessions + 1).min(STALE_DOUBLINGS_MAX);
                return Ok(SessionEnd::retryable("the server lost contact with the owner of a topic"));
            }
            () = wait_until(leave_at) => return Ok(SessionEnd::retryable(format!("the server shuts down: {leave_reason}"))),
        };
        let event = match event {
            Ok(event) => event,
            Err(end) => return Ok(end),
        };
        match &event {
            ServerEvent::Authenticated { expires, .. } => {
                renew_at = Some(Instant::now() + token::renewal_delay(*expires));
            }
            // A server without issuers serves everyone.
            ServerEvent::Error {
                id: Some(AUTHENTICATE_ID), code: ErrorCode::NotSupported, ..
            } => {
                continue;
            }
            _ => {}
        }
        match resume_state.on_event(event) {
            SessionAction::Ignore => {}
            SessionAction::Deliver(event) => {
                if matches!(event, SubscriberEvent::Message { .. } | SubscriberEvent::Live { .. }) {
                    retry.stale_sessions = 0;
                }
                deliver(events, resume_state, event).await?;
            }
            SessionAction::RetryLater { message } => {
                if request_at.is_none() {
                    tracing::warn!(%server, "asked again after a pause: {message}");
                }
                request_at.get_or_insert_with(|| {
                    Instant::now() + topic_backoff.next_delay(rand::random())
                });
            }
            SessionAction::Leave { within, reconnect_after, reason } => {
                retry.reconnect_after = reconnect_after;
                leave_at.get_or_insert_with(|| Instant::now() + random_within(within));
                leave_reason = reason;
            }
            SessionAction::Close(end) => return Ok(end),
        }
        if resume_state.is_empty() {
            return Ok(SessionEnd::permanent("every topic was rejected"));
        }
        // Not earlier: a node that accepts the session but serves no topic would be contacted again and
        // again without a growing delay.
        if resume_state.is_fully_subscribed() {
            retry.backoff.reset();
            topic_backoff.reset();
        }
        if !resume_state.has_stale_topics() {
            switch_at = None;
        } else if retry.has_other_servers {
            let stale_timeout = STALE_TIMEOUT_INITIAL * (1 << retry.stale_sessions);
            switch_at.get_or_insert_with(|| Instant::now() + random_within(stale_timeout));
        }
    }
}

/// Waits until `deadline`; never returns without one.
async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A random time within `span`, so that the clients of a node that shuts down do not all leave at once.
fn random_within(span: Duration) -> Duration {
    span.mul_f64(rand::rng().random())
}

async fn send_event(events: &EventSender, event: SubscriberEvent) -> Result<(), SubscriberDropped> {
    events.send(event).await.map_err(|_| SubscriberDropped)
}

/// Delivers an event of the session to the caller. With newest-only delivery it does not wait for the
/// caller, so that the session is read further.
async fn deliver(
    events: &EventSender,
    resume_state: &ResumeState,
    event: SubscriberEvent,
) -> Result<(), SubscriberDropped> {
    let (topic, update) = match event {
        SubscriberEvent::Message { topic, message } => (topic, LatestUpdate::Message(message)),
        SubscriberEvent::Gap { topic, gap } if gap.reason == GapReason::Conflated => {
            (topic, LatestUpdate::Skipped(gap))
        }
        event => return send_event(events, event).await,
    };
    match (resume_state.newest_only(&topic), update) {
        (Some(NewestOnly { reports_gaps }), update) => {
            events.replace_latest(topic, update, reports_gaps).map_err(|_| SubscriberDropped)
        }
        (None, LatestUpdate::Message(message)) => {
            send_event(events, SubscriberEvent::Message { topic, message }).await
        }
        (None, LatestUpdate::Skipped(gap)) => {
            send_event(events, SubscriberEvent::Gap { topic, gap }).await
        }
    }
}
