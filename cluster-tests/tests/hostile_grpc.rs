//! Set-up: one node, subscribers on every transport and a publisher.
//! Fault: HTTP/2 clients on the gRPC port that are silent, reset every call, send empty frames and settings without
//! end, and half messages.
//! Claim: other clients are not affected, and memory and descriptors return to the baseline.

use pushonce_cluster_tests::hostile::{
    Bystanders, Footprint, HTTP2_PREFACE, Stranger, http2_frame,
};
use pushonce_cluster_tests::{ProcessCluster, secs};

/// Types of HTTP/2 frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

/// The flag of a complete header block.
const END_HEADERS: u8 = 4;

/// The header block of a publish stream (RFC 7541), with literals without indexing.
fn publish_stream_headers() -> Vec<u8> {
    let literal = |index: &[u8], text: &str| [index, &[text.len() as u8], text.as_bytes()].concat();
    [
        &[0x83, 0x86][..],
        &literal(&[0x04], "/pushonce.publisher.v1.PublisherService/PublishStream"),
        &literal(&[0x01], "node"),
        &literal(&[0x0f, 0x10], "application/grpc"),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_http2_frames_are_not_noticed() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let grpc = cluster.ports(0).grpc;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let headers = publish_stream_headers();
    let begin = |call: u32| http2_frame(HEADERS, END_HEADERS, 2 * call + 1, &headers);
    let reset = |call: u32| http2_frame(RST_STREAM, 0, 2 * call + 1, &8_u32.to_be_bytes());
    let floods: [Vec<u8>; 5] = [
        (0..20_000).flat_map(|call| [begin(call), reset(call)].concat()).collect(),
        [begin(0), http2_frame(DATA, 0, 1, b"").repeat(200_000)].concat(),
        http2_frame(SETTINGS, 0, 0, b"").repeat(200_000),
        http2_frame(PING, 0, 0, &[7; 8]).repeat(200_000),
        (0..2_000).flat_map(begin).collect(),
    ];
    for flood in floods {
        let mut strangers = Vec::new();
        for _ in 0..3 {
            let mut stranger = Stranger::connect(grpc).await;
            stranger.send(&[HTTP2_PREFACE, &flood].concat()).await;
            strangers.push(stranger);
            bystanders.assert_served(1).await;
        }
    }
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_and_half_sent_messages_end_by_themselves() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let grpc = cluster.ports(0).grpc;
    let mut bystanders = Bystanders::connect(&cluster).await;
    let baseline = Footprint::of(cluster.node(0));
    let call = http2_frame(HEADERS, END_HEADERS, 1, &publish_stream_headers());
    // A message of a megabyte, of which some bytes arrive.
    let half = http2_frame(DATA, 0, 1, &[&[0, 0, 0x10, 0, 0][..], &[0; 15_000]].concat());
    let begun: [&[u8]; 4] =
        [b"", &HTTP2_PREFACE[..5], HTTP2_PREFACE, &[HTTP2_PREFACE, &call, &half].concat()];
    let mut strangers = Vec::new();
    for first in begun {
        for _ in 0..50 {
            let mut stranger = Stranger::connect(grpc).await;
            stranger.send(first).await;
            strangers.push(stranger);
        }
        bystanders.assert_served(1).await;
    }
    for stranger in &mut strangers {
        // No ping is answered: the keep-alive of the node ends the connection.
        stranger.wait_closed(secs(90)).await;
    }
    drop(strangers);
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}
