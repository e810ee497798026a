use std::net::SocketAddr;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, SubscribeOptions, test_util};
use pushonce_fanout::{FrameRun, FrameSink, OfferOutcome, SinkClosed};
use pushonce_proto::client::{ClientCommand, ErrorCode};
use tokio::sync::mpsc;

use super::*;
use crate::liveness::Activity;
use crate::metrics::TransportKind;
use crate::testing::{self, LaneHarness, UpstreamEvent};

/// A transport whose client allows no streams. It records the calls.
struct RejectingTransport(mpsc::UnboundedSender<TransportCall>);

#[derive(Debug, PartialEq, Eq)]
enum TransportCall {
    OpenSubscription(u32),
    /// The codes of all errors in one `reply` call.
    Rejected(Vec<ErrorCode>),
}

struct ClosedSink;

impl FrameSink for ClosedSink {
    fn offer(&mut self, _: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        Err(SinkClosed)
    }
}

impl SessionTransport for RejectingTransport {
    fn kind(&self) -> TransportKind {
        TransportKind::Quic
    }

    fn wire(&self) -> WireFormat {
        encoder::WS_PROTO
    }

    fn sink(&self) -> Rc<RefCell<dyn FrameSink>> {
        Rc::new(RefCell::new(ClosedSink))
    }

    fn open_subscription(
        &self,
        token: u32,
        _: &Topic,
        _: Delivery,
        _: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>> {
        self.0.send(TransportCall::OpenSubscription(token)).unwrap();
        std::future::ready(Err(StreamUnavailable)).boxed_local()
    }

    fn close_subscription(&self, _: u32) {}

    fn reply(&self, mut frames: Bytes) {
        let mut codes = Vec::new();
        while let [_, len, high, low, ..] = frames[..] {
            // The frame header has two bytes for payloads under 126 bytes, else four.
            let (begin, len) =
                if len < 126 { (2, len.into()) } else { (4, u16::from_be_bytes([high, low])) };
            let payload = frames.split_to(begin + usize::from(len)).slice(begin..);
            let event = encoder::encoding(self.wire()).decode_event(&payload).unwrap();
            let ServerEvent::Error { code, .. } = event else {
                panic!("{event:?} is not an error")
            };
            codes.push(code);
        }
        self.0.send(TransportCall::Rejected(codes)).unwrap();
    }

    fn send_heartbeat(&self, _: Vec<(u32, Topic, Position)>) {}

    fn send_ping(&self) {}

    fn close(&self, _: &'static CloseCode, _: &str) {}

    fn remote_address(&self) -> Option<SocketAddr> {
        None
    }

    fn take_activity(&self) -> Activity {
        Activity::default()
    }
}

fn subscribe(topic: &Topic, from: StartFrom) -> Result<ClientRequest, InvalidFrame> {
    let (topic, options) = (topic.clone(), SubscribeOptions::default());
    Ok(ClientRequest { id: Some(1), command: ClientCommand::Subscribe { topic, from, options } })
}

#[tokio::test]
async fn stream_is_not_opened_for_a_subscription_that_the_hub_rejects() {
    let test = async {
        let mut harness = LaneHarness::new();
        let (sender, mut calls) = mpsc::unbounded_channel();
        let driver = SessionDriver::start(
            harness.lane.clone(),
            RejectingTransport(sender),
            ClientAddress::LOCALHOST,
        );
        let topic = Topic::new("a").unwrap();
        driver.on_request(subscribe(&topic, StartFrom::Position(Position::new(7, 9))));
        harness.set_live(&topic).await;
        assert_eq!(
            calls.recv().await,
            Some(TransportCall::Rejected(vec![ErrorCode::FuturePosition]))
        );
        driver.stop();
    };
    testing::run_on_lane(test).await;
}

#[tokio::test]
async fn subscription_without_a_stream_is_rejected_and_unsubscribed_from_the_hub() {
    let test = async {
        let mut harness = LaneHarness::new();
        let (sender, mut calls) = mpsc::unbounded_channel();
        let driver = SessionDriver::start(
            harness.lane.clone(),
            RejectingTransport(sender),
            ClientAddress::LOCALHOST,
        );
        let topic = Topic::new("a").unwrap();
        driver.on_request(subscribe(&topic, StartFrom::Now));
        harness.set_live(&topic).await;
        assert_eq!(calls.recv().await, Some(TransportCall::OpenSubscription(0)));
        assert_eq!(calls.recv().await, Some(TransportCall::Rejected(vec![ErrorCode::Overloaded])));
        assert_eq!(harness.upstream_events.recv().await, Some(UpstreamEvent::Unwatch(topic)));
        driver.stop();
    };
    testing::run_on_lane(test).await;
}

/// A publish that the fake backend rejects as overloaded.
fn publish() -> Result<ClientRequest, InvalidFrame> {
    let publish = test_util::publish("a", "x");
    Ok(ClientRequest { id: Some(1), command: ClientCommand::Publish(publish) })
}

#[tokio::test]
async fn replies_to_publishes_sent_together_are_batched_even_after_the_client_disconnects() {
    let test = async {
        let harness = LaneHarness::new();
        let (sender, mut calls) = mpsc::unbounded_channel();
        let driver = SessionDriver::start(
            harness.lane.clone(),
            RejectingTransport(sender),
            ClientAddress::LOCALHOST,
        );
        driver.on_request(publish());
        driver.on_request(publish());
        driver.stop();
        assert_eq!(
            calls.recv().await,
            Some(TransportCall::Rejected(vec![ErrorCode::Overloaded; 2]))
        );
        drop(driver);
        assert_eq!(calls.recv().await, None, "the session is still referenced");
    };
    testing::run_on_lane(test).await;
}
