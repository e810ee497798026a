//! What a subscriber gets of a topic that moves faster than it reads, or than it wants.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// Which of a topic's messages a subscription brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Every message in order, while history has them; else a gap.
    #[default]
    All,
    /// The newest message there is when the subscriber can take one. What it has no time for is passed
    /// over: it sees fewer messages, never old ones.
    Latest,
    /// The newest, and so many a second at most.
    Rate(NonZeroU16),
}

/// What a subscriber asks for beside a topic and where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// Which messages; none: as the namespace has it.
    pub delivery: Option<Delivery>,
    /// Whether to be told, as a gap, which messages were passed over.
    pub report_conflated: bool,
    /// Whether to be told how many watch the topic.
    pub report_audience: bool,
    /// Whether a message may come as its difference from the one before.
    pub accept_deltas: bool,
    /// Whether messages come as datagrams, where the transport has them: none waits for one that was
    /// lost. Goes with the newest alone, whole, and not told what is passed over.
    pub use_datagrams: bool,
}

/// Not a way to deliver. Says which there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a delivery is all, latest or rate:N, N messages a second, 1 to 65535")]
pub struct InvalidDelivery;

/// As it stands on a command line and in protobuf: `all`, `latest`, `rate:10`.
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
