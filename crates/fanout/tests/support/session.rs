//! A session and its sink.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use pushonce_core::{StartFrom, SubscribeAck, SubscribeOptions, Topic};
use pushonce_fanout::{
    FrameRun, FrameSink, Lane, OfferOutcome, SessionKey, SinkClosed, SubscribeError, WireFormat,
};

use super::TestHub;

pub(crate) struct TestSession {
    lane: Lane,
    pub(crate) key: SessionKey,
    pub(crate) sink: Rc<RefCell<TestSink>>,
}

pub(crate) struct TestSink {
    pub(crate) frames: Vec<Bytes>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) offers: usize,
    /// Number of runs that were concatenated.
    pub(crate) concatenated_runs: usize,
    /// Number of frames that it accepts until it is blocked.
    pub(crate) capacity: usize,
    pub(crate) closed: bool,
}

impl FrameSink for TestSink {
    fn offer(&mut self, runs: &[FrameRun<'_>]) -> Result<OfferOutcome, SinkClosed> {
        self.offers += 1;
        if self.closed {
            return Err(SinkClosed);
        }
        let before = self.frames.len();
        for run in runs {
            assert!(
                run.concatenated.is_none_or(|concatenated| *concatenated == run.frames.concat())
            );
            self.concatenated_runs += usize::from(run.concatenated.is_some());
            let taken = run.frames.len().min(self.capacity);
            self.capacity -= taken;
            self.frames.extend_from_slice(&run.frames[..taken]);
            self.tokens.extend(std::iter::repeat_n(run.token, taken));
        }
        Ok(OfferOutcome { accepted: self.frames.len() - before, is_blocked: self.capacity == 0 })
    }
}

impl TestSession {
    pub(crate) fn new(lane: &Lane, wire: WireFormat) -> TestSession {
        let (frames, tokens) = (Vec::new(), Vec::new());
        let capacity = usize::MAX;
        let sink =
            TestSink { frames, tokens, offers: 0, concatenated_runs: 0, capacity, closed: false };
        let sink = Rc::new(RefCell::new(sink));
        let key = lane.open_session(wire, Rc::clone(&sink) as Rc<RefCell<dyn FrameSink>>);
        TestSession { lane: lane.clone(), key, sink }
    }

    /// Subscribes while the link runs, and starts the delivery.
    pub(crate) async fn subscribe(
        &self,
        test_hub: &TestHub,
        topic: &Topic,
        from: StartFrom,
    ) -> Result<SubscribeAck, SubscribeError> {
        self.subscribe_with(test_hub, topic, from, SubscribeOptions::default()).await
    }

    /// Like [`TestSession::subscribe`], with options.
    pub(crate) async fn subscribe_with(
        &self,
        test_hub: &TestHub,
        topic: &Topic,
        from: StartFrom,
        options: SubscribeOptions,
    ) -> Result<SubscribeAck, SubscribeError> {
        let subscribed = tokio::select! {
            biased;
            subscribed = self.lane.subscribe(self.key, 7, topic.clone(), from, options) => subscribed,
            () = async { loop { test_hub.run_until_idle().await } } => unreachable!("the loop never ends"),
        };
        self.lane.start_delivery(self.key, topic);
        test_hub.run_until_idle().await;
        subscribed
    }

    /// Takes the frames received since the last call.
    pub(crate) fn take_frames(&self) -> Vec<String> {
        let frames = std::mem::take(&mut self.sink.borrow_mut().frames);
        frames.iter().map(|frame| String::from_utf8_lossy(frame).into_owned()).collect()
    }

    /// Sets the number of frames that the sink accepts, and reports it as writable.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        self.sink.borrow_mut().capacity = capacity;
        self.lane.on_writable(self.key);
    }
}
