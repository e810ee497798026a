//! A subscriber without an SDK: it turns to the next node and resumes by itself, and writes down
//! everything that it is told.

use std::time::Duration;

use pushonce_client::Transport;
use pushonce_core::{From, Position};
use pushonce_proto::client;
use rand::Rng;

use super::session::Session;
use super::{Part, word};
use crate::history::{Begin, Entry, Event, Scribe};

/// Of a restless subscriber: how long it stays.
const STAYS_MS: std::ops::Range<u64> = 1_500..6_000;

/// Between two sessions. A node that comes back is not stormed.
const PAUSE_MS: std::ops::Range<u64> = 20..400;

struct Viewer {
    topic: String,
    reached: Option<Position>,
    scribe: Scribe,
}

pub(super) async fn watch(part: Part, topic: String, home: usize, transport: Transport) {
    let name = format!("{}{home}/{topic}", word(transport));
    let mut rng = part.plan.rng(&name);
    let restless = rng.random_bool(0.4);
    let scribe = part.recorder.scribe(name);
    let mut viewer = Viewer { topic, reached: None, scribe };
    for n in 0.. {
        let node = (home + n) % part.nodes.len();
        let stays = restless.then(|| Duration::from_millis(rng.random_range(STAYS_MS)));
        let left = async {
            match stays {
                Some(stays) => tokio::time::sleep(stays).await,
                None => std::future::pending().await,
            }
        };
        let why = tokio::select! {
            () = part.until_over() => return,
            () = left => "it hung up".to_owned(),
            why = viewer.session(&part, node, transport) => why,
        };
        viewer.scribe.write(Event::Ended { why: why.into() });
        let pause = Duration::from_millis(rng.random_range(PAUSE_MS));
        tokio::select! {
            () = part.until_over() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Viewer {
    /// One session, and why it ended.
    async fn session(&mut self, part: &Part, node: usize, transport: Transport) -> String {
        let from = self.reached.map_or(From::Start, From::Position);
        let session = Session::open(part.nodes[node], transport, &self.topic, from).await;
        let mut session = match session {
            Ok(session) => session,
            Err(why) => return why,
        };
        self.scribe.write(Event::Subscribe {
            topic: self.topic.as_str().into(),
            node: Some(node),
            transport: word(transport).into(),
            from: self.reached.map_or(Begin::Start, Begin::After),
        });
        loop {
            match session.next().await {
                Ok(event) => {
                    if let Some(end) = self.hear(event) {
                        return end;
                    }
                }
                Err(why) => return why,
            }
        }
    }

    /// Writes down what was said; why to end the session, if it is time to.
    fn hear(&mut self, event: client::Event) -> Option<String> {
        let topic = || self.topic.as_str().into();
        let event = match event {
            client::Event::Subscribed { position, recovered, .. } => {
                // Whatever follows 0:0 is owed.
                if position == Position::ZERO && self.reached.is_none() {
                    self.reached = Some(position);
                }
                Event::Subscribed { topic: topic(), position, recovered }
            }
            client::Event::Message { message, .. } => {
                self.reached = self.reached.max(Some(message.position));
                let Entry { position, payload, key } = Entry::of(&message);
                Event::Delivered { topic: topic(), position, payload, key }
            }
            client::Event::Gap { gap, .. } => {
                self.reached = self.reached.max(Some(gap.to));
                Event::gap(&topic(), &gap)
            }
            client::Event::Heartbeat { positions } => {
                let own = positions.iter().find(|(name, _)| name.as_str() == self.topic);
                let position = own.map(|(_, position)| *position)?;
                Event::Heartbeat { topic: topic(), position }
            }
            // What a stale notice and its end name is a bookmark as well.
            client::Event::Stale { since: position, .. } => {
                self.scribe.write(Event::Stale { topic: topic(), stale: true });
                Event::Heartbeat { topic: topic(), position }
            }
            client::Event::Live { position, .. } => {
                self.scribe.write(Event::Stale { topic: topic(), stale: false });
                Event::Heartbeat { topic: topic(), position }
            }
            client::Event::Error { retry: true, message, .. } => return Some(message),
            client::Event::Error { code, .. } => {
                self.scribe
                    .write(Event::SubscribeRefused { topic: topic(), code: code.as_str().into() });
                return Some("refused".to_owned());
            }
            client::Event::Goaway { reason, .. } => return Some(reason),
            _ => return None,
        };
        self.scribe.write(event);
        None
    }
}
