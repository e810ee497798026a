//! Set-up: three nodes, and clients that read a topic over HTTP: pages, event streams and long polls.
//! Fault: `kill -9` of the node of a stream, which may also be the owner of the topic; the node shuts down.
//! Claim: a client that connects to another node with the id of its last event receives exactly the missed messages.
//! A stream continues after a page of history without a missing message.

use std::time::Duration;

use pushonce_cluster_tests::http_client::{self, HttpResponse};
use pushonce_cluster_tests::{EventStreamClient, ProcessCluster};
use pushonce_core::Position;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn event_stream_resumes_at_another_node_when_its_node_is_killed() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    page_load_continues_live(&cluster).await;
    stream_of_two_topics_resumes_from_one_id(&cluster).await;
    stream_resumes_elsewhere(&mut cluster, "viewer", |owner| (owner + 1) % 3).await;
    stream_resumes_elsewhere(&mut cluster, "owner", |owner| owner).await;
    node_that_shuts_down_says_so(&mut cluster).await;
}

/// Reads until `count` messages were received. When the stream ends, connects to one of the nodes that run, as a
/// browser would with several addresses.
async fn read_messages(
    cluster: &ProcessCluster,
    stream: &mut EventStreamClient,
    path: &str,
    count: usize,
) -> Vec<(Position, String)> {
    let mut messages = Vec::new();
    let mut attempts = 0;
    while messages.len() < count {
        match stream.next_event().await {
            Some(event) if event.name.is_empty() => {
                messages.push((event.id.parse().expect("a position"), event.data));
            }
            Some(event) if ["error", "rotate", "stale", "live"].contains(&event.name.as_str()) => {}
            Some(event) => panic!("{event:?}"),
            None => {
                attempts += 1;
                assert!(attempts < 100, "no node serves the stream");
                let id = stream.last_event_id().to_owned();
                let node = cluster.running_nodes().nth(attempts % 2).expect("two nodes run");
                tokio::time::sleep(Duration::from_millis(200)).await;
                let opened =
                    EventStreamClient::open(cluster.ports(node).http, path, Some(&id)).await;
                if let Ok(opened) = opened {
                    *stream = opened;
                }
            }
        }
    }
    messages
}

async fn stream_resumes_elsewhere(
    cluster: &mut ProcessCluster,
    name: &str,
    victim: impl Fn(usize) -> usize,
) {
    let topic = format!("killed/{name}");
    let before = cluster.publish_numbers(0, &topic, 0..10).await;
    let victim = victim(cluster.owner_of(&topic).await);
    let path = format!("/topics/{topic}");
    let server = cluster.ports(victim).http;
    let mut stream = EventStreamClient::open(server, &format!("{path}?from=start"), None)
        .await
        .expect("a stream");
    assert_eq!(read_messages(cluster, &mut stream, &path, 10).await, before);
    cluster.kill(victim);
    let other = (victim + 1) % 3;
    let missed = cluster.publish_numbers(other, &topic, 10..40).await;
    assert_eq!(read_messages(cluster, &mut stream, &path, 30).await, missed);
    let live = cluster.publish_numbers(other, &topic, 40..50).await;
    assert_eq!(read_messages(cluster, &mut stream, &path, 10).await, live);
    cluster.restart(victim);
    cluster.wait_settled(3).await;
}

async fn get(cluster: &ProcessCluster, node: usize, path: &str) -> HttpResponse {
    http_client::get(cluster.ports(node).http, path, &[]).await.expect("a response")
}

/// The messages of a page.
fn messages_of(page: &HttpResponse) -> Vec<(Position, String)> {
    let page = page.json();
    let frames = page["messages"].as_array().expect("an array").iter();
    let message = |frame: &Value| {
        let position = frame["message"]["position"].as_str()?.parse().ok()?;
        Some((position, frame["message"]["data"].as_str()?.to_owned()))
    };
    frames.map(|frame| message(frame).expect("a message")).collect()
}

async fn page_load_continues_live(cluster: &ProcessCluster) {
    let mut log = cluster.publish_numbers(0, "page", 0..25).await;
    let mut read = Vec::new();
    let mut at = Position { offset: pushonce_core::Offset(0), ..log[0].0 };
    loop {
        // Each page from another node.
        let node = read.len() % 3;
        let page = get(cluster, node, &format!("/topics/page?after={at}&limit=10")).await;
        assert_eq!(page.status, 200, "{page:?}");
        let messages = messages_of(&page);
        let is_full = messages.len() == 10;
        let cached = page.header("cache-control").is_some_and(|rule| rule.contains("immutable"));
        assert_eq!(cached, is_full, "{page:?}");
        at = page.header("pushonce-position").expect("a position").parse().expect("valid");
        read.extend(messages);
        if !is_full {
            break;
        }
    }
    assert_eq!(read, log);
    log = cluster.publish_numbers(1, "page", 25..30).await;
    let polled = get(cluster, 2, &format!("/topics/page?after={at}&live=long-poll")).await;
    assert_eq!(messages_of(&polled), log, "{polled:?}");
    let server = cluster.ports(2).http;
    let path = format!("/topics/page?from={at}");
    let mut stream = EventStreamClient::open(server, &path, None).await.expect("a stream");
    log.extend(cluster.publish_numbers(1, "page", 30..35).await);
    for expected in log {
        assert_eq!(stream.next_message().await, Some(expected));
    }
}

async fn stream_of_two_topics_resumes_from_one_id(cluster: &ProcessCluster) {
    let path = "/sse?topic=two/a&topic=two/b&from=start";
    let mut expected = Vec::new();
    let mut stream =
        EventStreamClient::open(cluster.ports(0).http, path, None).await.expect("a stream");
    for round in 0..3 {
        for (topic, node) in [("two/a", 1), ("two/b", 2)] {
            for (position, _) in cluster.publish_numbers(node, topic, round..round + 1).await {
                expected.push((topic.to_owned(), position.to_string()));
            }
        }
        let mut received = Vec::new();
        while received.len() < 2 {
            let event = stream.next_event().await.expect("an event");
            if event.name == "subscribed" {
                continue;
            }
            let frame: Value = serde_json::from_str(&event.data).expect("JSON");
            let text = |name: &str| frame["message"][name].as_str().expect("a text").to_owned();
            received.push((text("topic"), text("position")));
        }
        received.sort();
        assert_eq!(received, expected[expected.len() - 2..]);
        // The id of the last write follows it.
        let positions: Vec<_> =
            expected[expected.len() - 2..].iter().map(|(_, position)| position.as_str()).collect();
        let id = positions.join(",");
        let node = round as usize % 3;
        stream = EventStreamClient::open(cluster.ports(node).http, path, Some(&id))
            .await
            .expect("a stream");
    }
}

async fn node_that_shuts_down_says_so(cluster: &mut ProcessCluster) {
    let path = "/topics/stopped?from=start";
    let mut stream =
        EventStreamClient::open(cluster.ports(1).http, path, None).await.expect("a stream");
    let log = cluster.publish_numbers(0, "stopped", 0..5).await;
    assert_eq!(read_messages(cluster, &mut stream, path, 5).await, log);
    let ((), event) = tokio::join!(
        async { assert!(cluster.stop(1).await.success(), "the node exits cleanly") },
        stream.next_event(),
    );
    let event = event.expect("an event before the end");
    assert_eq!(event.name, "rotate", "{event:?}");
    assert!(event.data.contains("goaway"), "{event:?}");
    assert_eq!(stream.next_event().await, None);
}
