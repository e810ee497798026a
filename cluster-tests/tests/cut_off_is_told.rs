//! Set-up: three nodes, and subscribers of one of them by every transport.
//! Fault: the two others are stopped where they stand (SIGSTOP): their sockets stay open, and nothing
//! comes out of them. Then they go on.
//! Claim: the subscribers of the node that is left are told that it has lost touch, and up to where
//! they have everything; its readiness turns false and says why; what it cannot know it does not
//! answer. When the others are back, subscribers are told so and miss nothing.

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Socket, Viewer, secs, until, web};
use pushonce_core::From;
use serde_json::Value;

/// The promise is five seconds; the machine of a story may be busy with others.
const TOLD: std::time::Duration = secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn who_is_left_alone_is_told_so_and_told_when_it_is_over() {
    // Enough for the node to own some and not others.
    let cluster = Cluster::of(3).flags(&["--shards", "4"]).start().await;
    // Owned by others and by the node itself: it cannot vouch for either.
    let left = cluster.owner("alone/own").await;
    let others: Vec<usize> = (0..3).filter(|&i| i != left).collect();
    let mut topics = vec!["alone/own".to_owned()];
    for n in 0.. {
        let topic = format!("alone/{n}");
        if cluster.owner(&topic).await != left {
            topics.push(topic);
            break;
        }
    }
    let mut watching = Vec::new();
    for topic in &topics {
        let log = cluster.publish(left, topic, 0..3).await;
        let last = log.last().expect("three").0;
        for transport in [Transport::Ws, Transport::Quic, Transport::Grpc] {
            let server = cluster.server(left, transport);
            let mut viewer = Viewer::of(vec![server], transport, topic, From::Start);
            assert_eq!(viewer.messages(3, secs(10)).await, log);
            watching.push((viewer, topic, last));
        }
    }
    let mut socket = Socket::open(cluster.ports(left).http, "").await;
    socket.subscribe(&topics[1]).await;
    socket.messages(3).await;
    let http = cluster.ports(left).http;
    is_ready(&cluster, left).await;

    others.iter().for_each(|&i| cluster.node(i).pause());
    for (viewer, topic, last) in &mut watching {
        assert_eq!(viewer.stale(TOLD).await, *last, "{topic}");
    }
    let frame = news(&mut socket).await;
    assert_eq!(frame["stale"]["topic"], topics[1].as_str(), "{frame}");
    let because = until("the node is not ready", TOLD, async || {
        let ready = ready(&cluster, left).await;
        if ready["ready"] == false { Ok(ready["because"].to_string()) } else { Err("ready".into()) }
    })
    .await;
    assert!(because.contains("cannot commit") || because.contains("control group"), "{because}");
    assert_eq!(web::get(http, "/health/live", &[]).await.expect("it lives").status, 200);
    let newest = web::get(http, &format!("/topics/{}", topics[1]), &[]).await.expect("an answer");
    assert_eq!(newest.status, 503, "it does not know what is newest: {newest:?}");

    others.iter().for_each(|&i| cluster.node(i).wake());
    for (viewer, ..) in &mut watching {
        viewer.fresh(secs(30)).await;
    }
    let frame = news(&mut socket).await;
    assert_eq!(frame["live"]["topic"], topics[1].as_str(), "{frame}");
    is_ready(&cluster, left).await;
    for topic in &topics {
        let log = cluster.publish(others[0], topic, 3..5).await;
        for (viewer, ..) in watching.iter_mut().filter(|(_, of, _)| *of == topic) {
            assert_eq!(viewer.messages(2, secs(10)).await, log);
        }
    }
}

/// The next frame that is no heartbeat: those may come at any time.
async fn news(socket: &mut Socket) -> Value {
    loop {
        let frame = socket.hear().await.expect("the session goes on");
        if frame["heartbeat"].is_null() {
            return frame;
        }
    }
}

async fn is_ready(cluster: &Cluster, i: usize) {
    until("the node is ready", secs(30), async || {
        let ready = ready(cluster, i).await;
        if ready["ready"] == true { Ok(()) } else { Err(ready["because"].to_string()) }
    })
    .await;
}

async fn ready(cluster: &Cluster, i: usize) -> Value {
    web::get(cluster.ports(i).http, "/health/ready", &[]).await.expect("it answers").json()
}
