//! The interface between a session and its transport.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, Topic};
use pushonce_fanout::{FrameSink, WireFormat};
use pushonce_proto::client::ServerEvent;
use pushonce_proto::close::CloseCode;

use super::encode;
use crate::Config;
use crate::liveness::Activity;
use crate::metrics::TransportKind;

/// The transport of one session. Every method except [`SessionTransport::open_subscription`] returns at once.
pub(crate) trait SessionTransport: 'static {
    /// The kind of transport, for metrics.
    fn kind(&self) -> TransportKind;

    /// The format of the frames on this transport.
    fn wire(&self) -> WireFormat;

    /// The sink that receives the frames of the hub.
    fn sink(&self) -> Rc<RefCell<dyn FrameSink>>;

    /// Whether messages can be sent as datagrams.
    fn supports_datagrams(&self) -> bool {
        false
    }

    /// Opens the stream of a subscription on transports that use one stream per subscription. With
    /// `datagrams`, messages may be sent as datagrams. If `delivery` is not [`Delivery::All`], the transport
    /// must buffer little: a message that was sent can no longer be replaced by a newer one.
    ///
    /// # Errors
    /// [`StreamUnavailable`] when the client does not allow another stream.
    fn open_subscription(
        &self,
        token: u32,
        topic: &Topic,
        delivery: Delivery,
        datagrams: bool,
    ) -> LocalBoxFuture<'static, Result<(), StreamUnavailable>>;

    /// Releases the resources of a subscription.
    fn close_subscription(&self, token: u32);

    /// The maximum age of the session, if there is one.
    fn age_max(&self, config: &Config) -> Option<Duration> {
        config.session_age_max
    }

    /// Queues a reply to a request, or an event of the session.
    fn reply_event(&self, event: &ServerEvent) {
        self.reply(encode(self.wire(), event));
    }

    /// Queues replies to requests, as complete encoded frames.
    fn reply(&self, frames: Bytes);

    /// Queues the heartbeat. The position of each subscription, identified by its token, must follow every
    /// frame that the position covers.
    fn send_heartbeat(&self, positions: Vec<(u32, Topic, Position)>);

    /// Whether [`SessionTransport::on_half_interval`] is to be called.
    fn needs_half_intervals(&self) -> bool {
        false
    }

    /// Handles the middle of a heartbeat interval.
    fn on_half_interval(&self) {}

    /// Sends a ping to check that the client is alive.
    fn send_ping(&self);

    /// Receives again after [`ReceiveState::Waiting`]. A transport that receives no frames has nothing to do.
    fn resume_receiving(&self) {}

    /// Ends the session after all queued frames were sent.
    fn close(&self, close: &'static CloseCode, reason: &str);

    /// The address of the client, if the connection still has one.
    fn remote_address(&self) -> Option<SocketAddr>;

    /// Returns the activity since the previous call.
    fn take_activity(&self) -> Activity;
}

/// The client does not allow the stream that a subscription needs.
pub(crate) struct StreamUnavailable;
