//! Which of the messages that are due a subscription is offered, and how often.

use std::time::Duration;

use pushonce_core::{Delivery, GapReason, Options, Position};

use crate::feed::{Due, State};

/// Which messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    Every,
    /// The newest alone.
    Newest {
        /// What is passed over is told as a gap.
        told: bool,
    },
}

/// How long a subscription rests after each message, in nanoseconds; 0: not at all. A number and no
/// `Duration`, for there are millions of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rest(u32);

impl Pick {
    pub(crate) fn of(options: &Options) -> Pick {
        match options.delivery.unwrap_or_default() {
            Delivery::All => Pick::Every,
            Delivery::Latest | Delivery::Rate(_) => Pick::Newest { told: options.conflated },
        }
    }

    /// What follows `cursor`: so many messages at most, and before them what will not come. A topic
    /// that lost its continuity, or its newest message, says so to everybody.
    pub(crate) fn due(self, state: &State, cursor: Position, messages_max: usize) -> Option<Due> {
        match self {
            Pick::Every => state.due(cursor, messages_max),
            Pick::Newest { told } => state.newest(cursor).map(|mut due| {
                due.gap = due.gap.filter(|gap| told || gap.reason != GapReason::Conflated);
                due
            }),
        }
    }
}

impl Rest {
    pub(crate) fn of(options: &Options) -> Rest {
        match options.delivery {
            Some(Delivery::Rate(rate)) => Rest(1_000_000_000 / u32::from(rate.get())),
            _ => Rest::default(),
        }
    }

    pub(crate) fn time(self) -> Duration {
        Duration::from_nanos(self.0.into())
    }
}
