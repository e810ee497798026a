//! One QUIC session, from the handshake to the last frame: no task, it has a turn when something
//! happened to its connection.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, Position, Topic};
use pushonce_fanout::Wire;
use pushonce_proto::client::{self, Command, Encoding, Request};
use pushonce_proto::close::{self, Close};
use pushonce_proto::delimited;
use quinn_proto::{Dir, Event, StreamEvent, StreamId};
use tokio::sync::OwnedSemaphorePermit;

use super::link::{Link, Read};
use super::outlet::{Finish, Outlet};
use super::subscription::Subscription;
use crate::driver::{Driver, NoWay, Transport};
use crate::encoder;
use crate::lane::Local;
use crate::metrics::Door;
use crate::pulse::Vitals;

/// How long the last answers may take to be acknowledged.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a client may take to allow the stream of a subscription.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Session {
    local: Rc<Local>,
    link: Rc<Link>,
    phase: Phase,
    /// When its patience with the client ends.
    deadline: Option<Instant>,
    /// Its place among all connections.
    permit: Option<OwnedSemaphorePermit>,
}

enum Phase {
    /// The handshake, then the control stream that the client must open.
    Meets {
        connected: bool,
    },
    Talks(Talk),
    /// The last answers are on their way.
    Leaves {
        talk: Talk,
        finished: bool,
    },
    Over,
}

/// What a session is while it talks.
struct Talk {
    driver: Rc<Driver<Streams>>,
    control: StreamId,
    decoder: delimited::Decoder,
    /// The client closed its side.
    over: bool,
}

/// The connection, as the session's driver sees it.
struct Streams {
    link: Rc<Link>,
    outlet: Rc<RefCell<Outlet>>,
    /// What is to be said at the end.
    last: RefCell<Option<(&'static Close, String)>>,
}

// === impl Session ===

impl Session {
    /// A session whose handshake begins now.
    pub(super) fn new(local: Rc<Local>, link: Rc<Link>, permit: OwnedSemaphorePermit) -> Session {
        let deadline = Some(Instant::now() + local.config.handshake_timeout);
        let phase = Phase::Meets { connected: false };
        Session { local, link, phase, deadline, permit: Some(permit) }
    }

    /// When [`Session::expire`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether nobody knows yet if it becomes a session.
    pub(super) fn meets(&self) -> bool {
        matches!(self.phase, Phase::Meets { .. })
    }

    /// Something happened to the connection. A turn follows.
    pub(super) fn hear(&mut self, event: Event) {
        match (event, &mut self.phase) {
            (Event::Connected, Phase::Meets { connected }) => {
                *connected = true;
                self.deadline = Some(Instant::now() + self.local.config.handshake_timeout);
            }
            (Event::Stream(StreamEvent::Opened { dir: Dir::Bi }), Phase::Meets { .. }) => {
                if let Some(control) = self.link.accept() {
                    self.deadline = None;
                    self.phase = Phase::Talks(Talk::begin(&self.local, &self.link, control));
                }
            }
            (
                Event::Stream(StreamEvent::Finished { id } | StreamEvent::Stopped { id, .. }),
                Phase::Leaves { talk, finished: true },
            ) if id == talk.control => self.part(),
            (Event::Stream(StreamEvent::Available { .. }), _) => self.link.wake_openers(),
            (Event::ConnectionLost { .. }, _) => {
                self.link.wake_openers();
                self.end();
            }
            _ => {}
        }
    }

    /// A packet was lost, and maybe a datagram with it. A turn follows.
    pub(super) fn doubt(&mut self) {
        if let Phase::Talks(talk) = &self.phase {
            talk.driver.transport().outlet.borrow_mut().doubt();
        }
    }

    /// Does whatever can be done now.
    pub(super) fn turn(&mut self) {
        if let Phase::Talks(talk) = &mut self.phase
            && talk.turn()
        {
            self.take_leave();
        }
        if let Phase::Leaves { talk, finished: finished @ false } = &mut self.phase {
            let finish = talk.driver.transport().outlet.borrow_mut().finish();
            *finished = finish == Finish::Done;
            if finish == Finish::InVain {
                self.part();
            }
        }
    }

    /// The deadline has come.
    pub(super) fn expire(&mut self) {
        match &self.phase {
            Phase::Meets { connected: true } => {
                let close = &close::PROTOCOL_ERROR;
                self.link.close(close, "open a bidirectional stream and speak first");
            }
            Phase::Meets { connected: false } => self.link.drop_out(),
            // Who does not acknowledge the last answers does not get them.
            Phase::Leaves { .. } => return self.part(),
            Phase::Talks(_) | Phase::Over => {}
        }
        self.end();
    }

    /// Nothing more is heard of the client; it still gets its last answers.
    fn take_leave(&mut self) {
        if let Phase::Talks(talk) = std::mem::replace(&mut self.phase, Phase::Over) {
            talk.driver.end();
            self.deadline = Some(Instant::now() + FAREWELL);
            self.phase = Phase::Leaves { talk, finished: false };
        }
    }

    /// Closes the connection in the words that were chosen.
    fn part(&mut self) {
        if let Phase::Leaves { talk, .. } = &self.phase {
            let last = talk.driver.transport().last.take();
            let (close, reason) = last.unwrap_or((&close::NORMAL, String::new()));
            self.link.close(close, &reason);
        }
        self.end();
    }

    fn end(&mut self) {
        if self.meets() {
            self.local.meters.of(Door::Quic).refused.increment(1);
        }
        self.phase = Phase::Over;
        self.deadline = None;
        self.permit = None;
    }
}

// === impl Talk ===

impl Talk {
    fn begin(local: &Rc<Local>, link: &Rc<Link>, control: StreamId) -> Talk {
        let bytes_out = local.meters.of(Door::Quic).bytes_out.clone();
        let outlet = Outlet::new(link.clone(), control, bytes_out);
        let streams = Streams {
            link: link.clone(),
            outlet: Rc::new(RefCell::new(outlet)),
            last: RefCell::new(None),
        };
        let decoder = delimited::Decoder::new(local.frame_bytes_max(Encoding::Proto));
        let driver = Driver::begin(local.clone(), streams);
        Talk { driver, control, decoder, over: false }
    }

    /// Says whether the session is over.
    fn turn(&mut self) -> bool {
        let outlet = self.driver.transport().outlet.clone();
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
                return true;
            }
            let congested = outlet.borrow().congested();
            if congested || !self.read() {
                return false;
            }
        }
    }

    /// Says whether something was read.
    fn read(&mut self) -> bool {
        let link = &self.driver.transport().link;
        match link.read(self.control, super::RECEIVE_WINDOW_BYTES as usize) {
            Read::Bytes(bytes) => self.take(&bytes),
            Read::End => self.over = true,
            Read::Nothing => return false,
        }
        true
    }

    /// Bytes came.
    fn take(&mut self, bytes: &[u8]) {
        self.decoder.limit(self.driver.local().frame_bytes_max(Encoding::Proto));
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
}

/// Also when the lane cuts the session off: the driver and the lane hold each other.
impl Drop for Talk {
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

    fn has_datagrams(&self) -> bool {
        self.link.has_datagrams()
    }

    fn open(
        &self,
        token: u32,
        topic: &Topic,
        delivery: Delivery,
        datagrams: bool,
    ) -> LocalBoxFuture<'static, Result<(), NoWay>> {
        if delivery != Delivery::All {
            self.link.keep_fresh();
        }
        let (link, outlet, topic) = (self.link.clone(), self.outlet.clone(), topic.clone());
        async move {
            let opened = tokio::time::timeout(STREAM_TIMEOUT, link.open()).await;
            let Ok(Some(stream)) = opened else { return Err(NoWay) };
            let first =
                Encoding::Proto.encode_event(&client::Event::Stream { topic: topic.clone() });
            let first = encoder::whole(encoder::QUIC_PROTO, &first);
            let subscription = Subscription::new(topic, stream, first, datagrams);
            outlet.borrow_mut().open(token, subscription);
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
            let frame = Encoding::Proto.encode_event(&client::Event::Heartbeat { positions });
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
