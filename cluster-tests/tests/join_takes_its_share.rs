//! Set-up: three nodes under load, with viewers.
//! Fault: none but a changing cluster: a fourth node joins; one is killed while it joins; nodes come
//! back with their data, without it, and with another cluster's.
//! Claim: about a quarter of the owners move, all of them to the new node, and no message is lost,
//! doubled or out of order meanwhile; the control group has three voters. An id is of one node for
//! ever, and who may not come in is told why.

use std::collections::BTreeMap;

use pushonce_client::Transport;
use pushonce_cluster_tests::{Cluster, Sent, secs};
use pushonce_core::From;

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_node_takes_a_quarter_and_nobody_notices() {
    let mut cluster = Cluster::of(3).start().await;
    let topics: Vec<_> = (0..8).map(|n| format!("game/{n}")).collect();
    let mut viewers = BTreeMap::new();
    for (i, topic) in topics.iter().enumerate() {
        viewers.insert(topic, cluster.viewer(i % 3, Transport::Ws, topic, From::Start));
    }
    let mut load = cluster.load(0, &topics);
    load.goes_on(10, secs(5)).await;
    let before = owners(&cluster).await;

    let fourth = cluster.join("");
    cluster.settled(4).await;
    load.goes_on(10, secs(5)).await;

    let id = cluster.id_of(0, fourth).await;
    let after = owners(&cluster).await;
    let moved: Vec<_> = after.iter().filter(|&(shard, owner)| before[shard] != *owner).collect();
    assert!((2..=6).contains(&moved.len()), "{moved:?} of {} moved", after.len());
    assert!(moved.iter().all(|&(_, owner)| *owner == id), "{moved:?} should be at n{id}");
    let status = cluster.status(fourth).await.expect("it answers");
    assert_eq!((status.control_voters.len(), status.control_learners.len()), (3, 1));

    for (topic, sent) in load.end().await {
        assert!(sent.iter().all(|sent| sent.outcome.is_ok()), "{topic}: {sent:?}");
        let viewer = viewers.get_mut(&topic).expect("each has its viewer");
        Sent::check(&sent, &viewer.up_to(Sent::last(&sent), secs(5)).await);
        let mut late = cluster.viewer(fourth, Transport::Quic, &topic, From::Start);
        Sent::check(&sent, &late.up_to(Sent::last(&sent), secs(5)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_of_one_node_for_ever() {
    let mut cluster = Cluster::of(3).start().await;
    a_node_killed_while_it_joins_gets_its_id_again(&mut cluster).await;
    a_node_that_comes_back_is_who_it_was(&mut cluster).await;
    a_name_without_its_data_is_refused(&mut cluster).await;
    a_directory_of_another_cluster_stays_with_its_own(&cluster).await;
    a_new_node_gets_a_new_id(&mut cluster).await;
}

async fn a_node_killed_while_it_joins_gets_its_id_again(cluster: &mut Cluster) {
    let fourth = cluster.join("");
    let id = cluster.id_of(0, fourth).await;
    cluster.kill(fourth);
    cluster.restart(fourth);
    cluster.settled(4).await;
    assert_eq!(cluster.id_of(0, fourth).await, id);
    assert_eq!(cluster.status(0).await.expect("it answers").members.len(), 4);
}

async fn a_node_that_comes_back_is_who_it_was(cluster: &mut Cluster) {
    let id = cluster.id_of(0, 3).await;
    assert!(cluster.stop(3).await.success());
    cluster.restart(3);
    cluster.settled(4).await;
    assert_eq!(cluster.id_of(3, 3).await, id);
}

async fn a_name_without_its_data_is_refused(cluster: &mut Cluster) {
    cluster.kill(3);
    cluster.node(3).wipe();
    cluster.restart(3);
    assert_eq!(cluster.ended(3).await.code(), Some(1));
    let log = cluster.node(3).log();
    for words in ["does not let this node join", "node-3", "choose another --name"] {
        assert!(log.contains(words), "{words:?} is not in: {log}");
    }
}

async fn a_directory_of_another_cluster_stays_with_its_own(cluster: &Cluster) {
    let mut other = Cluster::of(1).start().await;
    let theirs = cluster.status(0).await.expect("it answers").cluster_id;
    let ours = other.status(0).await.expect("it answers").cluster_id;
    assert!(other.stop(0).await.success());
    let ports = other.node(0).ports;
    other.node_mut(0).move_to(ports, &[cluster.ports(0).peer]);
    other.restart(0);
    other.settled(1).await;
    assert_eq!(other.status(0).await.expect("it answers").cluster_id, ours);
    let log = other.node(0).log();
    let warns = |line: &&str| line.contains(&ours) && line.contains(&theirs);
    assert!(log.lines().any(|line| warns(&line)), "{log}");
}

async fn a_new_node_gets_a_new_id(cluster: &mut Cluster) {
    let known = cluster.status(0).await.expect("it answers").members;
    let fifth = cluster.join("");
    let id = cluster.id_of(0, fifth).await;
    assert!(known.iter().all(|member| member.id < id), "n{id} beside {known:?}");
}

/// Who owns each shard, as node 0 knows.
async fn owners(cluster: &Cluster) -> BTreeMap<u32, u64> {
    let status = cluster.status(0).await.expect("it answers");
    status.shards.iter().map(|shard| (shard.id, shard.owner)).collect()
}
