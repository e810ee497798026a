//! A client that exceeds the limit of requests in flight of a session.

use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use rand::Rng as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Message};

use super::WorkloadContext;
use crate::history::HistoryEvent;
use crate::node::Ports;

const PAUSE: Duration = Duration::from_secs(2);

/// One and a half times the limit of a session, which is 64.
const BURST_PUBLISHES: usize = 96;

/// The time limit for all replies: longer than a node waits for an owner and for a commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

pub(super) async fn run(context: WorkloadContext) {
    let mut rng = context.plan.rng_for("burst");
    let process_recorder = context.recorder.for_process("burst");
    while !context.is_over() {
        let node = rng.random_range(0..context.nodes.len());
        // A node that is down accepts no session; no burst is recorded then.
        let begun = Instant::now();
        if let Some((answered, closed)) = publish_burst(context.nodes[node]).await {
            let ms = begun.elapsed().as_millis() as u64;
            process_recorder.record(HistoryEvent::Burst {
                node,
                sent: BURST_PUBLISHES,
                answered,
                closed,
                ms,
            });
        }
        tokio::select! {
            () = context.wait_over() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// The number of replies, and whether the session ended before all were received; `None` if no session was
/// opened.
async fn publish_burst(ports: Ports) -> Option<(usize, bool)> {
    let uri = format!("ws://{}/ws", ports.http);
    let builder = ClientBuilder::new().uri(&uri).ok()?;
    let connect = async {
        let stream = TcpStream::connect(ports.http).await.ok()?;
        Some(builder.connect_on(stream).await.ok()?.0)
    };
    let mut socket = timeout(ANSWER_TIMEOUT, connect).await.ok().flatten()?;
    for id in 1..=BURST_PUBLISHES {
        let topic = format!("burst/{}", id % 8);
        let request = format!(r#"{{"id":{id},"publish":{{"topic":"{topic}","data":"{id}"}}}}"#);
        if socket.feed(Message::text(request)).await.is_err() {
            return Some((0, true));
        }
    }
    if socket.flush().await.is_err() {
        return Some((0, true));
    }
    let mut answered = 0;
    let read_answers = async {
        while answered < BURST_PUBLISHES {
            match socket.next().await {
                Some(Ok(message)) if message.is_close() => return true,
                Some(Ok(message)) => {
                    let text = message.as_text().unwrap_or_default();
                    answered += usize::from(is_answer(text));
                }
                Some(Err(_)) | None => return true,
            }
        }
        false
    };
    let closed = timeout(ANSWER_TIMEOUT, read_answers).await.unwrap_or(false);
    Some((answered, closed))
}

/// Whether a frame is an acknowledgement or an error.
fn is_answer(frame: &str) -> bool {
    let frame: serde_json::Value = serde_json::from_str(frame).unwrap_or_default();
    frame["id"].is_u64() && (frame["published"].is_object() || frame["error"].is_object())
}
