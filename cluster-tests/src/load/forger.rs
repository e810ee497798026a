//! Somebody who asks with positions that were never given out.

use std::time::Duration;

use pushonce_client::Transport;
use pushonce_core::{Epoch, From, Offset, Position};
use pushonce_proto::client;
use rand::Rng;

use super::session::Session;
use super::{HOT, Part, word};
use crate::history::{Begin, Event, Record};

const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn forge(part: Part) {
    let mut rng = part.plan.rng("forger");
    for n in 0u32.. {
        tokio::select! {
            () = part.until_over() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let Some(newest) = part.recorder.look(newest) else { continue };
        let forged = if rng.random() {
            Position { offset: Offset(newest.offset.0 + 1_000_000), ..newest }
        } else {
            Position { epoch: Epoch(newest.epoch.0 + 1_000_000), ..newest }
        };
        let transport = if rng.random() { Transport::Ws } else { Transport::Grpc };
        let node = rng.random_range(0..part.nodes.len());
        let ask = async {
            let from = From::Position(forged);
            Session::open(part.nodes[node], transport, HOT, from).await?.next().await
        };
        let answer = tokio::time::timeout(Duration::from_secs(3), ask).await;
        let Ok(Ok(answer)) = answer else { continue };
        let topic = || HOT.into();
        let answer = match answer {
            // Nobody knows where the topic stands, at this moment.
            client::Event::Error { retry: true, .. } => continue,
            client::Event::Error { code, .. } => {
                Event::SubscribeRefused { topic: topic(), code: code.as_str().into() }
            }
            client::Event::Subscribed { position, recovered, .. } => {
                Event::Subscribed { topic: topic(), position, recovered }
            }
            _ => continue,
        };
        let scribe = part.recorder.scribe(format!("forger{n}"));
        let transport = word(transport).into();
        let from = Begin::After(forged);
        scribe.write(Event::Subscribe { topic: topic(), node: Some(node), transport, from });
        scribe.write(answer);
    }
}

/// The last position of the hot topic that was shown.
fn newest(records: &[Record]) -> Option<Position> {
    records.iter().rev().find_map(|record| match &record.event {
        Event::Delivered { topic, position, .. } if &**topic == HOT => Some(*position),
        _ => None,
    })
}
