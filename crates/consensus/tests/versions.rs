//! An entry that a build cannot read halts the replica that meets it, and nothing else.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[allow(dead_code, reason = "not every test uses all of it")]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{
    ConsensusEngine, EngineOpenError, EntryId, GroupId, GroupStatus, PeerAddresses, ProposeError,
    StartError, StateMachine, StateSnapshot,
};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{ClusterVersion, NodeId, VersionRange};
use support::{CLUSTER, GROUP, RaftTestNode, SumMachine, entry, fast_settings, open_alone};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

/// Records the applied bytes. Reads entries whose first byte is at most `MAX`.
#[derive(Clone, Default)]
struct VersionedMachine<const MAX: u8>(Arc<Mutex<Vec<u8>>>);

type OldMachine = VersionedMachine<1>;
type NewMachine = VersionedMachine<2>;

impl<const MAX: u8> StateMachine for VersionedMachine<MAX> {
    fn apply(&mut self, _at: EntryId, entry: &Bytes) -> Result<Bytes, VersionedDecodeError> {
        Self::check_entry(entry)?;
        self.0.lock().unwrap().extend(entry.iter());
        Ok(Bytes::new())
    }

    fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError> {
        let version = entry.first().copied().ok_or(VersionedDecodeError::MissingVersion(0))?;
        let supported = VersionRange { min: ClusterVersion(1), max: ClusterVersion(MAX.into()) };
        supported.ensure_contains(ClusterVersion(version.into()))?;
        Ok(())
    }

    fn check_snapshot(_: GroupId, _: &[u8]) -> Result<(), VersionedDecodeError> {
        Ok(())
    }

    fn snapshot(&self) -> StateSnapshot {
        Bytes::from(self.0.lock().unwrap().clone()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), VersionedDecodeError> {
        *self.0.lock().unwrap() = snapshot.to_vec();
        Ok(())
    }
}

const VERSIONED_GROUP: GroupId = GroupId(7);

async fn wait_status(
    mut status: watch::Receiver<GroupStatus>,
    reached: impl FnMut(&GroupStatus) -> bool,
) -> GroupStatus {
    let wanted = timeout(Duration::from_secs(20), status.wait_for(reached)).await;
    wanted.expect("in time").expect("the group runs").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_entry_halts_replica_until_newer_build_runs() {
    let addresses = PeerAddresses::default();
    let node = RaftTestNode::start(1, &addresses, fast_settings()).await;
    node.group.initialize().await.unwrap();
    let seen = OldMachine::default();
    let group = node.engine.start(VERSIONED_GROUP, seen.clone()).await.unwrap();
    group.initialize().await.unwrap();
    wait_status(group.status(), |status| status.is_leader).await;
    group.propose(Bytes::from_static(b"\x01")).await.unwrap();

    let refused = group.propose(Bytes::from_static(b"\x02")).await;
    assert!(matches!(refused, Err(ProposeError::Unknown(_))), "{refused:?}");
    let status = wait_status(group.status(), |status| status.halt_reason.is_some()).await;
    let reason = status.halt_reason.clone().unwrap();
    assert!(
        reason.contains("version 2 is not supported") && reason.contains("run a build"),
        "{reason}"
    );
    assert!(
        status.applied_index < status.last_log_index,
        "the entry counts as applied: {status:?}"
    );
    assert!(!status.is_leader && status.failure.is_some());
    assert_eq!(*seen.0.lock().unwrap(), [1]);
    node.wait_status("the other group leads", |status| status.is_leader).await;
    node.group.propose(entry(3, 8)).await.unwrap();

    let dir = node.kill().await;
    let node = RaftTestNode::start_in(dir, 1, &addresses, fast_settings()).await;
    let started = node.engine.start(VERSIONED_GROUP, OldMachine::default()).await;
    // Depending on whether the commit index was on disk, the start or the first apply meets the entry.
    match started {
        Err(StartError::Unreadable { reason, .. }) => {
            assert!(reason.contains("version 2"), "{reason}")
        }
        Err(error) => panic!("{error}"),
        Ok(group) => {
            wait_status(group.status(), |status| status.halt_reason.is_some()).await;
            group.stop().await;
        }
    }
    let seen = NewMachine::default();
    let group = node.engine.start(VERSIONED_GROUP, seen.clone()).await.unwrap();
    wait_status(group.status(), |status| {
        status.is_leader && status.applied_index == status.last_log_index
    })
    .await;
    assert_eq!(*seen.0.lock().unwrap(), [1, 2]);
    node.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_entry_unreadable_by_leader_is_not_proposed() {
    let addresses = PeerAddresses::default();
    let leader = RaftTestNode::start(1, &addresses, fast_settings()).await;
    let follower = RaftTestNode::start(2, &addresses, fast_settings()).await;
    let here = leader.engine.start(VERSIONED_GROUP, OldMachine::default()).await.unwrap();
    let there = follower.engine.start(VERSIONED_GROUP, NewMachine::default()).await.unwrap();
    here.initialize().await.unwrap();
    wait_status(here.status(), |status| status.is_leader).await;
    here.add_learner(NodeId(2)).await.unwrap();
    wait_status(there.status(), |status| status.leader == Some(NodeId(1))).await;
    there.propose_at_leader(Bytes::from_static(b"\x01")).await.unwrap();
    let refused = there.propose_at_leader(Bytes::from_static(b"\x02")).await;
    assert!(matches!(refused, Err(ProposeError::Rejected { .. })), "{refused:?}");
    there.propose_at_leader(Bytes::from_static(b"\x01")).await.unwrap();
    assert_eq!(here.status().borrow().halt_reason, None);
    leader.engine.stop().await;
    follower.engine.stop().await;
}

#[tokio::test]
async fn directory_keeps_cluster_version_and_is_rejected_by_older_build() {
    let dir = TempDir::new().unwrap();
    let open = async || open_alone(dir.path(), CLUSTER, 1).await;
    ConsensusEngine::create(dir.path(), CLUSTER, NodeId(1)).await.unwrap();
    let engine = open().await.unwrap();
    assert_eq!(engine.agreed_version().get(), VersionRange::supported().min);
    engine.start(GROUP, SumMachine::default()).await.unwrap();
    engine.raise_version(VersionRange::supported().max).await.unwrap();
    engine.stop().await;

    let engine = open().await.unwrap();
    assert_eq!(engine.agreed_version().get(), VersionRange::supported().max);
    engine.start(GROUP, SumMachine::default()).await.unwrap();
    let newer = VersionRange::supported().max.next();
    engine.raise_version(newer).await.unwrap();
    engine.stop().await;

    match open().await {
        Err(EngineOpenError::UnsupportedVersion { reason, .. }) => {
            assert_eq!((reason.found, reason.supported), (newer, VersionRange::supported()));
        }
        opened => panic!("{:?}", opened.err()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_without_compatible_version_is_rejected_with_reason() {
    let addresses = PeerAddresses::default();
    let node = RaftTestNode::start(1, &addresses, fast_settings()).await;
    let url = format!("http://{}", addresses.get(NodeId(1)).unwrap());
    let refused = async |versions: Option<&'static str>| {
        let link = pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient::connect(
            url.clone(),
        );
        let mut request = tonic::Request::new(futures::stream::pending());
        let metadata = request.metadata_mut();
        metadata.insert("pushonce-cluster", CLUSTER.to_string().parse().unwrap());
        metadata.insert("pushonce-to", "n1".parse().unwrap());
        metadata.insert("pushonce-from", "n2".parse().unwrap());
        metadata.insert("pushonce-log", "7:0:0".parse().unwrap());
        if let Some(versions) = versions {
            metadata.insert("pushonce-versions", versions.parse().unwrap());
        }
        let refused = link.await.unwrap().exchange(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        refused.message().to_owned()
    };
    let message = refused(None).await;
    assert!(message.contains("older than cluster versions"), "{message}");
    let message = refused(Some("8 9 9")).await;
    assert!(
        message.contains("the cluster has version 9") && message.contains("run a build"),
        "{message}"
    );
    node.engine.stop().await;
}
