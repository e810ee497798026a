//! What a message pays once a node and wire: its frame is made. And what a request pays at the door.
//!
//! The WebSocket codec reads requests before they are decoded; it is the gateway's own and is not
//! reached from here.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

mod scoreboard;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pushonce_core::{ContentType, From, Message, Options, Position, Publish, Timestamp, Topic};
use pushonce_fanout::{Encode as _, Wire};
use pushonce_gateway::Encoder;
use pushonce_proto::client::{Command, Encoding, Request, encode_message};

const SCORE: &[u8] = br#"{"home":"GER","away":"BRA","score":[2,1],"minute":57,"scorer":"Musiala"}"#;
const TEXT: &[u8] =
    "Tor für Köln! 2:1 durch einen \"Fallrückzieher\" in der 57. Minute.".as_bytes();

fn topic() -> Topic {
    Topic::new("worldcup/2026/match/57").unwrap()
}

/// Small JSON, text that must be escaped, and bytes that JSON frames carry in base64.
fn messages() -> [(&'static str, Message); 3] {
    let message = |content_type, payload| Message {
        position: Position::new(12, 4_051),
        time: Timestamp(1_790_000_000_000),
        content_type,
        key: None,
        payload,
    };
    [
        ("small JSON", message(ContentType::Json, Bytes::from_static(SCORE))),
        ("text", message(ContentType::Text, Bytes::from_static(TEXT))),
        ("1 KiB binary", message(ContentType::Binary, Bytes::from(vec![0xa5; 1_024]))),
    ]
}

fn message(c: &mut Criterion) {
    let topic = topic();
    let mut group = c.benchmark_group("message");
    for (name, message) in messages() {
        group.throughput(Throughput::Bytes(message.payload.len() as u64));
        for encoding in Encoding::ALL {
            let id = BenchmarkId::new(format!("{encoding:?}"), name);
            group.bench_with_input(id, &message, |b, message| {
                b.iter(|| encode_message(encoding, black_box(&topic), black_box(message)));
            });
        }
    }
    group.finish();
}

/// Ready for a socket: what the hub keeps and every subscriber of the wire shares.
fn whole(c: &mut Criterion) {
    let topic = topic();
    let mut group = c.benchmark_group("whole frame");
    for (name, message) in messages() {
        group.throughput(Throughput::Bytes(message.payload.len() as u64));
        for (wire, carrier) in [(0, "WebSocket JSON"), (1, "WebSocket protobuf"), (2, "QUIC")] {
            group.bench_with_input(BenchmarkId::new(carrier, name), &message, |b, message| {
                b.iter(|| Encoder.message(Wire(wire), black_box(&topic), black_box(message)));
            });
        }
    }
    group.finish();
}

/// The wires of WebSocket, as they are and deflated.
const WIRES: [(&str, Wire, Wire); 2] = [("JSON", Wire(0), Wire(3)), ("protobuf", Wire(1), Wire(4))];

/// What makes frames smaller, once a message: the middle of each topic, the message before it known.
fn squeeze(c: &mut Criterion) {
    let topic = topic();
    let mut group = c.benchmark_group("squeeze");
    for (name, messages) in scoreboard::topics() {
        let middle = messages.len() / 2;
        let (before, message) = (&messages[middle - 1], &messages[middle]);
        let delta = Encoder.delta(before, message).unwrap();
        group.throughput(Throughput::Bytes(message.payload.len() as u64));
        group.bench_function(BenchmarkId::new("delta", name), |b| {
            b.iter(|| Encoder.delta(black_box(before), black_box(message)));
        });
        for (encoding, _, wire) in WIRES {
            let id = BenchmarkId::new(format!("deflated {encoding} frame"), name);
            group.bench_function(id, |b| {
                b.iter(|| Encoder.message(wire, black_box(&topic), black_box(message)));
            });
            let id = BenchmarkId::new(format!("deflated {encoding} frame of the delta"), name);
            group.bench_function(id, |b| {
                b.iter(|| Encoder.difference(wire, &topic, black_box(message), delta.clone()));
            });
        }
    }
    group.finish();
    bytes(&topic);
}

/// Not timed: what one subscriber of a whole topic is sent.
fn bytes(topic: &Topic) {
    for (name, messages) in scoreboard::topics() {
        let payloads: usize = messages.iter().map(|message| message.payload.len()).sum();
        println!("{name}: {} messages, {payloads} bytes of payload", messages.len());
        for (encoding, plain, deflated) in WIRES {
            let whole = |wire| messages.iter().map(|m| Encoder.message(wire, topic, m).len()).sum();
            let deltas = |wire| -> usize {
                let first = Encoder.message(wire, topic, &messages[0]).len();
                let rest = messages.windows(2).map(|two| match Encoder.delta(&two[0], &two[1]) {
                    Some(delta) => Encoder.difference(wire, topic, &two[1], delta).len(),
                    None => Encoder.message(wire, topic, &two[1]).len(),
                });
                first + rest.sum::<usize>()
            };
            let sums: [usize; 4] = [whole(plain), whole(deflated), deltas(plain), deltas(deflated)];
            let [as_it_is, deflate, delta, both] = sums.map(|sum| sum / messages.len());
            println!(
                "  {encoding}, bytes a frame: {as_it_is}; deflate {deflate}, delta {delta}, both {both}"
            );
        }
    }
}

fn request(c: &mut Criterion) {
    let publish = Publish {
        topic: topic(),
        content_type: ContentType::Json,
        key: None,
        stamp: None,
        payload: Bytes::from_static(SCORE),
    };
    let subscribe =
        Command::Subscribe { topic: topic(), from: From::Last(1), options: Options::default() };
    let mut group = c.benchmark_group("decode request");
    for (name, command) in [("subscribe", subscribe), ("publish", Command::Publish(publish))] {
        let request = Request { id: Some(7), command };
        for encoding in Encoding::ALL {
            let frame = encoding.encode_request(&request);
            let id = BenchmarkId::new(format!("{encoding:?}"), name);
            group.bench_with_input(id, &frame, |b, frame| {
                b.iter(|| encoding.decode_request(black_box(frame)).unwrap());
            });
        }
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short(); targets = message, whole, squeeze, request }
criterion_main!(benches);
