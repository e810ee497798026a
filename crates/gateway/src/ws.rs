//! WebSocket: the handshake, the codec, compression, and one small task a session.

mod codec;
mod deflate;
mod extensions;
pub(crate) mod frame;
mod handshake;
mod heartbeat;
mod opening;
mod outlet;
mod session;
mod window;

pub(crate) use opening::Opening;
pub(crate) use session::run;
