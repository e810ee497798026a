//! Publishers of tests: single publishes, numbered series, and continuous load.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use pushonce_client::{AcknowledgementFuture, PublishFailure, Publisher, ServerAddress, Transport};
use pushonce_core::{Acknowledgement, ContentType, Position, Publish, Topic};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::ProcessCluster;
use crate::subscriber::ReceivedMessage;

/// Continuous load on several topics: on each, one message after the other, whatever the outcome.
pub struct PublishLoad {
    stop: watch::Sender<bool>,
    publishers: JoinSet<(String, Vec<SentMessage>)>,
    /// The number of acknowledged messages, one receiver per topic.
    acknowledged_counts: Vec<watch::Receiver<usize>>,
}

/// A message that was sent, with its outcome.
#[derive(Clone, Debug)]
pub struct SentMessage {
    /// The payload, unique within its topic.
    pub text: String,
    /// The outcome.
    pub outcome: Result<Acknowledgement, PublishFailure>,
}

/// The interval between two messages on one topic: 20 s of load fit into the history of a topic.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// The interval of stream load, which continues while nothing is acknowledged: 90 s fit into the history.
const STREAM_PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// A text message.
pub fn text_message(topic: &str, text: &str) -> Publish {
    Publish {
        topic: Topic::new(topic).expect("a valid topic"),
        content_type: ContentType::Text,
        key: None,
        publish_id: None,
        payload: text.to_owned().into(),
    }
}

/// A publisher to gRPC addresses.
pub(crate) fn publisher_to(servers: impl IntoIterator<Item = ServerAddress>) -> Publisher {
    Publisher::new(servers).expect("gRPC addresses")
}

impl ProcessCluster {
    /// A publisher at the `i`th node that falls back to the other nodes.
    pub fn publisher(&self, i: usize) -> Publisher {
        let mut servers: Vec<_> =
            (0..self.len()).map(|i| self.server_address(i, Transport::Grpc)).collect();
        servers.rotate_left(i);
        publisher_to(servers)
    }

    /// Publishes numbers on a topic through the `i`th node; returns what every subscriber must receive.
    pub async fn publish_numbers(
        &self,
        i: usize,
        topic: &str,
        numbers: std::ops::Range<u32>,
    ) -> Vec<ReceivedMessage> {
        let mut stream = self.publisher(i).stream().await.expect("open a stream");
        let mut answers = Vec::new();
        for number in numbers {
            let line = number.to_string();
            answers.push((stream.send(text_message(topic, &line)).await.expect("send"), line));
        }
        let mut log = Vec::new();
        for (answer, line) in answers {
            let acknowledgement = answer.await.expect("acknowledged");
            log.push((acknowledgement.position, line));
        }
        log
    }

    /// As [`ProcessCluster::start_load`], over one stream per topic, without waiting for acknowledgements.
    pub fn start_stream_load(&self, i: usize, topics: &[String]) -> PublishLoad {
        let (stop, stopped) = watch::channel(false);
        let mut load =
            PublishLoad { stop, publishers: JoinSet::new(), acknowledged_counts: Vec::new() };
        for topic in topics {
            let (acknowledged, count) = watch::channel(0);
            load.acknowledged_counts.push(count);
            load.publishers.spawn(publish_stream(
                self.publisher(i),
                topic.clone(),
                acknowledged,
                stopped.clone(),
            ));
        }
        load
    }

    /// Publishes on `topics` through the `i`th node, falling back to the others, until the load is stopped.
    pub fn start_load(&self, i: usize, topics: &[String]) -> PublishLoad {
        let (stop, stopped) = watch::channel(false);
        let mut load =
            PublishLoad { stop, publishers: JoinSet::new(), acknowledged_counts: Vec::new() };
        for topic in topics {
            let (acknowledged, count) = watch::channel(0);
            load.acknowledged_counts.push(count);
            let publisher = self.publisher(i);
            load.publishers.spawn(publish_one_by_one(
                publisher,
                topic.clone(),
                acknowledged,
                stopped.clone(),
            ));
        }
        load
    }
}

/// As [`publish_one_by_one`], over one stream, without waiting for acknowledgements.
async fn publish_stream(
    publisher: Publisher,
    topic: String,
    acknowledged_count: watch::Sender<usize>,
    stopped: watch::Receiver<bool>,
) -> (String, Vec<SentMessage>) {
    let mut stream = publisher.stream().await.expect("open a stream");
    let (sent, mut answers) =
        tokio::sync::mpsc::unbounded_channel::<(String, AcknowledgementFuture)>();
    let collector = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some((text, answer)) = answers.recv().await {
            let outcome = answer.await;
            acknowledged_count.send_modify(|count| *count += usize::from(outcome.is_ok()));
            all.push(SentMessage { text, outcome });
        }
        all
    });
    for number in 0.. {
        if *stopped.borrow() {
            break;
        }
        let line = number.to_string();
        let answer = stream.send(text_message(&topic, &line)).await.expect("send");
        if sent.send((line, answer)).is_err() {
            break;
        }
        tokio::time::sleep(STREAM_PUBLISH_INTERVAL).await;
    }
    drop(sent);
    (topic, collector.await.expect("the collector does not panic"))
}

async fn publish_one_by_one(
    publisher: Publisher,
    topic: String,
    acknowledged_count: watch::Sender<usize>,
    stopped: watch::Receiver<bool>,
) -> (String, Vec<SentMessage>) {
    let mut sent = Vec::new();
    while !*stopped.borrow() {
        let line = sent.len().to_string();
        let outcome = publisher.publish(text_message(&topic, &line)).await;
        acknowledged_count.send_modify(|count| *count += usize::from(outcome.is_ok()));
        sent.push(SentMessage { text: line, outcome });
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
    (topic, sent)
}

impl PublishLoad {
    /// Waits until `n` more messages are acknowledged on every topic.
    pub async fn wait_acknowledged(&mut self, n: usize, limit: Duration) {
        for count in &mut self.acknowledged_counts {
            let target = *count.borrow() + n;
            let reached =
                tokio::time::timeout(limit, count.wait_for(|&count| count >= target)).await;
            reached
                .unwrap_or_else(|_| {
                    panic!("fewer than {n} further acknowledgements within {limit:?}")
                })
                .expect("the load runs until it is stopped");
        }
    }

    /// Stops the load; returns the messages sent on each topic.
    pub async fn stop(self) -> HashMap<String, Vec<SentMessage>> {
        self.stop.send_replace(true);
        self.publishers.join_all().await.into_iter().collect()
    }
}

impl SentMessage {
    /// Checks that `log` is a valid outcome of `sent`: every acknowledged message appears once, at its
    /// acknowledged position, in sending order, because each was sent after the one before; a message of
    /// unknown outcome appears once or not at all; there is nothing else.
    pub fn check_log(sent: &[SentMessage], log: &[ReceivedMessage]) {
        let acknowledged = sent.iter().filter_map(|sent| Some((sent.position()?, &sent.text)));
        let mut acknowledged = acknowledged.peekable();
        let unknown = sent.iter().filter(|s| matches!(s.outcome, Err(PublishFailure::Unknown(_))));
        let mut unknown: BTreeSet<&String> = unknown.map(|sent| &sent.text).collect();
        for (position, text) in log {
            let next = acknowledged.next_if_eq(&(*position, text)).is_some();
            let expected = acknowledged.peek();
            assert!(next || unknown.remove(text), "{text} at {position}, expected {expected:?}");
        }
        assert_eq!(acknowledged.next(), None, "an acknowledged message is missing");
    }

    /// The position in the acknowledgement.
    pub fn position(&self) -> Option<Position> {
        self.outcome.as_ref().ok().map(|placed| placed.position)
    }

    /// The newest acknowledged position.
    pub fn last_position(sent: &[SentMessage]) -> Position {
        sent.iter().filter_map(SentMessage::position).max().expect("at least one acknowledgement")
    }
}
