//! Keeps a session: opens the next one when it ends, at the next server, after a pause.

use std::collections::VecDeque;
use std::time::Duration;

use pushonce_core::GapReason;
use pushonce_proto::close::Reconnect;
use rand::Rng;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::progress::{NewestOnly, Progress, Step};
use crate::queue::{News, Sender};
use crate::server::Server;
use crate::session::{Dial, Ended, Session};
use crate::subscriber::Event;

/// Nobody listens any more.
struct Gone;

/// How long to wait, over all sessions.
#[derive(Default)]
struct Patience {
    /// Before the next session.
    backoff: Backoff,
    /// There are other servers.
    elsewhere: bool,
    /// Sessions in a row that were left because they were stale.
    stale: u32,
    /// For how long this session's server is not to be troubled.
    back: Duration,
}

/// How long a server that does not hear of a topic is borne, at most, the first time: the owner may
/// be back in a moment, and all clients of a node that is cut off come to its neighbours. Doubled with
/// each server that is no better, for then it is not the server.
const STALE_FIRST: Duration = Duration::from_secs(1);
const STALE_DOUBLINGS_MAX: u32 = 6;

/// Session after session, until there is no sense in another or nobody listens.
pub(crate) async fn keep(
    mut servers: VecDeque<Server>,
    dial: Dial,
    mut progress: Progress,
    events: Sender,
) {
    let mut patience = Patience::default();
    while let Some(server) = servers.pop_front() {
        patience.elsewhere = !servers.is_empty();
        let ended = match Session::open(&dial, &server).await {
            #[cfg(feature = "planted-bugs")]
            Err(ended) if crate::planted::is_end_of_all(ended.reconnect) => Ok(ended),
            // It is not asked again. The others may be right.
            Err(ended) if ended.reconnect == Reconnect::No && patience.elsewhere => {
                Ok(Ended::again(ended.why))
            }
            opened => {
                servers.push_back(server.clone());
                match opened {
                    Ok(session) => {
                        follow(session, &mut progress, &server, &mut patience, &events).await
                    }
                    Err(ended) => Ok(ended),
                }
            }
        };
        let backoff = &mut patience.backoff;
        let Ok(Ended { why, reconnect }) = ended else { return };
        let retry_in = match reconnect {
            Reconnect::Yes => Some(backoff.fail(&mut rand::rng())),
            Reconnect::Later => Some(backoff.fail_later(&mut rand::rng())),
            Reconnect::No => None,
        };
        let back = std::mem::take(&mut patience.back);
        // Another server was not asked for time.
        let least = if patience.elsewhere { Duration::ZERO } else { back };
        let retry_in = retry_in.map(|pause| pause.max(least));
        let event = Event::Disconnected { server, why, retry_in };
        if tell(&events, event).await.is_err() {
            return;
        }
        match retry_in {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return,
        }
    }
}

/// One session, to its end.
async fn follow(
    mut session: Session,
    progress: &mut Progress,
    server: &Server,
    patience: &mut Patience,
    events: &Sender,
) -> Result<Ended, Gone> {
    tell(events, Event::Connected { server: server.clone() }).await?;
    let mut asks = progress.begin();
    let mut pauses = Backoff::default();
    let (mut again, mut leave, mut turn) = (None, None, None);
    let mut farewell = String::new();
    loop {
        for ask in asks.drain(..) {
            if let Err(ended) = session.subscribe(ask).await {
                return Ok(ended);
            }
        }
        let event = tokio::select! {
            event = session.next() => event,
            () = at(again) => {
                again = None;
                asks = progress.again();
                continue;
            }
            () = at(turn) => {
                patience.stale = (patience.stale + 1).min(STALE_DOUBLINGS_MAX);
                return Ok(Ended::again("the server has lost touch with the owner of a topic"));
            }
            () = at(leave) => return Ok(Ended::again(format!("the server goes: {farewell}"))),
        };
        let event = match event {
            Ok(event) => event,
            Err(ended) => return Ok(ended),
        };
        match progress.step(event) {
            Step::Pass => {}
            Step::Tell(event) => {
                if matches!(event, Event::Message { .. } | Event::Live { .. }) {
                    patience.stale = 0;
                }
                tell_of_topic(events, progress, event).await?;
            }
            Step::Wait { message } => {
                if again.is_none() {
                    tracing::warn!(%server, "asked again after a pause: {message}");
                }
                again.get_or_insert_with(|| Instant::now() + pauses.fail(&mut rand::rng()));
            }
            Step::Leave { within, back, reason } => {
                patience.back = back;
                leave.get_or_insert_with(|| Instant::now() + drawn(within));
                farewell = reason;
            }
            Step::End(ended) => return Ok(ended),
        }
        if progress.is_empty() {
            return Ok(Ended::for_good("every topic was refused"));
        }
        // Not before: a node that takes the session but brings no topic would be asked again and
        // again without a pause that grows.
        if progress.is_settled() {
            patience.backoff.succeed();
            pauses.succeed();
        }
        if !progress.is_stale() {
            turn = None;
        } else if patience.elsewhere {
            let bound = STALE_FIRST * (1 << patience.stale);
            turn.get_or_insert_with(|| Instant::now() + drawn(bound));
        }
    }
}

/// That moment; never, if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// A moment within `span`: all clients of a node that goes should not leave in the same one.
fn drawn(span: Duration) -> Duration {
    span.mul_f64(rand::rng().random())
}

async fn tell(events: &Sender, event: Event) -> Result<(), Gone> {
    events.send(event).await.map_err(|_| Gone)
}

/// Tells what a session brought. Of a topic whose caller wants the newest only, without waiting for
/// the caller: the session is read on.
async fn tell_of_topic(events: &Sender, progress: &Progress, event: Event) -> Result<(), Gone> {
    let (topic, news) = match event {
        Event::Message { topic, message } => (topic, News::Message(message)),
        Event::Gap { topic, gap } if gap.reason == GapReason::Conflated => {
            (topic, News::PassedOver(gap))
        }
        event => return tell(events, event).await,
    };
    match (progress.newest_only(&topic), news) {
        (Some(NewestOnly { tells_gaps }), news) => {
            events.replace(topic, news, tells_gaps).map_err(|_| Gone)
        }
        (None, News::Message(message)) => tell(events, Event::Message { topic, message }).await,
        (None, News::PassedOver(gap)) => tell(events, Event::Gap { topic, gap }).await,
    }
}
