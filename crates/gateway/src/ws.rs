//! WebSocket sessions over TCP: the upgrade, and one small task per session. The protocol itself is
//! `pushonce_websocket`.

mod heartbeat;
mod in_flight;
mod session;
mod sink;
mod upgrade;

pub(crate) use session::run;
pub(crate) use upgrade::UpgradeRequest;
