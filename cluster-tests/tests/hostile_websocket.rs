//! Set-up: one node with one lane, subscribers on every transport and a publisher.
//! Fault: WebSocket sessions that ping without end, send endless fragments, compressed bombs and half messages,
//! subscribe in storms, and never read.
//! Claim: other clients are not affected, every message arrives in order on the session that was open, and memory and
//! descriptors return to the baseline. Sessions without a token make a node that requires tokens hold a few KiB each.

use flate2::{Compress, Compression, FlushCompress};
use pushonce_auth::{Grants, PatternSet};
use pushonce_cluster_tests::hostile::{Bystanders, Footprint, Stranger, masked_frame};
use pushonce_cluster_tests::issuer::{TestIssuer, open_session};
use pushonce_cluster_tests::{ProcessCluster, secs};
use pushonce_proto::close;

const SESSIONS: usize = 20;

/// Opcodes and flags of the first byte of a frame.
const TEXT: u8 = 0x01;
const CONTINUATION: u8 = 0x00;
const PING: u8 = 0x89;
const FINAL_TEXT: u8 = 0x81;
const DEFLATED_TEXT: u8 = 0xc1;

/// Sends `flood` on each of some sessions while the bystanders are served.
async fn attack(flood: &[u8]) {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let http = cluster.ports(0).http;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..SESSIONS {
        let flood = flood.to_vec();
        attackers.spawn(async move {
            let mut stranger = Stranger::open_session(http).await;
            // Until the node closes the connection or stops reading it.
            for _ in 0..20 {
                if !stranger.send(&flood).await {
                    break;
                }
            }
            stranger
        });
    }
    while !attackers.is_empty() {
        bystanders.assert_served(1).await;
        while attackers.try_join_next().is_some() {}
    }
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_flood_is_not_noticed() {
    attack(&masked_frame(PING, &[7; 125]).repeat(2_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_fragments_are_not_noticed() {
    let begin = masked_frame(TEXT, b"");
    let flood = [begin, masked_frame(CONTINUATION, b"").repeat(100_000)].concat();
    attack(&flood).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deflate_bombs_within_the_limit_and_above_it_are_not_noticed() {
    for inflated_bytes in [60_000, 50_000_000] {
        // Below the limit it is a valid request.
        let mut text = br#"{"id":1,"unsubscribe":{"topic":"a"}}"#.to_vec();
        text.resize(inflated_bytes, b' ');
        let mut deflated = Vec::with_capacity(1 << 20);
        let mut compress = Compress::new(Compression::best(), false);
        compress.compress_vec(&text, &mut deflated, FlushCompress::Sync).expect("deflates");
        deflated.truncate(deflated.len() - 4);
        let bomb = masked_frame(DEFLATED_TEXT, &deflated);
        attack(&bomb.repeat(1 + 200_000 / bomb.len())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribe_storm_of_clients_that_never_read_is_not_noticed() {
    let subscribe = |nth: u32| {
        let text = format!(r#"{{"id":{nth},"subscribe":{{"topic":"storm/{}"}}}}"#, nth % 5_000);
        masked_frame(FINAL_TEXT, text.as_bytes())
    };
    attack(&(0..20_000).flat_map(subscribe).collect::<Vec<u8>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_message_ends_its_session() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let mut bystanders = Bystanders::connect(&cluster).await;
    let baseline = Footprint::of(cluster.node(0));
    let mut strangers = Vec::new();
    for _ in 0..SESSIONS {
        let mut stranger = Stranger::open_session(cluster.ports(0).http).await;
        let message = masked_frame(FINAL_TEXT, &[b' '; 60_000]);
        assert!(stranger.send(&message[..50_000]).await);
        strangers.push(stranger);
    }
    bystanders.assert_served(5).await;
    for stranger in &mut strangers {
        let received = stranger.wait_closed(secs(90)).await;
        // Heartbeats, and the close frame with code 4429.
        assert!(received.windows(4).any(|bytes| bytes[0] == 0x88 && bytes[2..] == [0x11, 0x4d]));
    }
    drop(strangers);
    bystanders.assert_served(3).await;
    baseline.wait_restored(cluster.node(0)).await;
}

/// Whether a session was closed with 1009 and the hint to authenticate.
fn is_told_to_authenticate(received: &[u8]) -> bool {
    let hint = b"authenticate first";
    let code = close::TOO_BIG.code.to_be_bytes();
    received.windows(4).any(|bytes| bytes[0] == 0x88 && bytes[2..] == code)
        && received.windows(hint.len()).any(|bytes| bytes == hint)
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_without_a_token_make_the_node_hold_little() {
    const STRANGERS: usize = 500;
    /// A frame of 16 KiB, the session with its buffers, and the memory of the allocator.
    const BYTES_MAX: u64 = 64 << 10;
    let mut cluster = ProcessCluster::with_nodes(1).start().await;
    let issuer = TestIssuer::write(cluster.dir());
    issuer.restart_nodes(&mut cluster).await;
    let http = cluster.ports(0).http;
    let set = PatternSet { allow: vec!["chat/*".parse().expect("valid")], deny: Vec::new() };
    let grants = Grants { subscribe: set.clone(), publish: set, admin: None };
    let mut member = open_session(http, &issuer.token("member", grants)).await;
    let mut nth = 0;
    let mut publish = async || {
        nth += 1;
        // Larger than what a stranger may send.
        let data = "x".repeat(40_000);
        let frame = format!(r#"{{"id":{nth},"publish":{{"topic":"chat/7","data":"{data}"}}}}"#);
        let answer = member.request(&frame).await;
        assert!(answer["published"].is_object(), "{answer}");
    };
    publish().await;

    let baseline = Footprint::of(cluster.node(0));
    let mut holding = Vec::new();
    for number in 0..STRANGERS {
        let mut stranger = Stranger::open_session(http).await;
        // Almost a whole frame of the size that is allowed.
        let half = &masked_frame(FINAL_TEXT, &[b' '; 16_000])[..15_900];
        assert!(stranger.send(half).await);
        holding.push(stranger);
        if number % 50 == 0 {
            publish().await;
        }
    }
    let held =
        Footprint::of(cluster.node(0)).resident_bytes.saturating_sub(baseline.resident_bytes);
    assert!(held < STRANGERS as u64 * BYTES_MAX, "{held} bytes for {STRANGERS} strangers");
    let mut text = br#"{"id":1,"unsubscribe":{"topic":"a"}}"#.to_vec();
    text.resize(300_000, b' ');
    let mut deflated = Vec::with_capacity(1 << 20);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(&text, &mut deflated, FlushCompress::Sync).expect("deflates");
    deflated.truncate(deflated.len() - 4);
    let large = [masked_frame(FINAL_TEXT, &text), masked_frame(DEFLATED_TEXT, &deflated)];
    for frame in large.iter().cycle().take(20) {
        let mut stranger = Stranger::open_session(http).await;
        stranger.send(frame).await;
        let received = stranger.wait_closed(secs(60)).await;
        assert!(is_told_to_authenticate(&received), "{}", received.escape_ascii());
        publish().await;
    }
    drop(holding);
    publish().await;
    baseline.wait_restored(cluster.node(0)).await;
}
