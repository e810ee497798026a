//! What a build cannot read halts the replica that meets it, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test says no more than that it failed")]

#[allow(dead_code, reason = "not every story needs all of it")]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use pushonce_consensus::{
    AddressBook, At, Capture, Engine, GroupId, Machine, OpenError, ProposeError, Settings,
    StartError, Status,
};
use pushonce_core::versioned::Unreadable;
use pushonce_core::{ClusterVersion, NodeId, VersionRange};
use support::{CLUSTER, GROUP, Node, Sum, entry, quick};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;

/// Remembers the bytes it has applied. This build reads entries that begin with a byte up to `MAX`.
#[derive(Clone, Default)]
struct Reader<const MAX: u8>(Arc<Mutex<Vec<u8>>>);

type Old = Reader<1>;
type New = Reader<2>;

impl<const MAX: u8> Machine for Reader<MAX> {
    fn apply(&mut self, _at: At, entry: &Bytes) -> Result<Bytes, Unreadable> {
        Self::check(entry)?;
        self.0.lock().unwrap().extend(entry.iter());
        Ok(Bytes::new())
    }

    fn check(entry: &Bytes) -> Result<(), Unreadable> {
        let version = entry.first().copied().ok_or(Unreadable::Unversioned(0))?;
        let supported = VersionRange { min: ClusterVersion(1), max: ClusterVersion(MAX.into()) };
        supported.accept(ClusterVersion(version.into()))?;
        Ok(())
    }

    fn snapshot(&self) -> Capture {
        Bytes::from(self.0.lock().unwrap().clone()).into()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Unreadable> {
        *self.0.lock().unwrap() = snapshot.to_vec();
        Ok(())
    }
}

const PICKY: GroupId = GroupId(7);

async fn until(
    mut status: watch::Receiver<Status>,
    reached: impl FnMut(&Status) -> bool,
) -> Status {
    let wanted = timeout(Duration::from_secs(20), status.wait_for(reached)).await;
    wanted.expect("in time").expect("the group lives").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_cannot_be_read_halts_its_replica_and_a_newer_build_goes_on_there() {
    let book = AddressBook::default();
    let node = Node::start(1, &book, quick()).await;
    node.group.initialize().await.unwrap();
    let seen = Old::default();
    let group = node.engine.start(PICKY, seen.clone()).await.unwrap();
    group.initialize().await.unwrap();
    until(group.status(), |status| status.leads).await;
    group.propose(Bytes::from_static(b"\x01")).await.unwrap();

    let refused = group.propose(Bytes::from_static(b"\x02")).await;
    assert!(matches!(refused, Err(ProposeError::Unknown(_))), "{refused:?}");
    let status = until(group.status(), |status| status.halted.is_some()).await;
    let why = status.halted.clone().unwrap();
    assert!(why.contains("version 2 is not supported") && why.contains("run a build"), "{why}");
    assert!(status.applied < status.last_log, "it does not count as applied: {status:?}");
    assert!(!status.leads && status.failed.is_some());
    assert_eq!(*seen.0.lock().unwrap(), [1]);
    node.until("the other group leads", |status| status.leads).await;
    node.group.propose(entry(3, 8)).await.unwrap();

    let dir = node.kill().await;
    let node = Node::start_in(dir, 1, &book, quick()).await;
    let started = node.engine.start(PICKY, Old::default()).await;
    // Whether the commit of the entry was known to the disk decides where it is met again.
    match started {
        Err(StartError::Unreadable { why, .. }) => assert!(why.contains("version 2"), "{why}"),
        Err(why) => panic!("{why}"),
        Ok(group) => {
            until(group.status(), |status| status.halted.is_some()).await;
            group.stop().await;
        }
    }
    let seen = New::default();
    let group = node.engine.start(PICKY, seen.clone()).await.unwrap();
    until(group.status(), |status| status.leads && status.applied == status.last_log).await;
    assert_eq!(*seen.0.lock().unwrap(), [1, 2]);
    node.engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_entry_that_the_leader_cannot_read_is_never_proposed() {
    let book = AddressBook::default();
    let leader = Node::start(1, &book, quick()).await;
    let follower = Node::start(2, &book, quick()).await;
    let here = leader.engine.start(PICKY, Old::default()).await.unwrap();
    let there = follower.engine.start(PICKY, New::default()).await.unwrap();
    here.initialize().await.unwrap();
    until(here.status(), |status| status.leads).await;
    here.add_learner(NodeId(2)).await.unwrap();
    until(there.status(), |status| status.leader == Some(NodeId(1))).await;
    there.propose_at_leader(Bytes::from_static(b"\x01")).await.unwrap();
    let refused = there.propose_at_leader(Bytes::from_static(b"\x02")).await;
    assert!(matches!(refused, Err(ProposeError::Refused { .. })), "{refused:?}");
    there.propose_at_leader(Bytes::from_static(b"\x01")).await.unwrap();
    assert_eq!(here.status().borrow().halted, None);
    leader.engine.stop().await;
    follower.engine.stop().await;
}

#[tokio::test]
async fn a_directory_keeps_the_version_of_its_cluster_and_is_refused_by_an_older_build() {
    let dir = TempDir::new().unwrap();
    let open = async || {
        let book = AddressBook::default();
        Engine::open(dir.path(), CLUSTER, NodeId(1), Settings::lan(), book).await
    };
    Engine::create(dir.path(), CLUSTER, NodeId(1)).await.unwrap();
    let engine = open().await.unwrap();
    assert_eq!(engine.agreed_version().get(), VersionRange::SUPPORTED.min);
    engine.start(GROUP, Sum::default()).await.unwrap();
    engine.raise_version(VersionRange::SUPPORTED.max).await.unwrap();
    engine.stop().await;

    let engine = open().await.unwrap();
    assert_eq!(engine.agreed_version().get(), VersionRange::SUPPORTED.max);
    engine.start(GROUP, Sum::default()).await.unwrap();
    let newer = VersionRange::SUPPORTED.max.next();
    engine.raise_version(newer).await.unwrap();
    engine.stop().await;

    match open().await {
        Err(OpenError::Version { why, .. }) => {
            assert_eq!((why.found, why.supported), (newer, VersionRange::SUPPORTED));
        }
        opened => panic!("{:?}", opened.err()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_names_no_version_or_another_is_refused_in_words() {
    let book = AddressBook::default();
    let node = Node::start(1, &book, quick()).await;
    let url = format!("http://{}", book.get(NodeId(1)).unwrap());
    let refused = async |versions: Option<&'static str>| {
        let link = pushonce_proto::pb::peer::v1::raft_client::RaftClient::connect(url.clone());
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
    let why = refused(None).await;
    assert!(why.contains("older than cluster versions"), "{why}");
    let why = refused(Some("8 9 9")).await;
    assert!(why.contains("the cluster has version 9") && why.contains("run a build"), "{why}");
    node.engine.stop().await;
}
