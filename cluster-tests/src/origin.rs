//! Who publishes: a line at a time, or all the time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use pushonce_client::{Acknowledgement, Failure, Publisher, Transport};
use pushonce_core::{ContentType, Placed, Position, Publish, Topic};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::viewer::Seen;

/// Somebody who publishes on several topics, one message after the other on each, whatever happens.
pub struct Load {
    stop: watch::Sender<bool>,
    topics: JoinSet<(String, Vec<Sent>)>,
    /// How many were acknowledged, a topic each.
    placed: Vec<watch::Receiver<usize>>,
}

/// What was sent, in this order.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The payload; no two are alike.
    pub text: String,
    /// The outcome.
    pub outcome: Result<Placed, Failure>,
}

/// Between two messages on one topic: twenty seconds of load fit in the history of a topic.
const PACE: Duration = Duration::from_millis(20);

/// The same for a stream, which goes on while nothing is acknowledged: a minute and a half fits.
const STREAM_PACE: Duration = Duration::from_millis(100);

/// A message of text.
pub fn text(topic: &str, text: &str) -> Publish {
    Publish {
        topic: Topic::new(topic).expect("a valid topic"),
        content_type: ContentType::Text,
        key: None,
        stamp: None,
        payload: text.to_owned().into(),
    }
}

impl Cluster {
    /// Publishes through the `i`th node, with the others to turn to.
    pub fn publisher(&self, i: usize) -> Publisher {
        let mut servers: Vec<_> =
            (0..self.len()).map(|i| self.server(i, Transport::Grpc)).collect();
        servers.rotate_left(i);
        Publisher::new(servers)
    }

    /// Publishes numbers on a topic through the `i`th node, and says what everybody must see.
    pub async fn publish(&self, i: usize, topic: &str, numbers: std::ops::Range<u32>) -> Vec<Seen> {
        let mut stream = self.publisher(i).stream().await.expect("a stream");
        let mut answers = Vec::new();
        for number in numbers {
            let line = number.to_string();
            answers.push((stream.send(text(topic, &line)).await.expect("sent"), line));
        }
        let mut log = Vec::new();
        for (answer, line) in answers {
            let placed = answer.await.expect("an answer").expect("placed");
            log.push((placed.position, line));
        }
        log
    }

    /// As [`Cluster::load`], over one stream a topic, without waiting for each message.
    pub fn streams(&self, i: usize, topics: &[String]) -> Load {
        let (stop, stopped) = watch::channel(false);
        let mut load = Load { stop, topics: JoinSet::new(), placed: Vec::new() };
        for topic in topics {
            let (placed, count) = watch::channel(0);
            load.placed.push(count);
            load.topics.spawn(stream(self.publisher(i), topic.clone(), placed, stopped.clone()));
        }
        load
    }

    /// Publishes on `topics` through the `i`th node, turning to others when it must, until the load
    /// is ended.
    pub fn load(&self, i: usize, topics: &[String]) -> Load {
        let (stop, stopped) = watch::channel(false);
        let mut load = Load { stop, topics: JoinSet::new(), placed: Vec::new() };
        for topic in topics {
            let (placed, count) = watch::channel(0);
            load.placed.push(count);
            let publisher = self.publisher(i);
            load.topics.spawn(publish(publisher, topic.clone(), placed, stopped.clone()));
        }
        load
    }
}

/// As [`publish`], over one stream, without waiting for each.
async fn stream(
    publisher: Publisher,
    topic: String,
    placed: watch::Sender<usize>,
    stopped: watch::Receiver<bool>,
) -> (String, Vec<Sent>) {
    let mut stream = publisher.stream().await.expect("a stream");
    let (sent, mut answers) = tokio::sync::mpsc::unbounded_channel::<(String, Acknowledgement)>();
    let collected = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some((text, answer)) = answers.recv().await {
            // The stream ended before its answers: so does the story.
            let Ok(outcome) = answer.await else { break };
            placed.send_modify(|count| *count += usize::from(outcome.is_ok()));
            all.push(Sent { text, outcome });
        }
        all
    });
    for number in 0.. {
        if *stopped.borrow() {
            break;
        }
        let line = number.to_string();
        let answer = stream.send(text(&topic, &line)).await.expect("sent");
        if sent.send((line, answer)).is_err() {
            break;
        }
        tokio::time::sleep(STREAM_PACE).await;
    }
    drop(sent);
    (topic, collected.await.expect("collected"))
}

async fn publish(
    publisher: Publisher,
    topic: String,
    placed: watch::Sender<usize>,
    stopped: watch::Receiver<bool>,
) -> (String, Vec<Sent>) {
    let mut sent = Vec::new();
    while !*stopped.borrow() {
        let line = sent.len().to_string();
        let outcome = publisher.publish(text(&topic, &line)).await;
        placed.send_modify(|count| *count += usize::from(outcome.is_ok()));
        sent.push(Sent { text: line, outcome });
        tokio::time::sleep(PACE).await;
    }
    (topic, sent)
}

impl Load {
    /// Waits until `n` more messages are acknowledged on every topic.
    pub async fn goes_on(&mut self, n: usize, limit: Duration) {
        for count in &mut self.placed {
            let wanted = *count.borrow() + n;
            let more = tokio::time::timeout(limit, count.wait_for(|&count| count >= wanted)).await;
            more.unwrap_or_else(|_| panic!("publishing does not go on within {limit:?}"))
                .expect("the load goes on until it is ended");
        }
    }

    /// Stops, and says what was sent on each topic.
    pub async fn end(self) -> HashMap<String, Vec<Sent>> {
        self.stop.send_replace(true);
        self.topics.join_all().await.into_iter().collect()
    }
}

impl Sent {
    /// Whether `log` is what must become of `sent`: every acknowledged message stands once, where
    /// it was told to stand, in the order of the sending, since each was sent after the one before;
    /// one of unknown outcome stands once or not at all; nothing else does.
    pub fn check(sent: &[Sent], log: &[Seen]) {
        let acknowledged = sent.iter().filter_map(|sent| Some((sent.place()?, &sent.text)));
        let mut acknowledged = acknowledged.peekable();
        let unknown = sent.iter().filter(|s| matches!(s.outcome, Err(Failure::Unknown(_))));
        let mut unknown: BTreeSet<&String> = unknown.map(|sent| &sent.text).collect();
        for (position, text) in log {
            let next = acknowledged.next_if_eq(&(*position, text)).is_some();
            let expected = acknowledged.peek();
            assert!(next || unknown.remove(text), "{text} at {position}, not {expected:?}");
        }
        assert_eq!(acknowledged.next(), None, "acknowledged and not there");
    }

    /// Where it was told to stand.
    pub fn place(&self) -> Option<Position> {
        self.outcome.as_ref().ok().map(|placed| placed.position)
    }

    /// The last place that was told.
    pub fn last(sent: &[Sent]) -> Position {
        sent.iter().filter_map(Sent::place).max().expect("something was placed")
    }
}
