//! Conversion of frames from wire types to domain types. An error names the field.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    FetchError, Gap, HistoryRange, Message, NodeId, OwnershipClaim, Position, ShardId,
    SubscriberCount, Term, Timestamp, UnavailableReason,
};

use super::{FetchedPart, HeartbeatEcho, HeartbeatTiming, PeerFrame, outcome};
use crate::InvalidField;
use crate::field::{decode_content_type, decode_gap_reason, decode_key, decode_topic};
use crate::pb::peer::v1 as pb;
use pb::link_frame::Frame as Wire;

impl TryFrom<pb::LinkFrame> for PeerFrame {
    type Error = InvalidField;

    fn try_from(frame: pb::LinkFrame) -> Result<PeerFrame, InvalidField> {
        Ok(match frame.frame.ok_or_else(|| InvalidField::missing("frame"))? {
            Wire::Claim(claim) => PeerFrame::Claim(claim.try_into()?),
            Wire::Publish(request) => {
                PeerFrame::Publish { id: request.id, publish: outcome::decode_publish(request)? }
            }
            Wire::Published(response) => PeerFrame::Published {
                id: response.id,
                outcome: outcome::decode_outcome(response)?,
            },
            Wire::Interest(interest) => PeerFrame::Interest {
                number: interest.number,
                topic: decode_topic("interest.topic", &interest.topic)?,
                after: interest.after.map(Position::from),
            },
            Wire::Withdraw(withdraw) => PeerFrame::Withdraw { number: withdraw.number },
            Wire::Interested(interested) => PeerFrame::Interested {
                number: interested.number,
                head: match interested.answer {
                    Some(pb::interested::Answer::Head(head)) => Some(head.into()),
                    Some(pb::interested::Answer::NotUpstream(_)) => None,
                    None => return Err(InvalidField::missing("interested.answer")),
                },
            },
            Wire::Deliver(deliver) => PeerFrame::Deliver {
                number: deliver.number,
                messages: decode_messages(deliver.messages)?,
                age: deliver.age_us.map(Duration::from_micros),
            },
            Wire::Lost(lost) => PeerFrame::Lost {
                number: lost.number,
                gap: Gap {
                    from: required_position("lost.first", lost.first)?,
                    to: required_position("lost.last", lost.last)?,
                    reason: decode_gap_reason("lost.reason", &lost.reason)?,
                },
            },
            Wire::Fetch(fetch) => PeerFrame::Fetch {
                id: fetch.id,
                topic: decode_topic("fetch.topic", &fetch.topic)?,
                range: match fetch.range {
                    Some(pb::fetch::Range::After(position)) => HistoryRange::After(position.into()),
                    Some(pb::fetch::Range::Last(count)) => HistoryRange::Last(count),
                    Some(pb::fetch::Range::All(_)) => HistoryRange::All,
                    None => return Err(InvalidField::missing("fetch.range")),
                },
            },
            Wire::Fetched(fetched) => {
                PeerFrame::Fetched { id: fetched.id, part: decode_fetched_part(fetched)? }
            }
            Wire::Heartbeat(heartbeat) => PeerFrame::Heartbeat {
                heads: heartbeat
                    .heads
                    .into_iter()
                    .map(|head| {
                        Ok((
                            head.number,
                            required_position("heartbeat.heads.position", head.position)?,
                        ))
                    })
                    .collect::<Result<_, InvalidField>>()?,
                stale_shards: heartbeat
                    .stale_shards
                    .into_iter()
                    .map(|stale| {
                        let age = Duration::from_millis(stale.age_ms.into());
                        Ok((decode_shard_id("heartbeat.stale_shards.shard", stale.shard)?, age))
                    })
                    .collect::<Result<_, InvalidField>>()?,
                clock: Timestamp(heartbeat.clock_ms),
                log_times: heartbeat
                    .log_times
                    .into_iter()
                    .map(|log_time| {
                        let id = decode_shard_id("heartbeat.log_times.shard", log_time.shard)?;
                        Ok((id, Timestamp(log_time.time_ms)))
                    })
                    .collect::<Result<_, InvalidField>>()?,
                timing: HeartbeatTiming {
                    sent: heartbeat.sent_us.map(Duration::from_micros),
                    echo: heartbeat.echo.map(|echo| HeartbeatEcho {
                        sent: Duration::from_micros(echo.sent_us),
                        held: Duration::from_micros(echo.held_us),
                    }),
                },
            },
            Wire::SubscriberCounts(counts) => PeerFrame::SubscriberCounts {
                counts: counts
                    .counts
                    .into_iter()
                    .map(|pb::SubscriberCount { number, sessions, wants_audience }| {
                        (number, SubscriberCount { sessions, wants_audience })
                    })
                    .collect(),
            },
            Wire::ClaimRefuted(pb::ClaimRefuted { shard, owner, term }) => {
                PeerFrame::ClaimRefuted {
                    shard: decode_shard_id("claim_refuted.shard", shard)?,
                    owner: decode_node(owner)
                        .ok_or_else(|| InvalidField::missing("claim_refuted.owner"))?,
                    term: Term(term),
                }
            }
            Wire::Stopping(pb::Stopping {}) => PeerFrame::Stopping,
            Wire::Audience(audience) => PeerFrame::Audience {
                counts: audience
                    .counts
                    .into_iter()
                    .map(|count| (count.number, count.sessions))
                    .collect(),
            },
        })
    }
}

impl TryFrom<pb::OwnershipClaim> for OwnershipClaim {
    type Error = InvalidField;

    fn try_from(claim: pb::OwnershipClaim) -> Result<OwnershipClaim, InvalidField> {
        let nodes = |numbers: Vec<u64>| numbers.into_iter().map(NodeId).collect();
        Ok(OwnershipClaim {
            shard: decode_shard_id("claim.shard", claim.shard)?,
            owner: decode_node(claim.owner).ok_or_else(|| InvalidField::missing("claim.owner"))?,
            term: Term(claim.term),
            membership_index: claim.membership,
            voters: nodes(claim.voters),
            learners: nodes(claim.learners),
        })
    }
}

impl TryFrom<pb::Message> for Message {
    type Error = InvalidField;

    fn try_from(message: pb::Message) -> Result<Message, InvalidField> {
        Ok(Message {
            position: required_position("message.position", message.position)?,
            time: Timestamp(message.time_ms),
            content_type: decode_content_type("message.content_type", &message.content_type)?,
            key: decode_key("message.key", &message.key)?,
            payload: message.payload,
        })
    }
}

/// Decodes a node id; zero means none.
pub(super) fn decode_node(number: u64) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}

pub(super) fn required_position(
    field: &'static str,
    position: Option<pb::Position>,
) -> Result<Position, InvalidField> {
    position.map(Position::from).ok_or_else(|| InvalidField::missing(field))
}

fn decode_messages(wire: Vec<pb::Message>) -> Result<Vec<Arc<Message>>, InvalidField> {
    wire.into_iter().map(|message| Message::try_from(message).map(Arc::new)).collect()
}

fn decode_shard_id(field: &'static str, number: u32) -> Result<ShardId, InvalidField> {
    let shard = u16::try_from(number).map(ShardId);
    shard.map_err(|_| InvalidField::new(field, format!("is not a shard: {number}")))
}

fn decode_fetched_part(fetched: pb::Fetched) -> Result<FetchedPart, InvalidField> {
    if !fetched.error.is_empty() {
        return Ok(FetchedPart::Failed(UnavailableReason::Reported(fetched.error).into()));
    }
    if let Some(requested) = fetched.future {
        let head = required_position("fetched.head", fetched.head)?;
        return Ok(FetchedPart::Failed(FetchError::FuturePosition {
            requested: requested.into(),
            head,
        }));
    }
    let messages = decode_messages(fetched.messages)?;
    if !fetched.done {
        return Ok(FetchedPart::More(messages));
    }
    let gap = match fetched.gap_first {
        None => None,
        Some(first) => Some(Gap {
            from: first.into(),
            to: required_position("fetched.gap_last", fetched.gap_last)?,
            reason: decode_gap_reason("fetched.gap_reason", &fetched.gap_reason)?,
        }),
    };
    Ok(FetchedPart::Done { messages, head: required_position("fetched.head", fetched.head)?, gap })
}
