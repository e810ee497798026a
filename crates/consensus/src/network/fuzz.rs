//! Requests of peers and records of a disk, of any content: accepted ones keep the rules that openraft asserts.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, SnapshotResponse, TransferLeaderRequest, VoteRequest};
use openraft::{EntryPayload, Membership};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{NodeId, VersionRange};
use pushonce_fuzz::Input;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::request_check::{
    SenderFacts, check_candidate_vote, check_entries, check_leader_vote, check_may_lead,
    check_position, check_snapshot_meta,
};
use super::rollback::{KnownWrites, LogHandshake};
use super::wire::{self, AppendMessage, SnapshotReply, SnapshotRequest, SnapshotStep};
use crate::GroupId;
use crate::cluster_nodes::NodeStanding;
use crate::store::{decode_record, encode_record};
use crate::term_guard::NUMBER_MAX;
use crate::types::{
    LogEntry, LogId, ProposalData, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

const LEADER: NodeId = NodeId(2);

fn id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn entry(index: u64, payload: EntryPayload<ProposalData, u64, ()>) -> LogEntry {
    LogEntry { log_id: id(5, index), payload }
}

fn membership() -> Membership<u64, ()> {
    Membership::new_with_defaults(vec![BTreeSet::from([1, 2, 3])], [1, 2, 3, 4])
}

fn append() -> AppendMessage {
    let data = ProposalData { bytes: Bytes::from_static(b"\x01goal"), essential: false };
    let entries = vec![
        entry(11, EntryPayload::Normal(data)),
        entry(12, EntryPayload::Blank),
        entry(13, EntryPayload::Membership(membership())),
    ];
    let (vote, leader_commit) = (Vote::new_committed(7, LEADER.0), Some(id(5, 10)));
    let request =
        AppendEntriesRequest { vote, prev_log_id: Some(id(5, 10)), entries, leader_commit };
    (request, Some(id(5, 13)))
}

fn snapshot_request() -> SnapshotRequest {
    let last = Some(id(5, 20));
    let meta = SnapshotMeta {
        last_log_id: last,
        last_membership: StoredMembership::new(Some(id(5, 13)), membership()),
    };
    let step = SnapshotStep::Piece(1);
    let vote = Vote::new_committed(7, LEADER.0);
    SnapshotRequest { vote, meta, generation: 3, piece_count: 2, leader_last_log_id: last, step }
}

/// What a replica knows that has the entries up to 5:20 and committed those up to 5:15.
fn facts(is_voter: bool) -> SenderFacts {
    SenderFacts {
        sender: LEADER,
        is_voter,
        is_initialized: true,
        standing: NodeStanding::Core,
        vote: Some(Vote::new_committed(5, 1)),
        last: Some(id(5, 20)),
    }
}

/// Reads entries that begin with 1.
fn check_entry(entry: &Bytes) -> Result<(), VersionedDecodeError> {
    match entry.first() {
        Some(1) => Ok(()),
        _ => Err(VersionedDecodeError::Corrupt("not an entry".to_owned())),
    }
}

/// A body decodes to a value that is encoded to the same bytes again, whatever these were.
fn decode<T: Serialize + DeserializeOwned>(body: &[u8]) -> Option<T> {
    let (version, value) = wire::decode::<T>(body).ok()?;
    let encoded = wire::encode(version, &value);
    let (_, again) = wire::decode::<T>(&encoded).expect("its own encoding");
    assert_eq!(wire::encode(version, &again), encoded);
    Some(value)
}

fn check_append((append, last): &AppendMessage) {
    if check_leader_vote(LEADER, &append.vote).is_err()
        || check_may_lead(&facts(false), &append.vote, *last).is_err()
        || check_position(*last, &append.vote, facts(false).last).is_err()
    {
        return;
    }
    let own_id = |index: u64| (index <= 20).then(|| id(5, index));
    if check_entries(append, Some(id(5, 15)), own_id, check_entry).is_err() {
        return;
    }
    // What openraft asserts: consecutive entries, and numbers to which one can be added.
    let mut next = append.prev_log_id.map_or(0, |id| id.index + 1);
    for entry in &append.entries {
        assert_eq!(entry.log_id.index, next);
        assert!(entry.log_id.leader_id.term <= append.vote.leader_id.term);
        assert!(entry.log_id != id(5, 15) || own_id(15) == Some(entry.log_id));
        next += 1;
    }
    assert!(next <= NUMBER_MAX + 1);
}

fn check_snapshot(request: &SnapshotRequest) {
    let SnapshotRequest { vote, meta, .. } = request;
    if check_leader_vote(LEADER, vote).is_ok()
        && check_snapshot_meta(meta, vote, Some(id(5, 15)), Some(id(5, 20))).is_ok()
    {
        let last = meta.last_log_id.expect("checked");
        assert!(last.index <= NUMBER_MAX && last.leader_id.term <= vote.leader_id.term);
        assert!(meta.last_membership.voter_ids().next().is_some());
    }
}

#[test]
fn accepted_request_keeps_the_rules_of_the_log() {
    let version = VersionRange::supported().max;
    let bodies = [
        wire::encode(version, &append()),
        wire::encode(
            version,
            &VoteRequest::<TypeConfig>::new(Vote::new(8, LEADER.0), Some(id(5, 20))),
        ),
        wire::encode(version, &snapshot_request()),
    ];
    // One byte for the kind of the request.
    let seeds = (0_u8..).zip(bodies).map(|(kind, body)| [&[kind], &body[..]].concat());
    pushonce_fuzz::check!("requests", seeds.collect(), |input| {
        let mut input = Input::new(input);
        match input.byte() % 6 {
            0 => drop(decode::<AppendMessage>(input.rest()).inspect(check_append)),
            1 => drop(decode::<VoteRequest<TypeConfig>>(input.rest()).inspect(|request| {
                let _ = check_candidate_vote(LEADER, &request.vote);
                let _ = check_position(request.last_log_id, &request.vote, facts(true).last);
            })),
            2 => drop(decode::<SnapshotRequest>(input.rest()).inspect(check_snapshot)),
            3 => drop(decode::<SnapshotReply>(input.rest())),
            4 => drop(decode::<TransferLeaderRequest<TypeConfig>>(input.rest())),
            _ => drop(decode::<SnapshotResponse<TypeConfig>>(input.rest())),
        }
    });
}

#[test]
fn damaged_record_is_rejected_and_an_intact_one_decodes_to_its_value() {
    const GROUP: GroupId = GroupId(3);
    let (request, _) = append();
    let record =
        |entry| encode_record(GROUP, VersionRange::supported().max, entry).expect("a record");
    let seeds = request.entries.iter().map(|entry| record(entry).to_vec()).collect();
    pushonce_fuzz::check!("records", seeds, |input| {
        let Ok(entry) = decode_record::<LogEntry>(GROUP, input) else {
            // The same bytes with a checksum that fits: damage that the checksum does not find.
            return check_forged_record(GROUP, input);
        };
        assert!(decode_record::<LogEntry>(GroupId(4), input).is_err());
        assert_eq!(
            decode_record::<LogEntry>(GROUP, &record_of(GROUP, &entry)).expect("a record"),
            entry
        );
    });
}

fn record_of(group: GroupId, entry: &LogEntry) -> Bytes {
    encode_record(group, VersionRange::supported().max, entry).expect("a record")
}

fn check_forged_record(group: GroupId, input: &[u8]) {
    let Some((_, value)) = input.split_first_chunk::<4>() else { return };
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group.0.to_le_bytes());
    hasher.update(value);
    let forged = [&hasher.finalize().to_le_bytes(), value].concat();
    if let Ok(entry) = decode_record::<LogEntry>(group, &forged) {
        assert_eq!(
            decode_record::<LogEntry>(group, &record_of(group, &entry)).expect("a record"),
            entry
        );
    }
}

#[test]
fn metadata_of_a_stream_round_trips() {
    pushonce_fuzz::check!("handshakes", vec![b"7:10:12".to_vec(), b"7:12".to_vec()], |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(handshake) = text.parse::<LogHandshake>() {
            assert_eq!(handshake.to_string().parse(), Ok(handshake));
        }
        if let Ok(known) = text.parse::<KnownWrites>() {
            assert_eq!(known.to_string().parse(), Ok(known));
        }
    });
}
