//! The port through which the gateway reads the number of subscribers of a topic.

use futures::future::BoxFuture;
use pushonce_core::{FetchError, Topic};

/// Source of the number of sessions in the whole cluster that are subscribed to a topic.
pub trait AudienceSource: Send + Sync + 'static {
    /// Returns the count from the owner of the topic, or a recently cached one. The future must have its own
    /// deadline: the gateway sets none.
    ///
    /// # Errors
    /// [`FetchError::Unavailable`] when the count cannot be determined now.
    fn count(&self, topic: Topic) -> BoxFuture<'static, Result<u64, FetchError>>;
}
