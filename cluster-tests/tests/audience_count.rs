//! Set-up: three nodes, each with subscribers of one topic by WebSocket, QUIC and gRPC, some of which request
//! the audience.
//! Fault: subscribers connect and disconnect; the topic's owner is killed and restarted.
//! Claim: within seconds of each change, the audience of the whole cluster is the same for subscribers with
//! `audience` on every transport, over HTTP at every node, and in `pushonce topic`.

use std::collections::BTreeMap;
use std::time::Duration;

use pushonce_client::{ServerAddress, Subscriber, SubscriberEvent, Transport};
use pushonce_cluster_tests::{
    ProcessCluster, TestSubscriber, cli::pushonce, http_client, secs, wait_until,
};
use pushonce_core::{StartFrom, SubscribeOptions, Topic};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

const TOPIC: &str = "match/1";

/// Counts take two or three seconds to spread, and up to five more when an owner moves meanwhile.
const COUNT_TIMEOUT: Duration = secs(15);

/// The same, when a subscriber must first detect by missing heartbeats that its node is down.
const RECOUNT_TIMEOUT: Duration = secs(30);

/// A subscriber that requests the audience, and the last count it received.
struct AudienceSubscriber {
    count: watch::Receiver<u64>,
    _task: JoinSet<()>,
}

impl AudienceSubscriber {
    fn connect(cluster: &ProcessCluster, i: usize, transport: Transport) -> AudienceSubscriber {
        let mut servers: Vec<ServerAddress> =
            (0..3).map(|i| cluster.server_address(i, transport)).collect();
        servers.rotate_left(i);
        let options = SubscribeOptions { report_audience: true, ..SubscribeOptions::default() };
        let topic = Topic::new(TOPIC).expect("a valid topic");
        let builder = Subscriber::builder(servers).transport(transport);
        let mut subscriber = builder
            .topic_with_options(topic, StartFrom::Now, options)
            .connect()
            .expect("the servers fit the transport");
        let (count_sender, count) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Some(event) = subscriber.next().await {
                if let SubscriberEvent::Audience { count, .. } = event {
                    count_sender.send_replace(count);
                }
            }
        });
        AudienceSubscriber { count, _task: task }
    }
}

/// Waits until all subscribers and all nodes report this audience.
async fn wait_audience(
    cluster: &ProcessCluster,
    subscribers: &[AudienceSubscriber],
    audience: u64,
    limit: Duration,
) {
    wait_until(&format!("an audience of {audience} everywhere"), limit, async || {
        let counts: Vec<u64> =
            subscribers.iter().map(|subscriber| *subscriber.count.borrow()).collect();
        let mut pages = BTreeMap::new();
        for i in cluster.running_nodes() {
            let path = format!("/topics/{TOPIC}?audience");
            let answer = http_client::get(cluster.node(i).ports.http, &path, &[]).await?;
            pages.insert(i, answer.json()["audience"].as_u64());
        }
        let all = counts.iter().all(|&count| count == audience)
            && pages.values().all(|&page| page == Some(audience));
        if all { Ok(()) } else { Err(format!("subscribers {counts:?}, pages {pages:?}")) }
    })
    .await;
}

/// The output of `pushonce topic` at the `i`th node.
async fn topic_command(cluster: &ProcessCluster, i: usize, args: &[&str]) -> Value {
    let server = format!("http://{}", cluster.node(i).ports.grpc);
    let output = pushonce([&["topic", "--json", "--server", &server], args].concat(), "")
        .await
        .expect_success();
    serde_json::from_str(&output).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn audience_count_is_the_same_for_every_client_and_node() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let transports = [Transport::Ws, Transport::Quic, Transport::Ws];
    let subscribers: Vec<_> =
        (0..).zip(transports).map(|(i, t)| AudienceSubscriber::connect(&cluster, i, t)).collect();
    wait_audience(&cluster, &subscribers, 3, COUNT_TIMEOUT).await;

    // Nine subscribers with all servers, and six with a single server.
    let mut multi_server_viewers = cluster.subscribers(TOPIC, StartFrom::Now).await;
    let mut single_server_viewers: Vec<Vec<TestSubscriber>> = Vec::new();
    for i in 0..3 {
        let viewers = [Transport::Ws, Transport::Quic].map(|t| {
            TestSubscriber::new(vec![cluster.server_address(i, t)], t, TOPIC, StartFrom::Now)
        });
        single_server_viewers.push(viewers.into());
    }
    wait_audience(&cluster, &subscribers, 18, COUNT_TIMEOUT).await;

    let published = cluster.publish_numbers(1, TOPIC, 0..3).await;
    let owner = cluster.owner_of(TOPIC).await;
    for i in 0..3 {
        let info =
            wait_until(&format!("node {i} reports the audience"), COUNT_TIMEOUT, async || {
                let info = topic_command(&cluster, i, &["info", TOPIC]).await;
                if info["audience"] == 18 { Ok(info) } else { Err(info.to_string()) }
            })
            .await;
        assert_eq!(info["owner"], cluster.node_id(i, owner).await);
        assert_eq!(info["position"], published[2].0.to_string());
        assert_eq!(
            (&info["history"]["count"], &info["epoch"]),
            (&3.into(), &published[2].0.epoch.0.into())
        );
        assert_eq!(topic_command(&cluster, i, &["list", "match/"]).await, info);
    }

    multi_server_viewers.truncate(4);
    wait_audience(&cluster, &subscribers, 13, COUNT_TIMEOUT).await;

    cluster.kill(owner);
    wait_audience(&cluster, &subscribers, 11, RECOUNT_TIMEOUT).await;

    cluster.restart(owner);
    cluster.wait_settled(3).await;
    wait_audience(&cluster, &subscribers, 13, RECOUNT_TIMEOUT).await;
    drop((multi_server_viewers, single_server_viewers));
    wait_audience(&cluster, &subscribers, 3, COUNT_TIMEOUT).await;
}
