//! Set-up: three nodes, and readers of a topic's page at a node that does not own the topic.
//! Fault: none; everyone reloads at once, again and again, while the page changes.
//! Claim: no reader sees an older page after a newer one, the last reload sees the last change, and the owner is asked a
//! few times, not once for each reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pushonce_cluster_tests::{ProcessCluster, http_client, secs, wait_until};
use pushonce_core::Position;

const READERS: usize = 16;

/// Requests to owners: some before the node watches the topic, and some of the readers that ask meanwhile.
const FETCHES_MAX: u64 = 40;

async fn newest(server: std::net::SocketAddr) -> Position {
    let page = http_client::get(server, "/topics/page", &[]).await.expect("a response");
    assert_eq!(page.status, 200, "{page:?}");
    page.header("pushonce-position").and_then(|text| text.parse().ok()).expect("a position")
}

#[tokio::test(flavor = "multi_thread")]
async fn storm_of_reloads_stays_on_its_node() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    cluster.publish_numbers(0, "page", 0..1).await;
    let owner = cluster.owner_of("page").await;
    let server = cluster.ports((owner + 1) % 3).http;
    let before = cluster.metric_sum("pushonce_fanout_fetches_total", &[]).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..READERS {
        let is_over = is_over.clone();
        readers.spawn(async move {
            let (mut reloads, mut seen) = (0_u64, Position::ZERO);
            while !is_over.load(Ordering::Relaxed) {
                let position = newest(server).await;
                assert!(position >= seen, "{position} after {seen}");
                (reloads, seen) = (reloads + 1, position);
            }
            reloads
        });
    }
    let mut last = Position::ZERO;
    for number in 1..60 {
        last = cluster.publish_numbers(owner, "page", number..number + 1).await[0].0;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    wait_until("the last change is on the page", secs(60), async || {
        let position = newest(server).await;
        if position == last { Ok(()) } else { Err(format!("{position}, not {last}")) }
    })
    .await;
    is_over.store(true, Ordering::Relaxed);
    let reloads: u64 = readers.join_all().await.into_iter().sum();
    let fetches = cluster.metric_sum("pushonce_fanout_fetches_total", &[]).await - before;
    assert!(reloads > 500, "{reloads} reloads are no storm");
    assert!(fetches <= FETCHES_MAX, "{fetches} requests to owners for {reloads} reloads");
}
