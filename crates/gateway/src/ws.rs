//! WebSocket sessions over TCP: the upgrade, and one small task per session. The protocol itself is
//! `pushonce_websocket`.

#[cfg(feature = "echo")]
mod echo;
mod heartbeat;
mod in_flight;
mod session;
mod upgrade;

#[cfg(feature = "echo")]
pub(crate) use echo::PATH as ECHO_PATH;
pub(crate) use in_flight::InFlightWindow;
pub(crate) use session::run;
pub(crate) use upgrade::UpgradeRequest;
