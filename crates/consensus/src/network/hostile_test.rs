//! Set-up: a group of three nodes over loopback, and a peer that sends forged requests to them. Expected: each
//! request ends with an error, the group keeps its leader and its term, also across a restart, and commits.

#[allow(dead_code, reason = "not every test uses all of it")]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::{EntryPayload, Membership};
use pushonce_core::{ClusterVersion, NodeId};
use pushonce_peer::{ChannelKind, PeerAddresses, PeerChannel, PeerTransport};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient;
use serde::Serialize;
use support::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::wire::{self, FRAME_BYTES_MAX, Kind, SnapshotRequest, SnapshotStep};
use crate::types::{
    LogEntry, LogId, ProposalData, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
use crate::{ConsensusSettings, store};

const VERSION: ClusterVersion = ClusterVersion::NEWEST;
const ABSURD: u64 = u64::MAX;

/// A node that sends what it likes, under its own id.
struct Forger {
    me: u64,
    client: RaftServiceClient<PeerChannel>,
    requests: mpsc::Sender<pb::ExchangeRequest>,
    responses: Streaming<pb::ExchangeResponse>,
    last_id: u64,
}

impl Forger {
    /// Opens a stream as node `me` to `to`.
    async fn connect(me: u64, to: NodeId, addresses: &PeerAddresses) -> Forger {
        let times = ConsensusSettings::lan().times();
        let transport = PeerTransport::new(CLUSTER, NodeId(me), addresses.clone(), &times);
        let channel = transport.dialer(to, ChannelKind::Consensus).connect().await.unwrap();
        let mut client = RaftServiceClient::new(channel);
        let (requests, receiver) = mpsc::channel(16);
        let responses = client.exchange(with_log(ReceiverStream::new(receiver))).await.unwrap();
        Forger { me, client, requests, responses: responses.into_inner(), last_id: 0 }
    }

    /// Sends a request to the group and returns the reply, or the reason of the rejection.
    async fn send<T: Serialize>(&mut self, kind: Kind, message: &T) -> Result<Bytes, String> {
        self.send_body(kind, wire::encode(VERSION, message)).await
    }

    async fn send_body(&mut self, kind: Kind, body: Bytes) -> Result<Bytes, String> {
        self.last_id += 1;
        let (id, group) = (self.last_id, GROUP.0);
        let request = pb::RaftRequest { id, group, kind: kind.into(), body };
        let frame = pb::ExchangeRequest { requests: vec![request], ..Default::default() };
        self.requests.send(frame).await.unwrap();
        let response = self.responses.message().await.unwrap().expect("a response");
        let [pb::RaftResponse { id: answered, result }] = &response.responses[..] else {
            panic!("{response:?}")
        };
        assert_eq!(*answered, id);
        match result.clone().expect("a result") {
            pb::raft_response::Result::Body(body) => Ok(body),
            pb::raft_response::Result::Error(reason) => Err(reason),
        }
    }

    async fn send_step(&mut self, request: &SnapshotRequest, data: Bytes) -> Result<(), Status> {
        let body = wire::encode(VERSION, request);
        let request = pb::TransferRequest { group: GROUP.0, body, data };
        self.client.transfer(with_log(request)).await.map(drop)
    }

    /// Sends a request and expects that it is rejected, for a reason that contains `reason`.
    async fn expect_rejected<T: Serialize>(&mut self, kind: Kind, message: &T, reason: &str) {
        let reply = self.send(kind, message).await.map(drop);
        let rejection = reply.expect_err("a forged request was accepted");
        assert!(rejection.contains(reason), "{rejection}");
    }
}

/// Adds the log handshake of a node whose log has grown.
fn with_log<T>(body: T) -> Request<T> {
    let mut request = Request::new(body);
    let log = format!("7:{0}:{0}", 1u64 << 40);
    request.metadata_mut().insert("pushonce-log", log.parse().unwrap());
    request
}

fn vote_request(term: u64, candidate: u64, last: Option<LogId>) -> VoteRequest<TypeConfig> {
    VoteRequest::new(Vote::new(term, candidate), last)
}

fn append(vote: Vote, prev: Option<LogId>, entries: Vec<LogEntry>) -> wire::AppendMessage {
    let last = entries.last().map(|entry| entry.log_id).or(prev);
    (AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: None }, last)
}

fn normal(log_id: LogId, bytes: &'static [u8]) -> LogEntry {
    let data = ProposalData { bytes: Bytes::from_static(bytes), essential: false };
    LogEntry { log_id, payload: EntryPayload::Normal(data) }
}

fn last_log_id(node: &RaftTestNode) -> LogId {
    node.group.0.log.last_log_id().expect("the log has entries")
}

fn next(id: LogId, term: u64) -> LogId {
    LogId::new_term_index(term, id.index + 1)
}

fn term(node: &RaftTestNode) -> u64 {
    node.group.status().borrow().term.0
}

/// Announces a view in which the nodes 1 to 3 may lead and node 4 may not.
fn announce_view(nodes: &[RaftTestNode]) {
    nodes.iter().for_each(|node| node.engine.set_cluster_nodes(ids(&[1, 2, 3]), NodeId(5)));
}

/// Commits an entry and waits until every node has applied it.
async fn commit(nodes: &[RaftTestNode], number: u64) {
    wait_leader(nodes).await.group.propose(entry(number, 8)).await.unwrap();
    for node in nodes {
        node.wait_status("applied", |status| status.applied_index == status.last_log_index).await;
        assert_eq!(node.group.status().borrow().failure, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_requests_of_a_node_outside_the_group_change_nothing() {
    let (mut nodes, addresses) = start_cluster(3, &with_long_elections(fast_settings())).await;
    announce_view(&nodes);
    commit(&nodes, 1).await;
    let before = term(&nodes[0]);
    let last = last_log_id(&nodes[1]);
    for forger_id in [4, 9] {
        let mut forger = Forger::connect(forger_id, NodeId(2), &addresses).await;
        let newer = (forger_id == 4).then(|| next(last, before + 1));
        // In its own name.
        for candidate_term in [before + 1, ABSURD] {
            let vote = vote_request(candidate_term, forger_id, newer);
            forger.expect_rejected(Kind::Vote, &vote, "").await;
            forger.expect_rejected(Kind::PreVote, &vote, "").await;
        }
        let leads = Vote::new_committed(before + 1, forger.me);
        let entry = normal(next(last, before), &[0; 8]);
        forger.expect_rejected(Kind::Append, &append(leads, Some(last), vec![]), "no voter").await;
        if forger_id == 4 {
            let message = append(leads, Some(last), vec![entry]);
            forger.expect_rejected(Kind::Append, &message, "no voter").await;
        }
        // In the name of the leader and of a voter.
        let leader = Vote::new_committed(before, 1);
        forger.expect_rejected(Kind::Append, &append(leader, Some(last), vec![]), "name").await;
        let transfer = TransferLeaderRequest::<TypeConfig>::new(leader, 2, Some(last));
        forger.expect_rejected(Kind::TransferLeader, &transfer, "name").await;
        forger.expect_rejected(Kind::Vote, &vote_request(before + 1, 3, Some(last)), "name").await;
        // A vote that claims to be won makes its node the leader.
        let mut won = vote_request(before + 1, 2, Some(last));
        won.vote = Vote::new_committed(before + 1, 2);
        forger.expect_rejected(Kind::Vote, &won, "name").await;
    }
    commit(&nodes, 2).await;
    assert_eq!(term(&nodes[1]), before);

    let dir = nodes.remove(1).kill().await;
    let settings = with_long_elections(fast_settings());
    nodes.insert(1, RaftTestNode::start_in(dir, 2, &addresses, settings).await);
    commit(&nodes, 3).await;
    for node in nodes {
        node.kill().await;
    }
}

/// Node 3 is stopped, and its id is used by a process that sends forged requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voter_cannot_move_the_term_end_the_lease_or_break_the_log() {
    let settings = with_long_elections(fast_settings());
    let (mut nodes, addresses) = start_cluster(3, &settings).await;
    announce_view(&nodes);
    commit(&nodes, 1).await;
    nodes.pop().unwrap().kill().await;
    let before = term(&nodes[0]);
    let last = last_log_id(&nodes[1]);
    let beyond = Some(next(last, before));
    let mut forger = Forger::connect(3, NodeId(2), &addresses).await;

    for absurd in [before + (1 << 25), 1 << 62, ABSURD] {
        forger.expect_rejected(Kind::Vote, &vote_request(absurd, 3, beyond), "implausible").await;
        forger
            .expect_rejected(Kind::PreVote, &vote_request(absurd, 3, beyond), "implausible")
            .await;
    }
    for absurd in [1 << 62, ABSURD] {
        let message = append(Vote::new_committed(absurd, 3), Some(last), vec![]);
        forger.expect_rejected(Kind::Append, &message, "implausible").await;
    }
    // The lease of node 1 runs. Without an announcement by node 1 a transfer does not end it.
    let mut transfer = vote_request(before + 1, 3, beyond);
    transfer.leadership_transfer = true;
    forger.expect_rejected(Kind::Vote, &transfer, "the lease of a leader").await;
    let own =
        TransferLeaderRequest::<TypeConfig>::new(Vote::new_committed(before + 1, 3), 3, Some(last));
    forger.expect_rejected(Kind::TransferLeader, &own, "does not fit").await;

    let leads = Vote::new_committed(before + 1, 3);
    let at = |index, term| LogId::new_term_index(term, index);
    let unreadable = vec![normal(next(last, before + 1), b"short")];
    forger.expect_rejected(Kind::Append, &append(leads, Some(last), unreadable), "read").await;
    let hole = vec![normal(at(last.index + 2, before + 1), &[0; 8])];
    forger.expect_rejected(Kind::Append, &append(leads, Some(last), hole), "follow").await;
    let far = Some(at(ABSURD, before + 1));
    forger.expect_rejected(Kind::Append, &append(leads, far, vec![]), "position").await;
    let replaced = vec![normal(at(2, before + 1), &[0; 8])];
    let first = nodes[1].group.0.log.log_id_at(1);
    forger.expect_rejected(Kind::Append, &append(leads, first, replaced), "contradicts").await;
    let no_voters = Membership::new_with_defaults(vec![BTreeSet::new()], [1, 2, 3]);
    let payload = EntryPayload::Membership(no_voters);
    let no_voters = vec![LogEntry { log_id: next(last, before + 1), payload }];
    forger.expect_rejected(Kind::Append, &append(leads, Some(last), no_voters), "member").await;
    for kind in [Kind::Append, Kind::Vote, Kind::PreVote, Kind::TransferLeader, Kind::Propose] {
        let garbage = forger.send_body(kind, Bytes::from_static(b"\x00\x01garbage")).await;
        assert!(garbage.is_err(), "{kind:?}");
    }
    let large = vec![0u8; 100 << 10];
    forger.expect_rejected(Kind::Propose, &Bytes::from(large), "bytes").await;

    assert_eq!(term(&nodes[1]), before, "a rejected request was adopted");
    commit(&nodes, 2).await;
    for node in nodes {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_snapshot_replaces_nothing() {
    let settings = with_long_elections(fast_settings());
    let (mut nodes, addresses) = start_cluster(3, &settings).await;
    announce_view(&nodes);
    commit(&nodes, 1).await;
    nodes.pop().unwrap().kill().await;
    let before = term(&nodes[0]);
    let last = last_log_id(&nodes[1]);
    let mut forger = Forger::connect(3, NodeId(2), &addresses).await;
    let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2, 3])], []);
    let snapshot = |last: LogId, step| SnapshotRequest {
        vote: Vote::new_committed(before + 1, 3),
        meta: SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(
                Some(LogId::new_term_index(0, 0)),
                membership.clone(),
            ),
        },
        generation: 1,
        piece_count: 1,
        leader_last_log_id: Some(last),
        step,
    };
    let good = LogId::new_term_index(before + 1, last.index + 100);
    for bad in [
        LogId::new_term_index(before + 2, last.index + 100),
        LogId::new_term_index(before + 1, ABSURD),
        LogId::new_term_index(0, last.index + 100),
    ] {
        let offered = forger.send_step(&snapshot(bad, SnapshotStep::Offer), Bytes::new()).await;
        assert_eq!(offered.expect_err("a forged offer").code(), Code::Aborted);
    }
    let large = Bytes::from(vec![0; 300 << 10]);
    let piece = snapshot(good, SnapshotStep::Piece(0));
    assert!(forger.send_step(&piece, large).await.is_err());
    let unframed = Bytes::from_static(b"not a record of a snapshot");
    assert!(forger.send_step(&piece, unframed).await.is_err());

    // A record with a valid checksum, whose content is no state.
    let offer = snapshot(good, SnapshotStep::Offer);
    forger.send_step(&offer, Bytes::new()).await.unwrap();
    let header = (&piece.meta, 0u32);
    let record = store::encode_record_with_data(GROUP, VERSION, &header, b"nine or so").unwrap();
    forger.send_step(&piece, record).await.unwrap();
    let install = snapshot(good, SnapshotStep::Install);
    let installed = forger.send_step(&install, Bytes::new()).await;
    let rejection = installed.expect_err("a snapshot that is no state was installed");
    assert!(rejection.message().contains("bytes too many"), "{rejection:?}");

    assert_eq!(nodes[1].group.status().borrow().failure, None);
    assert_eq!(nodes[1].applied_numbers(), [1]);
    commit(&nodes, 2).await;
    for node in nodes {
        node.kill().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_frame_ends_the_stream_and_a_second_stream_replaces_the_first() {
    let (nodes, addresses) = start_cluster(1, &fast_settings()).await;
    let mut first = Forger::connect(3, NodeId(1), &addresses).await;
    let mut second = Forger::connect(3, NodeId(1), &addresses).await;
    let ended = first.responses.message().await;
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    assert!(second.send_body(Kind::Unspecified, Bytes::new()).await.is_err());

    let body = Bytes::from(vec![0; FRAME_BYTES_MAX]);
    let request = pb::RaftRequest { id: 9, group: GROUP.0, kind: Kind::Append.into(), body };
    let frame = pb::ExchangeRequest { requests: vec![request], ..Default::default() };
    second.requests.send(frame).await.unwrap();
    let ended = second.responses.message().await;
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    commit(&nodes, 1).await;
    for node in nodes {
        node.kill().await;
    }
}
