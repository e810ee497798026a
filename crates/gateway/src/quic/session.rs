//! One QUIC session: a task that waits for its control stream, and for room on the others.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_core::{Position, Topic};
use pushonce_fanout::Wire;
use pushonce_proto::client::{Command, Encoding, Event, Request};
use pushonce_proto::close::{self, Close};
use pushonce_proto::delimited;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::OwnedSemaphorePermit;

use super::outlet::Outlet;
use crate::driver::{Driver, NoWay, Transport};
use crate::encoder;
use crate::lane::Local;
use crate::metrics::Door;
use crate::pulse::Vitals;

/// How long the last answers may take to be acknowledged.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a client may take to allow the stream of a subscription.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest a client holds back an acknowledgement (RFC 9000, 18.2, the default).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

/// Runs a session from its handshake to its last frame. `permit` is its place among all
/// connections.
pub(crate) async fn run(local: Rc<Local>, incoming: quinn::Incoming, permit: OwnedSemaphorePermit) {
    match meet(&local, incoming).await {
        Some((connection, send, receive)) => talk(local, connection, send, receive).await,
        None => local.meters.of(Door::Quic).refused.increment(1),
    }
    drop(permit);
}

/// The handshake, and the control stream that the client must open.
async fn meet(
    local: &Local,
    incoming: quinn::Incoming,
) -> Option<(Connection, SendStream, RecvStream)> {
    let timeout = local.config.handshake_timeout;
    let connecting = incoming.accept().ok()?;
    let connection = tokio::time::timeout(timeout, connecting).await.ok()?.ok()?;
    match tokio::time::timeout(timeout, connection.accept_bi()).await {
        Ok(Ok((send, receive))) => Some((connection, send, receive)),
        Ok(Err(_)) => None,
        Err(_) => {
            end(&connection, &close::PROTOCOL_ERROR, "open a bidirectional stream and speak first");
            None
        }
    }
}

async fn talk(local: Rc<Local>, connection: Connection, send: SendStream, receive: RecvStream) {
    let bytes_out = local.meters.of(Door::Quic).bytes_out.clone();
    let streams = Streams {
        connection: connection.clone(),
        outlet: Rc::new(RefCell::new(Outlet::new(send, bytes_out))),
        last: Rc::new(RefCell::new(None)),
    };
    let decoder = delimited::Decoder::new(local.config.frame_bytes_max);
    let mut session =
        Session { driver: Driver::begin(local, streams), receive, decoder, over: false };
    poll_fn(|cx| session.poll(cx)).await;
    session.driver.end();
    // Who does not acknowledge the last answers does not get them.
    let _ = tokio::time::timeout(FAREWELL, session.farewell()).await;
    let (close, reason) =
        session.driver.transport().last.take().unwrap_or((&close::NORMAL, String::new()));
    end(&connection, close, &reason);
    if session.driver.local().leaving.is_cancelled() {
        // The lane is about to end, and the connection's own task with it. Until then it sends the
        // close frame, again to packets that crossed it: those would be answered with a reset, and
        // the client would not learn the code (RFC 9000, 10.2: three times the probe timeout).
        tokio::time::sleep(3 * (connection.rtt() + MAX_ACK_DELAY)).await;
    }
}

/// The close codes are the same on every transport.
fn end(connection: &Connection, close: &Close, reason: &str) {
    connection.close(VarInt::from(close.code), reason.as_bytes());
}

/// The connection, as the session's driver sees it.
struct Streams {
    connection: Connection,
    outlet: Rc<RefCell<Outlet>>,
    /// What is to be said at the end.
    last: Rc<RefCell<Option<(&'static Close, String)>>>,
}

struct Session {
    driver: Rc<Driver<Streams>>,
    receive: RecvStream,
    decoder: delimited::Decoder,
    /// The client closed its side, or the connection is gone.
    over: bool,
}

// === impl Session ===

impl Session {
    /// Ready when the session is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let outlet = self.driver.transport().outlet.clone();
        outlet.borrow_mut().register(cx.waker());
        loop {
            let room = outlet.borrow_mut().flush();
            if room {
                self.driver.writable();
            }
            let stopped = outlet.borrow_mut().take_stopped();
            for topic in stopped {
                let command = Command::Unsubscribe { topic };
                self.driver.request(Ok(Request { id: None, command }));
            }
            if self.over || !outlet.borrow().open_for_requests() {
                return Poll::Ready(());
            }
            let congested = outlet.borrow().congested();
            if congested || self.poll_read(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Ready when something was read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.driver.clone();
        let mut scratch = driver.local().scratch.borrow_mut();
        let Poll::Ready(read) = self.receive.poll_read(cx, &mut scratch) else {
            return Poll::Pending;
        };
        match read {
            Ok(0) | Err(_) => self.over = true,
            Ok(len) => self.take(&scratch[..len]),
        }
        Poll::Ready(())
    }

    /// Bytes came.
    fn take(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        while self.driver.transport().outlet.borrow().open_for_requests() {
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    self.driver.request(Encoding::Proto.decode_request(&frame));
                }
                Ok(None) => break,
                Err(too_long) => self.driver.close(&close::TOO_BIG, too_long.to_string()),
            }
        }
    }

    /// The last answers.
    async fn farewell(&self) {
        let outlet = &self.driver.transport().outlet;
        poll_fn(|cx| {
            let mut outlet = outlet.borrow_mut();
            outlet.register(cx.waker());
            outlet.poll_finish()
        })
        .await;
        let acknowledged = outlet.borrow().acknowledged();
        acknowledged.await;
    }
}

/// Also when the lane cuts the session off: the driver and the lane hold each other.
impl Drop for Session {
    fn drop(&mut self) {
        self.driver.end();
    }
}

// === impl Streams ===

impl Transport for Streams {
    const DOOR: Door = Door::Quic;

    fn wire(&self) -> Wire {
        encoder::QUIC_PROTO
    }

    fn outlet(&self) -> Rc<RefCell<dyn pushonce_fanout::Outlet>> {
        self.outlet.clone()
    }

    fn open(&self, token: u32, topic: &Topic) -> LocalBoxFuture<'static, Result<(), NoWay>> {
        let (connection, outlet, topic) =
            (self.connection.clone(), self.outlet.clone(), topic.clone());
        async move {
            let opened = tokio::time::timeout(STREAM_TIMEOUT, connection.open_uni()).await;
            let Ok(Ok(stream)) = opened else { return Err(NoWay) };
            let first = Encoding::Proto.encode_event(&Event::Stream { topic: topic.clone() });
            let first = encoder::whole(encoder::QUIC_PROTO, &first);
            outlet.borrow_mut().open(token, topic, stream, first);
            Ok(())
        }
        .boxed_local()
    }

    fn shut(&self, token: u32) {
        self.outlet.borrow_mut().shut(token);
    }

    fn reply(&self, frame: Bytes) {
        self.outlet.borrow_mut().answer(frame);
    }

    /// Nothing orders the streams, so each topic has its position on its own.
    fn beat(&self, positions: Vec<(u32, Topic, Position)>) {
        let frame = |positions| {
            let frame = Encoding::Proto.encode_event(&Event::Heartbeat { positions });
            encoder::whole(encoder::QUIC_PROTO, &frame)
        };
        let mut outlet = self.outlet.borrow_mut();
        for (token, topic, position) in positions {
            outlet.beat(token, frame(vec![(topic, position)]));
        }
        outlet.answer(frame(Vec::new()));
    }

    /// The transport keeps the connection alive and notices its end by itself.
    fn ping(&self) {}

    fn leave(&self, close: &'static Close, reason: &str) {
        self.last.replace(Some((close, reason.to_owned())));
        self.outlet.borrow_mut().leave();
    }

    fn vitals(&self) -> Vitals {
        let mut outlet = self.outlet.borrow_mut();
        Vitals { heard: true, blocked: outlet.blocked(), progressed: outlet.take_progressed() }
    }
}
