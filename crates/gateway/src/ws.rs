//! WebSocket: the handshake, the codec, compression, and one small task a session.

mod codec;
mod deflate;
mod extensions;
pub(crate) mod frame;
mod handshake;
mod heartbeat;
mod in_flight;
mod session;
mod sink;
mod upgrade;

pub(crate) use session::run;
pub(crate) use upgrade::UpgradeRequest;
