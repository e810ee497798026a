//! Somebody who asks with positions that were never given out.

use std::time::Duration;

use pushonce_client::Transport;
use pushonce_core::{Epoch, From, Offset, Position};
use pushonce_proto::client;
use rand::Rng;

use super::session::Session;
use super::{HOT, Part, word};
use crate::history::{Begin, Entry, Event, Record};
use crate::node::Ports;

const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn forge(part: Part) {
    let mut rng = part.plan.rng("forger");
    for n in 0u32.. {
        tokio::select! {
            () = part.until_over() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let Some(newest) = part.recorder.look(newest) else { continue };
        let forged = match rng.random_range(0..3) {
            0 => Position { offset: Offset(newest.offset.0 + 1_000_000), ..newest },
            1 => Position { epoch: Epoch(newest.epoch.0 + 1_000_000), ..newest },
            // Of a life that the topic never had: to be answered as an earlier one.
            _ => Position { epoch: Epoch(newest.epoch.0 - 1), ..newest },
        };
        let transport = if rng.random() { Transport::Ws } else { Transport::Grpc };
        let node = rng.random_range(0..part.nodes.len());
        let ask = ask(part.nodes[node], transport, forged);
        let answer = tokio::time::timeout(Duration::from_secs(3), ask).await;
        // Nobody knows where the topic stands, at this moment.
        let Ok(Ok(answers)) = answer else { continue };
        let scribe = part.recorder.scribe(format!("forger{n}"));
        let (topic, transport) = (HOT.into(), word(transport).into());
        let from = Begin::After(forged);
        scribe.write(Event::Subscribe { topic, node: Some(node), transport, from });
        answers.into_iter().for_each(|answer| scribe.write(answer));
    }
}

/// What is said up to the first message or gap, or the refusal.
async fn ask(ports: Ports, transport: Transport, forged: Position) -> Result<Vec<Event>, String> {
    let mut session = Session::open(ports, transport, HOT, From::Position(forged)).await?;
    let topic = || HOT.into();
    let mut said = Vec::new();
    loop {
        let last = match session.next().await? {
            client::Event::Subscribed { position, recovered, .. } => {
                said.push(Event::Subscribed { topic: topic(), position, recovered });
                continue;
            }
            client::Event::Error { retry: true, message, .. } => return Err(message),
            client::Event::Error { code, .. } => {
                Event::SubscribeRefused { topic: topic(), code: code.as_str().into() }
            }
            client::Event::Message { message, .. } => {
                let Entry { position, payload, key } = Entry::of(&message);
                Event::Delivered { topic: topic(), position, payload, key }
            }
            client::Event::Gap { gap, .. } => Event::gap(&topic(), &gap),
            _ => continue,
        };
        said.extend([last, Event::Left { topic: topic() }]);
        return Ok(said);
    }
}

/// The last position of the hot topic that was shown.
fn newest(records: &[Record]) -> Option<Position> {
    records.iter().rev().find_map(|record| match &record.event {
        Event::Delivered { topic, position, .. } if &**topic == HOT => Some(*position),
        _ => None,
    })
}
