use std::time::Duration;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use prost::Message as _;
use pushonce_core::{
    Addresses, Build, ClusterVersion, InvalidPublish, Refusal, Roles, ShardId, Term, Timestamp,
    VersionOffer, VersionRange,
};

use super::*;
use crate::arbitrary::{durability, gap, message, position, publish, sequence, topic};

fn node() -> impl Strategy<Value = NodeId> {
    (1..=u64::MAX).prop_map(NodeId)
}

fn claim() -> impl Strategy<Value = Claim> {
    let nodes = || vec(node(), 0..4);
    (any::<u16>(), node(), any::<u64>(), any::<u64>(), nodes(), nodes()).prop_map(
        |(shard, owner, term, membership, voters, learners)| Claim {
            shard: ShardId(shard),
            owner,
            term: Term(term),
            membership,
            voters,
            learners,
        },
    )
}

fn outcome() -> impl Strategy<Value = Result<Placed, PublishError>> {
    let refused = |refusal: Refusal| Err(PublishError::Refused(refusal));
    prop_oneof![
        (position(), any::<u64>(), durability()).prop_map(|(position, time, durability)| {
            Ok(Placed { position, time: Timestamp(time), durability })
        }),
        option::of(node()).prop_map(move |owner| refused(Refusal::NotOwner { owner })),
        any::<String>().prop_map(move |why| refused(Refusal::Overloaded(why))),
        any::<String>().prop_map(move |why| refused(Refusal::Unavailable(why))),
        any::<String>().prop_map(move |why| refused(Refusal::TooManyTopics(why))),
        any::<String>().prop_map(|why| Err(InvalidPublish::NotJson(why).into())),
        (any::<u32>(), any::<u32>()).prop_map(|(len, max)| {
            let (len, max) = (len as usize, max as usize);
            Err(InvalidPublish::PayloadTooLarge { len, max }.into())
        }),
        proptest::sample::select(vec![
            InvalidPublish::SystemTopic,
            InvalidPublish::NotText,
            InvalidPublish::ContentType,
            InvalidPublish::Key,
            InvalidPublish::KeyReused,
            InvalidPublish::SequenceReused,
        ])
        .prop_map(|invalid| Err(invalid.into())),
        (sequence(), option::of(sequence()))
            .prop_map(move |(asked, expected)| refused(Refusal::OutOfSequence { asked, expected })),
        any::<String>().prop_map(|why| Err(PublishError::unknown(why))),
    ]
}

fn part() -> impl Strategy<Value = FetchedPart> {
    let messages = || vec(message(), 0..3);
    prop_oneof![
        messages().prop_map(FetchedPart::More),
        (messages(), position(), option::of(gap()))
            .prop_map(|(messages, head, gap)| FetchedPart::Done { messages, head, gap }),
        (position(), position())
            .prop_map(|(asked, head)| FetchedPart::Failed(FetchError::Future { asked, head })),
        "[a-z ]{1,20}".prop_map(|why| FetchedPart::Failed(FetchError::Unavailable(why))),
    ]
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![
        position().prop_map(Want::After),
        any::<u32>().prop_map(Want::Last),
        Just(Want::All)
    ]
}

fn versions() -> impl Strategy<Value = VersionOffer> {
    (any::<u16>(), any::<u16>(), 1..=u16::MAX).prop_map(|(min, max, agreed)| VersionOffer {
        supported: VersionRange { min: ClusterVersion(min), max: ClusterVersion(max) },
        agreed: ClusterVersion(agreed),
    })
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<u128>(), node(), option::of(node()), option::of(versions())).prop_map(
            |(cluster, node, to, versions)| Frame::Hello {
                cluster: ClusterId(cluster),
                node,
                to,
                versions
            }
        ),
        claim().prop_map(Frame::Claim),
        (any::<u64>(), publish()).prop_map(|(id, publish)| Frame::Publish { id, publish }),
        (any::<u64>(), outcome()).prop_map(|(id, outcome)| Frame::Published { id, outcome }),
        (any::<u32>(), topic(), option::of(position()))
            .prop_map(|(number, topic, after)| Frame::Interest { number, topic, after }),
        any::<u32>().prop_map(|number| Frame::Withdraw { number }),
        (any::<u32>(), option::of(position()))
            .prop_map(|(number, head)| Frame::Interested { number, head }),
        (any::<u32>(), vec(message(), 0..3))
            .prop_map(|(number, messages)| Frame::Deliver { number, messages }),
        (any::<u32>(), gap()).prop_map(|(number, gap)| Frame::Lost { number, gap }),
        (any::<u64>(), topic(), want()).prop_map(|(id, topic, want)| Frame::Fetch {
            id,
            topic,
            want
        }),
        (any::<u64>(), part()).prop_map(|(id, part)| Frame::Fetched { id, part }),
        (
            vec((any::<u32>(), position()), 0..3),
            vec((any::<u16>(), any::<u32>()), 0..3),
            any::<u64>(),
            vec((any::<u16>(), any::<u64>()), 0..3)
        )
            .prop_map(|(heads, doubts, clock, log_times)| {
                let doubt =
                    |(shard, ms): (u16, u32)| (ShardId(shard), Duration::from_millis(ms.into()));
                let log_time = |(shard, ms): (u16, u64)| (ShardId(shard), Timestamp(ms));
                Frame::Heartbeat {
                    heads,
                    doubts: doubts.into_iter().map(doubt).collect(),
                    clock: Timestamp(clock),
                    log_times: log_times.into_iter().map(log_time).collect(),
                }
            }),
        vec((any::<u32>(), any::<u64>(), any::<bool>()), 0..3).prop_map(|counts| {
            let count = |(number, sessions, asks)| (number, Watching { sessions, asks });
            Frame::Watching { counts: counts.into_iter().map(count).collect() }
        }),
        vec((any::<u32>(), any::<u64>()), 0..3).prop_map(|counts| Frame::Audience { counts }),
        Just(Frame::Stopping),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_frame_reads_back_as_it_was_written(frame in frame()) {
        let bytes = Bytes::from(pb::LinkFrame::from(frame.clone()).encode_to_vec());
        // Never far below the truth, or credit would not bound memory.
        prop_assert!(bytes.len() <= 2 * frame.size_hint() + 256);
        let wire = pb::LinkFrame::decode(bytes).expect("protobuf");
        prop_assert_eq!(Frame::try_from(wire), Ok(frame));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..64)) {
        if let Ok(wire) = pb::LinkFrame::decode(Bytes::from(bytes)) {
            let _ = Frame::try_from(wire);
        }
    }
}

#[test]
fn an_error_names_the_field() {
    use pb::link_frame::Frame as Wire;
    let refused = |wire: Option<Wire>| {
        Frame::try_from(pb::LinkFrame { frame: wire }).expect_err("invalid").field
    };
    assert_eq!(refused(None), "frame");
    assert_eq!(refused(Some(Wire::Hello(pb::Hello::default()))), "hello.cluster_id");
    assert_eq!(refused(Some(Wire::Interest(pb::Interest::default()))), "interest.topic");
    assert_eq!(refused(Some(Wire::Interested(pb::Interested::default()))), "interested.answer");
    assert_eq!(refused(Some(Wire::Lost(pb::Lost::default()))), "lost.from");
    let claim = pb::Claim { shard: 70_000, owner: 1, ..pb::Claim::default() };
    assert_eq!(refused(Some(Wire::Claim(claim))), "claim.shard");
}

#[test]
fn a_reason_of_a_newer_node_still_means_that_nothing_happened() {
    let refused = pb::Refused { reason: 99, message: "new rule".to_owned(), ..Default::default() };
    let outcome = Some(pb::publish_response::Outcome::Refused(refused));
    let response = pb::PublishResponse { id: 1, outcome };
    assert_eq!(
        super::outcome::outcome(response),
        Ok(Err(PublishError::Refused(Refusal::Unavailable("new rule".to_owned()))))
    );
}

#[test]
fn joining_reads_back_as_it_was_written() {
    for was in [None, Some(Joined { cluster: ClusterId(7), node: NodeId(3) })] {
        let join = Join {
            incarnation: 0x1234,
            was,
            name: "a".to_owned(),
            addresses: Addresses { peer: "h:7091".to_owned(), ..Addresses::default() },
            region: "eu-west".to_owned(),
            zone: String::new(),
            roles: Roles::default(),
            weight: 2,
            run: 4,
            run_token: 9,
            starting: true,
            build: Build { release: "0.1.0".to_owned(), supported: VersionRange::SUPPORTED },
        };
        assert_eq!(Join::try_from(pb::JoinRequest::from(join.clone())), Ok(join));
    }
    let joined = Joined { cluster: ClusterId(7), node: NodeId(3) };
    assert_eq!(Joined::try_from(pb::JoinResponse::from(joined)), Ok(joined));
}
