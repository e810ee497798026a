//! The protocols of the servers, as far as a subscriber and a publisher need them.
//!
//! Pure: bytes in, bytes out. A reader decodes only the framing, so that the generator costs about the same
//! for every server.

mod floor;
mod mqtt;
mod nats;
mod quic;
mod sse;
mod ws;

use clap::ValueEnum;

pub(crate) use floor::FRAME_BYTES;

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServerProtocol {
    /// The bare write loop of this binary.
    Floor,
    /// WebSocket, JSON.
    Pushonce,
    /// Event streams, with publishers over WebSocket.
    PushonceSse,
    /// QUIC, protobuf, one stream per subscription.
    PushonceQuic,
    /// QUIC, protobuf, the newest message as a datagram.
    PushonceDatagrams,
    /// WebSocket, one URL path per channel.
    Nchan,
    /// WebSocket as with nchan, without resume: `uws.js`.
    Uws,
    /// The NATS client protocol.
    Nats,
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
}

/// The role of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Subscriber,
    Publisher,
}

/// A message of a server, as far as the generator needs it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerMessage<'a> {
    /// The subscription is confirmed, or publishes are accepted.
    Ready,
    /// A message, with its resume token if the server sends one and it was requested.
    Message { payload: &'a [u8], resume_token: Option<&'a [u8]> },
    /// The server left out this many messages.
    Skipped(u64),
    /// The server expects these bytes as a reply.
    Reply(Vec<u8>),
    /// Any other message that is not an error.
    Ignored,
}

/// A decoded message, `None` if it is incomplete, or the error of an invalid or unexpected one.
pub(crate) type DecodeResult<'a> = Result<Option<ServerMessage<'a>>, String>;

/// The parameters of a new connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionSpec<'a> {
    pub(crate) role: Role,
    pub(crate) topic: &'a str,
    /// Further topics to read: empty unless the protocol [reads many](ServerProtocol::reads_many).
    pub(crate) other_topics: &'a [String],
    /// The position to resume from, if the protocol supports it.
    pub(crate) resume_token: Option<&'a str>,
    /// Whether messages should carry resume tokens.
    pub(crate) with_resume_tokens: bool,
}

impl ServerProtocol {
    /// The bytes that open a connection.
    pub(crate) fn opening_bytes(self, spec: ConnectionSpec<'_>) -> Vec<u8> {
        match self {
            ServerProtocol::Floor => floor::opening_bytes(spec.role, spec.topic),
            ServerProtocol::Pushonce => ws::pushonce_opening_bytes(spec),
            ServerProtocol::PushonceSse if spec.role == Role::Publisher => {
                ws::pushonce_opening_bytes(spec)
            }
            ServerProtocol::PushonceSse => sse::opening_bytes(spec),
            ServerProtocol::PushonceQuic => quic::opening_bytes(spec, false),
            ServerProtocol::PushonceDatagrams => quic::opening_bytes(spec, true),
            ServerProtocol::Nchan | ServerProtocol::Uws => ws::nchan_opening_bytes(spec),
            ServerProtocol::Nats => nats::opening_bytes(spec),
            ServerProtocol::Mqtt => mqtt::opening_bytes(spec),
        }
    }

    /// Decodes the next message and removes it from the front of `bytes`; `None` if it is incomplete.
    pub(crate) fn decode_next<'a>(
        self,
        bytes: &mut &'a [u8],
        role: Role,
        ready: bool,
        with_resume_tokens: bool,
    ) -> DecodeResult<'a> {
        match self {
            ServerProtocol::Floor => floor::decode_next(bytes),
            ServerProtocol::Pushonce => {
                ws::decode_next_pushonce(bytes, role, ready, with_resume_tokens)
            }
            ServerProtocol::PushonceSse if role == Role::Publisher => {
                ws::decode_next_pushonce(bytes, role, ready, with_resume_tokens)
            }
            ServerProtocol::PushonceSse => sse::decode_next(bytes, ready, with_resume_tokens),
            ServerProtocol::PushonceQuic | ServerProtocol::PushonceDatagrams => {
                quic::decode_next(bytes, role, ready)
            }
            ServerProtocol::Nchan | ServerProtocol::Uws => {
                ws::decode_next_nchan(bytes, role, ready, with_resume_tokens)
            }
            ServerProtocol::Nats => nats::decode_next(bytes),
            ServerProtocol::Mqtt => mqtt::decode_next(bytes, role),
        }
    }

    /// Decodes a datagram.
    pub(crate) fn decode_datagram(
        self,
        datagram: &[u8],
        role: Role,
    ) -> Result<ServerMessage<'_>, String> {
        match self {
            ServerProtocol::PushonceDatagrams => quic::decode_frame(datagram, role, true),
            _ => Err("an unexpected datagram".to_owned()),
        }
    }

    /// Whether the protocol runs over QUIC.
    pub(crate) fn is_quic(self) -> bool {
        matches!(self, ServerProtocol::PushonceQuic | ServerProtocol::PushonceDatagrams)
    }

    /// Appends a publish to `out`.
    pub(crate) fn publish(self, out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
        match self {
            ServerProtocol::Floor => floor::publish(out, topic, payload),
            ServerProtocol::Pushonce | ServerProtocol::PushonceSse => {
                ws::publish_pushonce(out, topic, payload)
            }
            ServerProtocol::PushonceQuic | ServerProtocol::PushonceDatagrams => {
                quic::publish(out, topic, payload)
            }
            ServerProtocol::Nchan | ServerProtocol::Uws => ws::publish_nchan(out, payload),
            ServerProtocol::Nats => nats::publish(out, topic, payload),
            ServerProtocol::Mqtt => mqtt::publish(out, topic, payload),
        }
    }

    /// The minimum number of connections that can publish to this many topics without rejections.
    pub(crate) fn publishers(self, topics: usize) -> usize {
        match self {
            // A Pushonce session may have 64 publishes in flight.
            ServerProtocol::Pushonce
            | ServerProtocol::PushonceSse
            | ServerProtocol::PushonceQuic
            | ServerProtocol::PushonceDatagrams => topics.min(16),
            // The channel is in the path.
            ServerProtocol::Nchan | ServerProtocol::Uws => topics,
            ServerProtocol::Floor | ServerProtocol::Nats | ServerProtocol::Mqtt => 1,
        }
    }

    /// Whether a connection can read several topics, as far as this generator supports it.
    pub(crate) fn reads_many(self) -> bool {
        self == ServerProtocol::Pushonce
    }

    /// Whether a client can resume after a lost connection and receive the missed messages.
    pub(crate) fn resumes(self) -> bool {
        matches!(
            self,
            ServerProtocol::Pushonce | ServerProtocol::PushonceSse | ServerProtocol::Nchan
        )
    }
}

/// Splits off `count` bytes, if there are that many.
fn split_front<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, remaining) = bytes.split_at_checked(count)?;
    *bytes = remaining;
    Some(taken)
}

/// The index of the first occurrence of `wanted`.
fn find_bytes(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ServerProtocol; 6] = [
        ServerProtocol::Floor,
        ServerProtocol::Pushonce,
        ServerProtocol::PushonceSse,
        ServerProtocol::Nchan,
        ServerProtocol::Nats,
        ServerProtocol::Mqtt,
    ];

    #[test]
    fn incomplete_server_messages_are_not_consumed() {
        let whole: [&[u8]; 6] = [
            &[[0, 4].as_slice(), b"~abc"].concat(),
            &[[0x81, 4].as_slice(), b"~abc"].concat(),
            b"data: ~abc\nid: 1:2\n\n",
            &[[0x81, 4].as_slice(), b"~abc"].concat(),
            b"MSG t 1 4\r\n~abc\r\n",
            &[[0x30, 7, 0, 1].as_slice(), b"t~abc"].concat(),
        ];
        for (wire, whole) in ALL.into_iter().zip(whole) {
            for cut in 0..whole.len() {
                let mut bytes = &whole[..cut];
                let decoded = wire.decode_next(&mut bytes, Role::Subscriber, true, false);
                assert_eq!(decoded, Ok(None), "{wire:?} cut at {cut}");
                assert_eq!(bytes.len(), cut, "no bytes were consumed");
            }
            let mut bytes = whole;
            let decoded = wire.decode_next(&mut bytes, Role::Subscriber, true, false);
            let Ok(Some(ServerMessage::Message { payload, .. })) = decoded else {
                panic!("{wire:?}: {decoded:?}")
            };
            assert!(payload.starts_with(b"~abc") && bytes.is_empty(), "{wire:?}");
        }
    }
}
