//! Wire to domain. An error names the field.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{
    Claim, ClusterId, ClusterVersion, FetchError, Gap, Message, NodeId, Position, ShardId, Term,
    Timestamp, VersionOffer, VersionRange, Want, Watching,
};

use super::{FetchedPart, Frame, outcome};
use crate::InvalidField;
use crate::field::{content_type, key, reason, topic};
use crate::pb::peer::v1 as pb;
use pb::link_frame::Frame as Wire;

/// A number that is no version is none that anybody supports: the offer counts as absent.
fn versions(hello: &pb::Hello) -> Option<VersionOffer> {
    let version = |number: u32| u16::try_from(number).ok().map(ClusterVersion);
    let (min, max) = (version(hello.version_min)?, version(hello.version_max)?);
    let offer = VersionOffer {
        supported: VersionRange { min, max },
        agreed: version(hello.version_agreed)?,
    };
    (offer.agreed != ClusterVersion::default()).then_some(offer)
}

impl TryFrom<pb::LinkFrame> for Frame {
    type Error = InvalidField;

    fn try_from(frame: pb::LinkFrame) -> Result<Frame, InvalidField> {
        Ok(match frame.frame.ok_or_else(|| InvalidField::missing("frame"))? {
            Wire::Hello(hello) => Frame::Hello {
                cluster: cluster("hello.cluster_id", &hello.cluster_id)?,
                node: NodeId(hello.node_id),
                to: node(hello.to),
                versions: versions(&hello),
            },
            Wire::Claim(claim) => Frame::Claim(claim.try_into()?),
            Wire::Publish(request) => {
                Frame::Publish { id: request.id, publish: outcome::publish(request)? }
            }
            Wire::Published(response) => {
                Frame::Published { id: response.id, outcome: outcome::outcome(response)? }
            }
            Wire::Interest(interest) => Frame::Interest {
                number: interest.number,
                topic: topic("interest.topic", &interest.topic)?,
                after: interest.after.map(Position::from),
            },
            Wire::Withdraw(withdraw) => Frame::Withdraw { number: withdraw.number },
            Wire::Interested(interested) => Frame::Interested {
                number: interested.number,
                head: match interested.answer {
                    Some(pb::interested::Answer::Head(head)) => Some(head.into()),
                    Some(pb::interested::Answer::NotUpstream(_)) => None,
                    None => return Err(InvalidField::missing("interested.answer")),
                },
            },
            Wire::Deliver(deliver) => {
                Frame::Deliver { number: deliver.number, messages: messages(deliver.messages)? }
            }
            Wire::Lost(lost) => Frame::Lost {
                number: lost.number,
                gap: Gap {
                    from: at("lost.from", lost.from)?,
                    to: at("lost.to", lost.to)?,
                    reason: reason("lost.reason", &lost.reason)?,
                },
            },
            Wire::Fetch(fetch) => Frame::Fetch {
                id: fetch.id,
                topic: topic("fetch.topic", &fetch.topic)?,
                want: match fetch.want {
                    Some(pb::fetch::Want::After(position)) => Want::After(position.into()),
                    Some(pb::fetch::Want::Last(count)) => Want::Last(count),
                    Some(pb::fetch::Want::All(_)) => Want::All,
                    None => return Err(InvalidField::missing("fetch.want")),
                },
            },
            Wire::Fetched(fetched) => Frame::Fetched { id: fetched.id, part: part(fetched)? },
            Wire::Heartbeat(heartbeat) => Frame::Heartbeat {
                heads: heartbeat
                    .heads
                    .into_iter()
                    .map(|head| Ok((head.number, at("heartbeat.heads.position", head.position)?)))
                    .collect::<Result<_, InvalidField>>()?,
                doubts: heartbeat
                    .doubts
                    .into_iter()
                    .map(|doubt| {
                        let age = Duration::from_millis(doubt.age_ms.into());
                        Ok((shard("heartbeat.doubts.shard", doubt.shard)?, age))
                    })
                    .collect::<Result<_, InvalidField>>()?,
                clock: Timestamp(heartbeat.clock_ms),
                log_times: heartbeat
                    .log_times
                    .into_iter()
                    .map(|of| {
                        let id = shard("heartbeat.log_times.shard", of.shard)?;
                        Ok((id, Timestamp(of.time_ms)))
                    })
                    .collect::<Result<_, InvalidField>>()?,
            },
            Wire::Watching(watching) => Frame::Watching {
                counts: watching
                    .topics
                    .into_iter()
                    .map(|of| (of.number, Watching { sessions: of.sessions, asks: of.asks }))
                    .collect(),
            },
            Wire::Stopping(pb::Stopping {}) => Frame::Stopping,
            Wire::Audience(audience) => Frame::Audience {
                counts: audience.topics.into_iter().map(|of| (of.number, of.sessions)).collect(),
            },
        })
    }
}

impl TryFrom<pb::Claim> for Claim {
    type Error = InvalidField;

    fn try_from(claim: pb::Claim) -> Result<Claim, InvalidField> {
        let nodes = |numbers: Vec<u64>| numbers.into_iter().map(NodeId).collect();
        Ok(Claim {
            shard: shard("claim.shard", claim.shard)?,
            owner: node(claim.owner).ok_or_else(|| InvalidField::missing("claim.owner"))?,
            term: Term(claim.term),
            membership: claim.membership,
            voters: nodes(claim.voters),
            learners: nodes(claim.learners),
        })
    }
}

impl TryFrom<pb::Message> for Message {
    type Error = InvalidField;

    fn try_from(message: pb::Message) -> Result<Message, InvalidField> {
        Ok(Message {
            position: at("message.position", message.position)?,
            time: Timestamp(message.time_ms),
            content_type: content_type("message.content_type", &message.content_type)?,
            key: key("message.key", &message.key)?,
            payload: message.payload,
        })
    }
}

/// Zero is nobody.
pub(super) fn node(number: u64) -> Option<NodeId> {
    (number != 0).then_some(NodeId(number))
}

pub(super) fn cluster(field: &'static str, bytes: &[u8]) -> Result<ClusterId, InvalidField> {
    let bytes = bytes.try_into().map_err(|_| {
        InvalidField::new(field, format!("is a cluster id of {} bytes, not 16", bytes.len()))
    })?;
    Ok(ClusterId(u128::from_be_bytes(bytes)))
}

pub(super) fn at(
    field: &'static str,
    position: Option<pb::Position>,
) -> Result<Position, InvalidField> {
    position.map(Position::from).ok_or_else(|| InvalidField::missing(field))
}

fn messages(wire: Vec<pb::Message>) -> Result<Vec<Arc<Message>>, InvalidField> {
    wire.into_iter().map(|message| Message::try_from(message).map(Arc::new)).collect()
}

fn shard(field: &'static str, number: u32) -> Result<ShardId, InvalidField> {
    let shard = u16::try_from(number).map(ShardId);
    shard.map_err(|_| InvalidField::new(field, format!("is no shard: {number}")))
}

fn part(fetched: pb::Fetched) -> Result<FetchedPart, InvalidField> {
    if !fetched.error.is_empty() {
        return Ok(FetchedPart::Failed(FetchError::Unavailable(fetched.error)));
    }
    if let Some(asked) = fetched.future {
        let head = at("fetched.head", fetched.head)?;
        return Ok(FetchedPart::Failed(FetchError::Future { asked: asked.into(), head }));
    }
    let messages = messages(fetched.messages)?;
    if !fetched.done {
        return Ok(FetchedPart::More(messages));
    }
    let gap = match fetched.gap_from {
        None => None,
        Some(from) => Some(Gap {
            from: from.into(),
            to: at("fetched.gap_to", fetched.gap_to)?,
            reason: reason("fetched.gap_reason", &fetched.gap_reason)?,
        }),
    };
    Ok(FetchedPart::Done { messages, head: at("fetched.head", fetched.head)?, gap })
}
