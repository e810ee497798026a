use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use pushonce_core::{
    InvalidPublish, NodeId, OverloadReason, PublishRejection, ShardId, Term, Timestamp, TopicLimit,
    UnavailableReason,
};

use super::*;
use crate::arbitrary::{durability, gap, message, position, publish, sequence, topic};

fn node() -> impl Strategy<Value = NodeId> {
    (1..=u64::MAX).prop_map(NodeId)
}

fn claim() -> impl Strategy<Value = OwnershipClaim> {
    let nodes = || vec(node(), 0..4);
    (any::<u16>(), node(), any::<u64>(), any::<u64>(), nodes(), nodes()).prop_map(
        |(shard, owner, term, membership, voters, learners)| OwnershipClaim {
            shard: ShardId(shard),
            owner,
            term: Term(term),
            membership_index: membership,
            voters,
            learners,
        },
    )
}

fn outcome() -> impl Strategy<Value = Result<Acknowledgement, PublishError>> {
    let rejected = |rejection: PublishRejection| Err(PublishError::Rejected(rejection));
    prop_oneof![
        (position(), any::<u64>(), durability()).prop_map(|(position, time, durability)| {
            Ok(Acknowledgement { position, time: Timestamp(time), durability })
        }),
        option::of(node()).prop_map(move |owner| rejected(PublishRejection::NotOwner { owner })),
        any::<String>().prop_map(move |reason| rejected(OverloadReason::Reported(reason).into())),
        any::<String>()
            .prop_map(move |reason| rejected(UnavailableReason::Reported(reason).into())),
        any::<String>().prop_map(move |reason| rejected(TopicLimit::Reported(reason).into())),
        any::<String>().prop_map(|reason| Err(InvalidPublish::NotJson(reason).into())),
        (any::<u32>(), any::<u32>()).prop_map(|(len, max)| {
            let (len, max) = (len as usize, max as usize);
            Err(InvalidPublish::PayloadTooLarge { len, max }.into())
        }),
        proptest::sample::select(vec![
            InvalidPublish::SystemTopic,
            InvalidPublish::NotUtf8,
            InvalidPublish::ContentType,
            InvalidPublish::Key,
            InvalidPublish::KeyReused,
            InvalidPublish::SequenceReused,
        ])
        .prop_map(|invalid| Err(invalid.into())),
        (sequence(), option::of(sequence())).prop_map(move |(received, expected)| rejected(
            PublishRejection::OutOfSequence { received, expected }
        )),
        any::<String>().prop_map(|reason| Err(PublishError::unknown(reason))),
    ]
}

fn fetched_part() -> impl Strategy<Value = FetchedPart> {
    let messages = || vec(message(), 0..3);
    prop_oneof![
        messages().prop_map(FetchedPart::More),
        (messages(), position(), option::of(gap()))
            .prop_map(|(messages, head, gap)| FetchedPart::Done { messages, head, gap }),
        (position(), position()).prop_map(|(requested, head)| FetchedPart::Failed(
            FetchError::FuturePosition { requested, head }
        )),
        "[a-z ]{1,20}"
            .prop_map(|reason| FetchedPart::Failed(UnavailableReason::Reported(reason).into())),
    ]
}

fn history_range() -> impl Strategy<Value = HistoryRange> {
    prop_oneof![
        position().prop_map(HistoryRange::After),
        any::<u32>().prop_map(HistoryRange::Last),
        Just(HistoryRange::All)
    ]
}

fn frame() -> impl Strategy<Value = PeerFrame> {
    prop_oneof![
        claim().prop_map(PeerFrame::Claim),
        (any::<u64>(), publish()).prop_map(|(id, publish)| PeerFrame::Publish { id, publish }),
        (any::<u64>(), outcome()).prop_map(|(id, outcome)| PeerFrame::Published { id, outcome }),
        (any::<u32>(), topic(), option::of(position()))
            .prop_map(|(number, topic, after)| PeerFrame::Interest { number, topic, after }),
        any::<u32>().prop_map(|number| PeerFrame::Withdraw { number }),
        (any::<u32>(), option::of(position()))
            .prop_map(|(number, head)| PeerFrame::Interested { number, head }),
        (any::<u32>(), vec(message(), 0..3), option::of(any::<u64>())).prop_map(
            |(number, messages, age)| PeerFrame::Deliver {
                number,
                messages,
                age: age.map(Duration::from_micros),
            }
        ),
        (any::<u32>(), gap()).prop_map(|(number, gap)| PeerFrame::Lost { number, gap }),
        (any::<u64>(), topic(), history_range()).prop_map(|(id, topic, range)| PeerFrame::Fetch {
            id,
            topic,
            range
        }),
        (any::<u64>(), fetched_part()).prop_map(|(id, part)| PeerFrame::Fetched { id, part }),
        (
            vec((any::<u32>(), position()), 0..3),
            vec((any::<u16>(), any::<u32>()), 0..3),
            any::<u64>(),
            vec((any::<u16>(), any::<u64>()), 0..3),
            (option::of(any::<u64>()), option::of((any::<u64>(), any::<u64>())))
        )
            .prop_map(|(heads, stale_shards, clock, log_times, (sent, echo))| {
                let micros = Duration::from_micros;
                let stale_shard =
                    |(shard, ms): (u16, u32)| (ShardId(shard), Duration::from_millis(ms.into()));
                let log_time = |(shard, ms): (u16, u64)| (ShardId(shard), Timestamp(ms));
                PeerFrame::Heartbeat {
                    heads,
                    stale_shards: stale_shards.into_iter().map(stale_shard).collect(),
                    clock: Timestamp(clock),
                    log_times: log_times.into_iter().map(log_time).collect(),
                    timing: HeartbeatTiming {
                        sent: sent.map(micros),
                        echo: echo.map(|(sent, held)| HeartbeatEcho {
                            sent: micros(sent),
                            held: micros(held),
                        }),
                    },
                }
            }),
        vec((any::<u32>(), any::<u64>(), any::<bool>()), 0..3).prop_map(|counts| {
            let count = |(number, sessions, wants_audience)| {
                (number, SubscriberCount { sessions, wants_audience })
            };
            PeerFrame::SubscriberCounts { counts: counts.into_iter().map(count).collect() }
        }),
        vec((any::<u32>(), any::<u64>()), 0..3).prop_map(|counts| PeerFrame::Audience { counts }),
        (any::<u16>(), node(), any::<u64>()).prop_map(|(shard, owner, term)| {
            PeerFrame::ClaimRefuted { shard: ShardId(shard), owner, term: Term(term) }
        }),
        Just(PeerFrame::Stopping),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn frame_round_trips(frame in frame()) {
        let bytes = Bytes::from(pb::LinkFrame::from(frame.clone()).encode_to_vec());
        // A hint far below the real length would make credit useless as a bound on memory.
        prop_assert!(bytes.len() <= 2 * frame.size_hint() + 256);
        let wire = pb::LinkFrame::decode(bytes).expect("valid protobuf");
        prop_assert_eq!(PeerFrame::try_from(wire), Ok(frame));
    }

}

#[test]
fn decode_error_names_the_field() {
    use pb::link_frame::Frame as Wire;
    let error_field = |wire: Option<Wire>| {
        PeerFrame::try_from(pb::LinkFrame { frame: wire }).expect_err("invalid").field
    };
    assert_eq!(error_field(None), "frame");
    assert_eq!(error_field(Some(Wire::Interest(pb::Interest::default()))), "interest.topic");
    assert_eq!(error_field(Some(Wire::Interested(pb::Interested::default()))), "interested.answer");
    assert_eq!(error_field(Some(Wire::Lost(pb::Lost::default()))), "lost.first");
    let claim = pb::OwnershipClaim { shard: 70_000, owner: 1, ..pb::OwnershipClaim::default() };
    assert_eq!(error_field(Some(Wire::Claim(claim))), "claim.shard");
}

#[test]
fn unknown_rejection_reason_is_decoded_as_unavailable() {
    let rejected =
        pb::PublishRejection { reason: 99, message: "new rule".to_owned(), ..Default::default() };
    let outcome = Some(pb::publish_response::Outcome::Rejected(rejected));
    let response = pb::PublishResponse { id: 1, outcome };
    assert_eq!(
        super::outcome::decode_outcome(response),
        Ok(Err(UnavailableReason::Reported("new rule".to_owned()).into()))
    );
}
