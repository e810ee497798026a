//! The port through which a client's publish leaves the gateway.

use futures::future::BoxFuture;
use pushonce_core::{Placed, Publish, PublishError};

/// Takes a message to its owner and brings back where it stands.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes once. The future has a deadline of its own: the gateway sets none.
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<Placed, PublishError>>;
}
