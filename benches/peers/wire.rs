//! How each server is talked to: as little of its protocol as a subscriber and a publisher need.
//!
//! Pure: bytes in, bytes out. A reader looks at the framing and at nothing else, so that the
//! generator costs about the same whoever is measured.

mod floor;
mod mqtt;
mod nats;
mod quic;
mod ws;

use clap::ValueEnum;

pub(crate) use floor::FRAME_BYTES;

/// Whose protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServerProtocol {
    /// The bare write loop of this binary.
    Floor,
    /// WebSocket, JSON.
    Pushonce,
    /// QUIC, protobuf, a stream for each subscription.
    PushonceQuic,
    /// QUIC, protobuf, the newest message as a datagram.
    PushonceDatagrams,
    /// WebSocket, a location for each channel.
    Nchan,
    /// WebSocket, as nchan has it, but nobody can resume: `uws.js`.
    Uws,
    /// The protocol of NATS.
    Nats,
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Subscriber,
    Publisher,
}

/// What a server says, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServerMessage<'a> {
    /// The subscription stands, or publishes are taken.
    Ready,
    /// A message, and where it stands if the server says that and it was asked for.
    Message { payload: &'a [u8], resume_token: Option<&'a [u8]> },
    /// So many messages are left out.
    Skipped(u64),
    /// Wants these bytes for an answer.
    Reply(Vec<u8>),
    /// Anything else that is no error.
    Ignored,
}

/// Something of a server's that it has not said whole, or should not have said.
pub(crate) type DecodeResult<'a> = Result<Option<ServerMessage<'a>>, String>;

/// A connection at its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionSpec<'a> {
    pub(crate) role: Role,
    pub(crate) topic: &'a str,
    /// More topics that it reads: none but where it can [read many](Wire::reads_many).
    pub(crate) other_topics: &'a [String],
    /// Goes on after this, if the protocol can.
    pub(crate) resume_token: Option<&'a str>,
    /// Wants to hear where messages stand.
    pub(crate) with_resume_tokens: bool,
}

impl ServerProtocol {
    /// What is sent first.
    pub(crate) fn opening_bytes(self, spec: ConnectionSpec<'_>) -> Vec<u8> {
        match self {
            ServerProtocol::Floor => floor::opening_bytes(spec.role, spec.topic),
            ServerProtocol::Pushonce => ws::pushonce_opening_bytes(spec),
            ServerProtocol::PushonceQuic => quic::opening_bytes(spec, false),
            ServerProtocol::PushonceDatagrams => quic::opening_bytes(spec, true),
            ServerProtocol::Nchan | ServerProtocol::Uws => ws::nchan_opening_bytes(spec),
            ServerProtocol::Nats => nats::opening_bytes(spec),
            ServerProtocol::Mqtt => mqtt::opening_bytes(spec),
        }
    }

    /// The next thing within `print_frame_bytes`, which is taken off its front; `NoFault` when it is not whole.
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

    /// What a datagram says.
    pub(crate) fn decode_datagram(
        self,
        datagram: &[u8],
        role: Role,
    ) -> Result<ServerMessage<'_>, String> {
        match self {
            ServerProtocol::PushonceDatagrams => quic::decode_frame(datagram, role, true),
            _ => Err("a datagram that nobody asked for".to_owned()),
        }
    }

    /// It goes over UDP, and QUIC brings the bytes of its streams.
    pub(crate) fn is_quic(self) -> bool {
        matches!(self, ServerProtocol::PushonceQuic | ServerProtocol::PushonceDatagrams)
    }

    /// Adds a publish to `out`.
    pub(crate) fn publish(self, out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
        match self {
            ServerProtocol::Floor => floor::publish(out, topic, payload),
            ServerProtocol::Pushonce => ws::publish_pushonce(out, topic, payload),
            ServerProtocol::PushonceQuic | ServerProtocol::PushonceDatagrams => {
                quic::publish(out, topic, payload)
            }
            ServerProtocol::Nchan | ServerProtocol::Uws => ws::publish_nchan(out, payload),
            ServerProtocol::Nats => nats::publish(out, topic, payload),
            ServerProtocol::Mqtt => mqtt::publish(out, topic, payload),
        }
    }

    /// The fewest connections that can publish to so many topics without being refused.
    pub(crate) fn publishers(self, topics: usize) -> usize {
        match self {
            // A session of ours may have 64 publishes under way.
            ServerProtocol::Pushonce
            | ServerProtocol::PushonceQuic
            | ServerProtocol::PushonceDatagrams => topics.min(16),
            // The channel is in the path.
            ServerProtocol::Nchan | ServerProtocol::Uws => topics,
            ServerProtocol::Floor | ServerProtocol::Nats | ServerProtocol::Mqtt => 1,
        }
    }

    /// A connection can read more topics than one, as far as this generator knows how.
    pub(crate) fn reads_many(self) -> bool {
        matches!(self, ServerProtocol::Pushonce)
    }

    /// A cut connection can say where it was, and gets what it missed.
    pub(crate) fn resumes(self) -> bool {
        matches!(self, ServerProtocol::Pushonce | ServerProtocol::Nchan)
    }
}

/// Splits off so many bytes, if there are.
fn split_front<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, remaining) = bytes.split_at_checked(count)?;
    *bytes = remaining;
    Some(taken)
}

/// Where `wanted` begins.
fn find_bytes(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ServerProtocol; 5] = [
        ServerProtocol::Floor,
        ServerProtocol::Pushonce,
        ServerProtocol::Nchan,
        ServerProtocol::Nats,
        ServerProtocol::Mqtt,
    ];

    #[test]
    fn incomplete_server_messages_are_not_consumed() {
        let whole: [&[u8]; 5] = [
            &[[0, 4].as_slice(), b"~abc"].concat(),
            &[[0x81, 4].as_slice(), b"~abc"].concat(),
            &[[0x81, 4].as_slice(), b"~abc"].concat(),
            b"MSG t 1 4\r\n~abc\r\n",
            &[[0x30, 7, 0, 1].as_slice(), b"t~abc"].concat(),
        ];
        for (wire, whole) in ALL.into_iter().zip(whole) {
            for cut in 0..whole.len() {
                let mut bytes = &whole[..cut];
                let decoded = wire.decode_next(&mut bytes, Role::Subscriber, true, false);
                assert_eq!(decoded, Ok(None), "{wire:?} cut at {cut}");
                assert_eq!(bytes.len(), cut, "nothing was taken");
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
