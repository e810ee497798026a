//! A session and its socket.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use pushonce_core::{From, Options, Topic};
use pushonce_fanout::{
    Closed, Lane, Offered, Outlet, Run, SessionKey, SubscribeError, Subscribed, Wire,
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

impl Outlet for Socket {
    fn offer(&mut self, runs: &[Run<'_>]) -> Result<Offered, Closed> {
        self.offers += 1;
        if self.closed {
            return Err(Closed);
        }
        let before = self.frames.len();
        for run in runs {
            assert!(run.joined.is_none_or(|joined| *joined == run.frames.concat()));
            self.joined += usize::from(run.joined.is_some());
            let taken = run.frames.len().min(self.room);
            self.room -= taken;
            self.frames.extend_from_slice(&run.frames[..taken]);
            self.tokens.extend(std::iter::repeat_n(run.token, taken));
        }
        Ok(Offered { taken: self.frames.len() - before, blocked: self.room == 0 })
    }
}

impl Viewer {
    pub(crate) fn new(lane: &Lane, wire: Wire) -> Viewer {
        let (frames, tokens) = (Vec::new(), Vec::new());
        let room = usize::MAX;
        let socket = Socket { frames, tokens, offers: 0, joined: 0, room, closed: false };
        let socket = Rc::new(RefCell::new(socket));
        let key = lane.open(wire, Rc::clone(&socket) as Rc<RefCell<dyn Outlet>>);
        Viewer { lane: lane.clone(), key, socket }
    }

    /// Subscribes while the link runs, and lets the frames flow.
    pub(crate) async fn subscribe(
        &self,
        stage: &Stage,
        topic: &Topic,
        from: From,
    ) -> Result<Subscribed, SubscribeError> {
        self.subscribe_with(stage, topic, from, Options::default()).await
    }

    /// The same, with more wishes.
    pub(crate) async fn subscribe_with(
        &self,
        stage: &Stage,
        topic: &Topic,
        from: From,
        options: Options,
    ) -> Result<Subscribed, SubscribeError> {
        let subscribed = tokio::select! {
            biased;
            subscribed = self.lane.subscribe(self.key, 7, topic.clone(), from, options) => subscribed,
            () = async { loop { stage.settle().await } } => unreachable!("it settles for ever"),
        };
        self.lane.start(self.key, topic);
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
        self.lane.writable(self.key);
    }
}
