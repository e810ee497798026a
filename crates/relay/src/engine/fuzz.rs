//! Frames of any content from linked peers, as a defective or hostile node could send them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use pushonce_core::test_util::{claim, publish, topic};
use pushonce_core::{
    Gap, GapReason, HistoryRange, NodeId, Position, ShardId, Term, Timestamp, UnavailableReason,
};
use pushonce_fuzz::Input;
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::{FetchedPart, HeartbeatTiming, PeerFrame};

use super::testing::{message, view};
use super::{Engine, EngineEffect, EngineEvent};
use crate::{Config, frame_check};

/// A watched topic.
const WATCHED: &str = "chat/7";

/// Node 1 with links to two peers in its region and one in another. It watches a topic and leads no shard.
struct Node {
    engine: Engine,
    now: Instant,
}

impl Node {
    fn new() -> Node {
        let now = Instant::now();
        let view = Arc::new(view(&["eu", "eu", "eu", "us"]));
        let mut node = Node { engine: Engine::new(Config::new(NodeId(1)), view, now), now };
        for peer in 2..=4 {
            node.handle(EngineEvent::LinkUp(NodeId(peer)));
        }
        node.handle(EngineEvent::Watch { topic: topic(WATCHED), after: None });
        node.handle(EngineEvent::Fetch { id: 1, topic: topic("news"), range: HistoryRange::All });
        node
    }

    /// Handles an event and the reads that it asks for, and checks every frame that the node sends.
    fn handle(&mut self, event: EngineEvent) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in self.engine.handle(event, self.now) {
                match effect {
                    EngineEffect::Read { purpose, topic, .. } => {
                        let result =
                            Err(UnavailableReason::Reported("no replica".to_owned()).into());
                        events.push(EngineEvent::Read { purpose, topic, result });
                    }
                    EngineEffect::Send(_, frame) => assert_readable(frame),
                    EngineEffect::Deliver(_, messages, _) => assert!(!messages.is_empty()),
                    _ => {}
                }
            }
        }
    }
}

/// A peer reads what this node sends, and takes it for the frame of a correct node.
fn assert_readable(frame: PeerFrame) {
    let bytes = pb::LinkFrame::from(frame).encode_to_vec();
    let wire = pb::LinkFrame::decode(&bytes[..]).expect("valid protobuf");
    let decoded: PeerFrame = wire.try_into().expect("a valid frame");
    assert!(frame_check::is_plausible(&decoded), "{decoded:?}");
    assert_eq!(pb::LinkFrame::from(decoded).encode_to_vec(), bytes);
}

fn frames() -> Vec<PeerFrame> {
    let shard_of = |name: &str| topic(name).shard(view(&["eu"]).shards).0;
    let position = Position::new(5, 3);
    let gap = Gap { from: Position::new(5, 1), to: Position::new(5, 2), reason: GapReason::Slow };
    vec![
        PeerFrame::Claim(claim(shard_of(WATCHED), 2, 7)),
        PeerFrame::Claim(claim(shard_of("news"), 3, 7)),
        PeerFrame::Interested { number: 1, head: Some(Position::new(5, 2)) },
        PeerFrame::Deliver { number: 1, messages: vec![message(5, 3), message(5, 4)], age: None },
        PeerFrame::Lost { number: 1, gap },
        PeerFrame::Fetched {
            id: 1,
            part: FetchedPart::Done {
                messages: vec![message(5, 1)],
                head: position,
                gap: Some(gap),
            },
        },
        PeerFrame::Interest { number: 9, topic: topic("a"), after: Some(position) },
        PeerFrame::Fetch { id: 3, topic: topic("a"), range: HistoryRange::Last(2) },
        PeerFrame::Publish { id: 4, publish: publish("a", "goal") },
        PeerFrame::ClaimRefuted { shard: ShardId(0), owner: NodeId(2), term: Term(7) },
        PeerFrame::Heartbeat {
            heads: vec![(1, Position::new(5, 9))],
            stale_shards: vec![(ShardId(1), Duration::from_secs(9))],
            clock: Timestamp(1_000),
            log_times: vec![(ShardId(0), Timestamp(900))],
            timing: HeartbeatTiming { sent: Some(Duration::from_secs(1)), echo: None },
        },
        PeerFrame::Withdraw { number: 9 },
        PeerFrame::Stopping,
    ]
}

/// One step: the sender, a time that passes before, and a frame after its length.
fn step(from: u8, frame: PeerFrame) -> Vec<u8> {
    let frame = pb::LinkFrame::from(frame).encode_to_vec();
    [&[from, 10], &(frame.len() as u16).to_be_bytes()[..], &frame].concat()
}

#[test]
fn frames_of_any_content_are_handled_and_answered_with_valid_frames() {
    let all: Vec<_> = frames().into_iter().map(|frame| step(0, frame)).collect();
    let mixed: Vec<_> = (0..).zip(frames()).map(|(from, frame)| step(from, frame)).collect();
    let seeds = vec![all.concat(), mixed.concat(), all[..4].concat()];
    pushonce_fuzz::check!("frames", seeds, |input| {
        let mut node = Node::new();
        let mut input = Input::new(input);
        while !input.rest().is_empty() {
            let from = NodeId(2 + u64::from(input.byte() % 3));
            let millis = u64::from(input.byte()) * 10;
            let len = input.u16();
            let bytes = input.bytes(usize::from(len));
            if millis > 0 {
                node.now += Duration::from_millis(millis);
                node.handle(EngineEvent::Tick);
            }
            let Ok(wire) = pb::LinkFrame::decode(bytes) else { continue };
            let Ok(frame) = PeerFrame::try_from(wire) else { continue };
            if frame_check::is_plausible(&frame) {
                node.handle(EngineEvent::Frame(from, frame));
            }
        }
        for peer in 2..=4 {
            node.handle(EngineEvent::LinkDown(NodeId(peer)));
        }
        node.now += Duration::from_secs(60);
        node.handle(EngineEvent::Tick);
    });
}
