//! The publishes of a session, on their way to the router and back.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use futures::StreamExt as _;
use futures::channel::mpsc::{self, UnboundedSender};
use pushonce_core::{Acknowledgement, Publish, PublishError};
use tokio::time::Instant;

use super::{SessionDriver, SessionTransport};
use crate::session::{SessionEffect, SessionInput};

impl<T: SessionTransport> SessionDriver<T> {
    /// Counts the topics that these publishes of the session created.
    fn count_new_topics(&self, results: &[Result<Acknowledgement, PublishError>]) {
        let (caller, now) = (self.caller_key(), std::time::Instant::now());
        for acknowledgement in results.iter().flatten() {
            self.lane.client_limits.caller_rates.on_acknowledged(acknowledgement, caller, now);
        }
    }

    /// Handles results that arrived together; their replies are sent in one write.
    pub(super) fn on_publish_results(
        self: &Rc<Self>,
        results: Vec<Result<Acknowledgement, PublishError>>,
    ) {
        self.count_new_topics(&results);
        let mut replies = Vec::new();
        for result in results {
            let effects =
                self.session.borrow_mut().on_input(SessionInput::Published(result), &*self.lane);
            for effect in effects {
                match effect {
                    SessionEffect::Reply(event) => replies.extend_from_slice(&self.encode(&event)),
                    effect => self.perform(effect),
                }
            }
        }
        if !replies.is_empty() {
            self.transport.reply(replies.into());
        }
    }

    pub(super) fn publish(self: &Rc<Self>, publish: Publish) {
        let mut sender_slot = self.publish_sender.borrow_mut();
        let sender = sender_slot.get_or_insert_with(|| self.start_publishing());
        // Sending fails only when the lane has ended, and then no client waits for the reply.
        let _ = sender.unbounded_send(publish);
    }

    fn start_publishing(self: &Rc<Self>) -> UnboundedSender<Publish> {
        let (sender, receiver) = mpsc::unbounded();
        // Outcomes come in the order of the publishes, so the oldest time belongs to the next outcome.
        let routed_at = Rc::new(RefCell::new(VecDeque::<Instant>::new()));
        let routing_times = routed_at.clone();
        let publishes =
            receiver.inspect(move |_| routing_times.borrow_mut().push_back(Instant::now()));
        let results = self.lane.publisher.publish_ordered(publishes.boxed_local());
        let mut batches = results.ready_chunks(self.lane.limits.publishes_max);
        let driver = self.clone();
        self.lane.spawn(async move {
            while let Some(batch) = batches.next().await {
                let publish_seconds = &driver.metrics().publish_seconds;
                for routed_at in batch.iter().filter_map(|_| routed_at.borrow_mut().pop_front()) {
                    publish_seconds.record(routed_at.elapsed());
                }
                driver.on_publish_results(batch);
            }
        });
        sender
    }
}
