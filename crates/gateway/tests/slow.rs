//! A reader that is slower than its topic never receives an old message under `latest` and `rate`, on any
//! transport.

mod support;

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use futures::future;
use pushonce_core::test_util::topic;
use pushonce_core::{Delivery, StartFrom, SubscribeOptions};
use pushonce_proto::client::{ClientCommand, ServerEvent};

use support::TestGateway;
use support::client::{ClientTransport, GatewayClient, Received, subscribe_with};

const TOPIC: &str = "race/clock";

/// Duration of the test, with 600 published messages a second.
const DURATION: Duration = Duration::from_secs(6);
/// Pause of a slow reader after each message, for 20 messages a second.
const READ_PAUSE: Duration = Duration::from_millis(50);

/// Maximum lag of a slow reader behind the newest message.
const LAG_MAX: Duration = Duration::from_secs(1);

/// Publishes the time since `start` in milliseconds.
async fn publish(server: &TestGateway, start: Instant) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while start.elapsed() < DURATION {
        ticks.tick().await;
        for _ in 0..3 {
            let text = format!("{:>150}", start.elapsed().as_millis());
            server.cluster.publish_text(TOPIC, &text).await;
        }
    }
}

struct LagStats {
    /// The maximum age of a message when it was read.
    lag_max: Duration,
    messages: u32,
}

/// Reads until shortly before the end of the test, with a pause after each message.
async fn read(client: &mut GatewayClient, start: Instant, pause: Duration) -> LagStats {
    let mut stats = LagStats { lag_max: Duration::ZERO, messages: 0 };
    while start.elapsed() < DURATION - Duration::from_millis(500) {
        let (Received::Event(ServerEvent::Message { message, .. })
        | Received::Datagram(ServerEvent::Message { message, .. })) = client.next().await
        else {
            continue;
        };
        let text = String::from_utf8_lossy(&message.payload).trim().to_owned();
        let published = Duration::from_millis(text.parse().expect("milliseconds"));
        stats.lag_max = stats.lag_max.max(start.elapsed().saturating_sub(published));
        stats.messages += 1;
        tokio::time::sleep(pause).await;
    }
    stats
}

/// Limits the receive buffers of a client that reads slowly, as the protocol specification recommends.
fn shrink_buffers(transport: &mut quinn::TransportConfig) {
    transport.stream_receive_window((2_u32 << 10).into());
    transport.datagram_receive_buffer_size(Some(2 << 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_of_latest_lags_less_than_a_second_over_any_transport() {
    let server = TestGateway::start().await;
    let mut clients = vec![
        ("WebSocket, JSON", GatewayClient::connect(&server, ClientTransport::WsJson).await, false),
        (
            "WebSocket, protobuf",
            GatewayClient::connect(&server, ClientTransport::WsProto).await,
            false,
        ),
        ("QUIC streams", GatewayClient::quic_with(&server, shrink_buffers).await, false),
        ("QUIC datagrams", GatewayClient::quic_with(&server, shrink_buffers).await, true),
        ("WebSocket, rate", GatewayClient::connect(&server, ClientTransport::WsProto).await, false),
    ];
    for (name, client, datagrams) in &mut clients {
        let delivery = match name.ends_with("rate") {
            true => Delivery::Rate(NonZeroU16::new(100).expect("non-zero")),
            false => Delivery::Latest,
        };
        let options = SubscribeOptions {
            delivery: Some(delivery),
            use_datagrams: *datagrams,
            ..SubscribeOptions::default()
        };
        let command =
            ClientCommand::Subscribe { topic: topic(TOPIC), from: StartFrom::Now, options };
        client.send(1, command).await;
        assert!(matches!(client.next_reply().await, ServerEvent::Subscribed { .. }), "{name}");
    }
    let mut fast = GatewayClient::connect(&server, ClientTransport::WsJson).await;
    fast.send(1, subscribe_with(TOPIC, StartFrom::Now, Delivery::Latest)).await;
    let mut all = GatewayClient::connect(&server, ClientTransport::WsJson).await;
    all.send(1, subscribe_with(TOPIC, StartFrom::Now, Delivery::All)).await;
    all.next_reply().await;
    let start = Instant::now();
    let slow = clients
        .iter_mut()
        .map(async |(name, client, _)| (*name, read(client, start, READ_PAUSE).await));
    let (slow, fast, all, ()) = futures::join!(
        future::join_all(slow),
        read(&mut fast, start, Duration::ZERO),
        read(&mut all, start, READ_PAUSE),
        publish(&server, start)
    );
    // A slow reader of `all` lags by the content of the buffers. Without that lag the test proves nothing.
    assert!(
        all.lag_max > 2 * LAG_MAX,
        "`all` lags only {:?}: the test proves nothing",
        all.lag_max
    );
    for (name, LagStats { lag_max, messages }) in slow {
        println!("{name}: lag {lag_max:?}, {messages} messages; fast: {:?}", fast.lag_max);
        // A stall of the machine delays all clients, so the lag of the fast client is added to the limit.
        assert!(lag_max < LAG_MAX + fast.lag_max, "{name}: lag {lag_max:?}");
        assert!(messages > 40, "{name}: {messages} messages");
    }
}
