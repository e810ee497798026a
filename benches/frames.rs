//! The cost of encoding a message's frame, once per node and wire format, and of decoding a request and its
//! WebSocket frame.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

mod scoreboard;

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pushonce_core::{
    ContentType, Message, Position, Publish, StartFrom, SubscribeOptions, Timestamp, Topic,
};
use pushonce_fanout::{FrameEncoder as _, WireFormat};
use pushonce_gateway::Encoder;
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, encode_message};
use pushonce_websocket::{DecoderLimits, MessageDecoder};

const SCORE: &[u8] = br#"{"home":"GER","away":"BRA","score":[2,1],"minute":57,"scorer":"Musiala"}"#;
const TEXT: &[u8] =
    "Tor für Köln! 2:1 durch einen \"Fallrückzieher\" in der 57. Minute.".as_bytes();

fn topic() -> Topic {
    Topic::new("worldcup/2026/match/57").unwrap()
}

/// Small JSON, text that must be escaped, and bytes that JSON frames encode in base64.
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

fn encode_message_frame(c: &mut Criterion) {
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

/// The complete frame that the hub keeps and all subscribers of a wire format share.
fn encode_wire_frame(c: &mut Criterion) {
    let topic = topic();
    let mut group = c.benchmark_group("whole frame");
    for (name, message) in messages() {
        group.throughput(Throughput::Bytes(message.payload.len() as u64));
        for (wire, transport) in [(0, "WebSocket JSON"), (1, "WebSocket protobuf"), (2, "QUIC")] {
            group.bench_with_input(BenchmarkId::new(transport, name), &message, |b, message| {
                b.iter(|| {
                    Encoder.encode_message(WireFormat(wire), black_box(&topic), black_box(message))
                });
            });
        }
    }
    group.finish();
}

/// The wire formats of WebSocket, plain and deflated.
const WEBSOCKET_WIRES: [(&str, WireFormat, WireFormat); 2] =
    [("JSON", WireFormat(0), WireFormat(3)), ("protobuf", WireFormat(1), WireFormat(4))];

/// Deltas and compression, once per message: the middle message of each topic, with its predecessor.
fn delta_and_deflate(c: &mut Criterion) {
    let topic = topic();
    let mut group = c.benchmark_group("delta and deflate");
    for (name, messages) in scoreboard::topics() {
        let middle = messages.len() / 2;
        let (before, message) = (&messages[middle - 1], &messages[middle]);
        let delta = Encoder.compute_delta(before, message).unwrap();
        group.throughput(Throughput::Bytes(message.payload.len() as u64));
        group.bench_function(BenchmarkId::new("delta", name), |b| {
            b.iter(|| Encoder.compute_delta(black_box(before), black_box(message)));
        });
        for (encoding, _, wire) in WEBSOCKET_WIRES {
            let id = BenchmarkId::new(format!("deflated {encoding} frame"), name);
            group.bench_function(id, |b| {
                b.iter(|| Encoder.encode_message(wire, black_box(&topic), black_box(message)));
            });
            let id = BenchmarkId::new(format!("deflated {encoding} frame of the delta"), name);
            group.bench_function(id, |b| {
                b.iter(|| Encoder.encode_delta(wire, &topic, black_box(message), delta.clone()));
            });
        }
    }
    group.finish();
    print_frame_bytes(&topic);
}

/// Prints the bytes that one subscriber of a whole topic receives.
fn print_frame_bytes(topic: &Topic) {
    for (name, messages) in scoreboard::topics() {
        let payloads: usize = messages.iter().map(|message| message.payload.len()).sum();
        println!("{name}: {} messages, {payloads} bytes of payload", messages.len());
        for (encoding, plain, deflated) in WEBSOCKET_WIRES {
            let message_bytes =
                |wire| messages.iter().map(|m| Encoder.encode_message(wire, topic, m).len()).sum();
            let delta_bytes = |wire| -> usize {
                let first = Encoder.encode_message(wire, topic, &messages[0]).len();
                let following =
                    messages.windows(2).map(|two| match Encoder.compute_delta(&two[0], &two[1]) {
                        Some(delta) => Encoder.encode_delta(wire, topic, &two[1], delta).len(),
                        None => Encoder.encode_message(wire, topic, &two[1]).len(),
                    });
                first + following.sum::<usize>()
            };
            let sums: [usize; 4] = [
                message_bytes(plain),
                message_bytes(deflated),
                delta_bytes(plain),
                delta_bytes(deflated),
            ];
            let [plain_average, deflate_average, delta_average, both_average] =
                sums.map(|sum| sum / messages.len());
            println!(
                "  {encoding}, bytes per frame: {plain_average}; deflate {deflate_average}, delta {delta_average}, both {both_average}"
            );
        }
    }
}

fn decode_request(c: &mut Criterion) {
    let publish = Publish {
        topic: topic(),
        content_type: ContentType::Json,
        key: None,
        publish_id: None,
        payload: Bytes::from_static(SCORE),
    };
    let subscribe = ClientCommand::Subscribe {
        topic: topic(),
        from: StartFrom::Last(1),
        options: SubscribeOptions::default(),
    };
    let mut group = c.benchmark_group("decode request");
    for (name, command) in [("subscribe", subscribe), ("publish", ClientCommand::Publish(publish))]
    {
        let request = ClientRequest { id: Some(7), command };
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

/// A masked text frame of a client, in one piece.
fn decode_websocket_frame(c: &mut Criterion) {
    let limits = DecoderLimits { message_bytes_max: 64 << 10, fragments_max: 256 };
    let mut group = c.benchmark_group("decode WebSocket frame");
    for len in [64_u16, 1_024, 16_384] {
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(len.to_be_bytes());
        frame.extend([0x37, 0xfa, 0x21, 0x3d]);
        frame.extend((0..len).map(|i| b'a' ^ [0x37, 0xfa, 0x21, 0x3d][usize::from(i % 4)]));
        group.throughput(Throughput::Bytes(u64::from(len)));
        group.bench_with_input(BenchmarkId::new("text", len), &frame, |b, frame| {
            let mut decoder = MessageDecoder::new(limits, true);
            b.iter(|| decoder.decode(&mut &black_box(frame)[..]).unwrap().unwrap());
        });
    }
    group.finish();
}

fn short_run() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

criterion_group! { name = benches; config = short_run(); targets = encode_message_frame, encode_wire_frame, delta_and_deflate, decode_request, decode_websocket_frame }
criterion_main!(benches);
