//! Event streams (server-sent events): the sessions of the lane for clients that only read.
//!
//! A request for an event stream is checked like every other request. Then its connection leaves hyper, as that of a
//! WebSocket does, and one small task serves it; over HTTP/2 the stream of the request does. The bytes of a message
//! are made once for all streams. An HTTP/1 response ends with its connection: events delimit themselves, so that a
//! length for each piece would only cost bytes.

mod body_output;
mod event;
#[cfg(test)]
mod fuzz;
mod opening;
mod output;
mod positions;
mod request;
mod session;
mod transport;

pub(crate) use event::{encode_frame, encode_message};
pub(crate) use opening::{EventStreamOpening, is_event_stream, open};
pub(crate) use session::{run, run_on_body};
