//! Set-up: two nodes in one region and one in another, or one node with 100,000 topics.
//! Fault: a client that does not read.
//! Claim: the data pages of the console at every node have the topics, rates and slow sessions of all nodes, and the route
//! of a message; their size does not depend on the number of topics.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pushonce_cluster_tests::{
    ProcessCluster, WebSocketClient, http_client, secs, text_message, wait_until,
};
use serde_json::Value;

const PATIENCE: Duration = secs(60);

/// Reads a data page of the `i`th node.
async fn read(cluster: &ProcessCluster, i: usize, page: &str) -> Result<Value, String> {
    let path = format!("/console/data/{page}");
    let response = http_client::get(cluster.ports(i).http, &path, &[]).await?;
    assert_eq!(response.header("cache-control"), Some("no-store"));
    if response.status == 200 { Ok(response.json()) } else { Err(format!("{page}: {response:?}")) }
}

/// The names of the segments with their numbers of topics.
fn segments(page: &Value) -> Vec<(&str, u64)> {
    let rows = page["segments"].as_array().expect("segments");
    let row = |row: &'_ Value| row["topics_below"].as_u64().expect("a number");
    rows.iter().map(|it| (it["segment"].as_str().expect("a name"), row(it))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_every_node_have_the_data_of_all_nodes() {
    let cluster = ProcessCluster::builder().region("eu", 2).region("us", 1).start().await;
    cluster.wait_settled(3).await;
    for i in 0..20 {
        cluster.publish_numbers(i % 3, &format!("chat/room-{i}/live"), 0..1).await;
    }
    cluster.publish_numbers(0, "chat/lobby", 0..3).await;

    for i in 0..3 {
        let tree = wait_until("a list of all shards", PATIENCE, async || {
            let tree = read(&cluster, i, "topics?prefix=chat/").await?;
            let is_complete = tree["unknown_shards"].as_array().is_some_and(Vec::is_empty);
            if is_complete { Ok(tree) } else { Err(tree.to_string()) }
        })
        .await;
        assert_eq!((tree["level"].as_str(), tree["topics"].as_u64()), (Some("chat/"), Some(21)));
        assert_eq!(segments(&tree).len(), 21);
        assert_eq!(segments(&tree)[0], ("lobby", 0));
        let lobby = &tree["segments"][0]["topic"];
        assert!(lobby["position"].as_str().is_some_and(|at| at.ends_with(":3")), "{lobby}");
        let found = read(&cluster, i, "topics?prefix=chat/room-1&limit=2").await.expect("a page");
        assert_eq!(segments(&found), [("room-1", 1), ("room-10", 1)]);
        assert_eq!(found["next"], "room-10");
        let rest = "topics?prefix=chat/room-1&after=room-18&limit=2";
        let rest = read(&cluster, i, rest).await.expect("a page");
        assert_eq!((segments(&rest), &rest["next"]), (vec![("room-19", 1)], &Value::Null));

        let state = read(&cluster, i, "topic?topic=chat/lobby").await.expect("a topic");
        assert_eq!(state["history_messages"], 3);
        assert!(state["oldest"].as_str().is_some_and(|at| at.ends_with(":1")), "{state}");
        let route = read(&cluster, i, "explain?topic=chat/lobby").await.expect("a route");
        let nodes: Vec<_> = route["route"].as_array().expect("nodes").iter().collect();
        assert_eq!(nodes.first().map(|hop| &hop["node"]), Some(&state["owner"]), "{route}");
        assert_eq!(nodes[0]["role"], "owner");
        let members = read(&cluster, i, "cluster").await.expect("a cluster");
        assert_eq!(nodes.last().map(|hop| &hop["node"]), Some(&members["node"]), "{route}");
        assert_eq!(members["problems"], serde_json::json!([]));
        let regions = members["members"].as_array().expect("members").iter();
        let regions: BTreeSet<_> = regions.filter_map(|member| member["region"].as_str()).collect();
        assert_eq!(regions.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_and_slow_sessions_of_all_nodes_are_on_the_pages_of_each() {
    let cluster = ProcessCluster::with_nodes(3).start().await;
    cluster.wait_settled(3).await;
    let mut reader = WebSocketClient::open(cluster.ports(2).http, "").await;
    reader.subscribe("slow/topic").await;
    let line = "x".repeat(50_000);
    let publisher = cluster.publisher(1);
    // From now on nothing is read. Publishes go on until the buffers of both ends are full.
    let found = wait_until("the session is listed", PATIENCE, async || {
        for _ in 0..50 {
            let published = publisher.publish(text_message("slow/topic", &line)).await;
            published.map_err(|error| error.to_string())?;
        }
        let page = read(&cluster, 0, "sessions?limit=5").await?;
        let session = page["sessions"].get(0).cloned().filter(|it| it["blocked"] == true);
        session.ok_or_else(|| page.to_string())
    })
    .await;
    let expected_node = cluster.node_id(0, 2).await;
    assert_eq!(found["node"], format!("n{expected_node}"));
    assert_eq!(
        (found["transport"].as_str(), found["topics"].as_u64()),
        (Some("websocket"), Some(1))
    );
    assert_eq!(found["topic"], "slow/topic");
    assert!(found["messages"].as_u64() > Some(0) && found["bytes"].as_u64() >= Some(50_000));

    // A sample is a rate: on a busy machine, two seconds may share one.
    let sum = |rates: &Value, field: &str| -> u64 {
        let samples = rates["samples"].as_array().expect("samples");
        samples.iter().filter_map(|sample| sample[field].as_u64()).sum()
    };
    for i in 0..3 {
        wait_until("the publishes are in the rates", PATIENCE, async || {
            let rates = read(&cluster, i, "rates").await?;
            let nodes = rates["nodes"].as_array().map_or(0, Vec::len);
            let is_known =
                nodes == 3 && sum(&rates, "published") > 0 && sum(&rates, "sent_bytes") > 0;
            let latencies = rates["samples"].as_array().expect("samples");
            let has_latency = latencies.iter().any(|it| it["publish_p99_us"].as_u64() > Some(0));
            if is_known && has_latency { Ok(()) } else { Err(rates.to_string()) }
        })
        .await;
    }
    let few = read(&cluster, 0, "rates?seconds=2").await.expect("rates");
    assert!(few["samples"].as_array().is_some_and(|samples| samples.len() <= 3), "{few}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tree_of_100_000_topics_is_answered_by_one_small_page() {
    const TOPICS: usize = 100_000;
    let cluster = ProcessCluster::with_nodes(1).start().await;
    let mut stream = cluster.publisher(0).stream().await.expect("a stream");
    let mut outcomes = Vec::with_capacity(TOPICS);
    for i in 0..TOPICS {
        let topic = format!("fleet/{}/vehicle-{i}", i % 100);
        outcomes.push(stream.send(text_message(&topic, "x")).await.expect("sent"));
    }
    for outcome in outcomes {
        outcome.await.expect("acknowledged");
    }
    for (query, segment_count, below) in [
        ("topics", 1, TOPICS as u64),
        ("topics?prefix=fleet/", 100, 1_000),
        ("topics?prefix=fleet/7/&limit=100", 100, 0),
        ("topics?prefix=fleet/7/vehicle-9&limit=1000", 111, 0),
    ] {
        let begin = Instant::now();
        let page = read(&cluster, 0, query).await.expect("a page");
        let elapsed = begin.elapsed();
        println!("{query}: {elapsed:?}, {} bytes", page.to_string().len());
        assert_eq!(page["unknown_shards"], serde_json::json!([]));
        let rows = segments(&page);
        assert_eq!(rows.len(), segment_count, "{query}");
        assert!(rows.iter().all(|row| row.1 == below), "{query}: {rows:?}");
        assert!(page.to_string().len() < 50_000, "{query}: {} bytes", page.to_string().len());
        // Debug builds on a busy machine take some tens of milliseconds.
        assert!(elapsed < PATIENCE, "{query}: {elapsed:?}");
    }
}
