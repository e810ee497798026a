//! Three nodes, one group: replication, the death of a leader, restarts, snapshots, and changes of
//! members and leader.

#![allow(clippy::unwrap_used, reason = "a test says no more than that it failed")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{
    AddressBook, At, Capture, ChangeError, DestroyError, Engine, GroupId, Machine, OpenError,
    ProposeError, Settings, StartError, Status,
};
use pushonce_core::versioned::Unreadable;
use pushonce_core::{AgreedVersion, ClusterId, NodeId, Term};
use support::*;
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_is_applied_everywhere_in_the_same_order() {
    let (nodes, _) = cluster(3, &quick()).await;
    for n in 1..=20 {
        let answer = nodes[0].group.propose(entry(n, 8)).await.unwrap();
        assert_eq!(number(&answer), (1..=n).sum::<u64>());
    }
    let last = nodes[0].group.status().borrow().applied;
    for node in &nodes {
        node.applied(last.max(20)).await;
    }
    nodes[0].until("last", |status| status.applied >= 20).await;
    let index = nodes[0].until("all", |status| status.applied == status.last_log).await.applied;
    for node in &nodes {
        node.applied(index).await;
        node.sees(1..=20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_and_names_the_leader_and_forwards_when_asked_to() {
    let (nodes, _) = cluster(3, &quick()).await;
    let follower = &nodes[1];
    follower.until("knows the leader", |status| status.leader == Some(NodeId(1))).await;
    assert_eq!(
        follower.group.propose(entry(1, 8)).await,
        Err(ProposeError::Refused { leader: Some(NodeId(1)) })
    );
    assert_eq!(follower.group.leads(), None);
    let answer = follower.group.propose_at_leader(entry(5, 8)).await.unwrap();
    assert_eq!(number(&answer), 5);
    assert_eq!(
        follower.group.add_learner(NodeId(9)).await,
        Err(ChangeError::NotLeader { leader: Some(NodeId(1)) })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_another_takes_over_and_it_comes_back_as_a_follower() {
    let (mut nodes, book) = cluster(3, &quick()).await;
    let term = nodes[0].group.leads().unwrap();
    for n in 1..=5 {
        nodes[0].group.propose(entry(n, 8)).await.unwrap();
    }
    let dir = nodes.remove(0).kill().await;

    let new = leader(&nodes).await;
    assert!(new.group.leads().unwrap() > term);
    let answer = new.group.propose(entry(6, 8)).await.unwrap();
    assert_eq!(number(&answer), 21, "an acknowledged entry was lost");

    let back = Node::start_in(dir, 1, &book, quick()).await;
    let index = new.until("applied", |status| status.applied == status.last_log).await.applied;
    back.applied(index).await;
    back.sees(1..=6).await;
    assert_eq!(back.group.leads(), None);
    assert!(new.group.leads().is_some(), "the one that came back deposed the leader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_die_at_once_all_that_was_acknowledged_is_there_after_the_restart() {
    let (mut nodes, book) = cluster(3, &quick()).await;
    for n in 1..=5 {
        nodes[0].group.propose(entry(n, 8)).await.unwrap();
    }
    let mut dirs = Vec::new();
    for node in nodes.drain(..) {
        dirs.push((node.id.0, node.kill().await));
    }
    for (id, dir) in dirs {
        let node = Node::start_in(dir, id, &book, quick()).await;
        let status = node.group.status().borrow().clone();
        assert!(status.initialized, "the status does not begin with what was restored");
        assert_eq!(status.voters, ids(&[1, 2, 3]));
        assert!(!status.leads);
        nodes.push(node);
    }
    let new = leader(&nodes).await;
    assert_eq!(number(&new.group.propose(entry(6, 8)).await.unwrap()), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_loses_its_lease_and_its_proposals_are_never_acknowledged() {
    let (mut nodes, _) = cluster(3, &quick()).await;
    nodes.pop().unwrap().kill().await;
    nodes.pop().unwrap().kill().await;
    nodes[0].until("lost its lease", |status| !status.leads).await;
    assert_eq!(nodes[0].group.leads(), None);
    assert!(nodes[0].group.propose(entry(1, 8)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_learner_gets_a_snapshot_when_the_log_is_gone_and_so_does_a_restart() {
    let settings = Settings { log_bytes_max: 200_000, log_bytes_kept: 10_000, ..quick() };
    let (mut nodes, book) = cluster(1, &settings).await;
    for n in 1..=100 {
        nodes[0].group.propose(entry(n, 10_000)).await.unwrap();
    }
    // A fresh node takes part, and can only do so by a snapshot: most of the log is purged.
    nodes.push(Node::start(2, &book, settings.clone()).await);
    nodes[0].group.add_learner(NodeId(2)).await.unwrap();
    level(&nodes[0], 2).await;
    let all = nodes[0].group.status().borrow().applied;
    nodes[1].applied(all).await;
    nodes[1].sees(1..=100).await;

    let dir = nodes.remove(0).kill().await;
    let size: u64 = std::fs::metadata(dir.path().join("raft.redb")).unwrap().len();
    assert!(size < 8_000_000, "the log was not compacted: {size} bytes");
    let back = Node::start_in(dir, 1, &book, settings).await;
    back.until("leads again", |status| status.leads).await;
    let answer = back.group.propose(entry(7, 8)).await.unwrap();
    assert_eq!(number(&answer), 5057);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_change_one_step_at_a_time_and_a_removed_replica_can_be_destroyed() {
    let (mut nodes, book) = cluster(3, &quick()).await;
    nodes.push(Node::start(4, &book, quick()).await);
    let first = &nodes[0].group;
    assert!(matches!(first.change_voters(ids(&[1, 2, 4])).await, Err(ChangeError::Invalid(_))));
    first.add_learner(NodeId(4)).await.unwrap();
    level(&nodes[0], 4).await;
    first.change_voters(ids(&[1, 2, 4])).await.unwrap();
    let status = nodes[0].until("swapped", |status| status.voters == ids(&[1, 2, 4])).await;
    assert!(status.learners.is_empty() && !status.joint);
    assert_eq!(number(&first.propose(entry(3, 8)).await.unwrap()), 3);

    let removed = &nodes[2];
    let removed_at = status.membership;
    let running = removed.engine.destroy(GROUP, removed_at).await;
    assert!(matches!(running, Err(DestroyError::Running(_))));
    removed.group.stop().await;
    removed.engine.destroy(GROUP, removed_at).await.unwrap();
    let again = removed.engine.start(GROUP, Sum::default()).await.unwrap();
    assert!(!again.status().borrow().initialized);

    first.add_learner(NodeId(3)).await.unwrap();
    first.remove_learner(NodeId(3)).await.unwrap();
    nodes[0].until("removed", |status| status.learners.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_was_taken_back_is_not_destroyed_by_an_older_removal() {
    let (nodes, _) = cluster(3, &quick()).await;
    let first = &nodes[0].group;
    first.change_voters(ids(&[1, 2])).await.unwrap();
    let removed = nodes[0].until("removed", |it| it.voters == ids(&[1, 2]) && !it.joint).await;
    first.propose(entry(7, 8)).await.unwrap();
    first.add_learner(NodeId(3)).await.unwrap();
    level(&nodes[0], 3).await;
    first.change_voters(ids(&[1, 2, 3])).await.unwrap();
    nodes[2].until("a voter again", |status| status.voters.contains(&NodeId(3))).await;

    // Its node had decided to drop it before it heard of that.
    let taken_back = &nodes[2];
    taken_back.group.stop().await;
    let refused = taken_back.engine.destroy(GROUP, removed.membership).await;
    assert!(matches!(refused, Err(DestroyError::Member { .. })), "{refused:?}");
    let sum = Sum::default();
    let again = taken_back.engine.start(GROUP, sum.clone()).await.unwrap();
    assert!(again.status().borrow().voters.contains(&NodeId(3)), "what it knew is gone");
    again.status().wait_for(|status| status.applied >= removed.membership).await.unwrap();
}

/// Panics at the number 13.
struct Superstitious(Sum);

impl Machine for Superstitious {
    fn apply(&mut self, at: At, entry: &Bytes) -> Result<Bytes, Unreadable> {
        assert_ne!(number(entry), 13, "a bug");
        self.0.apply(at, entry)
    }

    fn check(_: &Bytes) -> Result<(), Unreadable> {
        Ok(())
    }

    fn snapshot(&self) -> Capture {
        let is_unlucky = self.0.0.lock().unwrap().contains(&17);
        assert!(!is_unlucky, "a bug");
        self.0.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unreadable> {
        self.0.restore(snapshot)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_in_a_snapshot_is_the_failure_of_its_replica() {
    let settings = Settings { log_bytes_max: 100_000, ..quick() };
    let node = Node::start(1, &AddressBook::default(), settings).await;
    let unlucky = node.engine.start(GroupId(7), Superstitious(Sum::default())).await.unwrap();
    unlucky.initialize().await.unwrap();
    let mut status = unlucky.status();
    status.wait_for(|status| status.leads).await.unwrap();
    for _ in 0..20 {
        if unlucky.propose(entry(17, 10_000)).await.is_err() {
            break;
        }
    }
    let failed = status.wait_for(|status| status.failed.is_some());
    let failed = tokio::time::timeout(Duration::from_secs(8), failed).await.unwrap().unwrap();
    let why = failed.failed.clone().unwrap();
    assert!(why.contains("panicked"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_of_a_machine_is_the_failure_of_its_replica_and_of_no_other() {
    let book = AddressBook::default();
    let node = Node::start(1, &book, quick()).await;
    node.group.initialize().await.unwrap();
    let machine = Superstitious(Sum::default());
    let unlucky = node.engine.start(GroupId(7), machine).await.unwrap();
    unlucky.initialize().await.unwrap();
    unlucky.status().wait_for(|status| status.leads).await.unwrap();
    assert_eq!(number(&unlucky.propose(entry(12, 8)).await.unwrap()), 12);
    assert!(unlucky.propose(entry(13, 8)).await.is_err());
    let mut status = unlucky.status();
    let failed = status.wait_for(|status| status.failed.is_some());
    let failed = tokio::time::timeout(Duration::from_secs(8), failed).await.unwrap().unwrap();
    let why = failed.failed.clone().unwrap();
    assert!(why.contains("panicked"), "{why}");
    drop(failed);
    assert_eq!(unlucky.leads(), None);
    node.until("leads", |status| status.leads && status.failed.is_none()).await;
    assert_eq!(number(&node.group.propose(entry(1, 8)).await.unwrap()), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_to_a_level_voter_and_to_nobody_else() {
    let (mut nodes, _) = cluster(3, &patient(quick())).await;
    level(&nodes[0], 2).await;
    let term = nodes[0].group.leads().unwrap();
    assert!(matches!(nodes[0].group.transfer(NodeId(9)).await, Err(ChangeError::Invalid(_))));
    assert_eq!(nodes[0].group.leads(), Some(term), "a refused hand-over cost the lease");

    nodes[0].group.transfer(NodeId(2)).await.unwrap();
    assert_eq!(nodes[0].group.leads(), None);
    nodes[1].until("leads", |status| status.leads).await;
    assert!(nodes[1].group.leads().unwrap() > term);
    nodes[1].group.propose(entry(1, 8)).await.unwrap();

    // Refused when the link is known to be down; else it fails, and the group heals by election.
    nodes.remove(0).kill().await;
    assert!(nodes[0].group.transfer(NodeId(1)).await.is_err());
    let leader = leader(&nodes).await;
    assert_eq!(number(&leader.group.propose(entry(2, 8)).await.unwrap()), 3);
}

/// A replica that was cut off does not know that another has left, and counts on its vote. That one has no
/// log any more, and by an empty log every candidate is good enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_left_and_comes_back_elects_nobody_who_lacks_what_it_acknowledged() {
    let settings = quick();
    let (mut nodes, book) = cluster(3, &settings).await;
    level(&nodes[0], 3).await;
    let cut_off = nodes.remove(2).kill().await;
    nodes.push(Node::start(4, &book, settings.clone()).await);
    let first = &nodes[0].group;
    first.add_learner(NodeId(4)).await.unwrap();
    level(&nodes[0], 4).await;
    first.change_voters(ids(&[1, 3, 4])).await.unwrap();
    for n in 1..=5 {
        first.propose(entry(n, 8)).await.unwrap();
    }
    let moved = |status: &Status| status.voters == ids(&[1, 3, 4]) && !status.joint;
    let removed_at = nodes[0].until("moved", moved).await.membership;
    nodes[1].group.stop().await;
    nodes[1].engine.destroy(GROUP, removed_at).await.unwrap();

    // The two that know of the five are away.
    let (fourth, back) = (nodes.remove(2), nodes.remove(1));
    let dirs = [(1, nodes.remove(0).kill().await), (4, fourth.kill().await)];
    let again = back.engine.start(GROUP, Sum::default()).await.unwrap();
    let third = Node::start_in(cut_off, 3, &book, settings.clone()).await;
    let mut status = third.group.status();
    let elected = status.wait_for(|status| status.leads);
    let waited = tokio::time::timeout(Duration::from_secs(4), elected).await;
    assert!(waited.is_err(), "it was elected without what was acknowledged");
    drop(again);

    for (id, dir) in dirs {
        nodes.push(Node::start_in(dir, id, &book, settings.clone()).await);
    }
    assert_eq!(number(&leader(&nodes).await.group.propose(entry(1, 8)).await.unwrap()), 16);
}

/// The first votes of a restarted voter dial its links, its replica may start after its link is up, and it has
/// written nothing since its start. No election timeout expires during the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_to_a_voter_that_has_just_started() {
    let minute = Duration::from_secs(60);
    let settings = Settings {
        heartbeat: minute / 3,
        election_min: minute,
        election_max: 2 * minute,
        ..quick()
    };
    let (mut nodes, book) = cluster(3, &settings).await;
    nodes[0].group.propose(entry(1, 8)).await.unwrap();
    nodes[1].sees([1]).await;
    let term = nodes[0].group.leads().unwrap();
    let dir = nodes.remove(1).kill().await;
    nodes.push(Node::start_in(dir, 2, &book, settings).await);
    let handed_over = async {
        loop {
            match nodes[0].group.transfer(NodeId(2)).await {
                // Not reached yet.
                Err(ChangeError::Invalid(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                outcome => return outcome,
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), handed_over).await, Ok(Ok(())));
    nodes[2].until("leads", |status| status.leads).await;
    assert_eq!(nodes[2].group.leads(), Some(Term(term.0 + 1)), "it took more than one election");
}

#[tokio::test]
async fn a_directory_is_open_once_and_belongs_to_one_node_of_one_cluster() {
    let dir = TempDir::new().unwrap();
    let open = async |cluster: ClusterId, me: u64| {
        let book = AddressBook::default();
        Engine::open(dir.path(), cluster, NodeId(me), Settings::lan(), book).await
    };
    assert!(matches!(open(CLUSTER, 1).await, Err(OpenError::Missing { .. })));
    Engine::create(dir.path(), CLUSTER, NodeId(1)).await.unwrap();
    let engine = open(CLUSTER, 1).await.unwrap();
    assert!(matches!(open(CLUSTER, 1).await, Err(OpenError::AlreadyOpen { .. })));
    let group = engine.start(GROUP, Sum::default()).await.unwrap();
    let twice = engine.start(GROUP, Sum::default()).await;
    assert!(matches!(twice, Err(StartError::AlreadyRunning(GROUP))));
    engine.stop().await;
    assert!(group.propose(Bytes::new()).await.is_err());

    assert!(matches!(open(ClusterId(1), 1).await, Err(OpenError::Foreign { .. })));
    assert!(matches!(open(CLUSTER, 2).await, Err(OpenError::Foreign { .. })));
    open(CLUSTER, 1).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_store_that_was_half_made_is_made_again_and_a_whole_one_is_kept() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("raft.redb.new"), [0; 4096]).unwrap();
    let create = async |me| Engine::create(dir.path(), CLUSTER, NodeId(me)).await;
    create(1).await.unwrap();
    let made = std::fs::read(dir.path().join("raft.redb")).unwrap();
    assert!(!dir.path().join("raft.redb.new").exists());
    create(1).await.unwrap();
    assert_eq!(std::fs::read(dir.path().join("raft.redb")).unwrap().len(), made.len());
    assert!(matches!(create(2).await, Err(OpenError::Foreign { .. })));
}

#[tokio::test]
async fn a_file_that_is_no_store_is_reported_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("raft.redb");
    std::fs::write(&path, b"this is a letter, not a database").unwrap();
    let book = AddressBook::default();
    let opened = Engine::open(dir.path(), CLUSTER, NodeId(1), Settings::lan(), book).await;
    assert!(matches!(opened, Err(OpenError::Damaged { .. })), "{:?}", opened.err());
    assert_eq!(std::fs::read(&path).unwrap(), b"this is a letter, not a database");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_cluster_is_not_listened_to() {
    let book = AddressBook::default();
    let node = Node::start(1, &book, quick()).await;
    node.group.initialize().await.unwrap();
    node.until("leads", |status| status.leads).await;

    let dir = TempDir::new().unwrap();
    Engine::create(dir.path(), ClusterId(9), NodeId(2)).await.unwrap();
    let foreign =
        Engine::open(dir.path(), ClusterId(9), NodeId(2), quick(), book.clone()).await.unwrap();
    let link = pushonce_proto::pb::peer::v1::raft_client::RaftClient::connect(format!(
        "http://{}",
        book.get(NodeId(1)).unwrap()
    ));
    let mut client = link.await.unwrap();
    let mut request = tonic::Request::new(futures::stream::pending());
    request.metadata_mut().insert("pushonce-cluster", ClusterId(9).to_string().parse().unwrap());
    request.metadata_mut().insert("pushonce-to", "n1".parse().unwrap());
    let refused = client.exchange(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    foreign.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_is_not_listened_to_and_its_stream_ends() {
    let book = AddressBook::default();
    let node = Node::start(1, &book, quick()).await;
    let address = book.get(NodeId(1)).unwrap();
    let url = format!("http://{address}");
    let link = pushonce_proto::pb::peer::v1::raft_client::RaftClient::connect(url);
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

    book.replace(BTreeMap::from([(NodeId(1), address)]), NodeId(3));

    assert!(answers.message().await.unwrap().is_none(), "it ends");
    let refused = client.exchange(request()).await.unwrap_err();
    assert!(refused.message().contains("not in the cluster any more"), "{refused}");
    node.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_share_the_store_and_the_links() {
    let (nodes, _) = cluster(3, &quick()).await;
    let mut groups = Vec::new();
    for id in 2..10 {
        let mut replicas = Vec::new();
        for node in &nodes {
            replicas.push(node.engine.start(GroupId(id), Sum::default()).await.unwrap());
        }
        replicas[0].initialize().await.unwrap();
        groups.push(replicas);
    }
    let work = groups.into_iter().map(async |replicas| {
        let first = &replicas[0];
        first.status().wait_for(|status| status.leads).await.unwrap();
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
async fn a_node_alone_keeps_its_lease_while_nothing_happens() {
    let (nodes, _) = cluster(1, &quick()).await;
    let mut status = nodes[0].group.status();
    let lost = status.wait_for(|status| !status.leads);
    assert!(tokio::time::timeout(2 * quick().election_max, lost).await.is_err());
    assert!(nodes[0].group.leads().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_keeps_its_lease_while_nothing_happens() {
    let (nodes, _) = cluster(3, &quick()).await;
    let mut status = nodes[0].group.status();
    let lost = status.wait_for(|status| !status.leads);
    assert!(tokio::time::timeout(2 * quick().election_max, lost).await.is_err());
}
