//! The JSON encoding: each frame is one JSON object. A decoding error names the invalid field. Encoding is
//! written by hand for speed, since every message is encoded.

mod data;
mod fields;
mod read;
mod write;

pub(super) use read::{decode_event, decode_request};
pub(super) use write::{
    encode_event, encode_gap, encode_message, encode_message_delta, encode_request, is_message,
};

#[cfg(test)]
mod tests;
