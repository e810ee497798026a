//! Set-up: one node, a topic with 600 messages per second, and SDK subscribers with `latest` delivery that
//! read 20 events per second, over each transport; in addition a gRPC client that reads equally slowly and
//! has small windows, as the protocol specification recommends.
//! Claim: none of them receives a message that is more than a second older than the newest.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future;
use pushonce_client::{PublishStream, Subscriber, SubscriberEvent, Transport};
use pushonce_cluster_tests::{ProcessCluster, secs, text_message};
use pushonce_core::{Delivery, StartFrom, SubscribeOptions, Topic};
use pushonce_proto::pb::publisher::v1::publisher_service_client::PublisherServiceClient;
use pushonce_proto::pb::publisher::v1::{SubscribeRequest, SubscribeResponse, subscribe_response};
use tonic::Streaming;
use tonic::transport::Endpoint;

const TOPIC: &str = "race/clock";
const TEST_TIME: Duration = secs(6);
const READ_INTERVAL: Duration = Duration::from_millis(50);
const LAG_MAX: Duration = secs(1);

/// Publishes the time since `start` in milliseconds; returns the maximum latency of an acknowledgement, which
/// shows how long publishing takes on this machine.
async fn publish_timestamps(mut stream: PublishStream, start: Instant) -> Duration {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut waiting = Vec::new();
    while start.elapsed() < TEST_TIME {
        ticks.tick().await;
        for _ in 0..3 {
            let sent = start.elapsed();
            let message = text_message(TOPIC, &format!("{:>150}", sent.as_millis()));
            let answer = stream.send(message).await.expect("send");
            waiting.push(tokio::spawn(async move {
                answer.await.expect("acknowledged");
                start.elapsed() - sent
            }));
        }
    }
    let latencies = future::join_all(waiting).await;
    latencies
        .into_iter()
        .map(|latency| latency.expect("no panic"))
        .max()
        .expect("at least one message was sent")
}

/// Reads events slowly until the test is over; `next` returns the payload if the event is a message. Returns
/// the maximum age of a message and the number of messages.
async fn read_slowly(
    mut next: impl AsyncFnMut() -> Option<Bytes>,
    start: Instant,
) -> (Duration, u32) {
    let (mut lag_max, mut messages) = (Duration::ZERO, 0);
    while start.elapsed() < TEST_TIME - Duration::from_millis(500) {
        if let Some(payload) =
            tokio::time::timeout(secs(20), next()).await.expect("an event within 20 s")
        {
            let text = String::from_utf8_lossy(&payload).trim().to_owned();
            let published = Duration::from_millis(text.parse().expect("milliseconds"));
            lag_max = lag_max.max(start.elapsed().saturating_sub(published));
            messages += 1;
        }
        tokio::time::sleep(READ_INTERVAL).await;
    }
    (lag_max, messages)
}

async fn next_sdk_payload(subscriber: &mut Subscriber) -> Option<Bytes> {
    match subscriber.next().await {
        Some(SubscriberEvent::Message { message, .. }) => Some(message.payload.clone()),
        _ => None,
    }
}

async fn next_grpc_payload(events: &mut Streaming<SubscribeResponse>) -> Option<Bytes> {
    match events.message().await.expect("no error").expect("the stream continues").event {
        Some(subscribe_response::Event::Message(message)) => Some(message.payload),
        _ => None,
    }
}

/// Subscribes over gRPC with a flow-control window of a few messages.
async fn subscribe_grpc(cluster: &ProcessCluster) -> Streaming<SubscribeResponse> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.ports(0).grpc));
    let endpoint = endpoint.expect("a valid address").initial_stream_window_size(2 << 10);
    let mut client = PublisherServiceClient::new(endpoint.connect().await.expect("connect"));
    let (topic, delivery) = (TOPIC.to_owned(), "latest".to_owned());
    let request = SubscribeRequest { topic, delivery, ..SubscribeRequest::default() };
    client.subscribe(request).await.expect("subscribe").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_latest_subscriber_lags_less_than_a_second() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let stream = cluster.publisher(0).stream().await.expect("open a stream");
    let mut subscribers = Vec::new();
    for (transport, use_datagrams) in [
        (Transport::Ws, false),
        (Transport::Quic, false),
        (Transport::Quic, true),
        (Transport::Grpc, false),
    ] {
        let options = SubscribeOptions {
            delivery: Some(Delivery::Latest),
            use_datagrams,
            ..SubscribeOptions::default()
        };
        let builder =
            Subscriber::builder([cluster.server_address(0, transport)]).transport(transport);
        let topic = Topic::new(TOPIC).expect("a valid topic");
        let mut subscriber = builder
            .topic_with_options(topic, StartFrom::Now, options)
            .connect()
            .expect("the servers fit the transport");
        let subscribed = async {
            while !matches!(subscriber.next().await, Some(SubscriberEvent::Subscribed { .. })) {}
        };
        tokio::time::timeout(secs(20), subscribed).await.expect("the subscription is live");
        subscribers.push((transport, use_datagrams, subscriber));
    }
    let mut events = subscribe_grpc(&cluster).await;
    let start = Instant::now();
    let readers = subscribers.iter_mut().map(async |(transport, datagrams, subscriber)| {
        let outcome = read_slowly(async || next_sdk_payload(subscriber).await, start).await;
        (format!("SDK, {transport:?}, datagrams {datagrams}"), outcome)
    });
    let (mut outcomes, grpc_outcome, publish_latency) = futures::join!(
        future::join_all(readers),
        read_slowly(async || next_grpc_payload(&mut events).await, start),
        publish_timestamps(stream, start)
    );
    outcomes.push(("gRPC with small windows".to_owned(), grpc_outcome));
    for (client, (lag, messages)) in outcomes {
        let summary = format!("{client}: {lag:?}, {messages} messages");
        println!("{summary}; publishing took up to {publish_latency:?}");
        assert!(lag < LAG_MAX + publish_latency, "{summary}");
        assert!(messages > 40, "{summary}");
    }
}
