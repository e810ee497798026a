//! The port through which the gateway publishes on behalf of clients.

use futures::future::BoxFuture;
use futures::stream::LocalBoxStream;
use pushonce_core::{Acknowledgement, Publish, PublishError};

/// Sends messages to the owners of their topics and returns the acknowledgements.
pub trait PublishRouter: Send + Sync + 'static {
    /// Publishes one message. The future must have its own deadline: the gateway sets none.
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;

    /// Publishes a stream of messages without waiting for each acknowledgement. The returned stream has one
    /// result for each message, in the same order, and ends after the last one. Messages to one topic are
    /// published in the order of `input`.
    fn publish_ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Acknowledgement, PublishError>>;
}
