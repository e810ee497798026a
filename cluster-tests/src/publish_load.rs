//! Who publishes: a line at a time, or all the time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use pushonce_client::{AcknowledgementFuture, PublishFailure, Publisher, Transport};
use pushonce_core::{Acknowledgement, ContentType, Position, Publish, Topic};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::ProcessCluster;
use crate::subscriber::ReceivedMessage;

/// Somebody who publishes on several topics, one message after the other on each, whatever happens.
pub struct PublishLoad {
    stop: watch::Sender<bool>,
    publishers: JoinSet<(String, Vec<SentMessage>)>,
    /// How many were acknowledged, a topic each.
    acknowledged_counts: Vec<watch::Receiver<usize>>,
}

/// What was sent, in this order.
#[derive(Clone, Debug)]
pub struct SentMessage {
    /// The payload; no two are alike.
    pub text: String,
    /// The outcome.
    pub outcome: Result<Acknowledgement, PublishFailure>,
}

/// Between two messages on one topic: twenty seconds of load fit in the history of a topic.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// The same for a stream, which goes on while nothing is acknowledged: a minute and a half fits.
const STREAM_PUBLISH_INTERVAL: Duration = Duration::from_millis(100);

/// A message of text.
pub fn text_message(topic: &str, text: &str) -> Publish {
    Publish {
        topic: Topic::new(topic).expect("a valid topic"),
        content_type: ContentType::Text,
        key: None,
        publish_id: None,
        payload: text.to_owned().into(),
    }
}

impl ProcessCluster {
    /// Publishes through the `i`th node, with the others to turn to.
    pub fn publisher(&self, i: usize) -> Publisher {
        let mut servers: Vec<_> =
            (0..self.len()).map(|i| self.server_address(i, Transport::Grpc)).collect();
        servers.rotate_left(i);
        Publisher::new(servers)
    }

    /// Publishes numbers on a topic through the `i`th node, and says what everybody must see.
    pub async fn publish_numbers(
        &self,
        i: usize,
        topic: &str,
        numbers: std::ops::Range<u32>,
    ) -> Vec<ReceivedMessage> {
        let mut stream = self.publisher(i).stream().await.expect("a stream");
        let mut answers = Vec::new();
        for number in numbers {
            let line = number.to_string();
            answers.push((stream.send(text_message(topic, &line)).await.expect("sent"), line));
        }
        let mut log = Vec::new();
        for (answer, line) in answers {
            let acknowledgement = answer.await.expect("an answer").expect("placed");
            log.push((acknowledgement.position, line));
        }
        log
    }

    /// As [`ProcessCluster::start_load`], over one stream a topic, without waiting for each message.
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

    /// Publishes on `publishers` through the `i`th node, turning to others when it must, until the load
    /// is ended.
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

/// As [`publish`], over one stream, without waiting for each.
async fn publish_stream(
    publisher: Publisher,
    topic: String,
    acknowledged_count: watch::Sender<usize>,
    stopped: watch::Receiver<bool>,
) -> (String, Vec<SentMessage>) {
    let mut stream = publisher.stream().await.expect("a stream");
    let (sent, mut answers) =
        tokio::sync::mpsc::unbounded_channel::<(String, AcknowledgementFuture)>();
    let collector = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some((text, answer)) = answers.recv().await {
            // The stream ended before its answers: so does the story.
            let Ok(outcome) = answer.await else { break };
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
        let answer = stream.send(text_message(&topic, &line)).await.expect("sent");
        if sent.send((line, answer)).is_err() {
            break;
        }
        tokio::time::sleep(STREAM_PUBLISH_INTERVAL).await;
    }
    drop(sent);
    (topic, collector.await.expect("collected"))
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
                .unwrap_or_else(|_| panic!("publishing does not go on within {limit:?}"))
                .expect("the load goes on until it is ended");
        }
    }

    /// Stops, and says what was sent on each topic.
    pub async fn stop(self) -> HashMap<String, Vec<SentMessage>> {
        self.stop.send_replace(true);
        self.publishers.join_all().await.into_iter().collect()
    }
}

impl SentMessage {
    /// Whether `log` is what must become of `attempts`: every acknowledged message stands once, where
    /// it was told to stand, in the order of the sending, since each was sent after the one before;
    /// one of unknown outcome stands once or not at all; nothing else does.
    pub fn check_log(sent: &[SentMessage], log: &[ReceivedMessage]) {
        let acknowledged = sent.iter().filter_map(|sent| Some((sent.position()?, &sent.text)));
        let mut acknowledged = acknowledged.peekable();
        let unknown = sent.iter().filter(|s| matches!(s.outcome, Err(PublishFailure::Unknown(_))));
        let mut unknown: BTreeSet<&String> = unknown.map(|sent| &sent.text).collect();
        for (position, text) in log {
            let next = acknowledged.next_if_eq(&(*position, text)).is_some();
            let expected = acknowledged.peek();
            assert!(next || unknown.remove(text), "{text} at {position}, not {expected:?}");
        }
        assert_eq!(acknowledged.next(), None, "acknowledged and not there");
    }

    /// Where it was told to stand.
    pub fn position(&self) -> Option<Position> {
        self.outcome.as_ref().ok().map(|placed| placed.position)
    }

    /// The last place that was told.
    pub fn last_position(sent: &[SentMessage]) -> Position {
        sent.iter().filter_map(SentMessage::position).max().expect("something was placed")
    }
}
