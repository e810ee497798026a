//! Three nodes and one group: replication, failure of the leader, restarts, snapshots, and changes of members
//! and leader.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{
    ConsensusEngine, ConsensusSettings, DestroyError, EngineOpenError, EntryId, GroupId,
    GroupStatus, MembershipError, PeerAddresses, ProposeError, StartError, StateMachine,
    StateSnapshot, SuccessorRejection,
};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{AgreedVersion, ClusterId, NodeId, Term};
use support::*;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_are_applied_in_same_order_on_all_replicas() {
    let (nodes, _) = start_cluster(3, &fast_settings()).await;
    for n in 1..=20 {
        let answer = nodes[0].group.propose(entry(n, 8)).await.unwrap();
        assert_eq!(number(&answer), (1..=n).sum::<u64>());
    }
    let last = nodes[0].group.status().borrow().applied_index;
    for node in &nodes {
        node.wait_applied(last.max(20)).await;
    }
    nodes[0].wait_status("last", |status| status.applied_index >= 20).await;
    let index = nodes[0]
        .wait_status("all", |status| status.applied_index == status.last_log_index)
        .await
        .applied_index;
    for node in &nodes {
        node.wait_applied(index).await;
        node.wait_seen(1..=20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn follower_rejects_proposal_with_leader_hint_or_forwards_it() {
    let (nodes, _) = start_cluster(3, &fast_settings()).await;
    let follower = &nodes[1];
    follower.wait_status("knows the leader", |status| status.leader == Some(NodeId(1))).await;
    assert_eq!(
        follower.group.propose(entry(1, 8)).await,
        Err(ProposeError::Rejected { leader: Some(NodeId(1)) })
    );
    assert_eq!(follower.group.leader_term(), None);
    let answer = follower.group.propose_at_leader(entry(5, 8)).await.unwrap();
    assert_eq!(number(&answer), 5);
    assert_eq!(
        follower.group.add_learner(NodeId(9)).await,
        Err(MembershipError::NotLeader { leader: Some(NodeId(1)) })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_leader_is_elected_and_restarted_leader_rejoins_as_follower() {
    let (mut nodes, addresses) = start_cluster(3, &fast_settings()).await;
    let term = nodes[0].group.leader_term().unwrap();
    for n in 1..=5 {
        nodes[0].group.propose(entry(n, 8)).await.unwrap();
    }
    let dir = nodes.remove(0).kill().await;

    let new = wait_leader(&nodes).await;
    assert!(new.group.leader_term().unwrap() > term);
    let answer = new.group.propose(entry(6, 8)).await.unwrap();
    assert_eq!(number(&answer), 21, "an acknowledged entry was lost");

    let back = RaftTestNode::start_in(dir, 1, &addresses, fast_settings()).await;
    let index = new
        .wait_status("applied", |status| status.applied_index == status.last_log_index)
        .await
        .applied_index;
    back.wait_applied(index).await;
    back.wait_seen(1..=6).await;
    assert_eq!(back.group.leader_term(), None);
    assert!(new.group.leader_term().is_some(), "the restarted node deposed the leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_entries_survive_restart_of_all_nodes() {
    let (mut nodes, addresses) = start_cluster(3, &fast_settings()).await;
    for n in 1..=5 {
        nodes[0].group.propose(entry(n, 8)).await.unwrap();
    }
    let mut dirs = Vec::new();
    for node in nodes.drain(..) {
        dirs.push((node.id.0, node.kill().await));
    }
    for (id, dir) in dirs {
        let node = RaftTestNode::start_in(dir, id, &addresses, fast_settings()).await;
        let status = node.group.status().borrow().clone();
        assert!(status.initialized, "the first status does not show the restored state");
        assert_eq!(status.voters, ids(&[1, 2, 3]));
        assert!(!status.is_leader);
        nodes.push(node);
    }
    let new = wait_leader(&nodes).await;
    assert_eq!(number(&new.group.propose(entry(6, 8)).await.unwrap()), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_without_quorum_loses_lease_and_acknowledges_nothing() {
    let (mut nodes, _) = start_cluster(3, &fast_settings()).await;
    nodes.pop().unwrap().kill().await;
    nodes.pop().unwrap().kill().await;
    nodes[0].wait_status("lost its lease", |status| !status.is_leader).await;
    assert_eq!(nodes[0].group.leader_term(), None);
    assert!(nodes[0].group.propose(entry(1, 8)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learner_and_restarted_node_restore_from_snapshot_after_purge() {
    let settings =
        ConsensusSettings { log_bytes_max: 200_000, log_bytes_kept: 10_000, ..fast_settings() };
    let (mut nodes, addresses) = start_cluster(1, &settings).await;
    for n in 1..=100 {
        nodes[0].group.propose(entry(n, 10_000)).await.unwrap();
    }
    // A new node needs a snapshot, because most of the log is purged.
    nodes.push(RaftTestNode::start(2, &addresses, settings.clone()).await);
    nodes[0].group.add_learner(NodeId(2)).await.unwrap();
    wait_caught_up(&nodes[0], 2).await;
    let all = nodes[0].group.status().borrow().applied_index;
    nodes[1].wait_applied(all).await;
    nodes[1].wait_seen(1..=100).await;

    let dir = nodes.remove(0).kill().await;
    let size: u64 = std::fs::metadata(dir.path().join("raft.redb")).unwrap().len();
    assert!(size < 8_000_000, "the log was not compacted: {size} bytes");
    let back = RaftTestNode::start_in(dir, 1, &addresses, settings).await;
    back.wait_status("leads again", |status| status.is_leader).await;
    let answer = back.group.propose(entry(7, 8)).await.unwrap();
    assert_eq!(number(&answer), 5057);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_are_replaced_and_removed_replica_is_destroyed() {
    let (mut nodes, addresses) = start_cluster(3, &fast_settings()).await;
    nodes.push(RaftTestNode::start(4, &addresses, fast_settings()).await);
    let first = &nodes[0].group;
    assert!(matches!(first.change_voters(ids(&[1, 2, 4])).await, Err(MembershipError::Invalid(_))));
    first.add_learner(NodeId(4)).await.unwrap();
    wait_caught_up(&nodes[0], 4).await;
    first.change_voters(ids(&[1, 2, 4])).await.unwrap();
    let status = nodes[0].wait_status("swapped", |status| status.voters == ids(&[1, 2, 4])).await;
    assert!(status.learners.is_empty() && !status.is_joint);
    assert_eq!(number(&first.propose(entry(3, 8)).await.unwrap()), 3);

    let removed = &nodes[2];
    let removed_at = status.membership_index;
    let running = removed.engine.destroy(GROUP, removed_at).await;
    assert!(matches!(running, Err(DestroyError::Running(_))));
    removed.group.stop().await;
    removed.engine.destroy(GROUP, removed_at).await.unwrap();
    let again = removed.engine.start(GROUP, SumMachine::default()).await.unwrap();
    assert!(!again.status().borrow().initialized);

    first.add_learner(NodeId(3)).await.unwrap();
    first.remove_learner(NodeId(3)).await.unwrap();
    nodes[0].wait_status("removed", |status| status.learners.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readded_replica_is_not_destroyed_by_older_removal() {
    let (nodes, _) = start_cluster(3, &fast_settings()).await;
    let first = &nodes[0].group;
    first.change_voters(ids(&[1, 2])).await.unwrap();
    let removed =
        nodes[0].wait_status("removed", |it| it.voters == ids(&[1, 2]) && !it.is_joint).await;
    first.propose(entry(7, 8)).await.unwrap();
    first.add_learner(NodeId(3)).await.unwrap();
    wait_caught_up(&nodes[0], 3).await;
    first.change_voters(ids(&[1, 2, 3])).await.unwrap();
    nodes[2].wait_status("a voter again", |status| status.voters.contains(&NodeId(3))).await;

    // Its node had decided to destroy it before it learned of that.
    let readded = &nodes[2];
    readded.group.stop().await;
    let refused = readded.engine.destroy(GROUP, removed.membership_index).await;
    assert!(matches!(refused, Err(DestroyError::StillMember { .. })), "{refused:?}");
    let sum = SumMachine::default();
    let again = readded.engine.start(GROUP, sum.clone()).await.unwrap();
    assert!(again.status().borrow().voters.contains(&NodeId(3)), "the replica lost its membership");
    again
        .status()
        .wait_for(|status| status.applied_index >= removed.membership_index)
        .await
        .unwrap();
}

/// Panics at the number 13.
struct PanickingMachine(SumMachine);

impl StateMachine for PanickingMachine {
    fn apply(&mut self, at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        assert_ne!(number(entry), 13, "a bug");
        self.0.apply(at, entry)
    }

    fn check_entry(_: &Bytes) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn check_snapshot(_: GroupId, _: &[u8]) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn snapshot(&self) -> StateSnapshot {
        let must_panic = self.0.0.lock().unwrap().contains(&17);
        assert!(!must_panic, "a bug");
        self.0.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        self.0.restore(snapshot)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_in_snapshot_fails_the_replica() {
    let settings = ConsensusSettings { log_bytes_max: 100_000, ..fast_settings() };
    let node = RaftTestNode::start(1, &PeerAddresses::default(), settings).await;
    let panicking_group =
        node.engine.start(GroupId(7), PanickingMachine(SumMachine::default())).await.unwrap();
    panicking_group.initialize().await.unwrap();
    let mut status = panicking_group.status();
    status.wait_for(|status| status.is_leader).await.unwrap();
    for _ in 0..20 {
        if panicking_group.propose(entry(17, 10_000)).await.is_err() {
            break;
        }
    }
    let failed = status.wait_for(|status| status.failure.is_some());
    let failed = tokio::time::timeout(Duration::from_secs(8), failed).await.unwrap().unwrap();
    let reason = failed.failure.clone().unwrap();
    assert!(reason.contains("panicked"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_in_state_machine_fails_only_its_replica() {
    let addresses = PeerAddresses::default();
    let node = RaftTestNode::start(1, &addresses, fast_settings()).await;
    node.group.initialize().await.unwrap();
    let machine = PanickingMachine(SumMachine::default());
    let panicking_group = node.engine.start(GroupId(7), machine).await.unwrap();
    panicking_group.initialize().await.unwrap();
    panicking_group.status().wait_for(|status| status.is_leader).await.unwrap();
    assert_eq!(number(&panicking_group.propose(entry(12, 8)).await.unwrap()), 12);
    assert!(panicking_group.propose(entry(13, 8)).await.is_err());
    let mut status = panicking_group.status();
    let failed = status.wait_for(|status| status.failure.is_some());
    let failed = tokio::time::timeout(Duration::from_secs(8), failed).await.unwrap().unwrap();
    let reason = failed.failure.clone().unwrap();
    assert!(reason.contains("panicked"), "{reason}");
    drop(failed);
    assert_eq!(panicking_group.leader_term(), None);
    node.wait_status("leads", |status| status.is_leader && status.failure.is_none()).await;
    assert_eq!(number(&node.group.propose(entry(1, 8)).await.unwrap()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_transferred_only_to_caught_up_voter() {
    let (mut nodes, _) = start_cluster(3, &with_long_elections(fast_settings())).await;
    wait_caught_up(&nodes[0], 2).await;
    let term = nodes[0].group.leader_term().unwrap();
    assert!(matches!(
        nodes[0].group.transfer_leadership(NodeId(9)).await,
        Err(MembershipError::Successor { reason: SuccessorRejection::NotAVoter, .. })
    ));
    assert_eq!(nodes[0].group.leader_term(), Some(term), "a rejected transfer cost the lease");

    nodes[0].group.transfer_leadership(NodeId(2)).await.unwrap();
    assert_eq!(nodes[0].group.leader_term(), None);
    nodes[1].wait_status("leads", |status| status.is_leader).await;
    assert!(nodes[1].group.leader_term().unwrap() > term);
    nodes[1].group.propose(entry(1, 8)).await.unwrap();

    // Rejected when the link is known to be down; otherwise it fails and an election follows.
    nodes.remove(0).kill().await;
    assert!(nodes[0].group.transfer_leadership(NodeId(1)).await.is_err());
    let leader = wait_leader(&nodes).await;
    assert_eq!(number(&leader.group.propose(entry(2, 8)).await.unwrap()), 3);
}

/// A partitioned replica does not know that another one has left, and counts on its vote. The removed replica
/// has no log any more, and with an empty log it would accept every candidate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recreated_replica_does_not_elect_candidate_without_acknowledged_entries() {
    let settings = fast_settings();
    let (mut nodes, addresses) = start_cluster(3, &settings).await;
    wait_caught_up(&nodes[0], 3).await;
    let cut_off = nodes.remove(2).kill().await;
    nodes.push(RaftTestNode::start(4, &addresses, settings.clone()).await);
    let first = &nodes[0].group;
    first.add_learner(NodeId(4)).await.unwrap();
    wait_caught_up(&nodes[0], 4).await;
    first.change_voters(ids(&[1, 3, 4])).await.unwrap();
    for n in 1..=5 {
        first.propose(entry(n, 8)).await.unwrap();
    }
    let moved = |status: &GroupStatus| status.voters == ids(&[1, 3, 4]) && !status.is_joint;
    let removed_at = nodes[0].wait_status("moved", moved).await.membership_index;
    nodes[1].group.stop().await;
    nodes[1].engine.destroy(GROUP, removed_at).await.unwrap();

    // The two nodes that have the five entries are down.
    let (fourth, back) = (nodes.remove(2), nodes.remove(1));
    let dirs = [(1, nodes.remove(0).kill().await), (4, fourth.kill().await)];
    let again = back.engine.start(GROUP, SumMachine::default()).await.unwrap();
    let third = RaftTestNode::start_in(cut_off, 3, &addresses, settings.clone()).await;
    let mut status = third.group.status();
    let elected = status.wait_for(|status| status.is_leader);
    let waited = tokio::time::timeout(Duration::from_secs(4), elected).await;
    assert!(waited.is_err(), "it was elected without the acknowledged entries");
    drop(again);

    for (id, dir) in dirs {
        nodes.push(RaftTestNode::start_in(dir, id, &addresses, settings.clone()).await);
    }
    assert_eq!(number(&wait_leader(&nodes).await.group.propose(entry(1, 8)).await.unwrap()), 16);
}

/// The first votes of a restarted voter dial its links, its replica may start after its link is up, and it
/// has written nothing since its start. No election timeout expires during the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_transferred_to_just_restarted_voter() {
    let minute = Duration::from_secs(60);
    let settings = ConsensusSettings {
        heartbeat: minute / 3,
        election_min: minute,
        election_max: 2 * minute,
        ..fast_settings()
    };
    let (mut nodes, addresses) = start_cluster(3, &settings).await;
    nodes[0].group.propose(entry(1, 8)).await.unwrap();
    nodes[1].wait_seen([1]).await;
    let term = nodes[0].group.leader_term().unwrap();
    let dir = nodes.remove(1).kill().await;
    nodes.push(RaftTestNode::start_in(dir, 2, &addresses, settings).await);
    let handed_over = async {
        loop {
            match nodes[0].group.transfer_leadership(NodeId(2)).await {
                // Not reached yet.
                Err(MembershipError::Successor { .. }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await
                }
                outcome => return outcome,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), handed_over).await, Ok(Ok(())));
    nodes[2].wait_status("leads", |status| status.is_leader).await;
    assert_eq!(
        nodes[2].group.leader_term(),
        Some(Term(term.0 + 1)),
        "the transfer took more than one election"
    );
}

#[tokio::test]
async fn directory_is_locked_and_bound_to_one_node_and_cluster() {
    let dir = TempDir::new().unwrap();
    let open = async |cluster: ClusterId, me: u64| open_alone(dir.path(), cluster, me).await;
    assert!(matches!(open(CLUSTER, 1).await, Err(EngineOpenError::Missing { .. })));
    ConsensusEngine::create(dir.path(), CLUSTER, NodeId(1)).await.unwrap();
    let engine = open(CLUSTER, 1).await.unwrap();
    assert!(matches!(open(CLUSTER, 1).await, Err(EngineOpenError::AlreadyOpen { .. })));
    let group = engine.start(GROUP, SumMachine::default()).await.unwrap();
    let twice = engine.start(GROUP, SumMachine::default()).await;
    assert!(matches!(twice, Err(StartError::AlreadyRunning(GROUP))));
    engine.stop().await;
    assert!(group.propose(Bytes::new()).await.is_err());

    assert!(matches!(open(ClusterId(1), 1).await, Err(EngineOpenError::Foreign { .. })));
    assert!(matches!(open(CLUSTER, 2).await, Err(EngineOpenError::Foreign { .. })));
    open(CLUSTER, 1).await.unwrap().stop().await;
}

#[tokio::test]
async fn incomplete_store_is_recreated_and_complete_one_kept() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("raft.redb.new"), [0; 4096]).unwrap();
    let create = async |me| ConsensusEngine::create(dir.path(), CLUSTER, NodeId(me)).await;
    create(1).await.unwrap();
    let made = std::fs::read(dir.path().join("raft.redb")).unwrap();
    assert!(!dir.path().join("raft.redb.new").exists());
    create(1).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("raft.redb")).unwrap().len(), made.len());
    assert!(matches!(create(2).await, Err(EngineOpenError::Foreign { .. })));
}

#[tokio::test]
async fn non_store_file_is_reported_as_damaged_and_left_unchanged() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("raft.redb");
    std::fs::write(&path, b"this is a letter, not a database").unwrap();
    let opened = open_alone(dir.path(), CLUSTER, 1).await;
    assert!(matches!(opened, Err(EngineOpenError::Damaged { .. })), "{:?}", opened.err());
    assert_eq!(std::fs::read(&path).unwrap(), b"this is a letter, not a database");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_of_another_cluster_is_rejected() {
    let addresses = PeerAddresses::default();
    let node = RaftTestNode::start(1, &addresses, fast_settings()).await;
    node.group.initialize().await.unwrap();
    node.wait_status("leads", |status| status.is_leader).await;

    let link = pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient::connect(
        format!("http://{}", addresses.get(NodeId(1)).unwrap()),
    );
    let mut client = link.await.unwrap();
    let mut request = tonic::Request::new(futures::stream::pending());
    request.metadata_mut().insert("pushonce-cluster", ClusterId(9).to_string().parse().unwrap());
    request.metadata_mut().insert("pushonce-to", "n1".parse().unwrap());
    let refused = client.exchange(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_peer_is_rejected_and_its_stream_closed() {
    let addresses = PeerAddresses::default();
    let node = RaftTestNode::start(1, &addresses, fast_settings()).await;
    let address = addresses.get(NodeId(1)).unwrap();
    let url = format!("http://{address}");
    let link = pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient::connect(url);
    let mut client = link.await.unwrap();
    let request = || {
        let mut request = tonic::Request::new(futures::stream::pending());
        let metadata = request.metadata_mut();
        metadata.insert("pushonce-cluster", CLUSTER.to_string().parse().unwrap());
        metadata.insert("pushonce-to", "n1".parse().unwrap());
        metadata.insert("pushonce-from", "n2".parse().unwrap());
        let offer = AgreedVersion::default().offer().to_string();
        metadata.insert("pushonce-versions", offer.parse().unwrap());
        metadata.insert("pushonce-log", "7:0:0".parse().unwrap());
        request
    };
    let mut answers = client.exchange(request()).await.unwrap().into_inner();

    addresses.replace(BTreeMap::from([(NodeId(1), address)]), NodeId(3), BTreeSet::new());

    assert!(answers.message().await.unwrap().is_none(), "the stream has not ended");
    let refused = client.exchange(request()).await.unwrap_err();
    assert!(refused.message().contains("was removed from the cluster"), "{refused}");
    node.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_share_the_store_and_the_links() {
    let (nodes, _) = start_cluster(3, &fast_settings()).await;
    let mut groups = Vec::new();
    for id in 2..10 {
        let mut replicas = Vec::new();
        for node in &nodes {
            replicas.push(node.engine.start(GroupId(id), SumMachine::default()).await.unwrap());
        }
        replicas[0].initialize().await.unwrap();
        groups.push(replicas);
    }
    let work = groups.into_iter().map(async |replicas| {
        let first = &replicas[0];
        first.status().wait_for(|status| status.is_leader).await.unwrap();
        for id in [2, 3] {
            first.add_learner(NodeId(id)).await.unwrap();
        }
        first.change_voters(ids(&[1, 2, 3])).await.unwrap();
        for n in 1..=10 {
            first.propose(entry(n, 100)).await.unwrap();
        }
        number(&first.propose(entry(0, 8)).await.unwrap())
    });
    let sums = futures::future::join_all(work).await;
    assert!(sums.into_iter().all(|sum| sum == 55));
    let _kept: Vec<Arc<TempDir>> = nodes.iter().map(|node| Arc::clone(&node.dir)).collect();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_node_keeps_lease_while_idle() {
    let (nodes, _) = start_cluster(1, &fast_settings()).await;
    let mut status = nodes[0].group.status();
    let lost = status.wait_for(|status| !status.is_leader);
    assert!(tokio::time::timeout(2 * fast_settings().election_max, lost).await.is_err());
    assert!(nodes[0].group.leader_term().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_keeps_lease_while_idle() {
    let (nodes, _) = start_cluster(3, &fast_settings()).await;
    let mut status = nodes[0].group.status();
    let lost = status.wait_for(|status| !status.is_leader);
    assert!(tokio::time::timeout(2 * fast_settings().election_max, lost).await.is_err());
}
