//! Conversion of frames from domain types to wire types. Payloads are shared, not copied.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    FetchError, Gap, HistoryRange, Message, NodeId, OwnershipClaim, SubscriberCount,
};

use super::{FetchedPart, PeerFrame, outcome};
use crate::pb::peer::v1 as pb;
use pb::link_frame::Frame as Wire;

impl From<PeerFrame> for pb::LinkFrame {
    fn from(frame: PeerFrame) -> pb::LinkFrame {
        let wire = match frame {
            PeerFrame::Claim(claim) => Wire::Claim(claim.into()),
            PeerFrame::Publish { id, publish } => {
                Wire::Publish(outcome::encode_publish(id, publish))
            }
            PeerFrame::Published { id, outcome } => {
                Wire::Published(outcome::encode_outcome(id, outcome))
            }
            PeerFrame::Interest { number, topic, after } => Wire::Interest(pb::Interest {
                number,
                topic: topic.into(),
                after: after.map(pb::Position::from),
            }),
            PeerFrame::Withdraw { number } => Wire::Withdraw(pb::Withdraw { number }),
            PeerFrame::Interested { number, head } => Wire::Interested(pb::Interested {
                number,
                answer: Some(match head {
                    Some(head) => pb::interested::Answer::Head(head.into()),
                    None => pb::interested::Answer::NotUpstream(true),
                }),
            }),
            PeerFrame::Deliver { number, messages, age } => Wire::Deliver(pb::Deliver {
                number,
                messages: encode_messages(&messages),
                age_us: age.map(as_micros),
            }),
            PeerFrame::Lost { number, gap } => Wire::Lost(pb::Lost {
                number,
                first: Some(gap.from.into()),
                last: Some(gap.to.into()),
                reason: gap.reason.as_str().to_owned(),
            }),
            PeerFrame::Fetch { id, topic, range } => Wire::Fetch(pb::Fetch {
                id,
                topic: topic.into(),
                range: Some(match range {
                    HistoryRange::After(position) => pb::fetch::Range::After(position.into()),
                    HistoryRange::Last(count) => pb::fetch::Range::Last(count),
                    HistoryRange::All => pb::fetch::Range::All(true),
                }),
            }),
            PeerFrame::Fetched { id, part } => Wire::Fetched(encode_fetched(id, part)),
            PeerFrame::Heartbeat { heads, stale_shards, clock, log_times, timing } => {
                Wire::Heartbeat(pb::Heartbeat {
                    heads: heads
                        .into_iter()
                        .map(|(number, position)| pb::Head {
                            number,
                            position: Some(position.into()),
                        })
                        .collect(),
                    stale_shards: stale_shards
                        .into_iter()
                        .map(|(shard, age)| pb::StaleShard {
                            shard: u32::from(shard.0),
                            age_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX),
                        })
                        .collect(),
                    clock_ms: clock.0,
                    log_times: log_times
                        .into_iter()
                        .map(|(shard, time)| pb::LogTime {
                            shard: u32::from(shard.0),
                            time_ms: time.0,
                        })
                        .collect(),
                    sent_us: timing.sent.map(as_micros),
                    echo: timing.echo.map(|echo| pb::HeartbeatEcho {
                        sent_us: as_micros(echo.sent),
                        held_us: as_micros(echo.held),
                    }),
                })
            }
            PeerFrame::SubscriberCounts { counts } => {
                Wire::SubscriberCounts(pb::SubscriberCounts {
                    counts: counts
                        .into_iter()
                        .map(|(number, SubscriberCount { sessions, wants_audience })| {
                            pb::SubscriberCount { number, sessions, wants_audience }
                        })
                        .collect(),
                })
            }
            PeerFrame::ClaimRefuted { shard, owner, term } => {
                let (shard, owner, term) = (shard.0.into(), owner.0, term.0);
                Wire::ClaimRefuted(pb::ClaimRefuted { shard, owner, term })
            }
            PeerFrame::Stopping => Wire::Stopping(pb::Stopping {}),
            PeerFrame::Audience { counts } => Wire::Audience(pb::Audience {
                counts: counts
                    .into_iter()
                    .map(|(number, sessions)| pb::TopicAudience { number, sessions })
                    .collect(),
            }),
        };
        pb::LinkFrame { frame: Some(wire) }
    }
}

impl From<OwnershipClaim> for pb::OwnershipClaim {
    fn from(claim: OwnershipClaim) -> pb::OwnershipClaim {
        let numbers = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
        pb::OwnershipClaim {
            shard: u32::from(claim.shard.0),
            owner: claim.owner.0,
            term: claim.term.0,
            membership: claim.membership_index,
            voters: numbers(claim.voters),
            learners: numbers(claim.learners),
        }
    }
}

impl From<&Message> for pb::Message {
    fn from(message: &Message) -> pb::Message {
        pb::Message {
            position: Some(message.position.into()),
            time_ms: message.time.0,
            content_type: message.content_type.as_str().to_owned(),
            key: message.key.as_ref().map_or_else(String::new, |key| key.as_str().to_owned()),
            payload: message.payload.clone(),
        }
    }
}

fn encode_messages(messages: &[Arc<Message>]) -> Vec<pb::Message> {
    messages.iter().map(|message| pb::Message::from(&**message)).collect()
}

fn encode_fetched(id: u64, part: FetchedPart) -> pb::Fetched {
    let empty = pb::Fetched { id, ..pb::Fetched::default() };
    match part {
        FetchedPart::More(messages) => {
            pb::Fetched { messages: encode_messages(&messages), ..empty }
        }
        FetchedPart::Done { messages, head, gap } => pb::Fetched {
            messages: encode_messages(&messages),
            head: Some(head.into()),
            gap_first: gap.map(|gap| gap.from.into()),
            gap_last: gap.map(|gap| gap.to.into()),
            gap_reason: gap
                .map_or_else(String::new, |Gap { reason, .. }| reason.as_str().to_owned()),
            done: true,
            ..empty
        },
        FetchedPart::Failed(FetchError::FuturePosition { requested, head }) => pb::Fetched {
            future: Some(requested.into()),
            head: Some(head.into()),
            done: true,
            ..empty
        },
        FetchedPart::Failed(FetchError::Unavailable(reason)) => {
            // The receiver takes an empty text as the absence of an error.
            let text = reason.to_string();
            let error = if text.is_empty() { "unavailable".to_owned() } else { text };
            pb::Fetched { error, done: true, ..empty }
        }
    }
}

fn as_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
