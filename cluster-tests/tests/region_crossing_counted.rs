//! Set-up: two regions of two nodes each.
//! Fault: in one act the viewers' wires are cut again and again.
//! Claim: a message crosses between the regions once, however many nodes and viewers wait on the
//! other side, and not at all when nobody does: counted by the nodes' own metric.

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Viewer, Wire, secs};
use pushonce_core::From;

const N: u32 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_crosses_once() {
    let cluster = Cluster::regions().region("eu", 2).region("us", 2).start().await;
    for (region, other) in [(0, 1), (1, 0)] {
        once_with_viewers_on_all_nodes(&cluster, region, other).await;
        once_with_viewers_that_come_back(&cluster, region, other).await;
        never_without_a_viewer_there(&cluster, region, other).await;
    }
}

async fn once_with_viewers_on_all_nodes(cluster: &Cluster, region: usize, other: usize) {
    let (topic, owner) = topic_owned_in(cluster, region, "all").await;
    let mut viewers = cluster.viewers(&topic, From::Now).await;
    let before = [crossings(cluster, region, other).await, crossings(cluster, other, region).await];

    let log = cluster.publish(owner, &topic, 0..N).await;

    for viewer in &mut viewers {
        assert_eq!(viewer.messages(log.len(), secs(5)).await, log);
    }
    assert_eq!(crossings(cluster, region, other).await - before[0], u64::from(N));
    assert_eq!(crossings(cluster, other, region).await - before[1], 0, "and none back");
}

async fn once_with_viewers_that_come_back(cluster: &Cluster, region: usize, other: usize) {
    let (topic, owner) = topic_owned_in(cluster, region, "back").await;
    let mut viewers = Vec::new();
    for i in nodes_of(other) {
        let wire = Wire::to(cluster.node(i).ports.http).await;
        let server = format!("ws://{}", wire.address).parse().expect("a good address");
        let mut viewer = Viewer::of(vec![server], Transport::Ws, &topic, From::Start);
        viewer.live(secs(5)).await;
        viewers.push((viewer, wire));
    }
    let before = crossings(cluster, region, other).await;

    for part in 0..4 {
        let numbers = part * N / 4..(part + 1) * N / 4;
        let log = cluster.publish(owner, &topic, numbers).await;
        for (viewer, wire) in &mut viewers {
            assert_eq!(viewer.messages(log.len(), secs(10)).await, log);
            wire.cut();
            viewer.disconnected(secs(5)).await;
            wire.mend();
            viewer.live(secs(10)).await;
        }
    }

    assert_eq!(crossings(cluster, region, other).await - before, u64::from(N));
}

async fn never_without_a_viewer_there(cluster: &Cluster, region: usize, other: usize) {
    let (topic, owner) = topic_owned_in(cluster, region, "near").await;
    let mut viewers = Vec::new();
    for i in nodes_of(region) {
        let mut viewer = cluster.viewer(i, Transport::Ws, &topic, From::Now);
        viewer.live(secs(5)).await;
        viewers.push(viewer);
    }
    let before = crossings(cluster, region, other).await;

    let log = cluster.publish(owner, &topic, 0..N).await;

    for viewer in &mut viewers {
        assert_eq!(viewer.messages(log.len(), secs(5)).await, log);
    }
    assert_eq!(crossings(cluster, region, other).await - before, 0);
}

const REGIONS: [&str; 2] = ["eu", "us"];

fn nodes_of(region: usize) -> std::ops::Range<usize> {
    region * 2..region * 2 + 2
}

/// A new topic that a node of a region owns, and that node.
async fn topic_owned_in(cluster: &Cluster, region: usize, name: &str) -> (String, usize) {
    for n in 0..64 {
        let topic = format!("{name}/{}/{n}", REGIONS[region]);
        let owner = cluster.owner(&topic).await;
        if nodes_of(region).contains(&owner) {
            return (topic, owner);
        }
    }
    panic!("{} owns nothing", REGIONS[region])
}

/// How many copies of messages were sent on from one region to the other.
async fn crossings(cluster: &Cluster, from: usize, to: usize) -> u64 {
    let from = format!("from_region=\"{}\"", REGIONS[from]);
    let to = format!("to_region=\"{}\"", REGIONS[to]);
    cluster.counted("pushonce_relay_deliver_total", &[&from, &to, "kind=\"deliver\""]).await
}
