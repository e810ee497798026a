//! Readers that are slower than their topic: under `latest` and `rate` they are never shown an old
//! message, over any transport.

mod support;

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use futures::future;
use pushonce_core::{Delivery, From, Options};
use pushonce_proto::client::{Command, Event};

use support::Server;
use support::client::{Client, Heard, Via, subscribe_with, topic};

const TOPIC: &str = "race/clock";

/// Published for so long, at 600 messages a second, and read at 20.
const TIME: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(50);

/// How far behind the newest message a slow reader may be.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// Publishes the time since `start`, in milliseconds.
async fn publish(server: &Server, start: Instant) {
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while start.elapsed() < TIME {
        ticks.tick().await;
        for _ in 0..3 {
            let text = format!("{:>150}", start.elapsed().as_millis());
            server.origin.say(TOPIC, &text).await;
        }
    }
}

struct Outcome {
    /// The oldest that a message was when it was read.
    behind: Duration,
    messages: u32,
}

/// Reads until the end, with a pause after each message.
async fn read(client: &mut Client, start: Instant, pause: Duration) -> Outcome {
    let mut outcome = Outcome { behind: Duration::ZERO, messages: 0 };
    while start.elapsed() < TIME - Duration::from_millis(500) {
        let (Heard::Event(Event::Message { message, .. })
        | Heard::Datagram(Event::Message { message, .. })) = client.next().await
        else {
            continue;
        };
        let text = String::from_utf8_lossy(&message.payload).trim().to_owned();
        let published = Duration::from_millis(text.parse().expect("milliseconds"));
        outcome.behind = outcome.behind.max(start.elapsed().saturating_sub(published));
        outcome.messages += 1;
        tokio::time::sleep(pause).await;
    }
    outcome
}

/// A client that does not read on by itself keeps little in its own buffers, as the page of the
/// protocol tells it to.
fn narrow(transport: &mut quinn::TransportConfig) {
    transport.stream_receive_window((2_u32 << 10).into());
    transport.datagram_receive_buffer_size(Some(2 << 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_of_the_newest_is_never_a_second_behind_over_any_transport() {
    let server = Server::start().await;
    let mut clients = vec![
        ("WebSocket, JSON", Client::connect(&server, Via::WsJson).await, false),
        ("WebSocket, protobuf", Client::connect(&server, Via::WsProto).await, false),
        ("QUIC streams", Client::quic_with(&server, narrow).await, false),
        ("QUIC datagrams", Client::quic_with(&server, narrow).await, true),
        ("WebSocket, rate", Client::connect(&server, Via::WsProto).await, false),
    ];
    for (name, client, datagrams) in &mut clients {
        let delivery = match name.ends_with("rate") {
            true => Delivery::Rate(NonZeroU16::new(100).expect("not 0")),
            false => Delivery::Latest,
        };
        let options =
            Options { delivery: Some(delivery), datagrams: *datagrams, ..Options::default() };
        let command = Command::Subscribe { topic: topic(TOPIC), from: From::Now, options };
        client.send(1, command).await;
        assert!(matches!(client.answer().await, Event::Subscribed { .. }), "{name}");
    }
    let mut fast = Client::connect(&server, Via::WsJson).await;
    fast.send(1, subscribe_with(TOPIC, From::Now, Delivery::Latest)).await;
    let mut all = Client::connect(&server, Via::WsJson).await;
    all.send(1, subscribe_with(TOPIC, From::Now, Delivery::All)).await;
    all.answer().await;
    let start = Instant::now();
    let slow =
        clients.iter_mut().map(async |(name, client, _)| (*name, read(client, start, PAUSE).await));
    let (slow, fast, all, ()) = futures::join!(
        future::join_all(slow),
        read(&mut fast, start, Duration::ZERO),
        read(&mut all, start, PAUSE),
        publish(&server, start)
    );
    // What the buffers on the way hold: a slow reader of every message is behind by that.
    assert!(all.behind > 2 * BEHIND_MAX, "{:?} behind: nothing is shown here", all.behind);
    for (name, Outcome { behind, messages }) in slow {
        println!("{name}: {behind:?} behind, {messages} messages; fast: {:?}", fast.behind);
        // A machine that stood still for a moment held up everybody.
        assert!(behind < BEHIND_MAX + fast.behind, "{name}: {behind:?} behind");
        assert!(messages > 40, "{name}: {messages} messages");
    }
}
