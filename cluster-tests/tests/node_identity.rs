//! Set-up: three nodes with acknowledged messages.
//! Fault: a node of another cluster listens at a member's address; the first node is initialized a second
//! time; nodes join with addresses that cannot be dialled, and the peers files are invalid; one member, two
//! members and all members restart at new addresses.
//! Claim: no message of a foreign node ends a member or prevents its start; the foreign node at a member's
//! address is not ready, rejects publishes and names both clusters; members find each other by cluster id and
//! node id at any address, and no acknowledged message is lost.

use std::net::SocketAddr;

use pushonce_client::Transport;
use pushonce_cluster_tests::{ProcessCluster, ReceivedMessage, cli, http_client, secs, wait_until};
use pushonce_core::StartFrom;
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::membership_service_client::MembershipServiceClient;

const TOPIC: &str = "game/1";

#[tokio::test(flavor = "multi_thread")]
async fn founder_initialized_twice_is_not_ready_and_reports_both_cluster_ids() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let first = cluster.status(1).await.expect("the node answers").cluster_id;
    cluster.kill(0);
    cluster.node(0).wipe();
    cluster.node(0).init_cluster();
    cluster.restart(0);

    let status = wait_until("the second cluster reports the conflict", secs(60), async || {
        let status = cluster.status(0).await?;
        if status.conflicting_cluster_id.is_empty() {
            Err("no conflict".to_owned())
        } else {
            Ok(status)
        }
    })
    .await;
    assert_eq!(status.conflicting_cluster_id, first);
    assert_ne!(status.cluster_id, first);
    let ids = [first.as_str(), &status.cluster_id];

    let ports = cluster.ports(0);
    // A node checks its readiness a few times per second. Just after its start it is not ready for other
    // reasons, too.
    let ready = wait_until("readiness reports the conflict", secs(5), async || {
        let answer = http_client::get(ports.http, "/health/ready", &[]).await?;
        let reports_conflict = answer.status == 503 && answer.body.contains(&first);
        if reports_conflict { Ok(answer) } else { Err(answer.body) }
    })
    .await;
    let published =
        http_client::post(ports.http, "/topics/game/1", b"{}").await.expect("a response");
    assert_eq!(published.status, 503, "{published:?}");
    let server = format!("http://{}", ports.grpc);
    // Exit code 3: its shards have one replica each, because no node has joined it.
    let text =
        cli::pushonce(["cluster", "status", "--server", &server], "").await.expect_exit_code(3);
    let log = cluster.node(0).log_text();
    for id in ids {
        for output in [&ready.body, &published.body, &text, &log] {
            assert!(output.contains(id), "{id} is not in {output}");
        }
    }
    wait_until("a peer warns with both ids", secs(60), async || {
        let log = cluster.node(1).log_text() + &cluster.node(2).log_text();
        let is_warning =
            |line: &str| line.contains("WARN") && ids.iter().all(|id| line.contains(id));
        log.lines()
            .find(|line| is_warning(line))
            .map(drop)
            .ok_or_else(|| "no such warning".to_owned())
    })
    .await;
    cluster.publish_numbers(1, TOPIC, 0..10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_restart_while_a_foreign_node_uses_a_members_address() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let log = cluster.publish_numbers(0, TOPIC, 0..10).await;
    cluster.kill(2);
    let foreign_node = cluster.start_foreign_node(9, cluster.ports(2));
    wait_until("the foreign node answers", secs(60), async || {
        let answer = http_client::get(foreign_node.ports.http, "/health/live", &[]).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    for i in 0..2 {
        cluster.kill(i);
        cluster.restart(i);
        wait_ready(&cluster, i).await;
    }
    assert!((0..2).all(|i| !cluster.node_mut(i).has_exited()), "both members run");
    assert_log_on(&cluster, &[0, 1], &log).await;

    drop(foreign_node);
    cluster.restart(2);
    cluster.wait_settled(3).await;
    assert_log_on(&cluster, &[0, 1, 2], &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn join_with_an_invalid_address_is_rejected_and_members_are_unaffected() {
    let mut cluster = ProcessCluster::with_nodes(2).start().await;
    let log = cluster.publish_numbers(0, TOPIC, 0..10).await;
    for (number, address) in
        ["a b:7091", "http://a:7091", "a", "a:0", ":7091", ""].into_iter().enumerate()
    {
        let refusal = join(&cluster, number, address).await;
        assert_eq!(refusal.kind(), pb::join_refusal::Kind::Settings, "{address:?}");
        assert!(refusal.text.contains("--advertise"), "{}", refusal.text);
    }
    let args = ["serve", "--data", "unused", "--advertise", "a b"];
    cli::pushonce(args, "").await.expect_failure(&["--advertise", "a b"]);
    assert_eq!(cluster.status(0).await.expect("the node answers").members.len(), 2);
    for i in 0..2 {
        cluster.kill(i);
        let peers = cluster.node(i).data_dir().join("peers");
        std::fs::write(peers, b"a b:7091\nhttp://x\n\xff\xfe\n").expect("write the peers file");
    }
    for i in 0..2 {
        cluster.restart(i);
    }
    cluster.wait_settled(2).await;
    assert_log_on(&cluster, &[0, 1], &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_find_each_other_at_new_addresses_after_a_restart() {
    let mut cluster = ProcessCluster::with_nodes(3).start().await;
    let mut log = cluster.publish_numbers(0, TOPIC, 0..10).await;

    // All nodes move: each gets the new address of only one other node.
    restart_at_offset(&mut cluster, &[0, 1, 2], 100, |i| vec![(i + 1) % 3]).await;
    log.extend(cluster.publish_numbers(1, TOPIC, 10..20).await);
    assert_log_on(&cluster, &[0, 1, 2], &log).await;

    // All nodes but one move; that one keeps running and is not reconfigured.
    restart_at_offset(&mut cluster, &[1, 2], 150, |_| vec![0]).await;
    log.extend(cluster.publish_numbers(2, TOPIC, 20..30).await);

    // One node moves without `--join`: its peers file contains the others.
    restart_at_offset(&mut cluster, &[0], 200, |_| Vec::new()).await;
    log.extend(cluster.publish_numbers(0, TOPIC, 30..40).await);
    assert_log_on(&cluster, &[0, 1, 2], &log).await;
    assert_eq!(cluster.status(0).await.expect("the node answers").members.len(), 3);
}

/// Kills `nodes` at once and restarts them `offset` addresses further, each with `--join` naming the nodes
/// returned by `join`.
async fn restart_at_offset(
    cluster: &mut ProcessCluster,
    nodes: &[usize],
    offset: usize,
    join: impl Fn(usize) -> Vec<usize>,
) {
    let is_moved = |i: usize| nodes.contains(&i);
    let ports = |cluster: &ProcessCluster, i: usize| match is_moved(i) {
        true => cluster.ports(i + offset),
        false => cluster.node(i).ports,
    };
    nodes.iter().for_each(|&i| cluster.kill(i));
    for &i in nodes {
        let join: Vec<SocketAddr> =
            join(i).iter().map(|&other| ports(cluster, other).peer).collect();
        let new_ports = ports(cluster, i);
        cluster.node_mut(i).set_addresses(new_ports, &join);
    }
    nodes.iter().for_each(|&i| cluster.restart(i));
    cluster.wait_settled(3).await;
    for i in 0..3 {
        let address = cluster.node(i).ports.peer.to_string();
        wait_until(&format!("the cluster knows node {i} at {address}"), secs(30), async || {
            let members = cluster.status((i + 1) % 3).await?.members;
            let found = members.iter().any(|member| member.peer_address == address);
            if found { Ok(()) } else { Err(format!("{members:?}")) }
        })
        .await;
        wait_ready(cluster, i).await;
    }
}

async fn wait_ready(cluster: &ProcessCluster, i: usize) {
    let http = cluster.node(i).ports.http;
    wait_until(&format!("node {i} is ready"), secs(60), async || {
        let answer = http_client::get(http, "/health/ready", &[]).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    })
    .await;
}

async fn assert_log_on(cluster: &ProcessCluster, nodes: &[usize], log: &[ReceivedMessage]) {
    for &i in nodes {
        let mut viewer = cluster.subscriber(i, Transport::Ws, TOPIC, StartFrom::Start);
        assert_eq!(viewer.next_messages(log.len(), secs(20)).await, *log, "on node {i}");
    }
}

/// Sends a join request that no correct node would send; returns the refusal.
async fn join(cluster: &ProcessCluster, number: usize, address: &str) -> pb::JoinRefusal {
    let server = format!("http://{}", cluster.node(0).ports.peer);
    let mut client = MembershipServiceClient::connect(server).await.expect("connect");
    let request = pb::JoinRequest {
        incarnation: (number as u128).to_be_bytes().to_vec().into(),
        name: format!("foreign-{number}"),
        addresses: Some(pb::Addresses { peer: address.to_owned(), ..pb::Addresses::default() }),
        roles: "core,edge".to_owned(),
        weight: 1,
        run: 1,
        ..pb::JoinRequest::default()
    };
    let answer = client.join(request).await.expect("a response").into_inner();
    answer.refusal.expect("a refusal")
}
