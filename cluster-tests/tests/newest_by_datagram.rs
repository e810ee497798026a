//! Set-up: three nodes, and on each of them a viewer over QUIC that asks for the newest by datagrams.
//! Fault: the topic's owner is killed while messages are published.
//! Claim: everybody ends with the newest message, and nobody is shown an older one after a newer.

use std::time::Duration;

use pushonce_client::{Event, Server, Subscriber, Transport};
use pushonce_cluster_tests::{Cluster, secs};
use pushonce_core::{Delivery, From, Options, Position, Topic};

const TOPIC: &str = "clock/1";

/// A viewer may have to find out by silence that its node is dead.
const LIMIT: Duration = secs(60);

struct Viewer {
    subscriber: Subscriber,
    reached: Position,
}

impl Viewer {
    fn at(cluster: &Cluster, i: usize) -> Viewer {
        let mut servers: Vec<Server> = (0..3).map(|i| cluster.server(i, Transport::Quic)).collect();
        servers.rotate_left(i);
        let delivery = Some(Delivery::Latest);
        let options = Options { delivery, datagrams: true, ..Options::default() };
        let topic = Topic::new(TOPIC).expect("valid");
        let builder = Subscriber::builder(servers).transport(Transport::Quic);
        let subscriber = builder
            .topic_with(topic, From::Now, options)
            .connect()
            .expect("the servers fit the transport");
        Viewer { subscriber, reached: Position::ZERO }
    }

    async fn live(&mut self) {
        let live = async {
            while !matches!(self.subscriber.next().await, Some(Event::Subscribed { .. })) {}
        };
        tokio::time::timeout(LIMIT, live).await.expect("it is subscribed");
    }

    /// Follows what it is shown until that is the message at `newest`.
    async fn ends_with(&mut self, newest: Position) {
        let follow = async {
            while self.reached != newest {
                match self.subscriber.next().await.expect("it goes on") {
                    Event::Message { message, .. } => {
                        assert!(message.position > self.reached, "{message:?}");
                        self.reached = message.position;
                    }
                    Event::Refused { message, .. } => panic!("{message}"),
                    _ => {}
                }
            }
        };
        let ended = tokio::time::timeout(LIMIT, follow).await;
        ended.unwrap_or_else(|_| panic!("it ended with {}, not {newest}", self.reached));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_ends_with_the_newest() {
    let mut cluster = Cluster::of(3).start().await;
    let mut viewers: Vec<_> = (0..3).map(|i| Viewer::at(&cluster, i)).collect();
    for viewer in &mut viewers {
        viewer.live().await;
    }
    let owner = cluster.owner(TOPIC).await;
    let other = (owner + 1) % 3;
    for (round, texts) in [0..50, 50..100].into_iter().enumerate() {
        let placed = cluster.publish(other, TOPIC, texts).await;
        let newest = placed.last().expect("some were placed").0;
        for viewer in &mut viewers {
            viewer.ends_with(newest).await;
        }
        if round == 0 {
            cluster.kill(owner);
        }
    }
}
