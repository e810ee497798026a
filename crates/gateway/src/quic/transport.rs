//! The transport that the driver of a session over raw QUIC or WebTransport uses.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, Topic};
use pushonce_fanout::WireFormat;
use pushonce_proto::client::ServerEvent;
use pushonce_proto::close::{self, CloseCode};
use pushonce_quic::Connection;

use super::carrier::Carrier;
use super::http3_output::Http3Output;
use super::sink::QuicSink;
use super::subscription::QuicSubscription;
use crate::driver::{self, SessionTransport, StreamUnavailable};
use crate::liveness::Activity;
use crate::metrics::TransportKind;

/// Maximum time for a client to allow the stream of a subscription.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// The transport that the driver of the session uses.
pub(super) struct QuicTransport {
    pub(super) connection: Rc<Connection>,
    pub(super) sink: Rc<RefCell<QuicSink>>,
    carrier: Rc<Carrier>,
    /// The streams of HTTP/3 itself, over WebTransport.
    pub(super) http3: Option<Rc<RefCell<Http3Output>>>,
    /// The code and reason with which the connection will be closed.
    close_reason: RefCell<Option<(&'static CloseCode, String)>>,
}

impl QuicTransport {
    pub(super) fn new(
        connection: Rc<Connection>,
        sink: QuicSink,
        carrier: Rc<Carrier>,
        http3: Option<Rc<RefCell<Http3Output>>>,
    ) -> QuicTransport {
        QuicTransport {
            connection,
            sink: Rc::new(RefCell::new(sink)),
            carrier,
            http3,
            close_reason: RefCell::new(None),
        }
    }

    /// The code and the reason of the close, once.
    pub(super) fn take_close_reason(&self) -> (&'static CloseCode, String) {
        self.close_reason.take().unwrap_or((&close::NORMAL, String::new()))
    }
}

impl SessionTransport for QuicTransport {
    fn kind(&self) -> TransportKind {
        self.carrier.kind
    }

    fn wire(&self) -> WireFormat {
        self.carrier.wire
    }

    fn sink(&self) -> Rc<RefCell<dyn pushonce_fanout::FrameSink>> {
        self.sink.clone()
    }

    fn supports_datagrams(&self) -> bool {
        self.carrier.has_datagrams && self.connection.supports_datagrams()
    }

    fn open_subscription(
        &self,
        token: u32,
        topic: &Topic,
        delivery: Delivery,
        datagrams: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>> {
        if delivery != Delivery::All {
            self.connection.set_send_window(super::LATEST_SEND_WINDOW_BYTES);
        }
        let (connection, sink, topic) = (self.connection.clone(), self.sink.clone(), topic.clone());
        let carrier = self.carrier.clone();
        async move {
            let opened = tokio::time::timeout(STREAM_TIMEOUT, connection.open_stream()).await;
            let Ok(Some(stream)) = opened else { return Err(StreamUnavailable) };
            let event = ServerEvent::Stream { topic: topic.clone() };
            let first_frame = driver::encode(carrier.wire, &event);
            let subscription =
                QuicSubscription::new(topic, stream, first_frame, datagrams, carrier);
            sink.borrow_mut().add_subscription(token, subscription);
            Ok(())
        }
        .boxed_local()
    }

    fn close_subscription(&self, token: u32) {
        self.sink.borrow_mut().remove_subscription(token);
    }

    fn reply_event(&self, event: &ServerEvent) {
        if let (Some(http3), ServerEvent::Goaway { .. }) = (&self.http3, event) {
            http3.borrow_mut().announce_end();
        }
        self.reply(driver::encode(self.wire(), event));
    }

    fn reply(&self, frame: Bytes) {
        self.sink.borrow_mut().push_reply(frame);
    }

    /// Streams are not ordered among each other, so each topic gets its position on its own stream.
    fn send_heartbeat(&self, positions: Vec<(u32, Topic, Position)>) {
        let frame = |positions| driver::encode(self.wire(), &ServerEvent::Heartbeat { positions });
        let mut sink = self.sink.borrow_mut();
        for (token, topic, position) in positions {
            sink.push_heartbeat(token, frame(vec![(topic, position)]));
        }
        sink.push_reply(frame(Vec::new()));
    }

    /// Does nothing: QUIC keeps the connection alive and detects its end.
    fn send_ping(&self) {}

    fn resume_receiving(&self) {
        self.connection.wake_handler();
    }

    fn close(&self, close: &'static CloseCode, reason: &str) {
        self.close_reason.replace(Some((close, reason.to_owned())));
        self.sink.borrow_mut().start_closing();
    }

    fn remote_address(&self) -> Option<SocketAddr> {
        Some(self.connection.remote_address())
    }

    fn take_activity(&self) -> Activity {
        let mut sink = self.sink.borrow_mut();
        Activity { received: true, blocked: sink.is_blocked(), progressed: sink.take_progressed() }
    }
}
