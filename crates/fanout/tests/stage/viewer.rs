//! A session and its socket.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use pushonce_core::{StartFrom, SubscribeOptions, Topic};
use pushonce_fanout::{
    FrameRun, FrameSink, Lane, OfferOutcome, SessionKey, SinkClosed, SubscribeAck, SubscribeError,
    WireFormat,
};

use super::Stage;

pub(crate) struct Viewer {
    lane: Lane,
    pub(crate) key: SessionKey,
    pub(crate) socket: Rc<RefCell<Socket>>,
}

pub(crate) struct Socket {
    pub(crate) frames: Vec<Bytes>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) offers: usize,
    /// Runs that came in one piece.
    pub(crate) joined: usize,
    /// How many frames it takes until it is blocked.
    pub(crate) room: usize,
    pub(crate) closed: bool,
}

impl FrameSink for Socket {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        self.offers += 1;
        if self.closed {
            return Err(SinkClosed);
        }
        let before = self.frames.len();
        for run in runs {
            assert!(run.concatenated.is_none_or(|joined| *joined == run.frames.concat()));
            self.joined += usize::from(run.concatenated.is_some());
            let taken = run.frames.len().min(self.room);
            self.room -= taken;
            self.frames.extend_from_slice(&run.frames[..taken]);
            self.tokens.extend(std::iter::repeat_n(run.token, taken));
        }
        Ok(OfferOutcome { accepted: self.frames.len() - before, is_blocked: self.room == 0 })
    }
}

impl Viewer {
    pub(crate) fn new(lane: &Lane, wire: WireFormat) -> Viewer {
        let (frames, tokens) = (Vec::new(), Vec::new());
        let room = usize::MAX;
        let socket = Socket { frames, tokens, offers: 0, joined: 0, room, closed: false };
        let socket = Rc::new(RefCell::new(socket));
        let key = lane.open_session(wire, Rc::clone(&socket) as Rc<RefCell<dyn FrameSink>>);
        Viewer { lane: lane.clone(), key, socket }
    }

    /// Subscribes while the link runs, and lets the frames flow.
    pub(crate) async fn subscribe(
        &self,
        stage: &Stage,
        topic: &Topic,
        from: StartFrom,
    ) -> Result<SubscribeAck, SubscribeError> {
        self.subscribe_with(stage, topic, from, SubscribeOptions::default()).await
    }

    /// The same, with more wishes.
    pub(crate) async fn subscribe_with(
        &self,
        stage: &Stage,
        topic: &Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> Result<SubscribeAck, SubscribeError> {
        let subscribed = tokio::select! {
            biased;
            subscribed = self.lane.subscribe(self.key, 7, topic.clone(), from, options) => subscribed,
            () = async { loop { stage.settle().await } } => unreachable!("it settles for ever"),
        };
        self.lane.start_delivery(self.key, topic);
        stage.settle().await;
        subscribed
    }

    /// What came since the last time.
    pub(crate) fn got(&self) -> Vec<String> {
        let frames = std::mem::take(&mut self.socket.borrow_mut().frames);
        frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
    }

    /// The socket takes so many more.
    pub(crate) fn go_on(&self, room: usize) {
        self.socket.borrow_mut().room = room;
        self.lane.on_writable(self.key);
    }
}
