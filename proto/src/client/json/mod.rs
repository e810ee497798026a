//! One JSON object a frame. Reading says exactly what is wrong; writing is by hand, since the frame of
//! a message is made for every message.

mod data;
mod fields;
mod read;
mod write;

pub(super) use read::{decode_event, decode_request};
pub(super) use write::{
    encode_event, encode_gap, encode_message, encode_message_delta, encode_request,
};

#[cfg(test)]
mod tests;
