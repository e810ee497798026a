use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::Membership;
use pushonce_core::{ClusterVersion, UnsupportedVersion, VersionRange};

use super::*;
use crate::types::ProposalData;

const LEADER: NodeId = NodeId(2);

fn id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn facts() -> SenderFacts {
    SenderFacts {
        sender: LEADER,
        is_voter: false,
        is_initialized: true,
        standing: NodeStanding::Core,
        vote: Some(Vote::new_committed(5, 1)),
        last: Some(id(5, 20)),
    }
}

fn normal(term: u64, index: u64, bytes: &'static [u8]) -> LogEntry {
    let data = ProposalData { bytes: Bytes::from_static(bytes), essential: false };
    LogEntry { log_id: id(term, index), payload: EntryPayload::Normal(data) }
}

fn membership_entry(configurations: Vec<BTreeSet<u64>>, nodes: &[u64]) -> LogEntry {
    let nodes = nodes.iter().copied();
    let membership = Membership::new_with_defaults(configurations, nodes);
    LogEntry { log_id: id(5, 11), payload: EntryPayload::Membership(membership) }
}

/// Reads entries that begin with 1; those that begin with 2 are of a newer version.
fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError> {
    match entry.first() {
        Some(1) => Ok(()),
        Some(2) => {
            let (found, supported) = (ClusterVersion(2), VersionRange::default());
            Err(UnsupportedVersion { found, supported }.into())
        }
        _ => Err(VersionedDecodeError::Corrupt("not an entry".to_owned())),
    }
}

/// Checks an append after 5:10 at a replica that has the entries up to 5:20 and committed those up to 5:15.
fn check(entries: Vec<LogEntry>) -> Result<(), RequestRejection> {
    check_after(Some(id(5, 10)), entries)
}

fn check_after(prev: Option<LogId>, entries: Vec<LogEntry>) -> Result<(), RequestRejection> {
    let vote = Vote::new_committed(7, LEADER.0);
    let append =
        AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: Some(id(5, 10)) };
    let own_id = |index: u64| (index <= 20).then(|| id(5, index));
    check_entries(&append, Some(id(5, 15)), own_id, check_entry)
}

#[test]
fn request_in_the_name_of_another_node_is_rejected() {
    let leader = Vote::new_committed(5, LEADER.0);
    assert_eq!(check_leader_vote(LEADER, &leader), Ok(()));
    assert!(check_leader_vote(NodeId(3), &leader).is_err());
    assert!(check_candidate_vote(LEADER, &leader).is_err(), "a candidate that won already");
    let candidate = Vote::new(5, LEADER.0);
    assert_eq!(check_candidate_vote(LEADER, &candidate), Ok(()));
    assert!(check_candidate_vote(NodeId(3), &candidate).is_err());
    assert!(check_leader_vote(LEADER, &candidate).is_err(), "a leader that was not elected");
}

#[test]
fn only_voters_current_leaders_and_nodes_with_a_longer_log_may_lead() {
    let vote = Vote::new_committed(7, LEADER.0);
    let may_lead = |facts: SenderFacts, last| check_may_lead(&facts, &vote, last).is_ok();
    let (same, longer) = (Some(id(5, 20)), Some(id(5, 21)));
    assert!(may_lead(SenderFacts { is_voter: true, ..facts() }, None));
    assert!(!may_lead(facts(), same) && !may_lead(facts(), None));
    assert!(
        may_lead(facts(), longer),
        "a node that became a voter with an entry that is missing here"
    );
    assert!(may_lead(facts(), Some(id(7, 1))), "a leader with an entry of its term");
    let followed = SenderFacts { vote: Some(vote), ..facts() };
    assert!(may_lead(followed, same), "a leader that removed itself");
    assert!(may_lead(SenderFacts { is_initialized: false, ..facts() }, None), "a new replica");
    let edge = SenderFacts { standing: NodeStanding::NotCore, ..facts() };
    assert!(
        !may_lead(edge, longer) && !may_lead(SenderFacts { is_initialized: false, ..edge }, longer)
    );
}

#[test]
fn positions_are_bounded_by_the_vote_and_by_the_own_log() {
    let vote = Vote::new_committed(7, LEADER.0);
    let check = |position, own| check_position(Some(position), &vote, own);
    let own = Some(id(5, 20));
    assert_eq!(check(id(7, 20 + INDEX_JUMP_MAX), own), Ok(()));
    assert_eq!(check(id(7, NUMBER_MAX), None), Ok(()));
    assert!(check(id(8, 21), own).is_err(), "a later term");
    assert!(check(id(7, 21 + INDEX_JUMP_MAX), own).is_err());
    for index in [NUMBER_MAX + 1, u64::MAX] {
        assert!(check(id(7, index), None).is_err());
    }
}

#[test]
fn entries_must_follow_each_other_and_the_committed_ones() {
    assert_eq!(check(vec![]), Ok(()));
    assert_eq!(check(vec![normal(5, 11, b"\x01"), normal(5, 12, b"\x01")]), Ok(()));
    assert_eq!(check_after(Some(id(5, 15)), vec![normal(7, 16, b"\x01")]), Ok(()), "uncommitted");
    assert_eq!(check_after(None, vec![normal(5, 0, b"\x01")]), Ok(()));
    assert!(check(vec![normal(5, 12, b"\x01")]).is_err(), "a hole");
    assert!(check(vec![normal(5, 11, b"\x01"), normal(5, 11, b"\x01")]).is_err(), "twice");
    assert!(check(vec![normal(4, 11, b"\x01")]).is_err(), "an earlier term");
    assert!(check(vec![normal(8, 11, b"\x01")]).is_err(), "a later term than the leader's");
    assert!(check(vec![normal(6, 11, b"\x01")]).is_err(), "replaces a committed entry");
    assert!(check_after(Some(id(6, 12)), vec![]).is_err(), "contradicts a committed entry");
    assert!(check_after(Some(id(7, u64::MAX)), vec![]).is_err());
    assert!(check_after(Some(id(7, u64::MAX)), vec![normal(7, u64::MAX, b"\x01")]).is_err());
}

#[test]
fn entry_that_cannot_be_decoded_is_rejected_and_one_of_a_newer_version_is_not() {
    assert_eq!(check(vec![normal(5, 11, b"\x02")]), Ok(()));
    assert!(matches!(check(vec![normal(5, 11, b"\x03")]), Err(RequestRejection::Malformed(_))));
    assert!(matches!(check(vec![normal(5, 11, b"")]), Err(RequestRejection::Malformed(_))));
}

#[test]
fn membership_without_voters_or_with_unknown_voters_is_rejected() {
    let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
    let check =
        |configurations, nodes: &[u64]| check(vec![membership_entry(configurations, nodes)]);
    assert_eq!(check(vec![set(&[1, 2])], &[1, 2, 3]), Ok(()));
    assert_eq!(check(vec![set(&[1, 2]), set(&[2, 3])], &[1, 2, 3]), Ok(()));
    assert!(check(vec![], &[1]).is_err(), "no configuration");
    assert!(check(vec![set(&[])], &[1]).is_err(), "no voter");
    assert!(check(vec![set(&[1]), set(&[2]), set(&[3])], &[1, 2, 3]).is_err());
    assert!(check(vec![set(&[0, 1])], &[0, 1]).is_err(), "no id");
    let many: Vec<u64> = (1..=MEMBERS_MAX as u64 + 1).collect();
    assert!(check(vec![set(&[1])], &many).is_err());
    // `new_with_defaults` adds the voters to the members; only a forged message lacks one.
    let nodes = std::collections::BTreeMap::from([(1u64, ())]);
    let forged = postcard::to_allocvec(&(vec![set(&[1, 2])], nodes)).expect("encodes");
    let membership: Membership<u64, ()> = postcard::from_bytes(&forged).expect("decodes");
    let entry = LogEntry { log_id: id(5, 11), payload: EntryPayload::Membership(membership) };
    assert!(super::check_payload(&entry, check_entry).is_err(), "a voter that is no member");
}

#[test]
fn snapshot_must_be_consistent_with_its_leader_and_the_committed_entries() {
    let vote = Vote::new_committed(7, LEADER.0);
    let membership = Membership::new_with_defaults(vec![BTreeSet::from([1, 2])], []);
    let meta = |last: Option<LogId>, membership_at| SnapshotMeta {
        last_log_id: last,
        last_membership: StoredMembership::new(membership_at, membership.clone()),
    };
    let check = |meta| check_snapshot_meta(&meta, &vote, Some(id(5, 15)), Some(id(5, 20)));
    assert_eq!(check(meta(Some(id(7, 30)), Some(id(5, 3)))), Ok(()));
    assert_eq!(check(meta(Some(id(5, 12)), Some(id(5, 3)))), Ok(()), "an older one");
    assert!(check(meta(None, None)).is_err(), "of nothing");
    assert!(check(meta(Some(id(8, 30)), Some(id(5, 3)))).is_err(), "of a later term");
    assert!(check(meta(Some(id(6, 15)), Some(id(5, 3)))).is_err(), "another committed entry");
    assert!(check(meta(Some(id(4, 30)), Some(id(4, 3)))).is_err(), "newer, of an earlier term");
    assert!(check(meta(Some(id(7, 30)), Some(id(7, 31)))).is_err(), "its membership is later");
    assert!(check(meta(Some(id(7, 30)), None)).is_err(), "its membership has no position");
    assert!(check(meta(Some(id(7, u64::MAX)), Some(id(5, 3)))).is_err());
}
