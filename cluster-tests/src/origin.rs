//! Who publishes: a line at a time, or all the time.

use std::collections::HashMap;
use std::time::Duration;

use pushonce_client::{Failure, Publisher, Transport};
use pushonce_core::{ContentType, Placed, Position, Publish, Topic};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::viewer::Seen;

/// Somebody who publishes on several topics, one message after the other on each, whatever happens.
pub struct Load {
    stop: watch::Sender<bool>,
    topics: JoinSet<(String, Vec<Sent>)>,
}

/// What was sent, in this order.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The payload; no two are alike.
    pub text: String,
    /// The outcome.
    pub outcome: Result<Placed, Failure>,
}

/// Between two messages on one topic: a few seconds of load fit in the history of a topic.
const PACE: Duration = Duration::from_millis(10);

/// A message of text.
pub fn text(topic: &str, text: &str) -> Publish {
    Publish {
        topic: Topic::new(topic).expect("a valid topic"),
        content_type: ContentType::Text,
        key: None,
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

    /// Publishes on `topics` through the `i`th node, turning to others when it must, until the load
    /// is ended.
    pub fn load(&self, i: usize, topics: &[String]) -> Load {
        let (stop, stopped) = watch::channel(false);
        let mut running = JoinSet::new();
        for topic in topics {
            running.spawn(publish(self.publisher(i), topic.clone(), stopped.clone()));
        }
        Load { stop, topics: running }
    }
}

async fn publish(
    publisher: Publisher,
    topic: String,
    stopped: watch::Receiver<bool>,
) -> (String, Vec<Sent>) {
    let mut sent = Vec::new();
    while !*stopped.borrow() {
        let line = sent.len().to_string();
        let outcome = publisher.publish(text(&topic, &line)).await;
        sent.push(Sent { text: line, outcome });
        tokio::time::sleep(PACE).await;
    }
    (topic, sent)
}

impl Load {
    /// Stops, and says what was sent on each topic.
    pub async fn end(self) -> HashMap<String, Vec<Sent>> {
        self.stop.send_replace(true);
        self.topics.join_all().await.into_iter().collect()
    }
}

impl Sent {
    /// The last place that was acknowledged.
    pub fn last(sent: &[Sent]) -> Position {
        let placed = sent.iter().filter_map(|sent| sent.outcome.as_ref().ok());
        placed.map(|placed| placed.position).max().expect("something was placed")
    }

    /// Whether `log` is what must become of `sent`: every acknowledged message stands once, where
    /// it was told to stand; one of unknown outcome stands once or not at all; nothing else does;
    /// and all stand in the order they were sent in, since each was sent after the one before.
    pub fn check(sent: &[Sent], log: &[Seen]) {
        let mut rest = log.iter().peekable();
        for Sent { text, outcome } in sent {
            let found = rest.next_if(|(_, seen)| seen == text);
            match (outcome, found) {
                (Ok(placed), Some((position, _))) => assert_eq!(placed.position, *position),
                (Ok(placed), None) => {
                    panic!(
                        "{text}, acknowledged at {}, is not next: {:?}",
                        placed.position,
                        rest.peek()
                    )
                }
                (Err(Failure::Refused { .. }), Some(_)) => {
                    panic!("{text} was refused, and is there")
                }
                (Err(_), _) => {}
            }
        }
        assert_eq!(rest.next(), None, "more than was sent");
    }
}
