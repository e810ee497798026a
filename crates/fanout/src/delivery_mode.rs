//! Which pending messages a subscription is offered, and how often.

use std::time::Duration;

use pushonce_core::{Delivery, GapReason, Position, SubscribeOptions};

use crate::topic_buffer::{PendingMessages, TopicBufferState};

/// Which messages are offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryMode {
    All,
    /// Only the newest message.
    Latest {
        /// Whether skipped messages are reported as a gap.
        report_conflated: bool,
    },
}

/// Pause of a subscription after each message, in nanoseconds; 0 for none. Smaller than a `Duration`,
/// because there are millions of them.
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

    /// The next messages after `cursor`, at most `messages_max`, preceded by the gap of messages that will
    /// not come. A gap caused by a loss or a new epoch is reported in every mode.
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
