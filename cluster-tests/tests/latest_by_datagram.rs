//! Set-up: three nodes, each with a QUIC subscriber that requests `latest` delivery by datagrams.
//! Fault: the topic's owner is killed while messages are published.
//! Claim: every subscriber eventually receives the newest message, and none receives an older message after a
//! newer one.

use std::time::Duration;

use pushonce_client::{ServerAddress, Subscriber, SubscriberEvent, Transport};
use pushonce_cluster_tests::{ProcessCluster, secs};
use pushonce_core::{Delivery, Position, StartFrom, SubscribeOptions, Topic};

const TOPIC: &str = "clock/1";

/// A subscriber may first have to detect by missing heartbeats that its node is down.
const LIMIT: Duration = secs(60);

struct DatagramSubscriber {
    subscriber: Subscriber,
    reached: Position,
}

impl DatagramSubscriber {
    fn connect(cluster: &ProcessCluster, i: usize) -> DatagramSubscriber {
        let mut servers: Vec<ServerAddress> =
            (0..3).map(|i| cluster.server_address(i, Transport::Quic)).collect();
        servers.rotate_left(i);
        let delivery = Some(Delivery::Latest);
        let options =
            SubscribeOptions { delivery, use_datagrams: true, ..SubscribeOptions::default() };
        let topic = Topic::new(TOPIC).expect("a valid topic");
        let builder = Subscriber::builder(servers).transport(Transport::Quic);
        let subscriber = builder
            .topic_with_options(topic, StartFrom::Now, options)
            .connect()
            .expect("the servers fit the transport");
        DatagramSubscriber { subscriber, reached: Position::ZERO }
    }

    async fn wait_subscribed(&mut self) {
        let subscribed = async {
            while !matches!(self.subscriber.next().await, Some(SubscriberEvent::Subscribed { .. }))
            {
            }
        };
        tokio::time::timeout(LIMIT, subscribed).await.expect("the subscription is live");
    }

    /// Receives messages until the one at `newest`.
    async fn wait_newest(&mut self, newest: Position) {
        let follow = async {
            while self.reached != newest {
                match self.subscriber.next().await.expect("the subscriber is not closed") {
                    SubscriberEvent::Message { message, .. } => {
                        assert!(message.position > self.reached, "{message:?}");
                        self.reached = message.position;
                    }
                    SubscriberEvent::Rejected { message, .. } => panic!("{message}"),
                    _ => {}
                }
            }
        };
        let reached = tokio::time::timeout(LIMIT, follow).await;
        reached.unwrap_or_else(|_| {
            panic!("the newest message received is {}, not {newest}", self.reached)
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datagram_subscribers_end_with_the_newest_message_when_the_owner_is_killed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let mut viewers: Vec<_> = (0..3).map(|i| DatagramSubscriber::connect(&cluster, i)).collect();
    for viewer in &mut viewers {
        viewer.wait_subscribed().await;
    }
    let owner = cluster.owner_of(TOPIC).await;
    let other = (owner + 1) % 3;
    for (round, texts) in [0..50, 50..100].into_iter().enumerate() {
        let published = cluster.publish_numbers(other, TOPIC, texts).await;
        let newest = published.last().expect("at least one acknowledgement").0;
        for viewer in &mut viewers {
            viewer.wait_newest(newest).await;
        }
        if round == 0 {
            cluster.kill(owner);
        }
    }
}
