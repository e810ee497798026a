//! Brings messages from the node that owns a topic to the nodes whose clients want it.

mod config;
mod handle;
mod inbox;
mod port;
mod relay;

pub use config::Config;
pub use handle::Handle;
pub use port::{Sink, Source};
pub use relay::Relay;
