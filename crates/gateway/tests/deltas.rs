//! For any payloads and any reading speed, the frames of a topic decode to every message as published, or to
//! a gap, with and without compression and deltas.

mod support;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use proptest::sample::Index;
use pushonce_core::{
    ContentType, FetchError, HistoryPage, HistoryRange, Message, Position, StartFrom,
    SubscribeOptions, Timestamp, Topic, UnavailableReason,
};
use pushonce_fanout::{
    FrameRun, FrameSink, Hub, OfferOutcome, Retention, SessionKey, SinkClosed, Upstream,
    WireFormat, hub,
};
use pushonce_gateway::Encoder;
use pushonce_proto::client::{Encoding, ServerEvent};
use tokio::runtime::{Builder, LocalOptions};
use tokio_util::sync::CancellationToken;

use support::raw::inflate;

#[derive(Clone, Debug)]
enum DeltaStep {
    /// Publishes the last payload with a number of characters at an index replaced by a text.
    Publish(Index, usize, String),
    /// Lets a viewer accept a number of frames before it blocks.
    AllowFrames(usize, usize),
    /// Lets a viewer subscribe again.
    Resubscribe(usize),
    /// Lets the lane run.
    Yield,
}

fn delta_step() -> impl Strategy<Value = DeltaStep> {
    prop_oneof![
        4 => (any::<Index>(), 0_usize..20, "[a-c \\n\"ü]{0,30}")
            .prop_map(|(at, cut, put)| DeltaStep::Publish(at, cut, put)),
        1 => (0..VIEWERS.len(), 0_usize..9).prop_map(|(index, room)| DeltaStep::AllowFrames(index, room)),
        1 => (0..VIEWERS.len()).prop_map(DeltaStep::Resubscribe),
        2 => Just(DeltaStep::Yield),
    ]
}

/// Wire formats of the viewers, JSON and protobuf with and without compression, and whether they accept
/// deltas.
const VIEWERS: [(WireFormat, bool); 6] = [
    (WireFormat(0), true),
    (WireFormat(0), false),
    (WireFormat(1), true),
    (WireFormat(3), true),
    (WireFormat(4), true),
    (WireFormat(4), false),
];

struct NoUpstream;

impl Upstream for NoUpstream {
    fn watch(&self, _: &Topic, _: Option<Position>) {}

    fn unwatch(&self, _: &Topic) {}

    fn fetch(
        &self,
        _: Topic,
        _: HistoryRange,
    ) -> BoxFuture<'static, Result<HistoryPage, FetchError>> {
        std::future::ready(Err(UnavailableReason::NoMajority.into())).boxed()
    }

    fn retention(&self, _: &Topic) -> Retention {
        Retention::default()
    }
}

struct BoundedSink {
    frames: Vec<Bytes>,
    frames_left: usize,
}

impl FrameSink for BoundedSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        let frames = runs.iter().flat_map(|run| run.frames).take(self.frames_left);
        let before = self.frames.len();
        self.frames.extend(frames.cloned());
        let taken = self.frames.len() - before;
        self.frames_left -= taken;
        Ok(OfferOutcome { accepted: taken, is_blocked: self.frames_left == 0 })
    }
}

struct DeltaViewer {
    wire: WireFormat,
    delta: bool,
    key: SessionKey,
    sink: Rc<RefCell<BoundedSink>>,
    /// The position at which the subscription began.
    start: Position,
}

/// Decodes the event in a WebSocket frame.
fn decode_event(wire: WireFormat, frame: &Bytes) -> ServerEvent {
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let payload = match frame[0] & 0x40 {
        0 => frame.slice(header..),
        _ => inflate(&frame[header..]).into(),
    };
    let json = matches!(wire, WireFormat(0 | 3));
    let encoding = if json { Encoding::Json } else { Encoding::Proto };
    encoding.decode_event(&payload).expect("an event")
}

/// Checks that the viewer received the published messages. Returns the position that it reached.
fn check(viewer: &DeltaViewer, published: &HashMap<Position, Bytes>) -> Position {
    let mut reached = viewer.start;
    let mut last: Option<Bytes> = None;
    for frame in &viewer.sink.borrow().frames {
        let (position, payload) = match decode_event(viewer.wire, frame) {
            ServerEvent::Message { message, .. } => (message.position, message.payload.clone()),
            ServerEvent::MessageDelta { message_delta, .. } => {
                assert!(viewer.delta, "the viewer does not accept deltas");
                let base = last.expect("a delta must follow its base message");
                let payload = fossil_delta::deltainv(base, message_delta.delta);
                (message_delta.position, payload.into())
            }
            ServerEvent::Gap { gap, .. } => {
                (reached, last) = (gap.to, None);
                continue;
            }
            other => panic!("{other:?}"),
        };
        assert!(position.follows(reached), "{position} does not follow {reached}");
        assert_eq!(published.get(&position), Some(&payload), "{position}");
        (reached, last) = (position, Some(payload));
    }
    reached
}

fn options(delta: bool) -> SubscribeOptions {
    SubscribeOptions { accept_deltas: delta, ..SubscribeOptions::default() }
}

async fn yield_several_times() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn run_steps(steps: Vec<DeltaStep>) {
    let config = hub::Config { ring_messages_max: 3, ..hub::Config::default() };
    let hub = Hub::new(config, Arc::new(NoUpstream), Arc::new(Encoder));
    let (topic, stop) = (Topic::new("a").expect("valid"), CancellationToken::new());
    let (lane, driver) = hub.new_lane();
    tokio::task::spawn_local(driver.run(stop.clone()));
    let mut viewers = Vec::new();
    for (wire, delta) in VIEWERS {
        let sink =
            Rc::new(RefCell::new(BoundedSink { frames: Vec::new(), frames_left: usize::MAX }));
        let key = lane.open_session(wire, sink.clone());
        let subscribing = lane.subscribe(key, 0, topic.clone(), StartFrom::Now, options(delta));
        let (subscribed, ()) =
            tokio::join!(subscribing, async { hub.mark_live_at(&topic, Position::ZERO) });
        subscribed.expect("subscribed");
        lane.start_delivery(key, &topic);
        viewers.push(DeltaViewer { wire, delta, key, sink, start: Position::ZERO });
    }
    let (mut published, mut head) = (HashMap::new(), Position::ZERO);
    let mut text: Vec<char> =
        "Germany against Brazil, Estadio Azteca, Mexico City".chars().collect();
    for step in steps {
        match step {
            DeltaStep::Publish(at, cut, put) => {
                let at = at.index(text.len() + 1);
                text.splice(at..(at + cut).min(text.len()), put.chars());
                let payload = Bytes::from(text.iter().collect::<String>());
                head = Position::new(7, head.offset.0 + 1);
                published.insert(head, payload.clone());
                let (time, content_type) = (Timestamp(0), ContentType::Text);
                let message = Message { position: head, time, content_type, key: None, payload };
                hub.deliver(&topic, &[Arc::new(message)], None);
            }
            DeltaStep::AllowFrames(index, room) => {
                viewers[index].sink.borrow_mut().frames_left = room;
                lane.on_writable(viewers[index].key);
            }
            DeltaStep::Resubscribe(index) => {
                let DeltaViewer { key, delta, .. } = viewers[index];
                check(&viewers[index], &published);
                lane.unsubscribe(key, &topic);
                let subscribing =
                    lane.subscribe(key, 0, topic.clone(), StartFrom::Now, options(delta));
                subscribing.await.expect("subscribed");
                lane.start_delivery(key, &topic);
                viewers[index].sink.borrow_mut().frames.clear();
                viewers[index].start = head;
            }
            DeltaStep::Yield => yield_several_times().await,
        }
    }
    for viewer in &viewers {
        viewer.sink.borrow_mut().frames_left = usize::MAX;
        lane.on_writable(viewer.key);
    }
    yield_several_times().await;
    for viewer in &viewers {
        assert_eq!(check(viewer, &published), head);
    }
    stop.cancel();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sent_frames_reproduce_the_published_payloads(steps in proptest::collection::vec(delta_step(), 1..80)) {
        let runtime = Builder::new_current_thread().enable_time().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(run_steps(steps));
    }
}
