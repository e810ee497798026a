//! Set-up: one node, subscribers on every transport and a publisher.
//! Fault: HTTP clients that never finish: heads and bodies byte by byte, silent and half-open connections, heads of
//! 64 KiB, unread answers, resets.
//! Claim: the subscribers and the publisher are not affected, each connection ends by itself, and memory and
//! descriptors return to the baseline.

use pushonce_cluster_tests::hostile::{Bystanders, Footprint, HEALTH_REQUEST, Stranger};
use pushonce_cluster_tests::{ProcessCluster, http_client, secs};

/// Hostile connections of each kind.
const CONNECTIONS: usize = 100;

/// Messages of 6,000 bytes in the history: a megabyte, the default maximum.
const HISTORY_MESSAGES: usize = 170;

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_bodies_end_by_themselves_and_nobody_else_notices() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let http = cluster.ports(0).http;
    let mut bystanders = Bystanders::connect(&cluster).await;
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let begun: [(&[u8], &[u8]); 4] = [
        (b"", b""),
        (b"GET /health/live HTTP/1.1\r\nX-Slow: ", b"x"),
        (b"POST /topics/a/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n", b"x"),
        (
            b"POST /topics/a/b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
        ),
    ];
    let mut strangers = Vec::new();
    for (first, _) in begun {
        for _ in 0..CONNECTIONS {
            let mut stranger = Stranger::connect(http).await;
            stranger.send(first).await;
            strangers.push(stranger);
        }
    }
    // One byte at a time, for less than the time in which a head and a body must be complete.
    for _ in 0..3 {
        for (index, stranger) in strangers.iter_mut().enumerate() {
            stranger.send(begun[index / CONNECTIONS].1).await;
        }
        bystanders.assert_served(2).await;
    }
    for stranger in &mut strangers {
        stranger.wait_closed(secs(90)).await;
    }
    bystanders.assert_served(3).await;
    drop(strangers);
    baseline.wait_restored(cluster.node(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_resets_and_unread_answers_leave_nothing_behind() {
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let http = cluster.ports(0).http;
    let mut bystanders = Bystanders::connect(&cluster).await;
    // In JSON each of these bytes takes six.
    let body = [1; 6_000];
    for _ in 0..HISTORY_MESSAGES {
        let content_type = ["content-type: text/plain"];
        let path = "/topics/large/history";
        let response = http_client::request(http, "POST", path, &content_type, &body).await;
        assert_eq!(response.expect("a response").status, 200);
    }
    bystanders.assert_served(3).await;
    let baseline = Footprint::of(cluster.node(0));
    let head =
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Large: {}\r\n\r\n", "y".repeat(64 << 10));
    for _ in 0..CONNECTIONS {
        let mut stranger = Stranger::connect(http).await;
        stranger.send(head.as_bytes()).await;
        let response = String::from_utf8_lossy(&stranger.wait_closed(secs(20)).await).into_owned();
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 431"), "{response}");
        let mut stranger = Stranger::connect(http).await;
        stranger.send(HEALTH_REQUEST).await;
        stranger.reset();
    }
    bystanders.assert_served(3).await;
    // Six megabytes for each. Only the first bytes are read.
    let request = format!(
        "GET /topics/large/history?last={HISTORY_MESSAGES} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    );
    let mut unread = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stranger = Stranger::connect(http).await;
        stranger.send(request.as_bytes()).await;
        assert!(stranger.read_head().await.starts_with("HTTP/1.1 200"));
        unread.push(stranger);
    }
    bystanders.assert_served(3).await;
    let held = Footprint::of(cluster.node(0)).resident_bytes;
    let unread_bytes = (CONNECTIONS * HISTORY_MESSAGES * body.len() * 6) as u64;
    let held_max = baseline.resident_bytes + unread_bytes / 4;
    assert!(held < held_max, "{held} bytes while {unread_bytes} are unread");
    drop(unread);
    baseline.wait_restored(cluster.node(0)).await;
}
