//! Frames of clients and of other nodes: what is decoded is encoded to a frame that decodes alike.

use bytes::Bytes;
use prost::Message as _;
use pushonce_core::{
    Acknowledgement, ContentType, Delivery, Durability, Gap, GapReason, Message, MessageKey,
    NodeId, OwnershipClaim, Position, ProducerId, ProducerSequence, Publish, PublishId,
    RevokedTokens, ShardId, StartFrom, SubscribeOptions, Term, Timestamp, Topic,
};
use pushonce_fuzz::Input;

use crate::client::{ClientCommand, ClientRequest, Encoding, MessageDelta, ServerEvent};
use crate::delimited::{self, FrameDecoder};
use crate::peer::{FetchedPart, PeerFrame};
use crate::{cluster, pb, publisher};

fn topic() -> Topic {
    Topic::new("chat/é7").expect("valid")
}

fn publish(payload: &'static [u8]) -> Publish {
    Publish {
        topic: topic(),
        content_type: ContentType::detect(payload),
        key: Some(MessageKey::new("k\"1").expect("valid")),
        publish_id: None,
        payload: Bytes::from_static(payload),
    }
}

fn message(payload: &'static [u8]) -> Message {
    let Publish { content_type, key, payload, .. } = publish(payload);
    Message {
        position: Position::new(12, 4051),
        time: Timestamp(1_764_000_000_000),
        content_type,
        key,
        payload,
    }
}

fn gap() -> Gap {
    Gap { from: Position::new(1, 2), to: Position::new(1, 9), reason: GapReason::Slow }
}

/// One byte for the encoding, then the frame.
fn in_both_encodings<T>(values: &[T], encode: fn(Encoding, &T) -> Bytes) -> Vec<Vec<u8>> {
    let frames = |value| {
        Encoding::ALL
            .into_iter()
            .zip(0_u8..)
            .map(move |(encoding, byte)| [&[byte], &encode(encoding, value)[..]].concat())
    };
    values.iter().flat_map(frames).collect()
}

fn split_encoding(input: &[u8]) -> (Encoding, Bytes) {
    let mut input = Input::new(input);
    let encoding = Encoding::ALL[usize::from(input.flag())];
    (encoding, Bytes::copy_from_slice(input.rest()))
}

fn requests() -> Vec<ClientRequest> {
    let options = SubscribeOptions {
        delivery: Some("rate:10".parse().expect("valid")),
        report_conflated: true,
        accept_deltas: true,
        ..SubscribeOptions::default()
    };
    let subscribe = |from, options| ClientCommand::Subscribe { topic: topic(), from, options };
    let commands = [
        subscribe(StartFrom::Position(Position::new(12, 4051)), options),
        subscribe(StartFrom::Last(10), SubscribeOptions::default()),
        subscribe(StartFrom::Start, SubscribeOptions::default()),
        ClientCommand::Unsubscribe { topic: topic() },
        ClientCommand::Publish(publish(b"{\"gb\":21, \"usa\":[1.5e3,null]}")),
        ClientCommand::Publish(publish("text é \"".as_bytes())),
        ClientCommand::Publish(publish(b"\xff\0binary")),
        ClientCommand::Authenticate { token: pushonce_core::AccessToken::new("a.b.c") },
    ];
    commands.into_iter().map(|command| ClientRequest { id: Some(7), command }).collect()
}

#[test]
fn decoded_request_round_trips_in_every_encoding_that_can_hold_it() {
    let seeds = in_both_encodings(&requests(), Encoding::encode_request);
    pushonce_fuzz::check!("client_requests", seeds, |input| {
        let (encoding, frame) = split_encoding(input);
        let Ok(request) = encoding.decode_request(&frame) else { return };
        let again = encoding.encode_request(&request);
        assert_eq!(encoding.decode_request(&again), Ok(request.clone()));
        // JSON embeds the payload, which is validated by the server first.
        let is_valid = match &request.command {
            ClientCommand::Publish(publish) => publish.validate(usize::MAX).is_ok(),
            _ => true,
        };
        for other in Encoding::ALL.into_iter().filter(|_| is_valid) {
            let frame = other.encode_request(&request);
            assert_eq!(other.decode_request(&frame), Ok(request.clone()), "{other:?}");
        }
    });
}

fn events() -> Vec<ServerEvent> {
    let (id, position) = (Some(7), Position::new(12, 4051));
    let delta = Bytes::from_static(b"2\n2@0,");
    let message =
        |payload| ServerEvent::Message { topic: topic(), message: message(payload).into() };
    vec![
        ServerEvent::Subscribed {
            id,
            topic: topic(),
            position,
            recovered: true,
            delivery: Delivery::Latest,
        },
        ServerEvent::Unsubscribed { id, topic: topic() },
        ServerEvent::Published { id, position, durability: Durability::Replicated },
        ServerEvent::Authenticated { id, expires: Timestamp(1_764_000_000_000) },
        message(b"{\"gb\":21}"),
        message(b"\xff\0"),
        ServerEvent::MessageDelta {
            topic: topic(),
            message_delta: MessageDelta { position, time: Timestamp(1), key: None, delta },
        },
        ServerEvent::Gap { topic: topic(), gap: gap() },
        ServerEvent::Stale { topic: topic(), since: position },
        ServerEvent::Live { topic: topic(), position },
        ServerEvent::Audience { topic: topic(), count: 41_877 },
        ServerEvent::error(id, crate::client::ErrorCode::BadRequest, "no".to_owned()),
        ServerEvent::Heartbeat { positions: vec![(topic(), position)] },
        ServerEvent::Goaway { after_ms: 1, retry_after_ms: 0, reason: "drain".to_owned() },
    ]
}

#[test]
fn decoded_event_round_trips() {
    let seeds = in_both_encodings(&events(), Encoding::encode_event);
    pushonce_fuzz::check!("client_events", seeds, |input| {
        let (encoding, frame) = split_encoding(input);
        let Ok(event) = encoding.decode_event(&frame) else { return };
        let again = encoding.encode_event(&event);
        assert_eq!(encoding.decode_event(&again).map(sorted), Ok(sorted(event)));
    });
}

/// Sorts the positions of a heartbeat, which is a map without an order.
fn sorted(mut event: ServerEvent) -> ServerEvent {
    if let ServerEvent::Heartbeat { positions } = &mut event {
        positions.sort();
    }
    event
}

#[test]
fn frames_of_a_quic_stream_do_not_depend_on_how_it_is_split() {
    const BYTES_MAX: usize = 100;
    let frames: [&[u8]; 5] = [b"", b"a", &[7; 100], &[7; 101], &[7; 20]];
    let stream = frames.map(delimited::encode).concat();
    let seeds = vec![[&[1, 2, 3], &stream[..105]].concat(), [&[0, 90, 200], &stream[..]].concat()];
    pushonce_fuzz::check!("quic_frames", seeds, |input| {
        let pieces = Input::new(input).split_rest();
        let stream = pieces.concat();
        let whole = decode_stream(BYTES_MAX, [&stream[..]]);
        assert_eq!(decode_stream(BYTES_MAX, pieces), whole);
        assert_eq!(decode_stream(BYTES_MAX, stream.chunks(1)), whole);
        let (frames, rest) = whole;
        assert!(frames.iter().all(|frame| frame.len() <= BYTES_MAX));
        assert!(rest != StreamEnd::Between || stream.is_empty() || !frames.is_empty());
        for frame in &frames {
            let encoded = delimited::encode(frame);
            assert_eq!(delimited::strip_length(&encoded), frame);
        }
    });
}

#[derive(Debug, PartialEq)]
enum StreamEnd {
    Between,
    Within,
    Failed(delimited::FrameTooLong),
}

fn decode_stream<'a>(
    bytes_max: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Bytes>, StreamEnd) {
    let mut decoder = FrameDecoder::new(bytes_max);
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, StreamEnd::Failed(error)),
            }
        }
    }
    let end = if decoder.has_partial_frame() { StreamEnd::Within } else { StreamEnd::Between };
    (frames, end)
}

fn peer_frames() -> Vec<PeerFrame> {
    let (position, shard) = (Position::new(12, 4051), ShardId(3));
    let sequence = ProducerSequence { producer: ProducerId(9), epoch: 1, number: 2 };
    let publish = Publish { publish_id: Some(PublishId::Sequence(sequence)), ..publish(b"{}") };
    let acknowledgement =
        Acknowledgement { position, time: Timestamp(1), durability: Durability::Memory };
    vec![
        PeerFrame::Claim(OwnershipClaim {
            shard,
            owner: NodeId(2),
            term: Term(5),
            membership_index: 8,
            voters: vec![NodeId(1), NodeId(2)],
            learners: vec![NodeId(3)],
        }),
        PeerFrame::ClaimRefuted { shard, owner: NodeId(2), term: Term(5) },
        PeerFrame::Publish { id: 1, publish },
        PeerFrame::Published { id: 1, outcome: Ok(acknowledgement) },
        PeerFrame::Published { id: 2, outcome: Err(pushonce_core::InvalidPublish::Key.into()) },
        PeerFrame::Interest { number: 1, topic: topic(), after: Some(position) },
        PeerFrame::Interested { number: 1, head: None },
        PeerFrame::Deliver { number: 1, messages: vec![message(b"a").into()], age: None },
        PeerFrame::Lost { number: 1, gap: gap() },
        PeerFrame::Fetch { id: 1, topic: topic(), range: pushonce_core::HistoryRange::All },
        PeerFrame::Fetched {
            id: 1,
            part: FetchedPart::Done {
                messages: vec![message(b"a").into()],
                head: position,
                gap: Some(gap()),
            },
        },
        PeerFrame::Heartbeat {
            heads: vec![(1, position)],
            stale_shards: vec![(shard, std::time::Duration::from_millis(5))],
            clock: Timestamp(9),
            log_times: vec![(shard, Timestamp(8))],
            timing: crate::peer::HeartbeatTiming::default(),
        },
        PeerFrame::Audience { counts: vec![(1, 2)] },
        PeerFrame::Stopping,
    ]
}

#[test]
fn decoded_frame_of_a_peer_round_trips() {
    use pb::peer::v1::LinkFrame;
    let seeds = peer_frames().into_iter().map(|frame| LinkFrame::from(frame).encode_to_vec());
    pushonce_fuzz::check!("peer_frames", seeds.collect(), |input| {
        let Ok(wire) = LinkFrame::decode(input) else { return };
        let Ok(frame) = PeerFrame::try_from(wire) else { return };
        let bytes = LinkFrame::from(frame.clone()).encode_to_vec();
        let wire = LinkFrame::decode(&bytes[..]).expect("valid protobuf");
        assert_eq!(PeerFrame::try_from(wire), Ok(frame));
    });
}

/// Fails if a message of the wire converts to a value that does not round-trip.
fn converts_alike<W, T>(bytes: &[u8])
where
    W: prost::Message + Default + From<T> + TryInto<T>,
    T: Clone + PartialEq + std::fmt::Debug,
{
    let Ok(wire) = W::decode(bytes) else { return };
    let Ok(value) = wire.try_into() else { return };
    let bytes = W::from(value.clone()).encode_to_vec();
    let again = W::decode(&bytes[..]).expect("valid protobuf").try_into().ok();
    assert_eq!(again, Some(value));
}

#[test]
fn decoded_grpc_message_round_trips() {
    use pb::cluster::v1 as cluster_pb;
    use pb::publisher::v1 as publisher_pb;
    use publisher::SubscribeEvent;
    use pushonce_core::TopicEvent;
    let request = publisher_pb::PublishRequest::from(publish(b"{}")).encode_to_vec();
    let event = SubscribeEvent::Item(TopicEvent::Message(message(b"a").into()));
    let query =
        cluster::TopicQuery { prefix: "chat/".to_owned(), after: Some(topic()), count_max: 9 };
    let revoked = RevokedTokens::WithId("t1".to_owned());
    let messages = [
        request,
        publisher_pb::SubscribeResponse::from(event).encode_to_vec(),
        publisher_pb::StartFrom::from(StartFrom::Last(3)).encode_to_vec(),
        cluster_pb::TopicsRequest::from(query).encode_to_vec(),
        cluster_pb::RevokedTokens::from(revoked).encode_to_vec(),
    ];
    // One byte for the kind of the message.
    let seeds = (0_u8..).zip(messages).map(|(kind, message)| [vec![kind], message].concat());
    pushonce_fuzz::check!("grpc_messages", seeds.collect(), |input| {
        let mut input = Input::new(input);
        match input.byte() % 8 {
            0 => converts_alike::<publisher_pb::PublishRequest, Publish>(input.rest()),
            1 => converts_alike::<publisher_pb::SubscribeResponse, SubscribeEvent>(input.rest()),
            2 => converts_alike::<publisher_pb::StartFrom, StartFrom>(input.rest()),
            3 => converts_alike::<cluster_pb::TopicsRequest, cluster::TopicQuery>(input.rest()),
            4 => converts_alike::<cluster_pb::RevokedTokens, RevokedTokens>(input.rest()),
            5 => converts_alike::<cluster_pb::TopicsResponse, cluster::TopicList>(input.rest()),
            6 => converts_alike::<cluster_pb::NamespaceChange, pushonce_core::NamespaceChange>(
                input.rest(),
            ),
            _ => converts_alike::<cluster_pb::StatusResponse, cluster::ClusterStatus>(input.rest()),
        }
    });
}
