//! Set-up: three nodes, viewers on all of them by WebSocket, QUIC and gRPC.
//! Fault: none.
//! Claim: through whichever node and by whichever way a message is published, everybody sees the
//! same messages at the same places, and these are the places that the publishers were told.

use pushonce_cluster_tests::{Cluster, Seen, Socket, secs, text, web};
use pushonce_core::{From, Position};

const TOPIC: &str = "game/7";

#[tokio::test(flavor = "multi_thread")]
async fn every_door_of_every_node_leads_to_every_viewer() {
    let cluster = Cluster::of(3).start().await;
    let mut viewers = cluster.viewers(TOPIC, From::Now).await;

    let mut log = Vec::new();
    for i in cluster.running() {
        log.extend(through_every_door(&cluster, i).await);
    }

    for viewer in &mut viewers {
        assert_eq!(viewer.messages(log.len(), secs(5)).await, log);
    }
    for i in cluster.running() {
        the_newest_can_be_got(&cluster, i, &log).await;
    }
}

async fn through_every_door(cluster: &Cluster, i: usize) -> Vec<Seen> {
    let mut log = Vec::new();
    let line = |door| format!("{door} of node {i}");

    let unary = line("unary");
    let placed = cluster.publisher(i).publish(text(TOPIC, &unary)).await.expect("placed");
    log.push((placed.position, unary));

    let streamed = line("stream");
    let mut stream = cluster.publisher(i).stream().await.expect("a stream");
    let answer = stream.send(text(TOPIC, &streamed)).await.expect("sent");
    log.push((answer.await.expect("an answer").expect("placed").position, streamed));

    let posted = line("post");
    let http = cluster.node(i).ports.http;
    let answer = web::post(http, &format!("/topics/{TOPIC}"), posted.as_bytes()).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    log.push((position(answer.json()["position"].as_str()), posted));

    let framed = line("frame");
    let mut socket = Socket::open(http, "").await;
    let request = format!(r#"{{"id":4,"publish":{{"topic":"{TOPIC}","data":"{framed}"}}}}"#);
    let answer = socket.ask(&request).await;
    assert_eq!(answer["id"], 4, "{answer}");
    log.push((position(answer["published"]["position"].as_str()), framed));
    log
}

async fn the_newest_can_be_got(cluster: &Cluster, i: usize, log: &[Seen]) {
    let http = cluster.node(i).ports.http;
    let (position, newest) = log.last().expect("something was published");
    let path = format!("/topics/{TOPIC}");

    let answer = web::get(http, &path, &[]).await.expect("an answer");
    assert_eq!((answer.status, &answer.body), (200, newest));
    assert_eq!(answer.header("pushonce-position"), Some(position.to_string().as_str()));

    let etag = answer.header("etag").expect("an ETag");
    let known = web::get(http, &path, &[&format!("if-none-match: {etag}")]).await;
    assert_eq!(known.expect("an answer").status, 304);

    let all = web::get(http, &format!("{path}?last={}", log.len()), &[]).await.expect("an answer");
    let all = all.json();
    let texts = all.as_array().expect("a list").iter().map(|frame| &frame["message"]["data"]);
    assert!(texts.eq(log.iter().map(|(_, text)| text)), "{all}");
}

fn position(text: Option<&str>) -> Position {
    text.and_then(|text| text.parse().ok()).expect("a position")
}
