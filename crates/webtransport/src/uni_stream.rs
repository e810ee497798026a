//! The unidirectional streams of the client: each begins with its type.

use web_transport_proto::{StreamUni, VarInt};

use crate::control_stream::ControlStream;

#[derive(Debug)]
pub(crate) enum UniStream {
    /// The type is not complete.
    Starting(Vec<u8>),
    Control(ControlStream),
    /// With a table of capacity 0 it carries nothing that matters.
    QpackEncoder,
    QpackDecoder,
    Push,
    /// Of a type that is not used here, such as a stream of the session. It is ignored.
    Ignored,
}

impl UniStream {
    pub(crate) fn new() -> UniStream {
        UniStream::Starting(Vec::new())
    }

    /// Reads the type from the front of `input`, if it is not known. Returns whether it became known.
    pub(crate) fn read_type(&mut self, input: &mut &[u8]) -> bool {
        let UniStream::Starting(header) = self else { return false };
        while let [first, rest @ ..] = *input {
            header.push(*first);
            *input = rest;
            // An integer of at most eight bytes.
            if let Ok(kind) = VarInt::decode(&mut &header[..]) {
                *self = UniStream::with_type(StreamUni(kind));
                return true;
            }
        }
        false
    }

    fn with_type(kind: StreamUni) -> UniStream {
        match kind {
            StreamUni::CONTROL => UniStream::Control(ControlStream::default()),
            StreamUni::QPACK_ENCODER => UniStream::QpackEncoder,
            StreamUni::QPACK_DECODER => UniStream::QpackDecoder,
            StreamUni::PUSH => UniStream::Push,
            _ => UniStream::Ignored,
        }
    }

    /// Whether the connection must end when the stream does.
    pub(crate) fn is_critical(&self) -> bool {
        matches!(self, UniStream::Control(_) | UniStream::QpackEncoder | UniStream::QpackDecoder)
    }
}
