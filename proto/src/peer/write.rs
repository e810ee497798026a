//! Domain to wire. Payloads are shared, not copied.

use std::sync::Arc;

use pushonce_core::{Claim, FetchError, Gap, Message, NodeId, VersionOffer, Want, Watching};

use super::{FetchedPart, Frame, outcome};
use crate::pb::peer::v1 as pb;
use pb::link_frame::Frame as Wire;

impl From<Frame> for pb::LinkFrame {
    fn from(frame: Frame) -> pb::LinkFrame {
        let wire = match frame {
            Frame::Hello { cluster, node, to, versions } => {
                let VersionOffer { supported, agreed } = versions.unwrap_or_default();
                Wire::Hello(pb::Hello {
                    cluster_id: cluster.0.to_be_bytes().to_vec().into(),
                    node_id: node.0,
                    to: to.map_or(0, |node| node.0),
                    version_min: supported.min.0.into(),
                    version_max: supported.max.0.into(),
                    version_agreed: agreed.0.into(),
                })
            }
            Frame::Claim(claim) => Wire::Claim(claim.into()),
            Frame::Publish { id, publish } => Wire::Publish(outcome::request(id, publish)),
            Frame::Published { id, outcome } => Wire::Published(outcome::response(id, outcome)),
            Frame::Interest { number, topic, after } => Wire::Interest(pb::Interest {
                number,
                topic: topic.into(),
                after: after.map(pb::Position::from),
            }),
            Frame::Withdraw { number } => Wire::Withdraw(pb::Withdraw { number }),
            Frame::Interested { number, head } => Wire::Interested(pb::Interested {
                number,
                answer: Some(match head {
                    Some(head) => pb::interested::Answer::Head(head.into()),
                    None => pb::interested::Answer::NotUpstream(true),
                }),
            }),
            Frame::Deliver { number, messages } => {
                Wire::Deliver(pb::Deliver { number, messages: written(&messages) })
            }
            Frame::Lost { number, gap } => Wire::Lost(pb::Lost {
                number,
                from: Some(gap.from.into()),
                to: Some(gap.to.into()),
                reason: gap.reason.as_str().to_owned(),
            }),
            Frame::Fetch { id, topic, want } => Wire::Fetch(pb::Fetch {
                id,
                topic: topic.into(),
                want: Some(match want {
                    Want::After(position) => pb::fetch::Want::After(position.into()),
                    Want::Last(count) => pb::fetch::Want::Last(count),
                    Want::All => pb::fetch::Want::All(true),
                }),
            }),
            Frame::Fetched { id, part } => Wire::Fetched(fetched(id, part)),
            Frame::Heartbeat { heads, doubts, clock, log_times } => {
                Wire::Heartbeat(pb::Heartbeat {
                    heads: heads
                        .into_iter()
                        .map(|(number, at)| pb::Head { number, position: Some(at.into()) })
                        .collect(),
                    doubts: doubts
                        .into_iter()
                        .map(|(shard, age)| pb::Doubt {
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
                })
            }
            Frame::Watching { counts } => Wire::Watching(pb::Watching {
                topics: counts
                    .into_iter()
                    .map(|(number, Watching { sessions, asks })| pb::Watched {
                        number,
                        sessions,
                        asks,
                    })
                    .collect(),
            }),
            Frame::Stopping => Wire::Stopping(pb::Stopping {}),
            Frame::Audience { counts } => Wire::Audience(pb::Audience {
                topics: counts
                    .into_iter()
                    .map(|(number, sessions)| pb::Counted { number, sessions })
                    .collect(),
            }),
        };
        pb::LinkFrame { frame: Some(wire) }
    }
}

impl From<Claim> for pb::Claim {
    fn from(claim: Claim) -> pb::Claim {
        let numbers = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
        pb::Claim {
            shard: u32::from(claim.shard.0),
            owner: claim.owner.0,
            term: claim.term.0,
            membership: claim.membership,
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

fn written(messages: &[Arc<Message>]) -> Vec<pb::Message> {
    messages.iter().map(|message| pb::Message::from(&**message)).collect()
}

fn fetched(id: u64, part: FetchedPart) -> pb::Fetched {
    let empty = pb::Fetched { id, ..pb::Fetched::default() };
    match part {
        FetchedPart::More(messages) => pb::Fetched { messages: written(&messages), ..empty },
        FetchedPart::Done { messages, head, gap } => pb::Fetched {
            messages: written(&messages),
            head: Some(head.into()),
            gap_from: gap.map(|gap| gap.from.into()),
            gap_to: gap.map(|gap| gap.to.into()),
            gap_reason: gap
                .map_or_else(String::new, |Gap { reason, .. }| reason.as_str().to_owned()),
            done: true,
            ..empty
        },
        FetchedPart::Failed(FetchError::Future { asked, head }) => {
            pb::Fetched { future: Some(asked.into()), head: Some(head.into()), done: true, ..empty }
        }
        FetchedPart::Failed(FetchError::Unavailable(why)) => {
            // An empty text would read as no error at all.
            let error = if why.is_empty() { "unavailable".to_owned() } else { why };
            pb::Fetched { error, done: true, ..empty }
        }
    }
}
