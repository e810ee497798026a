//! Delivery of a topic that is faster than a subscriber reads or wants it.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// Which messages of a topic a subscription delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Every message in order while history has it, else a gap.
    #[default]
    All,
    /// The newest message whenever the subscriber can accept one. Messages that it has no time for are
    /// skipped: it receives fewer messages, never old ones.
    Latest,
    /// The newest message, at most this many messages a second.
    Rate(NonZeroU16),
}

/// Options of a subscription beside its topic and start position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Which messages; `None` for the default of the namespace.
    pub delivery: Option<Delivery>,
    /// Whether skipped messages are reported as gaps.
    pub report_conflated: bool,
    /// Whether the number of subscribers is reported.
    pub report_audience: bool,
    /// Whether a message may be sent as the difference from the previous one.
    pub accept_deltas: bool,
    /// Whether messages are sent as datagrams where the transport has them, so that none waits for the
    /// retransmission of another. Requires `latest` or a rate, without deltas and without reports of
    /// skipped messages.
    pub use_datagrams: bool,
}

/// Text that is not a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a delivery is `all`, `latest` or `rate:N` with N messages a second, 1 to 65535")]
pub struct InvalidDelivery;

/// The form of command lines and of protobuf: `all`, `latest`, `rate:10`.
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Delivery::All => f.write_str("all"),
            Delivery::Latest => f.write_str("latest"),
            Delivery::Rate(rate) => write!(f, "rate:{rate}"),
        }
    }
}

impl std::str::FromStr for Delivery {
    type Err = InvalidDelivery;

    fn from_str(text: &str) -> Result<Delivery, InvalidDelivery> {
        match text {
            "all" => Ok(Delivery::All),
            "latest" => Ok(Delivery::Latest),
            _ => {
                let rate = text.strip_prefix("rate:").ok_or(InvalidDelivery)?;
                rate.parse().map(Delivery::Rate).map_err(|_| InvalidDelivery)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_round_trips_through_its_string_form() {
        let rate = |rate| Delivery::Rate(NonZeroU16::new(rate).expect("above zero"));
        for known in [Delivery::All, Delivery::Latest, rate(1), rate(u16::MAX)] {
            assert_eq!(known.to_string().parse(), Ok(known));
        }
        for wrong in ["", "newest", "rate", "rate:", "rate:0", "rate:65536", "rate:-1", "rate:1.5"]
        {
            assert_eq!(wrong.parse::<Delivery>(), Err(InvalidDelivery), "{wrong}");
        }
    }
}
