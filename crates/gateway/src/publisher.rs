//! The port through which clients' publishes leave the gateway.

use futures::future::BoxFuture;
use futures::stream::LocalBoxStream;
use pushonce_core::{Acknowledgement, Publish, PublishError};

/// Takes a message to its owner and brings back where it stands.
pub trait Publisher: Send + Sync + 'static {
    /// Publishes once. The future has a deadline of its own: the gateway sets none.
    fn publish(
        &self,
        publish: Publish,
    ) -> BoxFuture<'static, Result<Acknowledgement, PublishError>>;

    /// Publishes what comes without waiting for each, with one answer for each, in their order. Those
    /// to one topic stand there in the order in which they came. Ends after the last answer.
    fn publish_ordered(
        &self,
        input: LocalBoxStream<'static, Publish>,
    ) -> LocalBoxStream<'static, Result<Acknowledgement, PublishError>>;
}
