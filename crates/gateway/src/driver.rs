//! Does what the session decides: the thin loop around [`Session`], the same for every transport.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc::{self, UnboundedSender};
use futures::future::LocalBoxFuture;
use pushonce_core::{Delivery, From, Options, Placed, Position, Publish, PublishError, Topic};
use pushonce_fanout::{Outlet, SessionKey, Wire};
use pushonce_proto::client::{Event, InvalidFrame, Request};
use pushonce_proto::close::{self, Close};

use crate::encoder;
use crate::lane::Local;
use crate::metrics::{self, Door};
use crate::pulse::{Pulse, Verdict, Vitals};
use crate::refusal::{self, Refusal};
use crate::registry::{Member, Seat};
use crate::session::{Effect, Granted, Input, Session};

/// How a session is heard and answered. Everything but [`Transport::open`] returns at once.
pub(crate) trait Transport: 'static {
    /// Which door it is.
    const DOOR: Door;

    /// What its frames are.
    fn wire(&self) -> Wire;

    /// Where the hub's frames go.
    fn outlet(&self) -> Rc<RefCell<dyn Outlet>>;

    /// Whether messages may go as datagrams.
    fn has_datagrams(&self) -> bool {
        false
    }

    /// Makes a way for the frames of a subscription, where each has its own; its messages may go as
    /// datagrams, if they are wanted. Where `delivery` is not every message, little may wait behind it:
    /// what was sent cannot be replaced by what is newer.
    fn open(
        &self,
        token: u32,
        topic: &Topic,
        delivery: Delivery,
        datagrams: bool,
    ) -> LocalBoxFuture<'static, Result<(), NoWay>>;

    /// The subscription is over.
    fn shut(&self, token: u32);

    /// Queues answers to requests, whole as they go onto the wire.
    fn reply(&self, frames: Bytes);

    /// Queues the heartbeat: each position, of a subscription known by its token, behind every frame
    /// that it counts.
    fn beat(&self, positions: Vec<(u32, Topic, Position)>);

    /// Asks whether the other side is there.
    fn ping(&self);

    /// Ends the session once what is queued was sent.
    fn leave(&self, close: &'static Close, reason: &str);

    /// What happened since this was asked last.
    fn vitals(&self) -> Vitals;
}

/// The client does not let a subscription have the stream it needs.
pub(crate) struct NoWay;

/// A session at its lane.
pub(crate) struct Driver<T: Transport> {
    local: Rc<Local>,
    transport: T,
    key: SessionKey,
    session: RefCell<Session>,
    /// Where its publishes go, while there are any. No longer than the session's limits let it get.
    publishes: RefCell<Option<UnboundedSender<Publish>>>,
    pulse: Cell<Pulse>,
    seat: Cell<Option<Seat>>,
}

impl<T: Transport> Driver<T> {
    /// Seats a session at the lane. [`Driver::end`] must follow.
    pub(crate) fn begin(local: Rc<Local>, transport: T) -> Rc<Driver<T>> {
        let key = local.fanout.open(transport.wire(), transport.outlet());
        let meters = local.meters.of(T::DOOR);
        meters.accepted.increment(1);
        meters.sessions.increment(1.0);
        let driver = Rc::new(Driver {
            key,
            transport,
            session: RefCell::new(Session::new(local.limits.clone())),
            publishes: RefCell::default(),
            pulse: Cell::default(),
            seat: Cell::new(None),
            local,
        });
        driver.seat.set(Some(driver.local.sessions.take_seat(driver.clone())));
        if driver.local.leaving.is_cancelled() {
            // It came through the door while the others were told to go.
            driver.clone().dismiss(0);
        }
        driver
    }

    /// The transport is gone: nobody is left to answer. What was to be published still is. Twice is
    /// once.
    pub(crate) fn end(&self) {
        self.publishes.take();
        if let Some(seat) = self.seat.take() {
            self.local.sessions.leave_seat(seat);
            self.local.fanout.close(self.key);
            self.local.meters.of(T::DOOR).sessions.decrement(1.0);
        }
    }

    pub(crate) fn transport(&self) -> &T {
        &self.transport
    }

    pub(crate) fn local(&self) -> &Local {
        &self.local
    }

    /// A frame came, or what should have been one.
    pub(crate) fn request(self: &Rc<Self>, request: Result<Request, InvalidFrame>) {
        self.local.meters.of(T::DOOR).frames_in.increment(1);
        self.feed(Input::Request(request));
    }

    /// The session is to end from this side.
    pub(crate) fn close(self: &Rc<Self>, close: &'static Close, reason: impl Into<String>) {
        self.feed(Input::Leave(close, reason.into()));
    }

    /// A way out that was blocked has room again.
    pub(crate) fn writable(&self) {
        self.local.fanout.writable(self.key);
    }

    fn feed(self: &Rc<Self>, input: Input) {
        let effects = self.session.borrow_mut().step(input);
        for effect in effects {
            self.perform(effect);
        }
    }

    /// Answers that came together: what they have the session say goes out together as well.
    fn published(self: &Rc<Self>, answers: Vec<Result<Placed, PublishError>>) {
        let mut replies = Vec::new();
        for answer in answers {
            let effects = self.session.borrow_mut().step(Input::Published(answer));
            for effect in effects {
                match effect {
                    Effect::Reply(event) => replies.extend_from_slice(&self.frame(&event)),
                    effect => self.perform(effect),
                }
            }
        }
        if !replies.is_empty() {
            self.transport.reply(replies.into());
        }
    }

    fn perform(self: &Rc<Self>, effect: Effect) {
        match effect {
            Effect::Reply(event) => self.reply(&event),
            Effect::Subscribe { token, topic, from, options } => {
                self.subscribe(token, topic, from, options);
            }
            Effect::Start(topic) => self.local.fanout.start(self.key, &topic),
            Effect::Stop { token, topic } => {
                self.local.fanout.unsubscribe(self.key, &topic);
                self.transport.shut(token);
            }
            Effect::Publish(publish) => self.publish(publish),
            Effect::Published => drop(self.publishes.take()),
            Effect::Close(close, reason) => {
                metrics::closed(close);
                self.transport.leave(close, &reason);
            }
        }
    }

    fn reply(&self, event: &Event) {
        self.transport.reply(self.frame(event));
    }

    fn frame(&self, event: &Event) -> Bytes {
        if let Event::Error { code, .. } = event {
            metrics::error(*code);
        }
        let wire = self.transport.wire();
        let payload = encoder::encoding(wire).encode_event(event);
        encoder::whole(wire, &payload)
    }

    fn publish(self: &Rc<Self>, publish: Publish) {
        let mut publishes = self.publishes.borrow_mut();
        let publishes = publishes.get_or_insert_with(|| self.begin_to_publish());
        // Nobody takes it when the lane ends, and then nobody waits for the answer.
        let _ = publishes.unbounded_send(publish);
    }

    fn begin_to_publish(self: &Rc<Self>) -> UnboundedSender<Publish> {
        let (publishes, input) = mpsc::unbounded();
        let answers = self.local.publisher.ordered(input.boxed_local());
        let mut answers = answers.ready_chunks(self.local.limits.publishes_max);
        let driver = self.clone();
        self.local.spawn(async move {
            while let Some(answers) = answers.next().await {
                driver.published(answers);
            }
        });
        publishes
    }

    fn subscribe(self: &Rc<Self>, token: u32, topic: Topic, from: From, options: Options) {
        let driver = self.clone();
        self.local.spawn(async move {
            let answer = driver.ask(token, &topic, from, options).await;
            driver.feed(Input::Subscribed(topic, answer));
        });
    }

    /// The hub first: a way that was made for a subscription which is then refused would come to
    /// the client as one that begins and ends for no reason.
    async fn ask(
        &self,
        token: u32,
        topic: &Topic,
        from: From,
        options: Options,
    ) -> Result<Granted, Refusal> {
        if let Some(refusal) = refusal::of_topic(topic) {
            return Err(refusal);
        }
        let lane = &self.local.fanout;
        let granted = self.local.grant(topic, options.delivery);
        let delivery = granted.map_err(|why| refusal::of_rate(&why))?;
        let has_datagrams = self.transport.has_datagrams();
        if options.datagrams
            && let Some(refusal) = refusal::of_datagrams(&options, delivery, has_datagrams)
        {
            return Err(refusal);
        }
        let options = Options { delivery: Some(delivery), ..options };
        let subscribed = lane.subscribe(self.key, token, topic.clone(), from, options).await;
        let subscribed = subscribed.map_err(|error| refusal::of_hub(&error))?;
        if let Err(NoWay) = self.transport.open(token, topic, delivery, options.datagrams).await {
            lane.unsubscribe(self.key, topic);
            return Err(refusal::of_stream());
        }
        Ok(Granted { subscribed, delivery })
    }

    fn goaway(&self, after_ms: u32, back_ms: u32, reason: &str) {
        self.reply(&Event::Goaway { after_ms, back_ms, reason: reason.to_owned() });
    }

    fn heartbeat(&self) {
        self.transport.beat(self.local.fanout.positions(self.key));
    }
}

impl<T: Transport> Member for Driver<T> {
    fn beat(self: Rc<Self>) {
        let mut pulse = self.pulse.get();
        let verdict = pulse.beat(self.transport.vitals());
        self.pulse.set(pulse);
        match verdict {
            Verdict::Beat => self.heartbeat(),
            Verdict::Ask => {
                self.heartbeat();
                self.transport.ping();
            }
            Verdict::Wait => {}
            Verdict::Idle => self.close(&close::IDLE, "nothing was heard of this client"),
            Verdict::Slow => self.close(&close::SLOW, "this client does not read what it is sent"),
        }
    }

    fn shed(self: Rc<Self>, back_ms: u32) {
        let reason = "the server has more than it can bear; try another, or this one later";
        self.goaway(0, back_ms, reason);
        self.close(&close::OVERLOADED, reason);
    }

    fn dismiss(self: Rc<Self>, after_ms: u32) {
        self.goaway(after_ms, 0, "the server is going away");
        self.close(&close::GOING_AWAY, "the server is going away");
    }
}

#[cfg(test)]
#[path = "driver/driver_test.rs"]
mod driver_test;
