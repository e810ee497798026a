//! A publisher that sends on the SDK's ordered stream without waiting for acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use pushonce_client::Transport;
use rand::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::{IN_FLIGHT_MAX, WorkloadContext, outcome_event};
use crate::history::{HistoryEvent, hash};
use crate::publish_load::{publisher_to, text_message};

/// The time limit for outstanding outcomes at the end.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(15);

/// The name of the publisher that begins at a node.
pub(super) fn name(first_node: usize) -> String {
    format!("stream{first_node}")
}

pub(super) async fn run(context: WorkloadContext, first_node: usize) {
    let name = name(first_node);
    let mut rng = context.plan.rng_for(&name);
    let mut servers: Vec<_> = context.nodes.iter().map(|n| n.server(Transport::Grpc)).collect();
    servers.rotate_left(first_node);
    let publisher = publisher_to(servers);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut tick = tokio::time::interval(context.plan.publish_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut outcomes = JoinSet::new();
    let mut number = 0u64;
    // Each stream is a process of its own: messages of different streams are not ordered.
    'streams: for stream_number in 0u32.. {
        let process_recorder = context.recorder.for_process(format!("{name}.{stream_number}"));
        let mut stream = loop {
            tick.tick().await;
            if context.is_over() {
                break 'streams;
            }
            // A stream that cannot be opened is recorded as a rejected publish.
            let opened = tokio::time::timeout(Duration::from_secs(2), publisher.stream()).await;
            match opened {
                Ok(Ok(stream)) => break stream,
                _ => record_unsent_publish(
                    &process_recorder,
                    &context.plan.pick_topic(&mut rng),
                    &mut number,
                    &name,
                ),
            }
        };
        loop {
            tick.tick().await;
            if context.is_over() {
                break 'streams;
            }
            while outcomes.try_join_next().is_some() {}
            let Ok(permit) = in_flight.clone().try_acquire_owned() else { continue };
            let topic = context.plan.pick_topic(&mut rng);
            number += 1;
            let line = format!(
                "{name} {number} {}",
                "y".repeat(rng.random_range(0..context.plan.payload_bytes_max))
            );
            let op = process_recorder.next_op();
            process_recorder.record(HistoryEvent::Publish {
                op,
                topic: topic.as_str().into(),
                payload: hash(line.as_bytes()),
                key: None,
                sequence: Some(number),
                node: None,
            });
            let acknowledgement = match stream.send(text_message(&topic, &line)).await {
                Ok(acknowledgement) => acknowledgement,
                Err(failure) => {
                    process_recorder.record(outcome_event(op, Err(failure)));
                    continue 'streams;
                }
            };
            let process_recorder = process_recorder.clone();
            outcomes.spawn(async move {
                process_recorder.record(outcome_event(op, acknowledgement.await));
                drop(permit);
            });
        }
    }
    let _ = tokio::time::timeout(OUTCOME_TIMEOUT, async {
        while outcomes.join_next().await.is_some() {}
    })
    .await;
}

/// Records a publish that was rejected because no node opened a stream.
fn record_unsent_publish(
    process_recorder: &crate::history::ProcessRecorder,
    topic: &str,
    number: &mut u64,
    name: &str,
) {
    *number += 1;
    let (op, payload) = (process_recorder.next_op(), hash(format!("{name} {number} -").as_bytes()));
    let (topic, sequence) = (topic.into(), Some(*number));
    process_recorder.record(HistoryEvent::Publish {
        op,
        topic,
        payload,
        key: None,
        sequence,
        node: None,
    });
    process_recorder.record(HistoryEvent::Rejected { op, reason: "no node opens a stream".into() });
}
