//! Set-up: one node, a topic with 600 messages a second, and subscribers of the SDK that want the newest
//! and take 20 events a second, over each transport; beside them a gRPC client that reads no faster than
//! that and has small windows, as the page of the protocol tells it to.
//! Claim: none of them is ever shown a message that is a second older than the newest.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future;
use pushonce_client::{Event, PublishStream, Subscriber, Transport};
use pushonce_cluster_tests::{Cluster, secs, text};
use pushonce_core::{Delivery, From, Options, Topic};
use pushonce_proto::pb::publisher::v1::publisher_client::PublisherClient;
use pushonce_proto::pb::publisher::v1::{SubscribeRequest, SubscribeResponse, subscribe_response};
use tonic::Streaming;
use tonic::transport::Endpoint;

const TOPIC: &str = "race/clock";
const TIME: Duration = secs(6);
const PAUSE: Duration = Duration::from_millis(50);
const BEHIND_MAX: Duration = secs(1);

/// Publishes the time since `start`, in milliseconds. Its acknowledgements say how long the way in takes
/// on this machine.
async fn publish(mut stream: PublishStream, start: Instant) -> Duration {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut waiting = Vec::new();
    while start.elapsed() < TIME {
        ticks.tick().await;
        for _ in 0..3 {
            let sent = start.elapsed();
            let message = text(TOPIC, &format!("{:>150}", sent.as_millis()));
            let answer = stream.send(message).await.expect("sent");
            waiting.push(tokio::spawn(async move {
                answer.await.expect("an answer").expect("placed");
                start.elapsed() - sent
            }));
        }
    }
    let took = future::join_all(waiting).await;
    took.into_iter().map(|took| took.expect("no panic")).max().expect("some were sent")
}

/// Takes events slowly to the end: `next` gives the payload of one, if it is a message. The oldest that
/// a message was when it was taken, and how many came.
async fn read(mut next: impl AsyncFnMut() -> Option<Bytes>, start: Instant) -> (Duration, u32) {
    let (mut behind, mut messages) = (Duration::ZERO, 0);
    while start.elapsed() < TIME - Duration::from_millis(500) {
        if let Some(payload) = tokio::time::timeout(secs(20), next()).await.expect("it goes on") {
            let text = String::from_utf8_lossy(&payload).trim().to_owned();
            let published = Duration::from_millis(text.parse().expect("milliseconds"));
            behind = behind.max(start.elapsed().saturating_sub(published));
            messages += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
    (behind, messages)
}

async fn of_sdk(subscriber: &mut Subscriber) -> Option<Bytes> {
    match subscriber.next().await {
        Some(Event::Message { message, .. }) => Some(message.payload.clone()),
        _ => None,
    }
}

async fn of_grpc(events: &mut Streaming<SubscribeResponse>) -> Option<Bytes> {
    match events.message().await.expect("it goes on").expect("it goes on").event {
        Some(subscribe_response::Event::Message(message)) => Some(message.payload),
        _ => None,
    }
}

/// A subscription over gRPC with windows of a few messages.
async fn grpc(cluster: &Cluster) -> Streaming<SubscribeResponse> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.ports(0).grpc));
    let endpoint = endpoint.expect("an address").initial_stream_window_size(2 << 10);
    let mut client = PublisherClient::new(endpoint.connect().await.expect("it is up"));
    let (topic, delivery) = (TOPIC.to_owned(), "latest".to_owned());
    let request = SubscribeRequest { topic, delivery, ..SubscribeRequest::default() };
    client.subscribe(request).await.expect("subscribed").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_subscriber_of_the_newest_is_never_a_second_behind() {
    let cluster = Cluster::of(1).start().await;
    let stream = cluster.publisher(0).stream().await.expect("a stream");
    let mut subscribers = Vec::new();
    for (transport, datagrams) in [
        (Transport::Ws, false),
        (Transport::Quic, false),
        (Transport::Quic, true),
        (Transport::Grpc, false),
    ] {
        let options = Options { delivery: Some(Delivery::Latest), datagrams, ..Options::default() };
        let builder = Subscriber::builder([cluster.server(0, transport)]).transport(transport);
        let topic = Topic::new(TOPIC).expect("valid");
        let mut subscriber = builder
            .topic_with(topic, From::Now, options)
            .connect()
            .expect("the servers fit the transport");
        let live =
            async { while !matches!(subscriber.next().await, Some(Event::Subscribed { .. })) {} };
        tokio::time::timeout(secs(20), live).await.expect("it is subscribed");
        subscribers.push((transport, datagrams, subscriber));
    }
    let mut events = grpc(&cluster).await;
    let start = Instant::now();
    let reading = subscribers.iter_mut().map(async |(transport, datagrams, subscriber)| {
        let outcome = read(async || of_sdk(subscriber).await, start).await;
        (format!("SDK, {transport:?}, datagrams {datagrams}"), outcome)
    });
    let (mut outcomes, raw, way_in) = futures::join!(
        future::join_all(reading),
        read(async || of_grpc(&mut events).await, start),
        publish(stream, start)
    );
    outcomes.push(("gRPC with small windows".to_owned(), raw));
    for (who, (behind, messages)) in outcomes {
        let what = format!("{who}: {behind:?}, {messages} messages");
        println!("{what}; the way in took {way_in:?}");
        assert!(behind < BEHIND_MAX + way_in, "{what}");
        assert!(messages > 40, "{what}");
    }
}
