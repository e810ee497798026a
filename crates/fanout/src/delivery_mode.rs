//! Which of the messages that are due a subscription is offered, and how often.

use std::time::Duration;

use pushonce_core::{Delivery, GapReason, Position, SubscribeOptions};

use crate::topic_buffer::{PendingMessages, TopicBufferState};

/// Which messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryMode {
    All,
    /// The newest alone.
    Latest {
        /// What is passed over is told as a gap.
        report_conflated: bool,
    },
}

/// How long a subscription rests after each message, in nanoseconds; 0: not at all. A number and no
/// `Duration`, for there are millions of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MinInterval(u32);

impl DeliveryMode {
    pub(crate) fn from_options(options: &SubscribeOptions) -> DeliveryMode {
        match options.delivery.unwrap_or_default() {
            Delivery::All => DeliveryMode::All,
            Delivery::Latest | Delivery::Rate(_) => {
                DeliveryMode::Latest { report_conflated: options.report_conflated }
            }
        }
    }

    /// What follows `cursor`: so many messages at most, and before them what will not come. A topic
    /// that lost its continuity, or its newest message, says so to everybody.
    pub(crate) fn next_after(
        self,
        state: &TopicBufferState,
        cursor: Position,
        messages_max: usize,
    ) -> Option<PendingMessages> {
        match self {
            DeliveryMode::All => state.pending_after(cursor, messages_max),
            DeliveryMode::Latest { report_conflated } => {
                state.newest_after(cursor).map(|mut pending| {
                    pending.gap = pending
                        .gap
                        .filter(|gap| report_conflated || gap.reason != GapReason::Conflated);
                    pending
                })
            }
        }
    }
}

impl MinInterval {
    pub(crate) fn from_options(options: &SubscribeOptions) -> MinInterval {
        match options.delivery {
            Some(Delivery::Rate(rate)) => MinInterval(1_000_000_000 / u32::from(rate.get())),
            _ => MinInterval::default(),
        }
    }

    pub(crate) fn to_duration(self) -> Duration {
        Duration::from_nanos(self.0.into())
    }
}
