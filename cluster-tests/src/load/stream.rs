//! A publisher that sends without waiting, on the SDK's ordered stream.

use std::sync::Arc;
use std::time::Duration;

use pushonce_client::{Failure, Publisher, Transport};
use rand::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{Part, UNDER_WAY_MAX, outcome};
use crate::history::{Event, hash};
use crate::origin::text;

/// How long an outcome is waited for, in the end.
const LAST_OUTCOMES: Duration = Duration::from_secs(15);

pub(super) async fn publish(part: Part, home: usize) {
    let name = format!("stream{home}");
    let mut rng = part.plan.rng(&name);
    let mut servers: Vec<_> = part.nodes.iter().map(|n| n.server(Transport::Grpc)).collect();
    servers.rotate_left(home);
    let publisher = Publisher::new(servers);
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut tick = tokio::time::interval(part.plan.pace);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut outcomes = JoinSet::new();
    let mut number = 0u64;
    // A stream that broke is another process: nothing orders what two of them send.
    'streams: for life in 0u32.. {
        let scribe = part.recorder.scribe(format!("{name}.{life}"));
        let mut stream = loop {
            tick.tick().await;
            if part.over() {
                break 'streams;
            }
            // A stream that cannot be opened is a publish that was not taken.
            let opened = tokio::time::timeout(Duration::from_secs(2), publisher.stream()).await;
            match opened {
                Ok(Ok(stream)) => break stream,
                _ => refuse(&scribe, &part.plan.draw(&mut rng), &mut number, &name),
            }
        };
        loop {
            tick.tick().await;
            if part.over() {
                break 'streams;
            }
            while outcomes.try_join_next().is_some() {}
            let Ok(permit) = under_way.clone().try_acquire_owned() else { continue };
            let topic = part.plan.draw(&mut rng);
            number += 1;
            let line = format!("{name} {number} {}", "y".repeat(rng.random_range(0..120)));
            let op = scribe.op();
            scribe.write(Event::Publish {
                op,
                topic: topic.as_str().into(),
                payload: hash(line.as_bytes()),
                key: None,
                sequence: Some(number),
                node: None,
            });
            let acknowledgement = match stream.send(text(&topic, &line)).await {
                Ok(acknowledgement) => acknowledgement,
                Err(failure) => {
                    scribe.write(outcome(op, Err(failure)));
                    continue 'streams;
                }
            };
            let scribe = scribe.clone();
            outcomes.spawn(async move {
                let answer = acknowledgement.await;
                let answer = answer.unwrap_or_else(|_| Err(Failure::Unknown("dropped".to_owned())));
                scribe.write(outcome(op, answer));
                drop(permit);
            });
        }
    }
    let _ = tokio::time::timeout(LAST_OUTCOMES, async {
        while outcomes.join_next().await.is_some() {}
    })
    .await;
}

/// An attempt that did not even find a node.
fn refuse(scribe: &crate::history::Scribe, topic: &str, number: &mut u64, name: &str) {
    *number += 1;
    let (op, payload) = (scribe.op(), hash(format!("{name} {number} -").as_bytes()));
    let (topic, sequence) = (topic.into(), Some(*number));
    scribe.write(Event::Publish { op, topic, payload, key: None, sequence, node: None });
    scribe.write(Event::Refused { op, why: "no node opens a stream".into() });
}
