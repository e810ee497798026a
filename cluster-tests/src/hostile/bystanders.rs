//! A subscriber and a publisher that must not notice a hostile client.

use pushonce_client::{Publisher, SubscriberEvent, Transport};
use pushonce_core::StartFrom;

use crate::cluster::ProcessCluster;
use crate::publish_load::text_message;
use crate::subscriber::TestSubscriber;
use crate::wait::secs;

/// The topic of the bystanders.
const TOPIC: &str = "bystanders/score";

/// One subscriber for each transport, and a publisher, all at the attacked node.
pub struct Bystanders {
    publisher: Publisher,
    subscribers: Vec<TestSubscriber>,
    sent: u32,
}

impl Bystanders {
    /// Connects to the first node of the cluster.
    pub async fn connect(cluster: &ProcessCluster) -> Bystanders {
        let mut subscribers = Vec::new();
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let mut subscriber = cluster.subscriber(0, transport, TOPIC, StartFrom::Now);
            subscriber.wait_subscribed(secs(20)).await;
            subscribers.push(subscriber);
        }
        Bystanders { publisher: cluster.publisher(0), subscribers, sent: 0 }
    }

    /// Publishes `count` messages, each of which every subscriber must receive in order, on the session that it has.
    pub async fn assert_served(&mut self, count: u32) {
        for _ in 0..count {
            let line = self.sent.to_string();
            self.sent += 1;
            self.publisher.publish(text_message(TOPIC, &line)).await.expect("acknowledged");
            for subscriber in &mut self.subscribers {
                assert_eq!(next_text(subscriber).await, line);
            }
        }
    }
}

async fn next_text(subscriber: &mut TestSubscriber) -> String {
    loop {
        match subscriber.next_event(secs(20)).await {
            SubscriberEvent::Message { message, .. } => {
                return String::from_utf8_lossy(&message.payload).into_owned();
            }
            lost @ (SubscriberEvent::Disconnected { .. }
            | SubscriberEvent::Gap { .. }
            | SubscriberEvent::Rejected { .. }) => panic!("a bystander noticed: {lost:?}"),
            _ => {}
        }
    }
}
