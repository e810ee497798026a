//! Brings messages from the node that owns a topic to the nodes whose clients want it.

mod config;
mod crossing;
mod dial;
mod door;
mod engine;
mod handle;
mod inbox;
mod link;
mod outbox;
mod port;
mod relay;
mod run;

pub use config::Config;
pub use dial::server;
pub use door::Service;
pub use handle::Handle;
pub use port::{Sink, Source};
pub use relay::Relay;
