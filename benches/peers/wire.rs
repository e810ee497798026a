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
pub(crate) enum Wire {
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
pub(crate) enum Said<'a> {
    /// The subscription stands, or publishes are taken.
    Ready,
    /// A message, and where it stands if the server says that and it was asked for.
    Message { payload: &'a [u8], mark: Option<&'a [u8]> },
    /// So many messages are left out.
    Told(u64),
    /// Wants these bytes for an answer.
    Ask(Vec<u8>),
    /// Anything else that is no error.
    Aside,
}

/// Something of a server's that it has not said whole, or should not have said.
pub(crate) type Heard<'a> = Result<Option<Said<'a>>, String>;

/// A connection at its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) role: Role,
    pub(crate) topic: &'a str,
    /// More topics that it reads: none but where it can [read many](Wire::reads_many).
    pub(crate) others: &'a [String],
    /// Goes on after this, if the protocol can.
    pub(crate) mark: Option<&'a str>,
    /// Wants to hear where messages stand.
    pub(crate) marks: bool,
}

impl Wire {
    /// What is sent first.
    pub(crate) fn open(self, opening: Opening<'_>) -> Vec<u8> {
        match self {
            Wire::Floor => floor::open(opening.role, opening.topic),
            Wire::Pushonce => ws::open_pushonce(opening),
            Wire::PushonceQuic => quic::open(opening, false),
            Wire::PushonceDatagrams => quic::open(opening, true),
            Wire::Nchan | Wire::Uws => ws::open_nchan(opening),
            Wire::Nats => nats::open(opening),
            Wire::Mqtt => mqtt::open(opening),
        }
    }

    /// The next thing within `bytes`, which is taken off its front; `None` when it is not whole.
    pub(crate) fn next<'a>(
        self,
        bytes: &mut &'a [u8],
        role: Role,
        ready: bool,
        marks: bool,
    ) -> Heard<'a> {
        match self {
            Wire::Floor => floor::next(bytes),
            Wire::Pushonce => ws::next_pushonce(bytes, role, ready, marks),
            Wire::PushonceQuic | Wire::PushonceDatagrams => quic::next(bytes, role, ready),
            Wire::Nchan | Wire::Uws => ws::next_nchan(bytes, role, ready, marks),
            Wire::Nats => nats::next(bytes),
            Wire::Mqtt => mqtt::next(bytes, role),
        }
    }

    /// What a datagram says.
    pub(crate) fn datagram(self, datagram: &[u8], role: Role) -> Result<Said<'_>, String> {
        match self {
            Wire::PushonceDatagrams => quic::said(datagram, role, true),
            _ => Err("a datagram that nobody asked for".to_owned()),
        }
    }

    /// It goes over UDP, and QUIC brings the bytes of its streams.
    pub(crate) fn is_quic(self) -> bool {
        matches!(self, Wire::PushonceQuic | Wire::PushonceDatagrams)
    }

    /// Adds a publish to `out`.
    pub(crate) fn publish(self, out: &mut Vec<u8>, topic: &str, payload: &[u8]) {
        match self {
            Wire::Floor => floor::publish(out, topic, payload),
            Wire::Pushonce => ws::publish_pushonce(out, topic, payload),
            Wire::PushonceQuic | Wire::PushonceDatagrams => quic::publish(out, topic, payload),
            Wire::Nchan | Wire::Uws => ws::publish_nchan(out, payload),
            Wire::Nats => nats::publish(out, topic, payload),
            Wire::Mqtt => mqtt::publish(out, topic, payload),
        }
    }

    /// The fewest connections that can publish to so many topics without being refused.
    pub(crate) fn publishers(self, topics: usize) -> usize {
        match self {
            // A session of ours may have 64 publishes under way.
            Wire::Pushonce | Wire::PushonceQuic | Wire::PushonceDatagrams => topics.min(16),
            // The channel is in the path.
            Wire::Nchan | Wire::Uws => topics,
            Wire::Floor | Wire::Nats | Wire::Mqtt => 1,
        }
    }

    /// A connection can read more topics than one, as far as this generator knows how.
    pub(crate) fn reads_many(self) -> bool {
        matches!(self, Wire::Pushonce)
    }

    /// A cut connection can say where it was, and gets what it missed.
    pub(crate) fn resumes(self) -> bool {
        matches!(self, Wire::Pushonce | Wire::Nchan)
    }
}

/// Splits off so many bytes, if there are.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

/// Where `wanted` begins.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Wire; 5] = [Wire::Floor, Wire::Pushonce, Wire::Nchan, Wire::Nats, Wire::Mqtt];

    #[test]
    fn half_of_what_a_server_says_is_not_taken() {
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
                let heard = wire.next(&mut bytes, Role::Subscriber, true, false);
                assert_eq!(heard, Ok(None), "{wire:?} cut at {cut}");
                assert_eq!(bytes.len(), cut, "nothing was taken");
            }
            let mut bytes = whole;
            let heard = wire.next(&mut bytes, Role::Subscriber, true, false);
            let Ok(Some(Said::Message { payload, .. })) = heard else {
                panic!("{wire:?}: {heard:?}")
            };
            assert!(payload.starts_with(b"~abc") && bytes.is_empty(), "{wire:?}");
        }
    }
}
